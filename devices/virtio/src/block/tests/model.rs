//! Random requests in random framing, against a disk of plain bytes.

use proptest::prelude::*;

use super::*;

/// Requests of a batch have a part of the disk each, so that their order says nothing.
const SLOT: u64 = 8;

#[derive(Clone, Debug)]
struct Ask {
    kind: u32,
    slot: u64,
    first: u64,
    count: u64,
    flags: u32,
    fill: u8,
    /// Where header, data and status are cut into buffers, in bytes from the front of each side.
    cuts: Vec<u32>,
}

fn ask() -> impl Strategy<Value = Ask> {
    let kind = prop::sample::select(vec![IN, IN, OUT, OUT, DISCARD, WRITE_ZEROES, FLUSH_IT, GET_ID, 77]);
    let cuts = prop::collection::vec(1u32..4200, 0..6);
    (kind, 0..SECTORS / SLOT, 0..SLOT + 1, 0..SLOT + 2, 0u32..2, any::<u8>(), cuts).prop_map(
        |(kind, slot, first, count, flags, fill, cuts)| Ask { kind, slot, first, count, flags, fill, cuts },
    )
}

/// Cuts `len` bytes at `at` into buffers.
fn buffers(at: u64, len: u32, flags: u16, cuts: &[u32]) -> Vec<(u64, u32, u16)> {
    let mut ends: Vec<u32> = cuts.iter().map(|cut| cut % (len + 1)).chain([len]).collect();
    ends.sort_unstable();
    let mut from = 0;
    let mut all = Vec::new();
    for end in ends {
        all.push((at + u64::from(from), end - from, flags));
        from = end;
    }
    all
}

impl Ask {
    fn sector(&self) -> u64 {
        self.slot * SLOT + self.first
    }

    /// What the device reads, and how many bytes it may write before the status.
    fn sides(&self) -> (Vec<u8>, u32) {
        let bytes = self.count * SECTOR;
        let mut out = header(self.kind, self.sector());
        match self.kind {
            OUT => out.extend(vec![self.fill; bytes as usize]),
            DISCARD | WRITE_ZEROES => out.extend(range(self.sector(), self.count as u32, self.flags)),
            _ => {}
        }
        let into = match self.kind {
            IN => bytes as u32,
            GET_ID => 20,
            _ => 0,
        };
        (out, into)
    }

    /// The status, what the guest is given, and whether the range may be anything now.
    fn expect(&self, disk: &mut [u8]) -> (u8, Vec<u8>, bool) {
        let (from, to) =
            ((self.sector() * SECTOR) as usize, ((self.sector() + self.count) * SECTOR) as usize);
        let refused = |status| (status, vec![EMPTY; self.sides().1 as usize], false);
        match self.kind {
            FLUSH_IT => (OK, vec![], false),
            GET_ID => (OK, b"disk0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(), false),
            77 => refused(UNSUPP),
            DISCARD if self.flags != 0 => refused(UNSUPP),
            _ if to > disk.len() => refused(IOERR),
            IN => (OK, disk[from..to].to_vec(), false),
            OUT => {
                disk[from..to].fill(self.fill);
                (OK, vec![], false)
            }
            WRITE_ZEROES => {
                disk[from..to].fill(0);
                (OK, vec![], false)
            }
            _ => (OK, vec![], true),
        }
    }
}

/// Puts all of them into the queue, and compares what comes back and what is in the file with `disk`.
fn round(bench: &mut Bench, asks: &[Ask], disk: &mut [u8]) {
    let mut waiting = Vec::new();
    for ask in asks {
        let (out, into) = ask.sides();
        let from = bench.machine.put(&out);
        let to = bench.machine.put(&vec![EMPTY; into as usize + 1]);
        let mut chain = buffers(from, out.len() as u32, 0, &ask.cuts);
        chain.extend(buffers(to, into + 1, WRITE, &ask.cuts));
        waiting.push((bench.queues[0].offer(&chain), ask, to, into as usize));
    }
    bench.kick(0);
    let mut used: Vec<_> = waiting.iter().map(|_| bench.queues[0].wait()).collect();
    used.sort_unstable();

    let contents = bench.contents();
    for (head, ask, to, into) in waiting {
        let (status, data, anything) = ask.expect(disk);
        if anything {
            let all = (ask.sector() * SECTOR) as usize..((ask.sector() + ask.count) * SECTOR) as usize;
            disk[all.clone()].copy_from_slice(&contents[all]);
        }
        let len = if status == OK || into == 0 { into as u32 + 1 } else { 0 };
        assert!(used.contains(&(u32::from(head), len)), "{ask:?}: {used:?}");
        assert_eq!(bench.machine.bytes(to + into as u64, 1), [status], "{ask:?}");
        assert!(bench.machine.bytes(to, into) == data, "{ask:?}");
    }
    assert!(contents == disk);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    // C-190 to C-195, R-40, R-41
    #[test]
    fn a_disk_does_what_plain_bytes_do(asks in prop::collection::vec(ask(), 1..24)) {
        by_engine(|setup| {
            let (mut bench, mut disk) = (setup.bench(), pattern());
            for ask in &asks {
                round(&mut bench, std::slice::from_ref(ask), &mut disk);
            }
        });
    }

    #[test]
    fn requests_at_once_do_what_they_do_one_by_one(
        asks in prop::collection::vec(ask(), 16),
        short in 0u64..3000,
    ) {
        by_engine(|setup| {
            // Each stays in its slot, and some come up short.
            let script = Script::of(move |step| {
                if matches!(step.act, Act::Read | Act::Write) && step.len > short && short > 0 {
                    step.len = short;
                }
                None
            });
            let (mut bench, mut disk) = (setup.faulty(&script).bench(), pattern());
            for batch in asks.chunks((SECTORS / SLOT) as usize) {
                let own = |(slot, ask): (u64, &Ask)| {
                    let first = ask.first.min(SLOT - 1);
                    Ask { slot, first, count: ask.count.min(SLOT - first), ..ask.clone() }
                };
                let batch: Vec<Ask> = (0..).zip(batch).map(own).collect();
                round(&mut bench, &batch, &mut disk);
            }
        });
    }
}
