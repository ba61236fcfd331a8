//! A case and its answer.

use crate::registers::Face;
use crate::step::Step;

/// One case. Made by [`Attack::new`] and the words behind it, so that a row of the table says what is special.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// The regression that it is of.
    pub row: &'static str,
    /// What the guest does. No other case of the row has the same words.
    pub what: &'static str,
    pub devices: &'static [Device],
    pub faces: &'static [Face],
    /// Offered features that the driver takes, besides VERSION_1.
    pub features: u64,
    /// How far a driver that means well comes before the steps.
    pub from: Stage,
    pub steps: &'static [Step],
    pub expect: Answer,
}

impl Attack {
    /// On every device and face, from a device that is live.
    pub const fn new(row: &'static str, what: &'static str, expect: Answer, steps: &'static [Step]) -> Self {
        let (devices, faces) = (&Device::ALL, &Face::ALL);
        Self { row, what, devices, faces, features: 0, from: Stage::Live, steps, expect }
    }

    pub const fn of(self, devices: &'static [Device]) -> Self {
        Self { devices, ..self }
    }

    pub const fn over(self, faces: &'static [Face]) -> Self {
        Self { faces, ..self }
    }

    pub const fn with(self, features: u64) -> Self {
        Self { features, ..self }
    }

    pub const fn from(self, from: Stage) -> Self {
        Self { from, ..self }
    }

    /// Whether it can be done to this.
    pub fn is_for(&self, device: Device, face: Face) -> bool {
        self.devices.contains(&device) && self.faces.contains(&face)
    }

    /// A legacy driver cannot be told that its device needs a reset; it hears nothing.
    pub fn answer_on(&self, face: Face) -> Answer {
        match self.expect {
            Answer::Broken if face.is_legacy() => Answer::Silence,
            answer => answer,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Of 64 sectors, each byte as [`on_disk`](crate::layout::on_disk) says.
    Disk,
    /// The same, for reading.
    ReadOnlyDisk,
    Net,
    Rng,
    Console,
    Balloon,
}

impl Device {
    pub const ALL: [Self; 6] =
        [Self::Disk, Self::ReadOnlyDisk, Self::Net, Self::Rng, Self::Console, Self::Balloon];

    /// The queue on which a request is answered without anything from outside.
    pub fn queue(self) -> u16 {
        match self {
            Self::Net | Self::Console => 1,
            Self::Disk | Self::ReadOnlyDisk | Self::Rng | Self::Balloon => 0,
        }
    }
}

/// How far a driver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Reset,
    /// ACKNOWLEDGE and DRIVER.
    Driver,
    /// The features are chosen.
    Features,
    /// Every queue is in its place and enabled; one of a legacy driver works from here on.
    Queues,
    /// DRIVER_OK.
    Live,
}

/// What became of the last request of the case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It came back served.
    Served,
    /// It came back with an error in its status byte.
    Error(u8),
    /// It came back with nothing written.
    Empty,
    /// The device asks for a reset.
    Broken,
    /// Nothing happened.
    Silence,
    /// A byte is there that should not be, or something read otherwise than it should.
    Wrong,
    /// Each of the others but `Wrong` is right.
    Any,
}

/// What the case came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Served, as it should be.
    Pass,
    /// Refused, as it should be: with an error, with nothing, or until a reset.
    Reject,
    /// It got another answer than it should.
    Fail(Answer),
    /// The device does not work after a reset.
    Wedged,
}
