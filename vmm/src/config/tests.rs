use super::*;
use crate::toy::{PC, TOY};

fn toml(text: &str) -> Config {
    text::parse(text, Path::new("guest.toml")).unwrap()
}

fn settled(text: &str) -> Settings<'static> {
    settle(toml(text), &[&TOY, &PC], None).unwrap()
}

fn refusal(text: &str) -> String {
    match settle(toml(text), &[&TOY, &PC], None) {
        Ok(_) => format!("{text} was accepted"),
        Err(error) => error.to_string(),
    }
}

fn host(bits: u8) -> HostFacts {
    let bits = PaBits::new(bits).unwrap();
    HostFacts {
        width: Width { bits, source: WidthSource::Host },
        page_size: 16384,
        max_cpus: 8,
        its: false,
        ..HostFacts::assumed()
    }
}

#[test]
fn an_empty_configuration_is_a_small_machine_on_the_first_board() {
    let settings = settled("");

    assert_eq!((settings.memory, settings.cpus, settings.bits), (512 << 20, 1, Bits::Auto));
    assert_eq!(settings.board.name(), "toy");
    assert_eq!(settings.rng.as_deref(), Some("rng0"));
    assert_eq!(settings.cmdline, "console=ttyAMA0 panic=-1");
}

#[test]
fn the_default_command_line_names_the_boards_console() {
    assert_eq!(settled("board = 'pc'").cmdline, "console=ttyS0 panic=-1");
    assert_eq!(settled("cmdline = 'quiet'").cmdline, "quiet");
}

#[test]
fn options_replace_what_the_file_says_and_add_to_its_lists() {
    let file = toml("memory = '1G'\ncpus = 2\n[[disks]]\npath = 'a'");
    let options = toml("memory = '2G'\n[[disks]]\npath = 'b'");

    let merged = file.overridden_by(options);

    assert_eq!(merged, toml("memory = '2G'\ncpus = 2\n[[disks]]\npath = 'a'\n[[disks]]\npath = 'b'"));
}

#[test]
fn devices_without_an_id_are_numbered_by_their_position() {
    let settings =
        settled("disks = [{ path = 'a' }, { path = 'b', id = 'x' }, { path = 'c' }]\nnets = [{ tap = 't' }]");

    let ids: Vec<&str> = settings.disks.iter().map(|disk| disk.id.as_str()).collect();
    assert_eq!(ids, ["disk0", "x", "disk2"]);
    assert_eq!(settings.nets[0].id, "net0");
}

#[test]
fn two_devices_with_one_id_are_both_named() {
    assert_eq!(
        refusal("disks = [{ path = 'a', id = 'disk1' }, { path = 'b' }]"),
        "the disk a and the disk b are both called 'disk1'; give one of them another id"
    );
    assert_eq!(
        refusal("nets = [{ tap = 't', id = 'rng0' }]"),
        "the random number generator and the net on t are both called 'rng0'; give one of them another id"
    );
}

#[test]
fn a_tap_belongs_to_one_net() {
    assert_eq!(
        refusal("nets = [{ tap = 't' }, { tap = 't', id = 'x' }]"),
        "net 'net0' and net 'x' both want the TAP interface 't'; give each its own"
    );
}

#[test]
fn an_empty_path_names_what_it_was_for() {
    assert_eq!(refusal("kernel = ''"), "the name of the kernel is empty");
    assert_eq!(refusal("disks = [{ path = '' }]"), "the name of the file of disk 'disk0' is empty");
}

#[test]
fn an_unknown_board_names_the_nearest() {
    assert_eq!(refusal("board = 'toi'"), "unknown board 'toi'; did you mean 'toy'?");
    assert_eq!(refusal("board = 'virt'"), "unknown board 'virt'; known are toy, pc");
}

#[test]
fn the_architecture_chooses_the_first_board_of_its_kind() {
    let chosen = settle(Config::default(), &[&TOY, &PC], Some(Arch::X86_64)).unwrap();
    assert_eq!(chosen.board.name(), "pc");

    let none = settle(Config::default(), &[&TOY], Some(Arch::X86_64)).err().unwrap();
    assert_eq!(none.to_string(), "there is no x86_64 board in this program; it has toy (aarch64)");
}

#[test]
fn a_board_of_another_architecture_than_asked_for_is_refused() {
    let refused = settle(toml("board = 'toy'"), &[&TOY, &PC], Some(Arch::X86_64)).err().unwrap();

    assert_eq!(
        refused.to_string(),
        "board 'toy' is an aarch64 machine, and --arch asks for x86_64; leave one of them out"
    );
}

#[test]
fn amounts_that_no_host_has_are_refused_in_the_planners_words() {
    let said = |text: &str| settled(text).check_amounts().unwrap_err().to_string();

    assert_eq!(said("cpus = 0"), "a machine has at least one vCPU, and 0 were asked for");
    assert_eq!(said("memory = 0"), "a machine has memory, and none was asked for");
    assert_eq!(said("memory = 4097"), "4097 B of memory is not a multiple of the host's page size, 4 KiB");
    assert!(settled("memory = 4096").check_amounts().is_ok());
}

#[test]
fn more_bits_than_the_host_has_are_refused_to_run_and_noted_on_paper() {
    let settings = settled("pa_bits = 48");

    let refused = settings.facts(host(40)).unwrap_err();
    assert_eq!(refused.to_string(), "48 physical address bits were asked for, and this host has 40");
    assert_eq!(refused.remedies(), ["ask for at most 40, or leave --pa-bits out"]);

    let (facts, said) = settings.facts_on_paper(Some(host(40)));
    assert_eq!((facts.width.bits.get(), facts.width.source), (48, WidthSource::User));
    assert_eq!(said[0].code, "pa-bits-beyond-host");
}

#[test]
fn a_host_that_was_asked_is_what_is_planned_with() {
    assert_eq!(settled("").facts_on_paper(Some(host(44))), (host(44), Vec::new()));
    assert_eq!(settled("").facts(host(44)).unwrap(), host(44));
}

#[test]
fn without_a_host_the_plan_says_what_it_assumes() {
    let (facts, said) = settled("").facts_on_paper(None);

    assert_eq!((facts.width.bits.get(), facts.width.source), (40, WidthSource::Assumed));
    assert_eq!((facts.page_size, facts.max_cpus, facts.its), (4096, 512, true));
    assert_eq!(
        said[0].message,
        "no host was asked; assumed is one with 40 physical address bits, pages of 4096 bytes, 512 vCPUs and an ITS"
    );

    let (facts, said) = settled("pa_bits = 36").facts_on_paper(None);
    assert_eq!((facts.width.bits.get(), facts.width.source), (36, WidthSource::User));
    assert_eq!(
        said[0].message,
        "no host was asked; assumed is one with pages of 4096 bytes, 512 vCPUs and an ITS"
    );
}
