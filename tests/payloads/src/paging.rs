//! Addresses above those that the board maps: pages of 2 MiB, added to the tables that the board made.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::register::{read64, write64};

/// Free in any machine that this runs on, and cleared: room for tables.
const POOL: u64 = 0xa0_0000;
const POOL_TABLES: u64 = 64;

// Of an entry: present, writable, and large.
const TABLE: u64 = 0x3;
const PAGE: u64 = 0x83;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Maps the 2 MiB around `address` to themselves, if they are not yet. False: four levels do not reach it, or there is
/// no room for one more table.
pub fn reach(address: u64) -> bool {
    let root: u64;
    // SAFETY: a register is only read.
    unsafe { asm!("mov {}, cr3", out(reg) root, options(nomem, nostack, preserves_flags)) }
    let directory =
        (address >> 47 == 0).then_some(root & ADDRESS).and_then(|root| below(root, address >> 39));
    let Some(table) = directory.and_then(|directory| below(directory, address >> 30)) else { return false };
    let entry = table + (address >> 21 & 0x1ff) * 8;
    if read64(entry) == 0 {
        write64(entry, (address >> 21 << 21) | PAGE);
    }
    true
}

/// The table that entry `number` of the one at `table` names, with a new one if it names none.
fn below(table: u64, number: u64) -> Option<u64> {
    let entry = table + (number & 0x1ff) * 8;
    if read64(entry) == 0 {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        if next >= POOL_TABLES {
            return None;
        }
        write64(entry, (POOL + next * 4096) | TABLE);
    }
    Some(read64(entry) & ADDRESS)
}
