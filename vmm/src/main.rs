//! `ambit`: a microVM monitor with the boards of this repository.

fn main() -> std::process::ExitCode {
    ambit_vmm::run(&[&ambit_aarch64::Native])
}
