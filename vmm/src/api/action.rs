//! Everything that can be asked of a machine while it runs, whatever the words it is asked in.

use std::str::{FromStr, Utf8Error};
use std::time::Duration;

use ambit_device_manager::{BuildError, NotThere, PlanError, Transport};

use crate::config::{ConfigError, Device, unknown};
use crate::failure::one_line;
use crate::models::{FilesError, ModelsError};

/// One thing to do. What it comes to is one line of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Help,
    /// Says what is there.
    Devices,
    /// A PCI function comes.
    Plug(Box<Device>),
    /// The PCI function with this id goes.
    Unplug(String),
}

/// What [`Action::Help`] says.
pub const HELP: &str = "plug --disk|--net|--rng|--console|--balloon VALUE: adds a device, said as for 'ambit run', \
    on PCI; unplug ID: takes one out; devices: lists all; help. In a Linux guest without hot-plug of its own \
    'echo 1 > /sys/bus/pci/rescan' finds what came, and 'echo 1 > /sys/bus/pci/devices/0000:SLOT/remove' lets go of \
    what is to leave";

const VERBS: [&str; 4] = ["plug", "unplug", "devices", "help"];

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    #[error("an empty request")]
    Empty,
    #[error("{0}")]
    Unknown(String),
    #[error("a request is text in UTF-8, and this one is not from byte {} on", .0.valid_up_to())]
    NotText(Utf8Error),
    #[error("'{verb}' {wants}")]
    Words { verb: &'static str, wants: &'static str },
    #[error("{0}")]
    Device(String),
    #[error("{id} would be on {over}, and only PCI functions come and go while the guest runs")]
    Transport { id: String, over: Transport },
    #[error("{id} is on {over} and stays: only PCI functions come and go while the guest runs")]
    Stays { id: String, over: Transport },
    #[error("{0} is the host bridge, which PCI is not without")]
    Bridge(String),
    #[error("{id} has no keyboard to take: standard input and output belong to the consoles from the start")]
    Stdio { id: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Models(#[from] ModelsError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    NotThere(#[from] NotThere),
    #[error("'{what}' has not ended within {} s, and goes on", .limit.as_secs())]
    GoesOn { what: String, limit: Duration },
    #[error("'{what}' was not begun, as '{before}' has not ended within {} s", .limit.as_secs())]
    NotBegun { what: String, before: String, limit: Duration },
}

impl ActionError {
    /// What would help, cheapest first, where the text does not say it.
    pub fn remedies(&self) -> Vec<String> {
        let one = |remedy: &str| vec![remedy.to_owned()];
        match self {
            Self::Empty | Self::Words { .. } => one("'help' says what can be asked"),
            Self::Transport { .. } => one("say transport=pci or transport=pci-legacy, or leave it out"),
            Self::Stdio { .. } => one("give a file for what the guest says, to=FILE"),
            Self::NotThere(_) => one("'devices' lists those that are there"),
            Self::GoesOn { .. } => one("'devices' says when it has; what it waits for is a file of the host"),
            Self::Config(error) => error.remedies(),
            Self::Files(error) => error.remedies(),
            Self::Plan(PlanError::NoPci(_)) => {
                one("start the machine with --pci on, on a board that has PCI")
            }
            Self::Plan(PlanError::NoFunction(_)) => one("unplug another one first"),
            Self::Plan(PlanError::Bar { .. }) => {
                vec!["unplug another one first".into(), "start the machine with a longer --pci-window".into()]
            }
            Self::Plan(PlanError::DeviceReach { .. }) => one("say transport=pci"),
            _ => Vec::new(),
        }
    }

    /// The answer to whoever asked.
    pub fn answer(&self) -> String {
        format!("error: {}", one_line(self, self.remedies()))
    }
}

impl Action {
    /// What was asked for as a line of text without its end.
    ///
    /// # Errors
    /// [`ActionError`] for what is no request.
    pub fn read(line: &[u8]) -> Result<Self, ActionError> {
        std::str::from_utf8(line).map_err(ActionError::NotText)?.parse()
    }

    /// Whether the machine may be another one afterwards. What changes nothing takes no time either.
    pub fn changes(&self) -> bool {
        matches!(self, Self::Plug(_) | Self::Unplug(_))
    }

    /// In a word or two, for those who wait for it.
    pub fn name(&self) -> String {
        match self {
            Self::Help => "help".into(),
            Self::Devices => "devices".into(),
            Self::Plug(_) => "plug".into(),
            Self::Unplug(id) => format!("unplug {id}"),
        }
    }
}

impl FromStr for Action {
    type Err = ActionError;

    fn from_str(line: &str) -> Result<Self, ActionError> {
        let line = line.trim();
        let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim_start();
        let alone = |verb, action| match rest {
            "" => Ok(action),
            _ => Err(ActionError::Words { verb, wants: "stands alone" }),
        };
        match verb {
            "" => Err(ActionError::Empty),
            "help" => alone("help", Self::Help),
            "devices" => alone("devices", Self::Devices),
            "unplug" if rest.is_empty() || rest.contains(char::is_whitespace) => {
                Err(ActionError::Words { verb: "unplug", wants: "wants the id of one device" })
            }
            "unplug" => Ok(Self::Unplug(rest.into())),
            "plug" if rest.is_empty() => {
                Err(ActionError::Words { verb: "plug", wants: "wants a device, as --disk FILE" })
            }
            "plug" => {
                let end = rest.find(|c: char| c == '=' || c.is_whitespace());
                let (option, value) = end.map_or((rest, ""), |end| rest.split_at(end));
                let value = value.strip_prefix('=').unwrap_or(value.trim_start());
                Device::parse(option, value).map(Box::new).map(Self::Plug).map_err(ActionError::Device)
            }
            _ => Err(ActionError::Unknown(unknown("request", verb, &VERBS))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusal(line: &str) -> String {
        Action::read(line.as_bytes())
            .map_or_else(|error| error.answer(), |action| format!("{action:?} was accepted"))
    }

    #[test]
    fn requests_are_the_words_of_the_command_line() {
        let disk = |value: &str| Some(Action::Plug(Box::new(Device::Disk(value.parse().unwrap()))));
        let read = |line: &str| Action::read(line.as_bytes()).ok();

        assert_eq!(read("plug --disk /a b,id=x"), disk("/a b,id=x"));
        assert_eq!(read(" plug  --disk=a,readonly=on\r"), disk("a,readonly=on"));
        assert_eq!(read("plug --disk path=a"), disk("a"));
        assert_eq!(read("unplug x"), Some(Action::Unplug("x".into())));
        assert_eq!([read("devices"), read("help")], [Some(Action::Devices), Some(Action::Help)]);
    }

    #[test]
    fn what_is_no_request_is_told_with_what_is() {
        assert_eq!(refusal(""), "error: an empty request; help: 'help' says what can be asked");
        assert_eq!(refusal("plugg a"), "error: unknown request 'plugg'; did you mean 'plug'?");
        assert_eq!(
            refusal("unplug"),
            "error: 'unplug' wants the id of one device; help: 'help' says what can be asked"
        );
        assert_eq!(
            refusal("unplug a b"),
            "error: 'unplug' wants the id of one device; help: 'help' says what can be asked"
        );
        assert_eq!(
            refusal("plug"),
            "error: 'plug' wants a device, as --disk FILE; help: 'help' says what can be asked"
        );
        assert_eq!(
            refusal("devices now"),
            "error: 'devices' stands alone; help: 'help' says what can be asked"
        );
        assert_eq!(
            refusal("plug --disk a,queues=99"),
            "error: 'a,queues=99' cannot be --disk: '99' queues are not possible; write a number from 1 to 16"
        );
        assert_eq!(
            Action::read(b"unplug \xff").unwrap_err().answer(),
            "error: a request is text in UTF-8, and this one is not from byte 7 on"
        );
    }

    // F-25
    #[test]
    fn no_bytes_make_reading_a_request_panic_or_its_answer_two_lines() {
        let words = "plug|unplug|devices|help|--disk|--net|--console|--rng|=|,| |path=a|id=|to=|on|\\PC{0,9}";
        let line = proptest::collection::vec(words, 0..8).prop_map(|words| words.concat().into_bytes());
        proptest!(|(line in prop_oneof![line, proptest::collection::vec(any::<u8>(), 0..64)])| {
            if let Err(error) = Action::read(&line) {
                prop_assert!(!error.answer().chars().any(char::is_control));
            }
        });
    }

    #[test]
    fn an_answer_is_one_line_whatever_was_asked() {
        let answer = refusal("plug --disk a\u{7},\0b\u{1b}[2J\u{85}\u{2028}");

        assert!(!answer.chars().any(char::is_control), "{answer:?}");
    }
}
