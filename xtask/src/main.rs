//! Everything that is done to this checkout besides compiling it: see `cargo xtask --help`.

mod build;
mod command;
mod cpio;
mod debian;
mod emulator;
mod failure;
mod host;
mod image;
mod modules;
mod places;
mod progress;
mod recipe;
mod tools;

use std::error::Error;
use std::process::ExitCode;

use failure::{Failure, Result};

const HELP: &str = "\
cargo xtask COMMAND

  host    run a command in an emulated arm64 host with real KVM     cargo xtask host -- ambit probe
  images  make what guests boot from, and say where it is           cargo xtask images

`cargo xtask COMMAND --help` tells more. What is missing is installed with apt-get, as root or with sudo. What is
fetched and made is kept in target/ambit-images, or in the directory that AMBIT_CACHE names. Debian packages
come from the mirrors of this machine's apt, or from the one that AMBIT_MIRROR names.
";

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(error) => {
            eprintln!("xtask: {error}");
            let mut source = error.source();
            while let Some(deeper) = source {
                eprintln!("  because: {deeper}");
                source = deeper.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(words: Vec<String>) -> Result<i32> {
    let own: Vec<&str> = words.iter().map(String::as_str).take_while(|word| *word != "--").collect();
    let help = own.contains(&"--help") || own.contains(&"-h");
    match own.first().copied() {
        None | Some("--help" | "-h" | "help") => {
            print!("{HELP}");
            Ok(0)
        }
        Some("host") if help => {
            print!("{}", host::HELP);
            Ok(0)
        }
        Some("host") => host::main(words.into_iter().skip(1)),
        Some("images") => {
            let images = image::Images::ready(true)?;
            println!("{}", images.guest.display());
            Ok(0)
        }
        Some(other) => Err(Failure::new(format!("there is no command '{other}'\n\n{HELP}"))),
    }
}
