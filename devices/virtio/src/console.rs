//! A console of one port (virtio 1.2, 5.3).

mod line;
mod port;

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use crate::config::{Config, overlay};
use crate::device::{Interface, Start, StartError, VirtioDevice};
use crate::ring::Ring;
use crate::worker::Service;
use line::{Keys, Screen};
use port::Port;

pub use line::{INPUT_ROOM, Input, Sink};

/// What a plan calls this kind of device.
pub const KIND: &str = "virtio-console";

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const QUEUE_SIZES: [u16; 2] = [64, 64];

// Features (5.3.3; Linux `include/uapi/linux/virtio_console.h`).
const F_SIZE: u64 = 1 << 0;
const F_EMERG_WRITE: u64 = 1 << 2;

// The configuration (5.3.4): cols, rows, max_nr_ports, emerg_wr, in the order that drivers read them.
const CONFIG: usize = 12;
const EMERG_WR: u64 = 8;

/// How large a terminal is, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    pub cols: u16,
    pub rows: u16,
}

impl Size {
    fn put(self, config: &mut [u8]) {
        let bytes = self.cols.to_le_bytes().into_iter().chain(self.rows.to_le_bytes());
        config.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }
}

/// A console as the user wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub id: String,
    /// `None` if it is not on a terminal: then the guest is never told of one.
    pub size: Option<Size>,
}

impl Options {
    pub fn new(id: &str) -> Self {
        Self { id: id.into(), size: None }
    }
}

/// A console as configured: what the guest prints goes to the sink, what [`Input`] gets is received.
pub struct Console {
    service: Service<Port>,
    config: Arc<Config>,
    sized: bool,
    screen: Screen,
}

impl Console {
    /// The input works before the device runs, too: what is pushed then waits for the guest.
    ///
    /// # Errors
    /// If the host gives no event or no thread.
    pub fn new(sink: Sink, options: &Options) -> io::Result<(Self, Input)> {
        let mut bytes = vec![0; CONFIG];
        if let Some(size) = options.size {
            size.put(&mut bytes);
        }
        let config = Arc::new(Config::new(bytes));
        let keys = Arc::new(Keys::new()?);
        let screen = Screen::start(&options.id, sink)?;
        let port = Port::new(Arc::clone(&keys), screen.clone());
        let sized = options.size.is_some();
        let input = Input::new(keys, sized.then(|| Arc::clone(&config)));
        Ok((Self { service: Service::new(&options.id, port), config, sized, screen }, input))
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn features(&self) -> u64 {
        F_EMERG_WRITE | if self.sized { F_SIZE } else { 0 }
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// A guest that is not yet up, or has just gone down, prints one character at a time this way.
    fn listens_always(&self) -> bool {
        true
    }

    fn write_config(&mut self, at: u64, data: &[u8], _: Interface) {
        let (mut lowest, end) = ([0], at.saturating_add(data.len() as u64));
        if (at..end).contains(&EMERG_WR) {
            overlay(&mut lowest, EMERG_WR, at, data);
            self.screen.print_at_once(&lowest);
        }
    }

    fn start(&mut self, start: Start) -> Result<(), StartError> {
        let (interrupt, sized) = (Arc::clone(&start.interrupt), start.features & F_SIZE != 0);
        self.service.start(start)?;
        if sized {
            self.config.attach(&interrupt);
        }
        Ok(())
    }

    fn stop(&mut self) -> Vec<Ring> {
        self.config.detach();
        self.service.stop()
    }

    fn reset(&mut self) {
        self.config.reset(|_| ());
        self.service.each(Port::reset);
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        drop(self.service.stop());
        self.screen.close();
    }
}

#[cfg(test)]
#[path = "console/tests.rs"]
mod tests;
