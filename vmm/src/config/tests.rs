use std::path::Path;

use ambit_device_manager::{HolePolicy, Transport};
use ambit_resources::AddressRange;

use super::device_settings::Rate;
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
    let rng = PlainSettings { id: "rng0".into(), transport: Transport::Mmio };
    assert_eq!((settings.rng, settings.console, settings.balloon), (Some(rng), None, None));
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

#[test]
fn devices_have_the_boards_transport_unless_they_say_theirs() {
    let transports = |settings: &Settings<'_>| settings.transports().collect::<Vec<_>>();
    let mut board = ambit_aarch64::native();
    board.spec.transport = Transport::PciLegacy;
    let on = |text: &str| settle(toml(text), &[&board], None).map(|settings| transports(&settings)).unwrap();
    let two = "disks = [{ path = 'a' }, { path = 'b', transport = 'mmio' }]";

    assert_eq!(transports(&settled(two)), [Transport::Mmio; 3]);
    assert_eq!(on(two), [Transport::PciLegacy, Transport::PciLegacy, Transport::Mmio]);
    assert_eq!(
        on(&format!("pci = false\n{two}")),
        [Transport::MmioLegacy, Transport::MmioLegacy, Transport::Mmio]
    );
}

#[test]
fn a_disk_says_all_there_is_of_it() {
    let text = "path=a,id=root,readonly=off,transport=pci-legacy,queues=16,queue-size=1024,cache=none,\
                engine=io_uring,discard=off,lock=off,bandwidth=100M/s,bandwidth-burst=1G,iops=500,iops-burst=1000";
    let config = Config { disks: vec![text.parse().unwrap()], ..Config::default() };

    let settings = settle(config, &[&TOY], None).unwrap();

    let rate = |per_second: u64, burst| Some(Rate { per_second: per_second.try_into().unwrap(), burst });
    assert_eq!(
        settings.disks,
        [DiskSettings {
            id: "root".into(),
            path: "a".into(),
            readonly: false,
            transport: Transport::PciLegacy,
            queues: 16,
            queue_size: 1024,
            cache: Cache::None,
            engine: Engine::IoUring,
            discard: false,
            lock: false,
            limits: Limits { bytes: rate(100 << 20, 1 << 30), count: rate(500, 1000) },
        }]
    );
}

#[test]
fn a_disk_is_plain_unless_it_says_otherwise() {
    let disks = settled("disks = [{ path = 'a' }, { path = 'b', readonly = true }]").disks;

    let plain = DiskSettings {
        id: "disk0".into(),
        path: "a".into(),
        readonly: false,
        transport: Transport::Mmio,
        queues: 1,
        queue_size: 256,
        cache: Cache::Writeback,
        engine: Engine::Sync,
        discard: true,
        lock: true,
        limits: Limits::default(),
    };
    let other = DiskSettings {
        id: "disk1".into(),
        path: "b".into(),
        readonly: true,
        discard: false,
        lock: true,
        ..plain.clone()
    };
    assert_eq!(disks, [plain, other]);
}

#[test]
fn a_net_says_all_there_is_of_it() {
    let text = "fd=7:8,id=lan,mac=52:54:00:12:34:56,transport=mmio-legacy,queue_size=512,offloads=off,\
                mergeable=off,rx-bandwidth=1M,rx-packets=10,rx-packets-burst=5,tx-bandwidth=2M,\
                tx-bandwidth-burst=4M,tx-packets=20/s";
    let config = Config { nets: vec![text.parse().unwrap()], ..Config::default() };

    let settings = settle(config, &[&TOY], None).unwrap();

    let rate = |per_second: u64, burst| Some(Rate { per_second: per_second.try_into().unwrap(), burst });
    assert_eq!(
        settings.nets,
        [NetSettings {
            id: "lan".into(),
            interface: Interface::Fds(vec![7, 8]),
            mac: Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]),
            transport: Transport::MmioLegacy,
            queues: 2,
            queue_size: 512,
            offloads: false,
            mergeable: false,
            rx: Limits { bytes: rate(1 << 20, 0), count: rate(10, 5) },
            tx: Limits { bytes: rate(2 << 20, 4 << 20), count: rate(20, 0) },
        }]
    );
}

#[test]
fn what_a_device_says_has_to_make_sense_together() {
    assert_eq!(
        refusal("disks = [{ path = 'a', readonly = true, discard = true }]"),
        "discard=on of disk 'disk0' makes no sense with readonly=on"
    );
    assert_eq!(
        refusal("disks = [{ path = 'a', iops-burst = 5 }]"),
        "iops-burst of disk 'disk0' makes no sense without iops"
    );
    assert_eq!(
        refusal("nets = [{ tap = 't', id = 'x', tx-bandwidth-burst = '1M' }]"),
        "tx-bandwidth-burst of net 'x' makes no sense without tx-bandwidth"
    );
    assert_eq!(
        refusal("nets = [{ fd = '3:4', queues = 3 }]"),
        "net 'net0' has 3 pairs of queues and 2 open files; give it one fd for each pair, fd=A:B:…"
    );
    assert_eq!(
        refusal("nets = [{ fd = '3:4:5:6:7:8:9:10:11' }]"),
        "net 'net0' has 8 pairs of queues and 9 open files; give it one fd for each pair, fd=A:B:…"
    );
    assert_eq!(
        refusal("nets = [{ fd = '3:4' }, { fd = 4 }]"),
        "net 'net0' and net 'net1' both want the open file 4; give each its own"
    );
    assert_eq!(
        refusal("balloon = { id = 'x' }\nconsole = { id = 'x' }"),
        "the virtio console and the balloon are both called 'x'; give one of them another id"
    );
    assert_eq!(refusal("console = { to = '' }"), "the name of the file of the virtio console is empty");
}

