//! What a hostile guest does to the bus, as random bytes: windows that it moves, and accesses anywhere.
//!
//! The targets of `fuzz/` are these functions. Each returns for any bytes at all, and panics only over a broken
//! promise.

// The machine of this crate's own tests.
#[path = "../tests/pci/mod.rs"]
mod pci;
mod start;

use ambit_bus::bench::Held;
use ambit_bus::{BarSpace, Space};
use ambit_resources::AddressRange;
use arbitrary::{Result, Unstructured};

use crate::{Decoded, Outcome, pci as parts};
use pci::{BARS, BELL, CONSOLE, ECAM, IO, MMIO32, Machine, RAM};

pub use start::{Start, damage};

type Input<'a> = Unstructured<'a>;

pub use ambit_bus::bench::Target;

/// Every target.
pub const TARGETS: &[Target] = &[("moves", moves)];

const CARDS: [(&str, u8); 3] = [("a", 0x10), ("b", 0x40), ("c", 0x80)];

/// Windows moved anywhere, some without the machine being told at once, beside a plain account of the rules.
pub fn moves(bytes: &[u8]) {
    let _end = body(&mut Unstructured::new(bytes));
}

fn body(input: &mut Input<'_>) -> Result<()> {
    let machine = Machine::new(&CARDS);
    let fixed = machine.manager.decoded();
    let held = machine.host.held();
    let high = machine.plan.range(parts::MMIO64).unwrap();
    let mut account = Account { high, wanted: [[None; 4]; 3], up: Vec::new() };
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let (card, bar) = (input.choose_index(CARDS.len())?, input.choose_index(BARS.len())?);
        let (id, number) = (CARDS[card].0, bar as u64 + 1);
        let place = place(input, BARS[bar].size, high)?;
        account.wanted[card][bar] = place;
        if let (Some(place), true) = (place, input.ratio(1, 8)?) {
            machine.put_quietly(id, number, place);
        } else {
            machine.put(id, number, place);
            account.moved(card);
        }
        account.check(&machine, &fixed);
        anywhere(input, &machine)?;
    }
    for (card, (id, _)) in CARDS.iter().enumerate() {
        for bar in 0..BARS.len() {
            account.wanted[card][bar] = None;
            machine.put(id, bar as u64 + 1, None);
        }
        account.moved(card);
    }
    assert_eq!((machine.manager.decoded(), machine.host.held()), (fixed, held));
    Ok(())
}

/// Somewhere good, somewhere bad, or nowhere.
fn place(input: &mut Input<'_>, size: u64, high: AddressRange) -> Result<Option<u64>> {
    let step = u64::from(input.arbitrary::<u16>()?);
    let inside = |window: AddressRange| window.first() + step * size % window.size();
    Ok(Some(match input.int_in_range(0..=11)? {
        0..=3 => inside(MMIO32),
        4..=5 => inside(high),
        6..=7 => step * size % IO.size(),
        8 => inside(RAM),
        9 => *input.choose(&[
            0,
            CONSOLE.first(),
            ECAM.first(),
            IO.first(),
            high.last() + 1,
            u64::MAX - 0xfff,
        ])?,
        10 => input.arbitrary::<u64>()? & (u64::MAX - 1),
        _ => return Ok(None),
    }))
}

/// An access of any width at any place; one that no window holds whole reads as ones and writes nothing.
fn anywhere(input: &mut Input<'_>, machine: &Machine) -> Result<()> {
    let near = u64::from(input.arbitrary::<u16>()?);
    let edge =
        *input.choose(&[CONSOLE.first(), MMIO32.first(), MMIO32.last(), RAM.first(), IO.last(), u64::MAX])?;
    let (address, len) = (edge.wrapping_sub(near % 16), *input.choose(&[1u64, 2, 4, 8])?);
    let mut data = [0x55; 8];
    machine.manager.read(address, &mut data[..len as usize]);
    let last = address.checked_add(len - 1);
    let holds =
        |it: &Decoded| it.range.first() <= address && last.is_some_and(|last| last <= it.range.last());
    if !machine.manager.decoded().iter().any(holds) {
        assert_eq!(data[..len as usize], [0xff; 8][..len as usize], "{len} bytes at {address:#x}");
        assert_ne!(machine.manager.write(address, &data[..len as usize]), Outcome::Done);
    }
    Ok(())
}

/// Where windows must be, decided in the plainest way.
struct Account {
    high: AddressRange,
    wanted: [[Option<u64>; 4]; 3],
    /// Card, BAR, first and size.
    up: Vec<(usize, usize, u64, u64)>,
}

impl Account {
    fn good(&self, card: usize, bar: usize) -> Option<(u64, u64)> {
        let (place, size) = (self.wanted[card][bar]?, BARS[bar].size);
        let (offset, windows) = match BARS[bar].space {
            BarSpace::Io => (IO.first(), vec![IO]),
            BarSpace::Mmio32 | BarSpace::Mmio64 => (0, vec![MMIO32, self.high]),
        };
        let first = u128::from(offset) + u128::from(place);
        let holds = |window: &AddressRange| {
            first >= window.first().into() && first + u128::from(size) <= u128::from(window.last()) + 1
        };
        (place.is_multiple_of(size) && windows.iter().any(holds)).then_some((first as u64, size))
    }

    fn moved(&mut self, card: usize) {
        let good: Vec<_> = (0..BARS.len()).map(|bar| self.good(card, bar)).collect();
        self.up.retain(|(owner, bar, first, size)| *owner != card || good[*bar] == Some((*first, *size)));
        for (bar, good) in good.into_iter().enumerate() {
            let Some((first, size)) = good else { continue };
            let is_up = self.up.iter().any(|it| (it.0, it.1) == (card, bar));
            if !is_up && self.up.iter().all(|it| it.2 + it.3 <= first || first + size <= it.2) {
                self.up.push((card, bar, first, size));
            }
        }
    }

    fn check(&self, machine: &Machine, fixed: &[Decoded]) {
        let mut expected = fixed.to_vec();
        expected.extend(self.up.iter().map(|(card, bar, first, size)| Decoded {
            id: CARDS[*card].0.into(),
            window: *bar as u8 + 1,
            space: Space::Memory,
            range: AddressRange::fixed(*first, *size),
        }));
        expected.sort_by_key(|decoded| decoded.range.first());
        assert_eq!(machine.manager.decoded(), expected);
        let bells: Vec<u64> = self.up.iter().filter(|it| it.1 == 0).map(|it| it.2 + BELL).collect();
        let Held { doorbells, .. } = machine.host.held();
        assert_eq!(doorbells, 2 * bells.len());
        assert!(bells.iter().all(|bell| machine.host.signals(*bell, &[0, 0])));
    }
}

#[cfg(test)]
mod tests {
    use ambit_bus::bench::{random_for_all, replay_all};

    use super::TARGETS;

    #[test]
    fn inputs_that_were_worth_keeping_harm_nothing() {
        replay_all(TARGETS);
    }

    #[test]
    fn random_bytes_harm_nothing() {
        random_for_all(TARGETS, if cfg!(miri) { 1 } else { 300 }, 600);
    }
}
