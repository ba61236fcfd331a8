//! An initrd as the kernel unpacks it: a cpio archive in the `newc` format, the same bytes each time.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::failure::{About, Result};

/// The names of busybox that the initrd's `/init` calls before `busybox --install`.
pub const APPLETS_OF_INIT: &[&str] = &["sh", "mount", "insmod", "cat", "sleep", "ls", "switch_root"];

/// Packs everything below `tree`, owned by root, with no times.
pub fn write(tree: &Path, archive: &Path) -> Result<()> {
    let mut bytes = Vec::new();
    for path in files_below(tree)? {
        let full = tree.join(&path);
        let metadata = fs::symlink_metadata(&full).about("read", &full)?;
        let content = if metadata.is_symlink() {
            let target = fs::read_link(&full).about("read the link", &full)?;
            target.into_os_string().into_encoded_bytes()
        } else if metadata.is_file() {
            fs::read(&full).about("read", &full)?
        } else {
            Vec::new()
        };
        entry(&mut bytes, &path.to_string_lossy(), metadata.permissions().mode(), &content);
    }
    entry(&mut bytes, "TRAILER!!!", 0, &[]);
    fs::write(archive, bytes).about("write", archive)
}

/// Directories, files and links, as paths below `root`, each after its directory, in one order on every machine.
pub fn files_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        let full = root.join(&directory);
        for entry in fs::read_dir(&full).about("list", &full)? {
            let entry = entry.about("list", &full)?;
            let path = directory.join(entry.file_name());
            if entry.file_type().about("list", &full)?.is_dir() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let (inode, owner, links, time, device) = (0, 0, 1, 0, 0);
    let fields = [
        inode,
        mode as usize,
        owner,
        owner,
        links,
        time,
        content.len(),
        device,
        device,
        device,
        device,
        name.len() + 1,
        0,
    ];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08X}").bytes());
    }
    archive.extend(name.bytes());
    archive.push(0);
    pad(archive);
    archive.extend(content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_header_a_name_and_content_each_padded_to_four_bytes() {
        let mut archive = Vec::new();

        entry(&mut archive, "init", 0o100_755, b"#!/bin/sh\n");

        let header = "070701\
                      00000000000081ED000000000000000000000001000000000000000A\
                      0000000000000000000000000000000000000005\
                      00000000";
        let expected = [header.as_bytes(), b"init\0\0#!/bin/sh\n\0\0"].concat();
        assert_eq!(archive, expected);
    }
}
