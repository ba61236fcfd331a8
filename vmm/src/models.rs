//! From the user's words to models of devices. The only place, besides snapshots, that opens files.

mod files;

use std::fs::{self, File};
use std::io;
use std::sync::Arc;

use ambit_bus::Model;
use ambit_device_manager::{Board, Diagnostic, HostFacts, MachineConfig, Plan, Severity};
use ambit_platform::pl011::{Input, Pl011Model, Sink};
use ambit_platform::pl031::Pl031Model;
use ambit_virtio::device::Interface;
use ambit_virtio::mmio::{MmioModel, request};
use ambit_virtio::net::{Mac, Net, Tap, TapError};
use ambit_virtio::{block, net, rng};

use crate::config::{NetSettings, Settings};
use crate::failure::{Exit, Failure};

pub use files::{Files, FilesError, open};

/// The machine to plan. No file is opened.
pub fn machine_config(settings: &Settings<'_>) -> MachineConfig {
    // What is always there comes first, so that disks and nets do not move it.
    let rng = settings.rng.iter().map(|id| request(id, rng::KIND, Interface::Modern));
    let disks = settings.disks.iter().map(|disk| request(&disk.id, block::KIND, Interface::Modern));
    let nets = settings.nets.iter().map(|net| request(&net.id, net::KIND, Interface::Modern));
    MachineConfig {
        cpus: settings.cpus,
        memory: settings.memory,
        hotplug: settings.hotplug,
        pci: settings.pci,
        queue_reach: settings.queue_reach,
        devices: rng.chain(disks).chain(nets).collect(),
    }
}

/// The plan of what `settings` want on `host`, or if none is known, on one like most.
///
/// # Errors
/// [`Failure::Plan`], and [`Failure::Config`] for more address bits than the host has.
pub fn plan(settings: &Settings<'_>, host: Option<&HostFacts>) -> Result<Plan, Failure> {
    let facts = match host {
        Some(host) => settings.facts(host.clone())?,
        None => settings.facts_on_paper(None).0,
    };
    let plan = ambit_device_manager::plan(&*settings.board, &machine_config(settings), &facts)?;
    strictly(settings, plan)
}

/// `plan`, unless it lacks something and the user takes no such machine.
///
/// # Errors
/// [`Failure::Lost`] with all that was left out or cut short.
pub fn strictly(settings: &Settings<'_>, plan: Plan) -> Result<Plan, Failure> {
    let lost = plan.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning);
    let lost: Vec<Diagnostic> = lost.filter(|_| settings.strict).cloned().collect();
    if lost.is_empty() { Ok(plan) } else { Err(Failure::Lost(lost)) }
}

/// A model for every device of a machine, fixtures included.
pub struct Models {
    pub all: Vec<Arc<dyn Model>>,
    /// What the user types into; `None` on a board without a console.
    pub console: Option<Input>,
}

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    #[error("board '{board}' has a '{kind}' called '{id}', and this program has no such device")]
    Fixture { board: String, id: String, kind: String },
    #[error("{what}: {source}")]
    Host { what: String, source: io::Error },
    #[error("net '{id}': {source}")]
    Tap { id: String, source: TapError },
}

impl ModelsError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Fixture { .. } | Self::Tap { source: TapError::Name(_) | TapError::NotATap { .. }, .. } => {
                Exit::BadInput
            }
            Self::Host { .. } | Self::Tap { .. } => Exit::HostLacks,
        }
    }
}

/// Makes the models of `settings`, with `disks` as [`open`] gave them. What the guest says on its console
/// goes to `output`. Interfaces are created here if need be, so this comes after everything that can be
/// refused without.
///
/// # Errors
/// [`ModelsError`] for the first one that cannot be made.
pub fn make(settings: &Settings<'_>, disks: Vec<File>, output: Sink) -> Result<Models, ModelsError> {
    let Models { mut all, console } = fixtures(&*settings.board, output)?;
    if let Some(id) = &settings.rng {
        let source =
            File::open("/dev/urandom").map_err(|source| lacks("/dev/urandom cannot be read", source))?;
        all.push(Arc::new(MmioModel::new(id, rng::KIND, Interface::Modern, rng::Rng::new(id, source))));
    }
    for (disk, file) in settings.disks.iter().zip(disks) {
        let block = block::Block::new(&disk.id, file, disk.readonly)
            .map_err(|source| lacks(&format!("disk '{}' has no end", disk.id), source))?;
        all.push(Arc::new(MmioModel::new(&disk.id, block::KIND, Interface::Modern, block)));
    }
    for net in &settings.nets {
        let tap = Tap::open(&net.tap).map_err(|source| ModelsError::Tap { id: net.id.clone(), source })?;
        let card = Net::new(&net.id, tap, mac(net));
        all.push(Arc::new(MmioModel::new(&net.id, net::KIND, Interface::Modern, card)));
    }
    Ok(Models { all, console })
}

