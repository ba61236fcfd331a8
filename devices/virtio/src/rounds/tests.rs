//! Every order in which a device is kicked, stopped and started again while it works.

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Arc, Condvar, Mutex, Notify};
use loom::thread::{self, JoinHandle};

use super::{Due, Rounds, Running, go, stop};
use crate::worker::Next;

/// Added to the word in memory while no device may touch it.
const TAKEN_BACK: u32 = 1 << 16;

/// What a thread waits for.
#[derive(Default)]
struct Bells {
    kicked: bool,
    stopped: bool,
}

/// A device's thread, its guest and its bells.
struct World {
    /// The memory of the guest: a word that counts what was done.
    memory: AtomicU32,
    made_available: AtomicU32,
    bells: Mutex<Bells>,
    rung: Condvar,
    /// The guest is told here of what was done.
    call: Notify,
    /// Requests are carried out by somebody else, as a kernel does, and are in flight meanwhile.
    in_flight: bool,
}

impl World {
    fn ring(&self, ring: impl FnOnce(&mut Bells)) {
        ring(&mut self.bells.lock().unwrap());
        self.rung.notify_all();
    }

    fn request(&self) {
        self.made_available.fetch_add(1, Ordering::Release);
        self.ring(|bells| bells.kicked = true);
    }

    /// Does a request. An addition sees the newest value, so none after [`World::take_back`] goes unseen.
    fn carry_out(&self) {
        assert!(self.memory.fetch_add(1, Ordering::AcqRel) < TAKEN_BACK, "memory was touched after the stop");
        self.call.notify();
    }

    /// No device may touch memory from here on. How many requests were done.
    fn take_back(&self) -> u32 {
        self.memory.fetch_add(TAKEN_BACK, Ordering::AcqRel)
    }

    fn give(&self) {
        self.memory.fetch_sub(TAKEN_BACK, Ordering::AcqRel);
        // As a reset empties the events: only a look finds what was kicked for before.
        *self.bells.lock().unwrap() = Bells::default();
    }
}

/// A device's thread.
struct Device {
    world: Arc<World>,
    taken: u32,
    in_flight: Vec<JoinHandle<()>>,
}

impl Rounds for Device {
    fn wait(&mut self, due: &mut [Due]) -> bool {
        let mut bells = self.world.bells.lock().unwrap();
        while !bells.stopped && !bells.kicked && !due.contains(&Due::Now) {
            bells = self.world.rung.wait(bells).unwrap();
        }
        if bells.stopped {
            return false;
        }
        if std::mem::take(&mut bells.kicked) {
            due.iter_mut().for_each(|due| due.wake(true));
        }
        true
    }

    fn serve(&mut self, _place: usize) -> Due {
        if self.taken == self.world.made_available.load(Ordering::Acquire) {
            return Due::after(Next::Wait);
        }
        self.taken += 1;
        if self.world.in_flight {
            let world = Arc::clone(&self.world);
            self.in_flight.push(thread::spawn(move || world.carry_out()));
        } else {
            self.world.carry_out();
        }
        Due::after(Next::Again)
    }

    fn end(&mut self) {
        self.in_flight.drain(..).for_each(|request| request.join().unwrap());
    }
}

/// The thread of a device that has taken so many requests before; it gives back how many it has taken.
struct Thread(Arc<World>, JoinHandle<u32>);

impl Thread {
    fn start(world: &Arc<World>, taken: u32) -> Self {
        let mut device = Device { world: Arc::clone(world), taken, in_flight: Vec::new() };
        let thread = thread::spawn(move || {
            go(&mut device, 1);
            device.taken
        });
        Self(Arc::clone(world), thread)
    }
}

impl Running for Thread {
    type Back = u32;

    fn ask_to_stop(&self) {
        self.0.ring(|bells| bells.stopped = true);
    }

    fn join(self) -> u32 {
        self.1.join().unwrap()
    }
}

/// Each order with so many changes of the thread that is not waiting; a sleep that nobody ends fails.
fn in_every_order(in_flight: bool, changes: usize, run: impl Fn(&Arc<World>) + Sync + Send + 'static) {
    let mut orders = loom::model::Builder::new();
    orders.preemption_bound = Some(changes);
    orders.check(move || {
        run(&Arc::new(World {
            memory: AtomicU32::new(0),
            made_available: AtomicU32::new(0),
            bells: Mutex::new(Bells::default()),
            rung: Condvar::new(),
            call: Notify::new(),
            in_flight,
        }));
    });
}

fn memory_is_left_alone_after_a_stop(in_flight: bool) {
    in_every_order(in_flight, 3, |world| {
        let mut running = vec![Thread::start(world, 0)];
        world.request();
        world.request();

        let taken = stop(&mut running);

        assert_eq!(taken, [world.take_back()]);
        assert!(running.is_empty());
    });
}

#[test]
fn a_device_that_is_stopped_while_it_works_leaves_memory_alone() {
    memory_is_left_alone_after_a_stop(false);
}

#[test]
fn a_device_that_is_stopped_waits_for_what_is_in_flight() {
    memory_is_left_alone_after_a_stop(true);
}

#[test]
fn two_lanes_stop_wherever_each_of_them_is() {
    in_every_order(false, 2, |world| {
        let other = Arc::new(World {
            memory: AtomicU32::new(0),
            made_available: AtomicU32::new(1),
            bells: Mutex::new(Bells::default()),
            rung: Condvar::new(),
            call: Notify::new(),
            in_flight: false,
        });
        let mut running = vec![Thread::start(world, 0), Thread::start(&other, 0)];
        world.request();

        let taken = stop(&mut running);

        assert_eq!(taken, [world.take_back(), other.take_back()]);
    });
}

#[test]
fn a_device_that_is_started_again_serves_what_was_kicked_for_before() {
    in_every_order(false, 3, |world| {
        let mut running = vec![Thread::start(world, 0)];
        world.request();
        let [taken] = stop(&mut running)[..] else { panic!("one thread gives back once") };
        assert_eq!(world.take_back(), taken);

        world.give();
        running.push(Thread::start(world, taken));
        while world.memory.load(Ordering::Acquire) == 0 {
            world.call.wait();
        }

        assert_eq!(stop(&mut running), [1]);
    });
}
