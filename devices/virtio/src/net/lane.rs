//! One pair of queues with its carrier, on a thread of its own. The first has the control queue too, and follows the
//! state of the link.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ambit_memory::GuestMemory;

use super::card::{Card, Role};
use super::control;
use super::link::{State, Watch};
use super::receive::Receiver;
use super::transmit::Transmitter;
use crate::ring::{Broken, Ring};
use crate::worker::{Next, Run, Serve};

/// What serves a pair.
pub struct Lane {
    number: usize,
    card: Arc<Card>,
    receiver: Receiver,
    transmitter: Transmitter,
    watch: Option<Watch>,
    features: u64,
}

// Sources.
const CARRIER: usize = 0;
/// Of the queue for receiving, and of the one for sending.
const BELLS: [usize; 2] = [1, 2];
const WATCH: usize = 3;

impl Lane {
    pub fn new(number: usize, card: Arc<Card>, watch: Option<Watch>) -> Self {
        let (receiver, transmitter) = (Receiver::new(), Transmitter::new());
        Self { number, card, receiver, transmitter, watch, features: 0 }
    }

    /// The queues of a pair.
    pub fn queues(number: u16) -> [u16; 2] {
        let rx = number.saturating_mul(2);
        [rx, rx.saturating_add(1)]
    }

    fn rx(&self) -> u16 {
        let [rx, _] = Self::queues(u16::try_from(self.number).unwrap_or(u16::MAX));
        rx
    }

    /// What the watch says, asked by `look`.
    fn follow(&mut self, look: fn(&mut Watch) -> io::Result<Option<State>>) {
        let Some(watch) = &mut self.watch else { return };
        match look(watch) {
            Ok(None) => {}
            Ok(Some(State::Up)) => self.card.set_link(true),
            Ok(Some(State::Down)) => self.card.set_link(false),
            Err(error) => {
                tracing::debug!("the link of a network card is not followed any more: {error}");
                self.watch = None;
            }
            // In another namespace it still carries frames, but nobody says any more whether it is up.
            Ok(Some(State::Left)) => {
                self.watch = None;
                if self.card.carriers.first().is_none_or(|carrier| carrier.is_gone()) {
                    self.card.lose(&"its interface was deleted");
                }
            }
        }
    }
}

impl Serve for Lane {
    const SOURCES: usize = 4;

    fn begin(&mut self, run: &Run) -> io::Result<()> {
        self.features = run.features;
        self.receiver.begin(run.features, self.card.mtu, &run.memory);
        self.transmitter.begin(run.features, &run.memory);
        self.follow(Watch::refresh);
        if self.card.is_gone() {
            self.receiver.lose();
        }
        Ok(())
    }

    fn serve(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken> {
        let Self { number, card, receiver, transmitter, features, .. } = self;
        let role = card.role(ring.index, *features);
        if role == Role::Control {
            return control::serve(ring, memory, card, *features);
        }
        let (Some(_in_use), Some(carrier)) = (card.enter(*number), card.carriers.get(*number)) else {
            return Ok(Next::Wait);
        };
        match role {
            Role::Receive => receiver.receive(ring, memory, &**carrier, card),
            Role::Transmit => transmitter.transmit(ring, memory, &**carrier, card),
            Role::Control | Role::None => Ok(Next::Wait),
        }
    }

    fn source(&self, number: usize) -> Option<(BorrowedFd<'_>, u16)> {
        let rx = self.rx();
        let bell = |queue: usize| self.card.bell(self.number, queue).map(OwnedFd::as_fd);
        match number {
            CARRIER if self.receiver.listens() && self.card.is_active(self.number) => {
                Some((self.card.carriers.get(self.number)?.fd(), rx))
            }
            1 => Some((bell(0)?, rx)),
            2 => Some((bell(1)?, rx.saturating_add(1))),
            WATCH => Some((self.watch.as_ref()?.fd(), rx)),
            _ => None,
        }
    }

    fn ready(&mut self, number: usize) {
        if let Some(queue) = BELLS.iter().position(|bell| *bell == number)
            && let Some(bell) = self.card.bell(self.number, queue)
        {
            let _empty = rustix::io::read(bell, &mut [0; 8]);
        }
        if number == WATCH {
            self.follow(Watch::look);
        }
    }

    fn lost(&mut self, number: usize) {
        match number {
            CARRIER => {
                // Of a pair that is not in use, the carrier fails for that reason.
                let in_use = self.card.enter(self.number);
                let carrier = self.card.carriers.get(self.number).filter(|_| in_use.is_some());
                if carrier.is_some_and(|carrier| carrier.is_gone()) {
                    self.receiver.lose();
                    self.card.lose(&"its carrier hung up");
                }
            }
            // It has an error when messages were lost.
            WATCH => self.follow(Watch::look),
            _ => {}
        }
    }

    fn end(&mut self, rings: &mut [Ring], _: &GuestMemory) {
        let receives = |ring: &&mut Ring| self.card.role(ring.index, self.features) == Role::Receive;
        self.receiver.end(rings.iter_mut().find(receives));
        self.transmitter.end();
    }
}
