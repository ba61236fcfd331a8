//! The dependencies between our crates that must not be. ARCHITECTURE.md says why.

use std::collections::BTreeSet;

use crate::command::{Run, command};
use crate::failure::{Failure, Result};
use crate::places;

/// One of our crates: where it is in the checkout, and everything it is built from.
struct Member {
    name: String,
    directory: String,
    needs: BTreeSet<String>,
}

/// Asks cargo and judges.
pub fn check() -> Result<()> {
    let wrong = forbidden(&members()?);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("dependencies that must not be:\n  {}", wrong.join("\n  "))))
}

fn members() -> Result<Vec<Member>> {
    let root = places::checkout();
    let tree = |arguments: &[&str]| {
        command("cargo", ["tree", "--edges", "normal,build", "--target", "all", "--prefix", "none"])
            .args(arguments)
            .current_dir(&root)
            .capture()
    };
    let mut members = Vec::new();
    for line in tree(&["--workspace", "--depth", "0"])?.lines().filter(|line| !line.is_empty()) {
        let name = line.split_whitespace().next().unwrap_or_default().to_owned();
        let path = line.split_once('(').map_or("", |(_, path)| path.trim_end_matches(')'));
        let directory = path.strip_prefix(&*root.to_string_lossy()).unwrap_or(path).trim_start_matches('/');
        let below = tree(&["--package", &name])?;
        let needs = below.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        members.push(Member {
            needs: needs.map(str::to_owned).collect(),
            directory: directory.to_owned(),
            name,
        });
    }
    Ok(members)
}

fn forbidden(members: &[Member]) -> Vec<String> {
    let in_directory = |top: &str| -> Vec<&str> {
        let inside = members.iter().filter(|member| member.directory.starts_with(&format!("{top}/")));
        inside.map(|member| member.name.as_str()).collect()
    };
    let mut wrong = Vec::new();
    let mut judge = |member: &Member, others: &[&str], why: &str| {
        for other in others {
            if member.needs.contains(*other) {
                wrong.push(format!("{} -> {other}: {why}", member.name));
            }
        }
    };
    let concrete: Vec<&str> = in_directory("devices")
        .into_iter()
        .filter(|name| !["ambit-bus", "ambit-device-manager"].contains(name))
        .collect();
    for member in members {
        if member.name != "ambit-vmm" && !member.needs.contains("ambit-vmm") {
            judge(member, &["kvm-ioctls", "kvm-bindings"], "only ambit-vmm may know KVM");
        }
        if member.name == "ambit-device-manager" {
            judge(member, &concrete, "the device manager knows no device by name");
        }
        if member.directory.starts_with("devices/") {
            judge(member, &in_directory("arch"), "a device knows no processor architecture");
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, directory: &str, needs: &[&str]) -> Member {
        let needs = needs.iter().map(|need| (*need).to_owned()).collect();
        Member { name: name.to_owned(), directory: directory.to_owned(), needs }
    }

    #[test]
    fn the_tree_as_it_is_meant_is_allowed() {
        let tree = [
            member("ambit-bus", "devices/bus", &["vm-device"]),
            member("ambit-virtio", "devices/virtio", &["ambit-bus"]),
            member("ambit-device-manager", "devices/manager", &["ambit-bus"]),
            member("ambit-aarch64", "arch/aarch64", &["ambit-device-manager", "ambit-bus"]),
            member("ambit-vmm", "vmm", &["ambit-aarch64", "ambit-virtio", "kvm-ioctls"]),
            member("my-board", "board", &["ambit-vmm", "kvm-ioctls"]),
        ];

        assert_eq!(forbidden(&tree), Vec::<String>::new());
    }

    #[test]
    fn each_arrow_that_must_not_be_is_named() {
        let tree = [
            member("ambit-virtio", "devices/virtio", &["ambit-aarch64"]),
            member("ambit-device-manager", "devices/manager", &["ambit-virtio"]),
            member("ambit-aarch64", "arch/aarch64", &["kvm-bindings"]),
        ];

        let expected = [
            "ambit-virtio -> ambit-aarch64: a device knows no processor architecture",
            "ambit-device-manager -> ambit-virtio: the device manager knows no device by name",
            "ambit-aarch64 -> kvm-bindings: only ambit-vmm may know KVM",
        ];
        assert_eq!(forbidden(&tree), expected);
    }
}
