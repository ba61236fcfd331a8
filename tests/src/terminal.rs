//! A terminal for a program to run on, and to see whether it leaves the terminal as it was.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

pub struct Terminal {
    /// Where the person sits: keys are written here, and what is on the screen is read.
    pub person: File,
    /// Where the program is.
    pub program: File,
}

impl Terminal {
    pub fn open() -> io::Result<Self> {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&person)?;
        unlockpt(&person)?;
        let name = ptsname(&person, Vec::new())?;
        let name = name.to_str().map_err(io::Error::other)?;
        // Not the test's own terminal, which would bring it signals.
        let flags = OFlags::NOCTTY.bits().cast_signed();
        let program = OpenOptions::new().read(true).write(true).custom_flags(flags).open(name)?;
        tcsetwinsize(&program, Winsize { ws_row: 25, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 })?;
        Ok(Self { person: File::from(person), program })
    }

    /// All its settings, to be compared.
    pub fn settings(&self) -> String {
        format!("{:?}", tcgetattr(&self.program).expect("a terminal has settings"))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn stty(terminal: &Terminal, change: &str) {
        let program = terminal.program.try_clone().unwrap();
        assert!(Command::new("stty").arg(change).stdin(program).status().unwrap().success());
    }

    #[test]
    fn settings_differ_while_a_terminal_is_raw_and_only_then() {
        let terminal = Terminal::open().unwrap();
        let before = terminal.settings();

        stty(&terminal, "-icanon");
        let raw = terminal.settings();
        stty(&terminal, "icanon");

        assert_ne!(raw, before);
        assert_eq!(terminal.settings(), before);
    }
}
