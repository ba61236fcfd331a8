//! What a case is made of.

use crate::Stage;

/// One thing that a guest does. Rings are those of the queue of the case.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A driver that means well, from a reset to this stage.
    Begin(Stage),
    Reset,
    /// What a firmware does: BARs are in their places again.
    PowerUp,
    Status(u32),
    /// The status reads so, or the case fails.
    StatusIs(u64),
    Features(u64),
    Select(u32),
    /// Of the queue that is selected. A legacy function has none of it.
    Size(u32),
    /// Table, available and used ring of the queue that is selected. A legacy one takes the page of the table.
    Areas([Place; 3]),
    /// Only of legacy mmio.
    PageSize(u32),
    /// Only of legacy mmio.
    Align(u32),
    Enable,
    /// By the register, with any number.
    Notify(u32),
    /// By the doorbell.
    Kick,
    Write {
        window: Window,
        at: u64,
        width: u8,
        value: u64,
    },
    /// It reads so, or the case fails. Nothing happens on a face without that window.
    Reads {
        window: Window,
        at: u64,
        width: u8,
        value: u64,
    },
    /// Reads of 1, 2, 4 and 8 bytes at `bytes` offsets from `at`; writes of the value too if there is one.
    Sweep {
        window: Window,
        at: u64,
        bytes: u64,
        value: Option<u64>,
    },
    Desc {
        table: Table,
        index: Number,
        addr: Place,
        len: u32,
        flags: u16,
        next: Number,
    },
    /// `count` descriptors from the first on, each linked to the next one, all for the same buffer.
    Chain {
        table: Table,
        count: Number,
        addr: Place,
        len: u32,
        flags: u16,
    },
    /// Buffers as descriptors from the first on, linked; NEXT is set on all but the last.
    Buffers(&'static [(u64, u32, u16)]),
    /// The header of a disk's request: its kind and sector.
    Header(u32, u64),
    /// Puts a head into the available ring and counts it.
    Offer(Number),
    /// Adds to the available index, as 16 bits do.
    Index(Number),
    Bytes(Place, &'static [u8]),
    /// A page number, as 32 bits.
    PageNumber(u64, Place),
    /// Until the device has answered all, or asks for a reset, or nothing comes.
    Wait,
    Repeat(u32, &'static [Step]),
}

/// A guest physical address.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// Bytes from the start of the room that the cases have.
    Ram(u64),
    /// Bytes before the end of RAM.
    RamEnd(u64),
    /// Bytes behind the end of RAM.
    Behind(u64),
    /// Bytes from where no RAM is, in a hole of the machine.
    Hole(u64),
    /// Bytes from the start of the device's own registers.
    Registers(u64),
    /// Bytes before 2^64.
    Wrap(u64),
    /// Where the table, the available and the used ring belong.
    OwnTable,
    OwnAvail,
    OwnUsed,
}

/// Where descriptors are.
#[derive(Clone, Copy, Debug)]
pub enum Table {
    Queue,
    /// At this place in the room.
    At(u64),
}

#[derive(Clone, Copy, Debug)]
pub enum Number {
    Is(u16),
    /// The entries of the queue, plus.
    Size(i16),
}

/// A window of a device, by what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// Where the registers of mmio, a modern function's common configuration, or the legacy header begin.
    Registers,
    /// Of a modern function.
    Notify,
    /// Of a modern function.
    Isr,
    Config,
    /// Of a function: its configuration space.
    Space,
    /// Of a function: its MSI-X capability, in the configuration space.
    Msix,
    Vectors,
    Pending,
    /// Of a modern function: the capability that reaches BARs, in the configuration space.
    Access,
}
