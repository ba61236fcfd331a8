//! A disk: a raw file or block device (virtio 1.2, 5.2).

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::sync::Arc;

use ambit_memory::GuestMemory;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use crate::config::Config;
use crate::device::{Start, StartError, VirtioDevice};
use crate::iov::Iov;
use crate::ring::{Broken, Buffer, Chain, Ring, cut, read_front, total, write_front};
use crate::worker::{Next, Run, Serve, Service};

/// What a plan calls this kind of device.
pub const KIND: &str = "virtio-blk";

/// Sectors are 512 bytes in every request, whatever the file's own are (5.2.4).
pub const SECTOR: u64 = 512;

const QUEUE_SIZES: [u16; 1] = [256];

/// Data segments of a request: an indirect table of a full queue, less the header and the status.
const SEG_MAX: u32 = 254;

/// A request begins with type, reserved word and sector (5.2.6).
const HEADER: u64 = 16;

/// A disk as configured.
pub struct Block {
    service: Service<Disk>,
    readonly: bool,
    config: Arc<Config>,
}

/// What is behind it.
struct Disk {
    file: File,
    readonly: bool,
    sectors: u64,
    id: [u8; VIRTIO_BLK_ID_BYTES as usize],
    /// The driver did not take FLUSH, so every write must be on stable storage when it completes
    /// (5.2.6.2).
    write_through: bool,
}

impl Block {
    /// Serves `file`, which was opened for writing unless `readonly`. The guest sees `id`, cut to 20
    /// bytes, as the disk's serial number. What is left of the last sector is not part of the disk.
    ///
    /// # Errors
    /// If the end of the file cannot be found.
    pub fn new(id: &str, mut file: File, readonly: bool) -> io::Result<Self> {
        let sectors = file.seek(SeekFrom::End(0))? / SECTOR;
        let mut serial = [0; VIRTIO_BLK_ID_BYTES as usize];
        serial.iter_mut().zip(id.bytes()).for_each(|(to, from)| *to = from);
        let mut config = [0; 16];
        config.iter_mut().zip(sectors.to_le_bytes()).for_each(|(to, from)| *to = from);
        // capacity, size_max (not offered), seg_max
        config.iter_mut().skip(12).zip(SEG_MAX.to_le_bytes()).for_each(|(to, from)| *to = from);
        let disk = Disk { file, readonly, sectors, id: serial, write_through: true };
        Ok(Self { service: Service::new(id, disk), readonly, config: Arc::new(Config::new(config.into())) })
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let readonly = if self.readonly { 1 << VIRTIO_BLK_F_RO } else { 0 };
        1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_SEG_MAX | readonly
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &Arc<Config> {
        &self.config
    }

    fn start(&mut self, start: Start) -> Result<(), StartError> {
        self.service.start(start)
    }

    fn stop(&mut self) -> Vec<Ring> {
        self.service.stop()
    }
}

impl Serve for Disk {
    fn begin(&mut self, run: &Run) -> io::Result<()> {
        self.write_through = run.features & 1 << VIRTIO_BLK_F_FLUSH == 0;
        Ok(())
    }

    fn serve(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken> {
        ring.serve(memory, |chain| self.request(chain, memory)).map(Next::again_if)
    }
}

/// How a request ended, and how many bytes of data it wrote.
type Outcome = Result<u32, u32>;

impl Disk {
    /// Serves one request; how many bytes of the writable buffers were written.
    fn request(&self, chain: &Chain, memory: &GuestMemory) -> u32 {
        // The status is the last writable byte, however the request is split (2.7.4.1).
        let Some(data_len) = total(&chain.writable).checked_sub(1) else { return 0 };
        let (into, status) = cut(&chain.writable, data_len);
        let outcome = self.transfer(chain, &into, memory);
        let (code, written) = match outcome {
            Ok(written) => (VIRTIO_BLK_S_OK, written),
            Err(code) => (code, 0),
        };
        let [code, ..] = code.to_le_bytes();
        let told = write_front(memory, &status, &[code]);
        // The used length counts from the front, so the status byte counts only if all before it was
        // written (2.7.8.2).
        if u64::from(written) == data_len { written.saturating_add(told) } else { written }
    }

    fn transfer(&self, chain: &Chain, into: &[Buffer], memory: &GuestMemory) -> Outcome {
        let header = read_front::<16>(memory, &chain.readable).ok_or(VIRTIO_BLK_S_IOERR)?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => self.read(sector, into, memory),
            VIRTIO_BLK_T_OUT => {
                let (_, from) = cut(&chain.readable, HEADER);
                self.write(sector, &from, memory)
            }
            VIRTIO_BLK_T_FLUSH => self.flush(),
            VIRTIO_BLK_T_GET_ID => self.get_id(into, memory),
            _ => Err(VIRTIO_BLK_S_UNSUPP),
        }
    }

    fn read(&self, sector: u64, into: &[Buffer], memory: &GuestMemory) -> Outcome {
        let (mut at, len) = self.place(sector, into)?;
        let mut iov = Iov::new(memory, into).ok_or(VIRTIO_BLK_S_IOERR)?;
        while iov.len() > 0 {
            let count = again(|| iov.read_at(self.file.as_fd(), at))?;
            at = at.saturating_add(count);
            iov.advance(usize::try_from(count).unwrap_or(usize::MAX));
        }
        Ok(len)
    }

    fn write(&self, sector: u64, from: &[Buffer], memory: &GuestMemory) -> Outcome {
        if self.readonly {
            return Err(VIRTIO_BLK_S_IOERR);
        }
        let (mut at, _) = self.place(sector, from)?;
        let mut iov = Iov::new(memory, from).ok_or(VIRTIO_BLK_S_IOERR)?;
        while iov.len() > 0 {
            let count = again(|| iov.write_at(self.file.as_fd(), at))?;
            at = at.saturating_add(count);
            iov.advance(usize::try_from(count).unwrap_or(usize::MAX));
        }
        if self.write_through { self.flush() } else { Ok(0) }
    }

    /// A failed flush is told once, as it happens; the kernel's own error state for the file decides
    /// about the next.
    fn flush(&self) -> Outcome {
        self.file.sync_data().map(|()| 0).map_err(|error| failed(&error))
    }

    fn get_id(&self, into: &[Buffer], memory: &GuestMemory) -> Outcome {
        if total(into) < u64::from(VIRTIO_BLK_ID_BYTES) {
            return Err(VIRTIO_BLK_S_IOERR);
        }
        Ok(write_front(memory, into, &self.id))
    }

    /// Where in the file the data begins, and how long it is: whole sectors, wholly on the disk.
    fn place(&self, sector: u64, data: &[Buffer]) -> Result<(u64, u32), u32> {
        let len = total(data);
        let fits = len.is_multiple_of(SECTOR)
            && sector.checked_add(len / SECTOR).is_some_and(|end| end <= self.sectors);
        match (fits, sector.checked_mul(SECTOR), u32::try_from(len)) {
            (true, Some(at), Ok(len)) => Ok((at, len)),
            _ => Err(VIRTIO_BLK_S_IOERR),
        }
    }
}

/// Does it again when a signal came between. No progress is an error: the file has become shorter.
fn again(mut act: impl FnMut() -> io::Result<usize>) -> Result<u64, u32> {
    loop {
        match act() {
            Ok(0) => return Err(failed(&io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => return Ok(count as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(&error)),
        }
    }
}

fn failed(error: &io::Error) -> u32 {
    tracing::debug!("a disk request failed: {error}");
    VIRTIO_BLK_S_IOERR
}

#[cfg(test)]
#[path = "block/tests.rs"]
mod tests;
