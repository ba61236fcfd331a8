//! What parts of a machine are called: no name is empty, and no two share one.

use std::path::Path;

use super::device_settings::{ConsoleTo, Interface, NetSettings};
use super::{ConfigError, Settings};

/// Checks a machine that is made of `all` these together.
///
/// # Errors
/// [`ConfigError`] for the first name that is empty or there twice.
pub fn check(all: &[&Settings<'_>]) -> Result<(), ConfigError> {
    all.iter().try_for_each(|settings| not_empty(settings))?;
    if let Some((first, second, id)) = twice(all.iter().flat_map(|settings| ids(settings))) {
        return Err(ConfigError::SameId { first, second, id: id.clone() });
    }
    let nets = all.iter().flat_map(|settings| &settings.nets);
    let interfaces: Vec<(String, String)> = nets.flat_map(interfaces).collect();
    if let Some((first, second, interface)) = twice(interfaces.iter().map(|(of, net)| (of, net.clone()))) {
        let interface = interface.clone();
        return Err(ConfigError::SameInterface { first, second, interface });
    }
    Ok(())
}

fn not_empty(settings: &Settings<'_>) -> Result<(), ConfigError> {
    let empty = |path: &Path| path.as_os_str().is_empty();
    for (what, path) in [("the kernel", &settings.kernel), ("the initrd", &settings.initrd)] {
        if path.as_deref().is_some_and(empty) {
            return Err(ConfigError::EmptyPath(what.into()));
        }
    }
    if let Some(disk) = settings.disks.iter().find(|disk| empty(&disk.path)) {
        return Err(ConfigError::EmptyPath(format!("the file of disk '{}'", disk.id)));
    }
    let console = settings.console.as_ref().map(|console| &console.to);
    if matches!(console, Some(ConsoleTo::File(path)) if empty(path)) {
        return Err(ConfigError::EmptyPath("the file of the virtio console".into()));
    }
    Ok(())
}

/// Each device's id, with what a user calls the device.
fn ids<'s>(settings: &'s Settings<'_>) -> impl Iterator<Item = (&'s String, String)> {
    let named = |what: &str| what.to_owned();
    let rng = settings.rng.iter().map(move |rng| (&rng.id, named("the random number generator")));
    let disks = settings.disks.iter().map(|disk| (&disk.id, format!("the disk {}", disk.path.display())));
    let nets = settings.nets.iter().map(|net| (&net.id, format!("the net on {}", net.interface)));
    let console = settings.console.iter().map(move |console| (&console.id, named("the virtio console")));
    let balloon = settings.balloon.iter().map(move |balloon| (&balloon.id, named("the balloon")));
    rng.chain(disks).chain(nets).chain(console).chain(balloon)
}

/// Each end of `net` on the host, with the net.
fn interfaces(net: &NetSettings) -> Vec<(String, String)> {
    let of = format!("net '{}'", net.id);
    match &net.interface {
        Interface::Tap(tap) => vec![(format!("the TAP interface '{tap}'"), of)],
        Interface::Fds(fds) => fds.iter().map(|fd| (format!("the open file {fd}"), of.clone())).collect(),
    }
}

/// The first key that comes twice, with both of its values.
fn twice<'k>(pairs: impl Iterator<Item = (&'k String, String)>) -> Option<(String, String, &'k String)> {
    let mut seen: Vec<(&String, String)> = Vec::new();
    for (key, value) in pairs {
        if let Some(index) = seen.iter().position(|(known, _)| *known == key) {
            return Some((seen.swap_remove(index).1, value, key));
        }
        seen.push((key, value));
    }
    None
}
