//! Everything that is done to this checkout besides compiling it: see `cargo xtask --help`.

mod arrows;
mod bench;
mod build;
mod checks;
mod command;
mod counting;
mod cpio;
mod debian;
mod demo;
mod emulator;
mod failure;
mod flat;
mod fuzz;
mod host;
mod image;
mod job;
mod modules;
mod places;
mod progress;
mod recipe;
mod soak;
mod terminal;
mod test;
mod tools;
mod traffic;
mod vendor;
mod venue;

use std::error::Error;
use std::process::ExitCode;

use failure::{Failure, Result};

const HELP: &str = "\
cargo xtask COMMAND

  demo    boot a Debian guest, from nothing                         cargo xtask demo; cargo xtask demo --shell
  test    run every test, or some                                   cargo xtask test; cargo xtask test --unit
  soak    plan a million machines, run a thousand                  cargo xtask soak
  bench   measure a release beside QEMU                             cargo xtask bench; cargo xtask bench --guest
  host    run a command in an emulated host with real KVM           cargo xtask host -- ambit probe
  images  make what guests boot from, and say where it is           cargo xtask images

`cargo xtask COMMAND --help` tells more. What is missing is installed with apt-get, as root or with sudo. What is
fetched and made is kept in target/ambit-images, or in the directory that AMBIT_CACHE names. Debian packages
come from the mirrors of this machine's apt, or from the one that AMBIT_MIRROR names.
";

type Command = fn(&mut dyn Iterator<Item = String>) -> Result<i32>;

/// Each command's name, what it says of itself, and what it does.
const COMMANDS: &[(&str, &str, Command)] = &[
    ("demo", demo::HELP, |words| demo::main(words)),
    ("test", test::HELP, |words| test::main(words)),
    ("soak", soak::HELP, |words| soak::main(words)),
    ("bench", bench::HELP, |words| bench::main(words)),
    ("host", host::HELP, |words| host::main(words)),
    ("images", image::HELP, |words| image::main(words)),
];

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
    let name = own.first().copied().unwrap_or("help");
    let Some((_, help, command)) = COMMANDS.iter().find(|(known, _, _)| *known == name) else {
        if ["help", "--help", "-h"].contains(&name) {
            print!("{HELP}");
            return Ok(0);
        }
        return Err(Failure::new(format!("there is no command '{name}'\n\n{HELP}")));
    };
    if own.contains(&"--help") || own.contains(&"-h") {
        print!("{help}");
        return Ok(0);
    }
    let mut rest = words.into_iter().skip(1);
    command(&mut rest)
}