fn fixtures(board: &dyn Board, output: Sink) -> Result<Models, ModelsError> {
    let mut all: Vec<Arc<dyn Model>> = Vec::new();
    let (mut output, mut console) = (Some(output), None);
    for fixture in board.fixtures() {
        if let Some(model) = board.model(&fixture.request) {
            all.push(model);
            continue;
        }
        let id = fixture.request.id;
        match fixture.request.kind.as_str() {
            "pl011" => {
                // The first is the console; nobody listens to another.
                let sink = output.take().unwrap_or_else(|| Box::new(|_| {}));
                let (model, input) = Pl011Model::new(&id, sink)
                    .map_err(|source| lacks("the console cannot be made", source))?;
                all.push(Arc::new(model));
                console.get_or_insert(input);
            }
            "pl031" => all.push(Arc::new(Pl031Model::new(&id))),
            kind => return Err(ModelsError::Fixture { board: board.name().into(), id, kind: kind.into() }),
        }
    }
    Ok(Models { all, console })
}

fn lacks(what: &str, source: io::Error) -> ModelsError {
    ModelsError::Host { what: what.into(), source }
}

/// The user's, or one that stays the same on this host and differs between hosts and interfaces.
fn mac(net: &NetSettings) -> Mac {
    let host = || fs::read_to_string("/etc/machine-id").unwrap_or_default();
    net.mac.map_or_else(|| Mac::for_id(&format!("{}{}", host(), net.tap)), Mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, settle};
    use crate::toy::PC;

    fn net(tap: &str) -> NetSettings {
        NetSettings { id: "net0".into(), tap: tap.into(), mac: None }
    }

    #[test]
    fn every_model_asks_for_what_was_planned_for_it() {
        let disk = "path=anywhere,id=root".parse().unwrap();
        let native = ambit_aarch64::native();
        let settings = settle(Config { disks: vec![disk], ..Config::default() }, &[&native], None).unwrap();

        let models = make(&settings, vec![tempfile::tempfile().unwrap()], Box::new(|_| {})).unwrap();

        let fixtures = native.fixtures().into_iter().map(|fixture| fixture.request);
        let planned: Vec<_> = fixtures.chain(machine_config(&settings).devices).collect();
        let asked: Vec<_> = models.all.iter().map(|model| model.request()).collect();
        assert_eq!(asked, planned);
        assert!(models.console.is_some());
    }

    #[test]
    fn a_fixture_that_this_program_does_not_have_is_named() {
        let settings = settle(Config::default(), &[&PC], None).unwrap();

        let error = make(&settings, Vec::new(), Box::new(|_| {})).err().unwrap();

        assert_eq!(
            error.to_string(),
            "board 'pc' has a 'uart16550' called 'uart0', and this program has no such device"
        );
    }

    #[test]
    fn a_card_without_an_address_gets_one_by_its_interface() {
        assert_eq!(mac(&net("tap0")), mac(&net("tap0")));
        assert_ne!(mac(&net("tap0")), mac(&net("tap1")));

        let own = NetSettings { mac: Some([2, 0, 0, 0, 0, 1]), ..net("tap0") };
        assert_eq!(mac(&own), Mac([2, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn a_tap_that_the_host_does_not_give_is_the_hosts_lack_and_a_wrong_name_is_not() {
        let exit = |source| ModelsError::Tap { id: "net0".into(), source }.exit();
        let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
        let name = || "tap0".to_owned();

        assert_eq!(exit(TapError::Forbidden(refused())), Exit::HostLacks);
        assert_eq!(exit(TapError::Busy { name: name(), source: refused() }), Exit::HostLacks);
        assert_eq!(exit(TapError::NotATap { name: name(), source: refused() }), Exit::BadInput);
    }
}
