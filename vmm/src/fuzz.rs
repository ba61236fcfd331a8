//! What is fed with random bytes: everything that a user or another host writes, and the planner behind it.
//!
//! The targets of `fuzz/` are these functions, and `vmm/tests/corpus.rs` runs them over the inputs that were
//! worth keeping. Each returns for any bytes at all, and panics only over a broken promise.

use std::path::Path;

use ambit_aarch64::board_file::{self, Source};
use ambit_bus::{Bar, BarSpace, Needs, Request, Trigger};
use ambit_device_manager::{
    Board, HostFacts, MachineConfig, MemoryHotplug, PciConfig, Plan, Refusal, Remedy, Reserve, Width,
    WidthSource, attempt, plan,
};
use ambit_resources::PaBits;

use crate::config::{parse as parse_config, settle};
use crate::{lock, models, profile};

/// A board file, checked and planned with if it is one.
pub fn board_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let source = Source { name: "b.toml".into(), identity: "b.toml".into(), text: text.into() };
    let Ok(file) = board_file::read(source, &|name, _| Err(format!("there is no file {name}"))) else {
        return;
    };
    let _findings = board_file::check(&file);
    let _planned = attempt(&file.board, &MachineConfig::default(), &HostFacts::assumed());
}

/// A host profile, planned for if it is one; and the same as a lock.
pub fn host_profile(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _lock = lock::parse(text, Path::new("guest.lock"));
    let Ok(profile) = profile::parse(text, Path::new("host.json")) else { return };
    let planned = plan(&ambit_aarch64::native(), &MachineConfig::default(), &profile.facts);
    holds(&planned);
}

/// A configuration, as TOML and as JSON, planned if it is one.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let boards = [ambit_aarch64::native(), ambit_aarch64::qemu_virt(), ambit_aarch64::kvmtool()];
    let boards: Vec<&dyn Board> = boards.iter().map(|board| board as &dyn Board).collect();
    for name in ["guest.toml", "guest.json"] {
        let Ok(mut config) = parse_config(text, Path::new(name)) else { continue };
        // No file is opened for a target's sake.
        config.board = config.board.filter(|board| !board_file::is_file(board));
        let Ok(settings) = settle(config, &boards, None) else { continue };
        let (facts, _) = settings.facts_on_paper(None);
        holds(&plan(&*settings.board, &models::machine_config(&settings), &facts));
    }
}

/// A machine of any shape on one of the boards, and on any host.
pub fn request(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let board = match bytes.byte() % 5 {
        0 => ambit_aarch64::qemu_virt(),
        1 => ambit_aarch64::kvmtool(),
        _ => ambit_aarch64::native(),
    };
    let facts = HostFacts {
        width: Width {
            bits: PaBits::new(32 + bytes.byte() % 21).expect("32 and at most 20"),
            source: WidthSource::Host,
        },
        page_size: [4096, 16384, 65536, 0, 8192][usize::from(bytes.byte() % 5)],
        max_cpus: bytes.number(2).try_into().unwrap_or(u32::MAX),
        gic_versions: vec![2, 3, 4],
        its: bytes.byte().is_multiple_of(2),
        memory_slots: bytes.number(2).try_into().unwrap_or(u32::MAX),
        processor: None,
    };
    let config = MachineConfig {
        cpus: bytes.number(2).try_into().unwrap_or(u32::MAX),
        memory: bytes.size(),
        hotplug: bytes
            .maybe(|bytes| MemoryHotplug { max_memory: bytes.size(), slots: u32::from(bytes.byte()) }),
        pci: bytes.maybe(|bytes| PciConfig { window: bytes.maybe(Bytes::size) }),
        queue_reach: bytes.maybe(Bytes::byte),
        devices: (0..bytes.byte() % 40).map(|index| bytes.device(index)).collect(),
        alternatives: Vec::new(),
        reserve: Reserve::default(),
    };
    let planned = plan(&board, &config, &facts);
    holds(&planned);
    if let Err(refusal) = planned {
        works(&refusal, &board, &config, &facts);
    }
}

/// Nothing overlaps, and nothing is out of reach.
fn holds(planned: &Result<Plan, Refusal>) {
    let Ok(plan) = planned else { return };
    let placed: Vec<_> = plan.regions.iter().filter_map(|region| region.range).collect();
    assert!(placed.windows(2).all(|pair| pair[0].last() < pair[1].first()), "regions overlap: {plan:?}");
    let last = placed.last().expect("a machine has RAM").last();
    assert!(last < plan.ipa_bits.ceiling() && plan.ipa_bits <= plan.width.bits, "out of reach: {plan:?}");
}

/// With each remedy alone, what was refused is refused no longer.
fn works(refusal: &Refusal, board: &dyn Board, config: &MachineConfig, facts: &HostFacts) {
    for remedy in refusal.remedies.iter().filter(|remedy| !matches!(remedy, Remedy::BoardOption { .. })) {
        let (config, facts) = remedy.apply(config, facts);
        let code = attempt(board, &config, &facts).err().map(|error| error.code());
        assert_ne!(code, Some(refusal.error.code()), "{remedy:?} does not help: {refusal:?}");
    }
}

/// Random bytes as what a machine is made of; zeroes once there are no more.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self, count: usize) -> u64 {
        (0..count).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// Sizes that mean something come more often than others.
    fn size(&mut self) -> u64 {
        let shift = u32::from(self.byte() % 64);
        match self.byte() % 4 {
            0 => self.number(8),
            1 => (1_u64 << shift).wrapping_add(self.number(2) << 12),
            _ => self.number(2).wrapping_shl(shift),
        }
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.byte() % 2 == 1 { Some(make(self)) } else { None }
    }

    fn device(&mut self, index: u8) -> Request {
        let needs = match self.byte() % 3 {
            0 => Needs::Pci {
                bars: (0..self.byte() % 7)
                    .map(|_| Bar {
                        size: self.size(),
                        space: match self.byte() % 3 {
                            0 => BarSpace::Mmio64,
                            1 => BarSpace::Mmio32,
                            _ => BarSpace::Io,
                        },
                    })
                    .collect(),
            },
            kind => Needs::Board {
                registers: if kind == 1 { 0x200 } else { self.size() },
                irq: self.maybe(
                    |bytes| if bytes.byte().is_multiple_of(2) { Trigger::Edge } else { Trigger::Level },
                ),
            },
        };
        // Sometimes like a part of the machine.
        let id = match self.byte() {
            0 => "gic.dist".into(),
            1 => "pci.mmio64".into(),
            2 => "d0".into(),
            _ => format!("d{index}"),
        };
        Request { id, kind: "any".into(), needs, description: std::sync::Arc::default(), queue_reach: None }
    }
}
