//! One queue of a disk, and the requests of it that are on their way.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_memory::GuestMemory;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::disk::Disk;
use super::flushes::Turn as Flush;
use super::job::{Act, Job, Step};
use super::perform::perform;
use super::request::Request;
use super::uring::Uring;
use super::{Engine, FLUSH, Options};
use crate::ring::{Broken, Ring, Turn};
use crate::worker::{Next, Run, Serve};

/// How many requests of a queue may have memory of ours, a [`PIECE`](super::disk::PIECE) each.
const MOST_COPIES: usize = 16;

/// When to ask a kernel again that had no room.
const SHORTLY: Duration = Duration::from_millis(1);

pub struct Lane {
    queue: u16,
    // Ends before what it works on does.
    uring: Option<Uring>,
    disk: Arc<Disk>,
    /// By head: taken, and not given back.
    taken: Vec<bool>,
    /// What goes into the used ring with the next batch.
    used: Vec<(u16, u32)>,
    copies: usize,
    /// The flush that runs is one of these.
    flushing: bool,
    /// They wait for one to end.
    waiting: VecDeque<Job>,
    legacy: bool,
    /// The driver took FLUSH. One that did not has no way to make stable what it wrote (5.2.6.2).
    can_flush: bool,
    broken: bool,
}

impl Lane {
    /// # Errors
    /// If the kernel refuses io_uring.
    pub fn new(queue: u16, disk: Arc<Disk>, options: &Options) -> io::Result<Self> {
        let uring = match options.engine {
            Engine::Sync => None,
            Engine::Uring => Some(Uring::new(options.queue_size, Arc::clone(&disk))?),
        };
        let size = usize::from(options.queue_size);
        Ok(Self {
            queue,
            uring,
            disk,
            taken: vec![false; size],
            used: Vec::with_capacity(size),
            copies: 0,
            flushing: false,
            waiting: VecDeque::new(),
            legacy: false,
            can_flush: false,
            broken: false,
        })
    }
}

impl Serve for Lane {
    const SOURCES: usize = 1;

    fn begin(&mut self, run: &Run) -> io::Result<()> {
        self.legacy = run.features & 1 << VIRTIO_F_VERSION_1 == 0;
        self.can_flush = run.features & FLUSH != 0;
        self.broken = false;
        self.taken.fill(false);
        self.used.clear();
        self.copies = 0;
        if let Some(uring) = &mut self.uring {
            uring.begin(run.memory.clone());
        }
        Ok(())
    }