#[test]
fn what_is_kept_free_is_said_by_keys_and_added_to_by_options() {
    let text = "board = 'pc'\nvendor = 'hygon'\nhole = 'relocate'\nreserve_ht = false\nreserve = ['4G+1G']";
    let options = toml("vendor = 'host'\nreserve = ['host', '0x200000000+4096']");

    let settings = settle(toml(text).overridden_by(options), &[&TOY, &PC], None).unwrap();

    assert_eq!(
        settings.reserve,
        Reserve {
            policy: HolePolicy::Relocate,
            vendor: None,
            without_ht: true,
            of_devices: true,
            ranges: vec![AddressRange::fixed(4 << 30, 1 << 30), AddressRange::fixed(0x2_0000_0000, 4096)],
        }
    );
    assert_eq!(settled("reserve = ['2G+1M']").reserve.ranges, [AddressRange::fixed(2 << 30, 1 << 20)]);
    for (text, what) in [
        ("vendor = 'amd'", "--vendor"),
        ("hole = 'split'", "--hole"),
        ("reserve_ht = false", "--no-reserve-ht"),
        ("reserve = ['host']", "--reserve host"),
    ] {
        assert_eq!(refusal(text), format!("{what} makes no sense on a board that is no x86_64 machine"));
    }
}

#[test]
fn on_paper_a_pc_keeps_out_of_what_any_processor_keeps() {
    let vendor = |board: &str| {
        let (facts, _) = settled(&format!("board = '{board}'")).facts_on_paper(None);
        facts.processor.map(|processor| processor.vendor)
    };

    assert_eq!((vendor("pc"), vendor("toy")), (Some(Vendor::Amd), None));
}

#[test]
fn a_device_of_which_there_is_one_is_on_off_or_its_options() {
    let there = |text: &str| {
        let settings = settled(text);
        (settings.rng.map(|it| it.id), settings.console.map(|it| it.id), settings.balloon.map(|it| it.id))
    };
    let id = |id: &str| Some(id.to_owned());

    assert_eq!(there(""), (id("rng0"), None, None));
    assert_eq!(there("rng = false\nconsole = 'on'\nballoon = true"), (None, id("console0"), id("balloon0")));
    assert_eq!(there("rng = { id = 'x' }\nballoon = {}"), (id("x"), None, id("balloon0")));
}

#[test]
fn a_virtio_console_that_the_user_sees_is_the_kernels() {
    assert_eq!(settled("console = true").cmdline, "console=hvc0 panic=-1");
    assert_eq!(settled("console = { to = 'log.txt' }").cmdline, "console=ttyAMA0 panic=-1");
    let to = |text: &str| settled(text).console.unwrap().to;
    assert_eq!(to("console = { to = 'stdio' }"), ConsoleTo::Stdio);
    assert_eq!(to("console = { to = 'log.txt' }"), ConsoleTo::File("log.txt".into()));
}

#[test]
fn a_legacy_queue_reaches_as_far_as_its_transport_and_the_guests_pages_allow() {
    let reach = |text: &str| Transport::ALL.map(|transport| settled(text).reach_over(transport));

    assert_eq!(reach(""), [None, Some(44), None, Some(44)]);
    assert_eq!(reach("queue_reach = 44"), [None, Some(44), None, Some(44)]);
    assert_eq!(reach("queue_reach = 48"), [None, Some(48), None, Some(44)]);
    let legacy = settled("disks = [{ path = 'a', transport = 'mmio-legacy' }]");
    assert!(legacy.limits(None).contains(&(44, "reach of the guest's queues")));
}

#[test]
fn the_length_of_the_pci_window_is_said_only_where_the_board_leaves_it_open() {
    let (native, qemu) = (ambit_aarch64::native(), ambit_aarch64::qemu_virt());
    let settled = |text: &str| settle(toml(text), &[&native, &qemu], None).map(|settings| settings.pci);

    let refused = settled("board = 'qemu-virt'\npci_window = '1G'").unwrap_err();

    assert_eq!(
        refused.to_string(),
        "--pci-window makes no sense on a board that has no such window, or one of its own length"
    );
    assert_eq!(settled("pci_window = '1G'").unwrap(), Some(PciConfig { window: Some(1 << 30) }));
    assert_eq!(settled("board = 'qemu-virt'").unwrap(), Some(PciConfig { window: None }));
}
