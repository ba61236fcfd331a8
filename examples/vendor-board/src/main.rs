//! `acme-edge`: Ambit with one board, which is ours, and one device, which is ours.

mod board;
mod led;

fn main() -> std::process::ExitCode {
    ambit_vmm::run(&[&board::acme_edge()])
}