    fn serve(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken> {
        let next = self.turn(ring, memory);
        if next.is_err() {
            self.broken = true;
            self.leave();
        }
        next
    }

    fn source(&self, _number: usize) -> Option<(BorrowedFd<'_>, u16)> {
        self.uring.as_ref().map(|uring| (uring.bell().as_fd(), self.queue))
    }

    fn ready(&mut self, _number: usize) {
        if let Some(uring) = &self.uring {
            uring.hush();
        }
    }

    /// Waits for all that is on its way. The guest is told of it, since it may go on with its rings.
    fn end(&mut self, rings: &mut [Ring], memory: &GuestMemory) {
        while let Some(uring) = self.uring.as_mut().filter(|uring| uring.in_flight() > 0) {
            if let Err(error) = uring.wait() {
                tracing::error!("disk '{}' cannot wait for its requests: {error}", self.disk.name);
                break;
            }
            self.reap(memory);
        }
        if let Some(uring) = &mut self.uring {
            uring.end();
        }
        self.leave();
        while let Some(job) = self.waiting.pop_front() {
            self.flush(job, memory);
        }
        let own = rings.iter_mut().find(|ring| ring.index == self.queue).filter(|_| !self.broken);
        if let Some(ring) = own
            && let Err(error) = self.publish(ring, memory)
        {
            tracing::debug!("{error}");
        }
    }
}

impl Lane {
    /// What was done since the last time and what is done at once is published together, and told once.
    fn turn(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken> {
        ring.quiet(memory)?;
        self.reap(memory);
        let next = self.take(ring, memory);
        let full = self.copies >= MOST_COPIES;
        let handed_over = self.settle(memory);
        let published = self.publish(ring, memory);
        let next = next?;
        let handed_over =
            handed_over.map_err(|error| Broken { index: ring.index, why: format!("io_uring: {error}") })?;
        published?;
        // What made room meanwhile wakes nobody any more.
        if full && self.copies < MOST_COPIES && next == Next::Wait {
            return Ok(Next::Again);
        }
        Ok(if handed_over || next == Next::Again { next } else { Next::After(SHORTLY) })
    }

    /// Takes what the guest has made available, until there is no more, a turn is over or the limit is reached.
    fn take(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken> {
        let mut turn = Turn::default();
        while !turn.is_over() {
            let Some((head, chain)) = ring.next(memory)? else {
                if !ring.listen(memory)? {
                    return Ok(Next::Wait);
                }
                turn.took(0);
                ring.quiet(memory)?;
                continue;
            };
            self.claim(head)?;
            let request = match chain {
                Ok(chain) => Request::parse(chain, &self.disk, self.legacy, memory),
                Err(malformed) => {
                    tracing::debug!("queue {}: chain {head} refused: {malformed}", self.queue);
                    None
                }
            };
            let Some(request) = request else {
                turn.took(0);
                self.used.push((head, 0));
                continue;
            };
            let (bytes, work) = (request.bytes(), request.work());
            let stable = !self.can_flush || !self.disk.writeback();
            let job = Job::new(request, stable, &self.disk, memory);
            // One that ends makes room, and wakes the lane.
            let full = job.copied && self.copies >= MOST_COPIES;
            let wait = if full { Some(Next::Wait) } else { self.limit(bytes) };
            if let Some(wait) = wait {
                self.release(head);
                ring.put_back(1);
                return Ok(wait);
            }
            turn.took(work);
            self.copies = self.copies.saturating_add(usize::from(job.copied));
            self.drive(job, memory);
        }
        Ok(Next::Again)
    }

    fn limit(&self, bytes: u64) -> Option<Next> {
        if !self.disk.limiter.is_limited() {
            return None;
        }
        self.disk.limiter.take(bytes, Instant::now()).err().map(Next::After)
    }

    /// Each head names one request until it is given back, so no more are on their way than the queue has
    /// entries.
    fn claim(&mut self, head: u16) -> Result<(), Broken> {
        match self.taken.get_mut(usize::from(head)) {
            Some(taken) if !*taken => {
                *taken = true;
                Ok(())
            }
            _ => Err(Broken { index: self.queue, why: format!("head {head} is available twice") }),
        }
    }

    fn release(&mut self, head: u16) {
        if let Some(taken) = self.taken.get_mut(usize::from(head)) {
            *taken = false;
        }
    }

    /// Brings a job as far as it goes without waiting.
    fn drive(&mut self, mut job: Job, memory: &GuestMemory) {
        while let Some(step) = job.step() {
            if let Some(after) = job.flush_after() {
                match self.turn_to_flush(after, self.uring.as_ref()) {
                    Flush::Now => self.flushing = true,
                    Flush::Done => {
                        job.advance(&step, Ok(0), &self.disk, memory);
                        continue;
                    }
                    Flush::Later => return self.waiting.push_back(job),
                }
            }
            #[cfg(test)]
            let (step, fault) = self.fault(step);
            #[cfg(test)]
            if let Some(result) = fault {
                self.advance(&mut job, &step, result, memory);
                continue;
            }
            let result = match &mut self.uring {
                None => perform(&step, &mut job, &self.disk, memory),
                Some(uring) => match uring.push(step, job) {
                    Ok(()) => return,
                    Err((back, error)) => {
                        job = *back;
                        Err(error)
                    }
                },
            };
            self.advance(&mut job, &step, result, memory);
        }
        self.finish(job, memory);
    }

    fn finish(&mut self, job: Job, memory: &GuestMemory) {
        self.copies = self.copies.saturating_sub(usize::from(job.copied));
        self.used.push(job.finish(memory));
    }

    /// Waits for its turn where no `uring` rings when that has come.
    fn turn_to_flush(&self, after: u64, uring: Option<&Uring>) -> Flush {
        match uring {
            // There is nothing left to try: all of them fail.
            _ if self.disk.is_lost() => Flush::Done,
            None => self.disk.flushes.wait(after),
            Some(uring) => self.disk.flushes.ask(after, uring.bell()),
        }
    }

    /// Brings a job that waits for its flush to its end, on this thread.
    fn flush(&mut self, mut job: Job, memory: &GuestMemory) {
        while let (Some(step), Some(after)) = (job.step(), job.flush_after()) {
            let result = if self.turn_to_flush(after, None) == Flush::Done {
                Ok(0)
            } else {
                self.flushing = true;
                perform(&step, &mut job, &self.disk, memory)
            };
            self.advance(&mut job, &step, result, memory);
        }
        self.finish(job, memory);
    }

    /// Whoever waits for the flush that runs here gets no answer from it any more.
    fn leave(&mut self) {
        if std::mem::take(&mut self.flushing) {
            self.disk.doubt();
            self.disk.flushes.end(false);
        }
    }

    fn advance(&mut self, job: &mut Job, step: &Step, result: io::Result<usize>, memory: &GuestMemory) {
        #[cfg(test)]
        if let Some(faults) = &self.disk.faults {
            faults.after(self.queue, step, &result);
        }
        let worked = result.is_ok();
        job.advance(step, result, &self.disk, memory);
        if step.act == Act::Sync && std::mem::take(&mut self.flushing) {
            self.disk.flushes.end(worked);
        }
    }

    /// Goes on with what the kernel has done. True if there was any.
    fn reap(&mut self, memory: &GuestMemory) -> bool {
        let mut any = false;
        while let Some((mut job, step, result)) = self.uring.as_mut().and_then(Uring::reap) {
            any = true;
            self.advance(&mut job, &step, result, memory);
            self.drive(job, memory);
        }
        for _ in 0..self.waiting.len() {
            let Some(job) = self.waiting.pop_front() else { break };
            let before = self.waiting.len();
            self.drive(job, memory);
            any |= self.waiting.len() == before;
        }
        any
    }

    /// Hands over to the kernel what was made ready, and goes on with what it does at once. False if the kernel
    /// has no room for some of it now.
    fn settle(&mut self, memory: &GuestMemory) -> io::Result<bool> {
        loop {
            let Some(uring) = &mut self.uring else { return Ok(true) };
            let all = uring.submit()?;
            if !self.reap(memory) {
                return Ok(all);
            }
            // What rang for these need not wake the lane. Whatever comes after this call rings again, and
            // what came before it is found now.
            if let Some(uring) = &self.uring {
                uring.hush();
            }
        }
    }

    fn publish(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<(), Broken> {
        if self.used.is_empty() {
            return Ok(());
        }
        let used = std::mem::take(&mut self.used);
        used.iter().for_each(|(head, _)| self.release(*head));
        let done = ring.finish_all(memory, &used).and_then(|()| ring.tell(memory));
        self.used = used;
        self.used.clear();
        done
    }

    #[cfg(test)]
    fn fault(&self, mut step: Step) -> (Step, Option<io::Result<usize>>) {
        let fault = self.disk.faults.as_ref().and_then(|faults| faults.before(self.queue, &mut step));
        (step, fault)
    }
}

/// What a test has a disk do wrong.
#[cfg(test)]
pub trait Faults: Send + Sync {
    /// May shorten the step, or have it end so without being done.
    fn before(&self, _queue: u16, _step: &mut Step) -> Option<io::Result<usize>> {
        None
    }

    fn after(&self, _queue: u16, _step: &Step, _result: &io::Result<usize>) {}
}
