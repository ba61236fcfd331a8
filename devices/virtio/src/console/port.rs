//! The guest's side of a console: what serves its two queues.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use ambit_memory::GuestMemory;

use super::line::{Keys, Screen};
use super::{RECEIVE, TRANSMIT};
use crate::ring::{Broken, Chain, Ring, Turn, cut, read_some, total, write_front};
use crate::worker::{Next, Run, Serve};

pub struct Port {
    keys: Arc<Keys>,
    screen: Screen,
    /// How many bytes of the next request are printed already: more than there was room for at once.
    printed: u64,
}

// Sources of the worker.
const TYPED: usize = 0;
const ROOM: usize = 1;

impl Serve for Port {
    const SOURCES: usize = 2;

    fn begin(&mut self, run: &Run) -> io::Result<()> {
        // A queue that was taken out of use begins anew.
        if !run.queues.contains(&TRANSMIT) {
            self.printed = 0;
        }
        Ok(())
    }

    fn serve(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken> {
        let next = match ring.index {
            RECEIVE => self.receive(ring, memory)?,
            _ => self.transmit(ring, memory)?,
        };
        ring.tell(memory)?;
        Ok(next)
    }

    fn source(&self, number: usize) -> Option<(BorrowedFd<'_>, u16)> {
        match number {
            TYPED => Some((self.keys.typed().as_fd(), RECEIVE)),
            ROOM => Some((self.screen.room().as_fd(), TRANSMIT)),
            _ => None,
        }
    }

    fn ready(&mut self, number: usize) {
        match number {
            TYPED => self.keys.typed().silence(),
            _ => self.screen.room().silence(),
        }
    }
}

impl Port {
    pub fn new(keys: Arc<Keys>, screen: Screen) -> Self {
        Self { keys, screen, printed: 0 }
    }

    /// What is typed still waits for the guest, as on any line; what it printed is printed.
    pub fn reset(&mut self) {
        self.printed = 0;
    }

    /// Gives the guest what was typed, a buffer at a time, and takes no buffer before there is something.
    fn receive(&self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken> {
        let mut turn = Turn::default();
        ring.quiet(memory)?;
        while !turn.is_over() {
            if self.keys.is_empty() {
                return Ok(Next::Wait);
            }
            let Some((head, chain)) = ring.next(memory)? else {
                if ring.listen(memory)? {
                    turn.took(0);
                    ring.quiet(memory)?;
                    continue;
                }
                return Ok(Next::Wait);
            };
            let written = match chain {
                Ok(chain) => self.fill(&chain, memory),
                Err(malformed) => refused(ring.index, head, &malformed),
            };
            turn.took(u64::from(written));
            ring.finish(memory, head, written)?;
        }
        Ok(Next::Again)
    }

    fn fill(&self, chain: &Chain, memory: &GuestMemory) -> u32 {
        if !chain.readable.is_empty() {
            return refused(RECEIVE, chain.head, &"it has buffers for reading");
        }
        let mut bytes = [0; 256];
        let room = usize::try_from(total(&chain.writable)).unwrap_or(usize::MAX).min(bytes.len());
        let Some(bytes) = bytes.get_mut(..room) else { return 0 };
        let count = self.keys.take(bytes);
        write_front(memory, &chain.writable, bytes.get(..count).unwrap_or_default())
    }

    /// Prints until there is nothing, or no room on the screen. A request that is printed in part is not taken from
    /// the ring: whoever serves it next goes on after that part.
    fn transmit(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken> {
        let mut turn = Turn::default();
        ring.quiet(memory)?;
        while !turn.is_over() {
            let Some((head, chain)) = ring.next(memory)? else {
                if ring.listen(memory)? {
                    turn.took(0);
                    ring.quiet(memory)?;
                    continue;
                }
                return Ok(Next::Wait);
            };
            let whole = match chain {
                Ok(chain) if chain.writable.is_empty() => chain.readable,
                Ok(_) => {
                    refused(ring.index, head, &"it has buffers for writing");
                    Vec::new()
                }
                Err(malformed) => {
                    refused(ring.index, head, &malformed);
                    Vec::new()
                }
            };
            let (_, rest) = cut(&whole, self.printed);
            let left = total(&rest);
            let count =
                if left == 0 { 0 } else { self.screen.print(|piece| read_some(memory, &rest, piece)) };
            turn.took(count as u64);
            if count as u64 >= left {
                self.printed = 0;
                ring.finish(memory, head, 0)?;
                continue;
            }
            self.printed = self.printed.saturating_add(count as u64);
            ring.put_back(1);
            if count == 0 {
                return Ok(Next::Wait);
            }
        }
        Ok(Next::Again)
    }
}

/// Nothing is written into such a request.
fn refused(queue: u16, head: u16, why: &dyn std::fmt::Display) -> u32 {
    tracing::debug!("queue {queue}: chain {head} refused: {why}");
    0
}
