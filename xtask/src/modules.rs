//! Which kernel modules others need, in the order they load.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{About, Failure, Result};

pub fn directory(tree: &Path, version: &str) -> PathBuf {
    tree.join("lib/modules").join(version)
}

/// The modules of these names and all they depend on, as paths below `directory`, each after what it needs.
pub fn closure(tree: &Path, version: &str, names: &[String]) -> Result<Vec<String>> {
    let path = directory(tree, version).join("modules.dep");
    let table = fs::read_to_string(&path).about("read", &path)?;
    order(&table, names)
}

fn order(table: &str, names: &[String]) -> Result<Vec<String>> {
    let mut by_name = HashMap::new();
    for line in table.lines() {
        if let Some((module, needs)) = line.split_once(':') {
            by_name.insert(name_of(module), (module, needs));
        }
    }
    let mut ordered: Vec<String> = Vec::new();
    for name in names {
        let Some((module, needs)) = by_name.get(&name.replace('-', "_")) else {
            return Err(Failure::new(format!(
                "the kernel has no module '{name}': take it out of the recipe if it is built in"
            )));
        };
        // depmod lists everything, the innermost need last.
        for each in needs.split_whitespace().rev().chain([*module]) {
            if !ordered.iter().any(|known| known == each) {
                ordered.push(each.to_owned());
            }
        }
    }
    Ok(ordered)
}

/// `kernel/drivers/net/virtio_net.ko.xz` is called `virtio_net`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "k/net/virtio_net.ko: k/net_failover.ko k/failover.ko k/virtio/virtio.ko\n\
                         k/char/virtio-rng.ko: k/virtio/virtio.ko\n\
                         k/virtio/virtio.ko:\n";

    #[test]
    fn every_module_comes_after_what_it_needs_and_once() {
        let order = order(TABLE, &["virtio_net".to_owned(), "virtio_rng".to_owned()]).unwrap();

        let expected = [
            "k/virtio/virtio.ko",
            "k/failover.ko",
            "k/net_failover.ko",
            "k/net/virtio_net.ko",
            "k/char/virtio-rng.ko",
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let error = order(TABLE, &["ext4".to_owned()]).unwrap_err();

        assert_eq!(
            error.to_string(),
            "the kernel has no module 'ext4': take it out of the recipe if it is built in"
        );
    }
}
