//! `ambit`: a microVM monitor with the boards of this repository.

fn main() -> std::process::ExitCode {
    ambit_vmm::run(&[
        &ambit_aarch64::native(),
        &ambit_aarch64::qemu_virt(),
        &ambit_aarch64::kvmtool(),
        &ambit_x86_64::pc(),
        &ambit_x86_64::q35(),
    ])
}
