//! What a process has in memory for itself, told from what its guest has.

use std::fs;

/// Bytes, without guest RAM.
#[derive(Debug, PartialEq, Eq)]
pub struct Own {
    /// Resident pages, shared ones too.
    pub resident: u64,
    /// Those of them that no file backs.
    pub anonymous: u64,
}

/// Of the process that has mapped `ram` bytes for its guest, in one piece.
pub fn own(pid: u32, ram: u64) -> Own {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    without_ram(&text, ram).unwrap_or_else(|| panic!("not one mapping of {ram} bytes in {path}:\n{text}"))
}

fn without_ram(smaps: &str, ram: u64) -> Option<Own> {
    let mut own = Own { resident: 0, anonymous: 0 };
    let mut guests = 0;
    let mut is_guest = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let key = words.next()?;
        let mut bytes = || words.next().and_then(|kibibytes| kibibytes.parse::<u64>().ok()).map(|k| k << 10);
        match key {
            // The first line of a mapping after its addresses.
            "Size:" => {
                is_guest = bytes()? == ram;
                guests += u32::from(is_guest);
            }
            "Rss:" if !is_guest => own.resident += bytes()?,
            "Anonymous:" if !is_guest => own.anonymous += bytes()?,
            _ => {}
        }
    }
    (guests == 1).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00500000 r-xp 00000000 fe:00 1 /bin/monitor
Size:               1024 kB
Rss:                 100 kB
Anonymous:             4 kB
10000000-30000000 rw-p 00000000 00:00 0
Size:             524288 kB
Rss:              200000 kB
Anonymous:        200000 kB
";

    #[test]
    fn guest_ram_is_left_out() {
        let own = without_ram(SMAPS, 512 << 20);

        assert_eq!(own, Some(Own { resident: 100 << 10, anonymous: 4 << 10 }));
    }

    #[test]
    fn ram_that_cannot_be_told_from_the_rest_is_noticed() {
        let own = without_ram(SMAPS, 256 << 20);

        assert_eq!(own, None);
    }
}
