//! Uses each thing that board `pc` has, and says what it saw.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering};

use flat::register::{read64, write64};
use flat::virtqueue::{INTERRUPT_ACK, INTERRUPT_STATUS, MAGIC, Mmio, Queue, WRITE};
use flat::{interrupts, paging, patience, pci, println, smp, zero_page};

flat::program!(main);

/// Free in any machine that this runs on, and cleared.
const QUEUE: u64 = 0x80_0000;
const BUFFER: u64 = 0x81_0000;
const VECTOR: u8 = 0x40;

static OTHER: AtomicU32 = AtomicU32::new(0);

fn main() -> u8 {
    println!("hello from 64-bit mode");
    for (first, size, kind) in zero_page::memory_map() {
        println!("memory {first:#x} {size:#x} {kind}");
    }
    above_4_gib();
    println!("bridge {:08x}", pci::device(0).id());
    println!("absent {:08x}", pci::device(31).id());
    flat::port::out_string(0x3f8, b"string of bytes\n");
    if smp::start(1, || OTHER.store(interrupts::lapic_id() + 100, Ordering::SeqCst)) {
        while OTHER.load(Ordering::SeqCst) == 0 {
            core::hint::spin_loop();
        }
    }
    println!("other vcpu {}", OTHER.load(Ordering::SeqCst));
    for device in zero_page::virtio_mmio() {
        println!("virtio {:08x} kind {}", Mmio(device.base).read(MAGIC), Mmio(device.base).read(8));
        if Mmio(device.base).read(8) == 4 {
            entropy(device);
        }
    }
    flat::argument("code").and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// Writes at both ends of every bank of RAM above 4 GiB, and only then reads, so that two that are the same are found.
/// What is kept free there is read, too.
fn above_4_gib() {
    let above = || zero_page::memory_map().filter(|(first, ..)| *first >> 32 != 0);
    let ram = || above().filter(|(.., kind)| *kind == 1).map(|(first, size, _)| [first, first + size - 8]);
    for end in ram().flatten().filter(|end| paging::reach(*end)) {
        write64(end, !end);
    }
    for ends in ram() {
        let kept = ends.map(|end| paging::reach(end) && read64(end) == !end);
        println!("bank {:#x} to {:#x} keeps {kept:?}", ends[0], ends[1] + 7);
    }
    for (first, size, _) in above().filter(|(.., kind)| *kind == 2) {
        let gone = [first, first + size - 8].map(|end| paging::reach(end).then(|| read64(end) == u64::MAX));
        println!("hole {first:#x} absent {gone:?}");
    }
}

/// Asks the entropy device for bytes, and counts its interrupts.
fn entropy(place: zero_page::VirtioMmio) {
    let (device, queue) = (Mmio(place.base), Queue::new(QUEUE, 8));
    interrupts::route_edge(place.pin, VECTOR);
    interrupts::on();
    println!("negotiated {}", device.negotiate());
    device.use_queue(0, &queue);
    device.run();
    queue.describe(0, BUFFER, 64, WRITE, 0);
    queue.offer(0);
    device.kick(0);
    let came = queue.wait(1);
    println!("used {came} {:?}", queue.element(0));
    let words = (0..8).map(|word| flat::register::read64(BUFFER + 8 * word));
    println!("random {}", words.filter(|word| *word != 0).count() >= 6);
    println!("status {}", device.read(INTERRUPT_STATUS));
    device.write(INTERRUPT_ACK, 1);
    let interrupted = patience::wait(patience::LONG, || interrupts::count(VECTOR) > 0);
    println!("interrupted {interrupted}");
    interrupts::off();
    device.write(0x70, 0);
}
