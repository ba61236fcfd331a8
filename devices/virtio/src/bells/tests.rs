//! Every order in which a driver and a device can take their steps: no kick and no interrupt is lost.

use std::convert::Infallible;

use loom::sync::atomic::{AtomicU16, AtomicUsize, Ordering, fence};
use loom::sync::{Arc, Notify};
use loom::thread;

use super::{By, NO_INTERRUPT, NO_NOTIFY, Side, Words, listen, quiet, serve, wants_call};

/// How many requests there are: one that begins from rest, and one that races with the end of the first.
const REQUESTS: u16 = 2;

/// A ring's words in a memory that is as weak as the language allows.
#[derive(Default)]
struct Memory {
    available: AtomicU16,
    used: AtomicU16,
    driver_flags: AtomicU16,
    device_flags: AtomicU16,
    used_event: AtomicU16,
    avail_event: AtomicU16,
}

impl Words for Memory {
    type Error = Infallible;

    fn available(&self) -> Result<u16, Infallible> {
        Ok(self.available.load(Ordering::Relaxed))
    }

    fn flags(&self) -> Result<u16, Infallible> {
        Ok(self.driver_flags.load(Ordering::Relaxed))
    }

    fn used_event(&self) -> Result<u16, Infallible> {
        Ok(self.used_event.load(Ordering::Relaxed))
    }

    fn set_flags(&self, flags: u16) -> Result<(), Infallible> {
        self.device_flags.store(flags, Ordering::Relaxed);
        Ok(())
    }

    fn set_avail_event(&self, event: u16) -> Result<(), Infallible> {
        self.avail_event.store(event, Ordering::Relaxed);
        Ok(())
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

/// What both threads have.
struct World {
    by: By,
    memory: Memory,
    kick: Notify,
    call: Notify,
    kicks: AtomicUsize,
}

/// The device, which gives each request back as soon as it takes it.
struct Device {
    world: Arc<World>,
    /// The driver hears of what was done.
    tells: bool,
    next: u16,
    told: u16,
}

impl Side for Device {
    type Error = Infallible;

    fn quiet(&mut self) -> Result<(), Infallible> {
        quiet(&self.world.memory, self.world.by)
    }

    fn listen(&mut self) -> Result<bool, Infallible> {
        listen(&self.world.memory, self.world.by, self.next)
    }

    fn serve(&mut self) -> Result<bool, Infallible> {
        if self.world.memory.available.load(Ordering::Acquire) == self.next {
            return Ok(false);
        }
        self.next += 1;
        self.world.memory.used.store(self.next, Ordering::Release);
        Ok(true)
    }

    fn is_over(&self) -> bool {
        false
    }

    fn tell(&mut self) -> Result<(), Infallible> {
        if !self.tells {
            return Ok(());
        }
        let told = std::mem::replace(&mut self.told, self.next);
        if wants_call(&self.world.memory, self.world.by, told, self.next)? {
            self.world.call.notify();
        }
        Ok(())
    }
}

impl Device {
    /// As a worker does: a look, and then one for each kick.
    fn run(mut self) {
        while !serve(&mut self).unwrap() && self.next < REQUESTS {
            self.world.kick.wait();
        }
    }
}

/// Makes one more request available, and kicks if the device wants that (virtio 1.2, 2.7.13).
fn make_available(world: &World, number: u16) {
    world.memory.available.store(number + 1, Ordering::Release);
    fence(Ordering::SeqCst);
    let wanted = match world.by {
        By::Flags => world.memory.device_flags.load(Ordering::Relaxed) & NO_NOTIFY == 0,
        By::Index => world.memory.avail_event.load(Ordering::Relaxed) == number,
    };
    if wanted {
        world.kicks.fetch_add(1, Ordering::Relaxed);
        world.kick.notify();
    }
}

/// Waits until all is used, asleep whenever there is nothing new (virtio 1.2, 2.7.14).
fn wait_for_all(world: &World) {
    let memory = &world.memory;
    let mut seen = 0;
    loop {
        if world.by == By::Flags {
            memory.driver_flags.store(NO_INTERRUPT, Ordering::Relaxed);
        }
        seen = memory.used.load(Ordering::Acquire).max(seen);
        if seen == REQUESTS {
            return;
        }
        match world.by {
            By::Flags => memory.driver_flags.store(0, Ordering::Relaxed),
            By::Index => memory.used_event.store(seen, Ordering::Relaxed),
        }
        fence(Ordering::SeqCst);
        if memory.used.load(Ordering::Relaxed) == seen {
            world.call.wait();
        }
    }
}

/// Each order with so many changes of the thread that is not waiting; a sleep that nobody ends fails.
fn in_every_order(by: By, changes: usize, run: impl Fn(&Arc<World>) + Sync + Send + 'static) {
    let mut orders = loom::model::Builder::new();
    orders.preemption_bound = Some(changes);
    orders.check(move || {
        run(&Arc::new(World {
            by,
            memory: Memory::default(),
            kick: Notify::new(),
            call: Notify::new(),
            kicks: AtomicUsize::new(0),
        }));
    });
}

fn device(world: &Arc<World>, tells: bool) -> Device {
    Device { world: Arc::clone(world), tells, next: 0, told: 0 }
}

fn no_kick_is_lost(by: By) {
    in_every_order(by, 4, |world| {
        let device = device(world, false);
        let device = thread::spawn(move || device.run());

        (0..REQUESTS).for_each(|number| make_available(world, number));

        device.join().unwrap();
    });
}

#[test]
fn no_kick_is_lost_where_flags_ask_for_it() {
    no_kick_is_lost(By::Flags);
}

#[test]
fn no_kick_is_lost_where_an_index_asks_for_it() {
    no_kick_is_lost(By::Index);
}

/// The device finds its work without kicks, a request at a time, and tells of each.
fn no_interrupt_is_lost(by: By) {
    in_every_order(by, 4, |world| {
        let mut device = device(world, true);
        let device = thread::spawn(move || {
            for number in 0..REQUESTS {
                device.world.memory.available.store(number + 1, Ordering::Relaxed);
                assert!(device.serve().unwrap());
                device.tell().unwrap();
            }
        });

        wait_for_all(world);

        device.join().unwrap();
    });
}

#[test]
fn no_interrupt_is_lost_where_flags_ask_for_it() {
    no_interrupt_is_lost(By::Flags);
}

#[test]
fn no_interrupt_is_lost_where_an_index_asks_for_it() {
    no_interrupt_is_lost(By::Index);
}

fn neither_is_lost(by: By) {
    in_every_order(by, 2, |world| {
        let device = device(world, true);
        let device = thread::spawn(move || device.run());

        (0..REQUESTS).for_each(|number| make_available(world, number));
        wait_for_all(world);

        device.join().unwrap();
    });
}

#[test]
fn a_driver_that_sleeps_after_its_requests_is_always_woken() {
    neither_is_lost(By::Flags);
    neither_is_lost(By::Index);
}

#[test]
fn a_device_that_is_busy_is_not_kicked() {
    let fewest = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(usize::MAX));
    let seen = std::sync::Arc::clone(&fewest);

    in_every_order(By::Flags, 2, move |world| {
        let device = device(world, false);
        let device = thread::spawn(move || device.run());
        (0..REQUESTS).for_each(|number| make_available(world, number));
        device.join().unwrap();
        seen.fetch_min(world.kicks.load(Ordering::Relaxed), std::sync::atomic::Ordering::Relaxed);
    });

    assert_eq!(fewest.load(std::sync::atomic::Ordering::Relaxed), 0);
}
