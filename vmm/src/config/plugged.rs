//! One device that comes or goes while the machine runs: as said, and as checked.

use ambit_device_manager::Transport;

use super::device_settings::{self, Devices};
use super::device_words::Over;
use super::devices::{Console, Disk, Net, Plain, Single};
use super::text::unknown;
use super::words::{Id, Switch};
use super::{Config, ConfigError, Settings};

/// A device as said: the words are those of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    Disk(Disk),
    Net(Net),
    Rng(Plain),
    Console(Console),
    Balloon(Plain),
}

const OPTIONS: [&str; 5] = ["--disk", "--net", "--rng", "--console", "--balloon"];

impl Device {
    /// What `ambit run` takes for this device, in two words.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(option: &str, value: &str) -> Result<Self, String> {
        let device = match option {
            "--disk" => value.parse().map(Self::Disk),
            "--net" => value.parse().map(Self::Net),
            "--rng" => single(value).map(Self::Rng),
            "--console" => single(value).map(Self::Console),
            "--balloon" => single(value).map(Self::Balloon),
            _ => return Err(unknown("device", option, &OPTIONS)),
        };
        device.map_err(|why| format!("'{value}' cannot be {option}: {why}"))
    }

    /// This device alone, for `machine`. What does not say its transport is on PCI, and what has no id gets the
    /// first that is not `taken`.
    ///
    /// # Errors
    /// [`ConfigError`] if it makes no sense.
    pub fn settle<'b>(
        self,
        machine: &Settings<'b>,
        taken: impl Fn(&str) -> bool,
    ) -> Result<Settings<'b>, ConfigError> {
        let name = |id: &mut Option<Id>, kind: &str| {
            id.get_or_insert_with(|| first_free(kind, &taken));
        };
        let pci = |over: &mut Option<Over>| {
            over.get_or_insert(Over(Transport::Pci));
        };
        let mut config = Config { rng: Some(Single::Is(Switch(false))), ..Config::default() };
        match self {
            Self::Disk(mut said) => {
                name(&mut said.id, "disk");
                pci(&mut said.transport);
                config.disks.push(said);
            }
            Self::Net(mut said) => {
                name(&mut said.0.id, "net");
                pci(&mut said.0.transport);
                config.nets.push(said);
            }
            Self::Rng(mut said) => {
                name(&mut said.id, "rng");
                pci(&mut said.transport);
                config.rng = Some(Single::With(said));
            }
            Self::Console(mut said) => {
                name(&mut said.id, "console");
                pci(&mut said.transport);
                config.console = Some(Single::With(said));
            }
            Self::Balloon(mut said) => {
                name(&mut said.id, "balloon");
                pci(&mut said.transport);
                config.balloon = Some(Single::With(said));
            }
        }
        let devices = device_settings::settle(&mut config, &*machine.board)?;
        Ok(machine.but_with(devices))
    }
}

/// A device that has no more to say may be `on`, or nothing.
fn single<T: Default + serde::de::DeserializeOwned>(value: &str) -> Result<T, String> {
    let said: Single<T> = if value.is_empty() { Single::Is(Switch(true)) } else { value.parse()? };
    Single::settle(Some(said), false).ok_or_else(|| "what is off is not plugged".into())
}

fn first_free(kind: &str, taken: impl Fn(&str) -> bool) -> Id {
    let mut ids = (0..).map(|number: u64| format!("{kind}{number}"));
    let id = ids.find(|id| !taken(id)).expect("a machine has fewer devices than there are numbers");
    id.parse().expect("letters and digits are an id")
}

impl Settings<'_> {
    /// The same machine with these devices and no others.
    fn but_with(&self, devices: Devices) -> Self {
        let Devices { rng, disks, nets, console, balloon } = devices;
        Self { rng, disks, nets, console, balloon, ..self.clone() }
    }

    /// Whether all of its devices are forgotten.
    pub fn has_no_device(&self) -> bool {
        let single = self.rng.is_none() && self.console.is_none() && self.balloon.is_none();
        single && self.disks.is_empty() && self.nets.is_empty()
    }

    /// Without the device that is called `id`.
    pub fn forget(&mut self, id: &str) {
        self.rng.take_if(|rng| rng.id == id);
        self.disks.retain(|disk| disk.id != id);
        self.nets.retain(|net| net.id != id);
        self.console.take_if(|console| console.id == id);
        self.balloon.take_if(|balloon| balloon.id == id);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{check_names, settle};
    use super::*;
    use crate::toy::TOY;

    fn machine() -> Settings<'static> {
        let disks = vec!["root.img,transport=pci".parse().unwrap()];
        settle(Config { disks, ..Config::default() }, &[&TOY], None).unwrap()
    }

    fn refusal(option: &str, value: &str) -> String {
        Device::parse(option, value).unwrap_err()
    }

    #[test]
    fn a_device_that_comes_is_on_pci_and_has_the_first_free_id_unless_it_says_otherwise() {
        let machine = machine();
        let disk = |value: &str| {
            let device = Device::parse("--disk", value).unwrap();
            let mut disks = device.settle(&machine, |id| id == "disk0").unwrap().disks;
            let disk = disks.remove(0);
            assert!(disks.is_empty());
            (disk.path, disk.id, disk.transport)
        };

        assert_eq!(disk("a.img"), ("a.img".into(), "disk1".into(), Transport::Pci));
        assert_eq!(disk("a,id=b,transport=mmio"), ("a".into(), "b".into(), Transport::Mmio));
    }

    #[test]
    fn the_words_of_a_device_are_those_of_the_command_line() {
        assert_eq!(
            refusal("--disk", "a,cach=none"),
            "'a,cach=none' cannot be --disk: unknown key 'cach'; did you mean 'cache'?"
        );
        assert_eq!(refusal("--dsk", "a"), "unknown device '--dsk'; did you mean '--disk'?");
        assert_eq!(
            refusal("--gpu", ""),
            "unknown device '--gpu'; known are --disk, --net, --rng, --console, --balloon"
        );
        assert_eq!(refusal("--rng", "off"), "'off' cannot be --rng: what is off is not plugged");
        assert_eq!(Device::parse("--rng", ""), Ok(Device::Rng(Plain::default())));
        assert_eq!(Device::parse("--rng", "on"), Ok(Device::Rng(Plain::default())));
    }

    #[test]
    fn an_id_or_an_interface_that_is_there_is_not_given_again_until_it_is_forgotten() {
        let mut machine = machine();
        let one = |device: &str, value: &str| {
            Device::parse(device, value).unwrap().settle(&machine, |_| false).unwrap()
        };
        let (disk, net, other) =
            (one("--disk", "b,id=disk0"), one("--net", "t,id=x"), one("--net", "t,id=y"));
        let said = |all: &[&Settings<'_>]| check_names(all).unwrap_err().to_string();

        assert_eq!(
            said(&[&machine, &disk]),
            "the disk root.img and the disk b are both called 'disk0'; give one of them another id"
        );
        assert_eq!(
            said(&[&machine, &net, &other]),
            "net 'x' and net 'y' both want the TAP interface 't'; give each its own"
        );
        machine.forget("disk0");
        assert!(check_names(&[&machine, &disk]).is_ok());
        assert_eq!(disk.disks[0].path, Path::new("b"));
    }
}
