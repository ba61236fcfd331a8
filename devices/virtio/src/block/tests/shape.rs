//! What a disk offers, what its configuration says, and what it refuses to be.

use super::*;

fn bits(bits: &[u32]) -> u64 {
    bits.iter().fold(0, |all, bit| all | 1 << bit)
}

// C-180, C-200
#[test]
fn what_is_offered_follows_the_options_and_flush_is_always_there() {
    let offered = |change: fn(&mut Options)| {
        let mut options = Options::new("disk0");
        change(&mut options);
        Block::new(image(), &options).unwrap().features()
    };
    // SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE.
    let always = bits(&[2, 6, 9, 10, 11]);

    assert_eq!(offered(|_| {}), always | bits(&[13, 14]));
    assert_eq!(offered(|options| options.discard = false), always | bits(&[14]));
    assert_eq!(offered(|options| options.readonly = true), always | bits(&[5]));
    assert_eq!(offered(|options| options.queues = 2), always | bits(&[12, 13, 14]));
    assert_eq!(offered(|options| options.cache = Cache::Unsafe), always | bits(&[13, 14]));
}

/// The fields of `struct virtio_blk_config` as they lie: sizes in bytes.
const FIELDS: [usize; 21] = [8, 4, 4, 2, 1, 1, 4, 1, 1, 2, 4, 1, 1, 2, 4, 4, 4, 4, 4, 1, 3];

fn fields(options: &Options) -> Vec<u64> {
    let block = Block::new(image(), options).unwrap();
    let mut at = 0;
    let field = |size: &usize| {
        let mut bytes = [0; 8];
        block.config().read(at, &mut bytes[..*size]);
        at += *size as u64;
        u64::from_le_bytes(bytes)
    };
    FIELDS.iter().map(field).collect()
}

// C-182, C-186, C-200
#[test]
fn the_configuration_says_what_is_offered_and_nothing_else() {
    let disk = Options { queues: 3, queue_size: 128, ..Options::new("disk0") };
    let bare = Options { discard: false, cache: Cache::Writethrough, ..Options::new("disk0") };
    let readonly = Options { readonly: true, ..Options::new("disk0") };

    // Capacity; size_max, seg_max; geometry; block size and topology (eight to a page); writeback, padding,
    // queues; discard; zeroes with may_unmap and padding.
    assert_eq!(
        fields(&disk),
        [64, 0, 126, 0, 0, 0, 512, 3, 0, 8, 0, 1, 0, 3, 1 << 21, 32, 8, 131_072, 1, 1, 0]
    );
    // What keeps its blocks says that it does.
    assert_eq!(fields(&bare), [64, 0, 254, 0, 0, 0, 512, 3, 0, 8, 0, 0, 0, 0, 0, 0, 0, 131_072, 1, 0, 0]);
    assert_eq!(fields(&readonly), [64, 0, 254, 0, 0, 0, 512, 3, 0, 8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}

// C-009, C-011, C-012
#[test]
fn every_subset_of_its_features_is_accepted_again_and_no_other_bit() {
    for face in [Face::Mmio, Face::Pci] {
        let machine = Setup::new(face, Engine::Sync).with(|setup| setup.options.queues = 2).bench().machine;
        let offered = machine.offered() & !VERSION_1;
        let mut features = 0;
        loop {
            assert!(machine.negotiate(VERSION_1 | features), "{features:#x}");
            // The next subset of what is offered.
            features = features.wrapping_sub(offered) & offered;
            if features == 0 {
                break;
            }
        }
        for bit in (0..64).map(|bit| 1 << bit).filter(|bit| (offered | VERSION_1) & bit == 0) {
            assert!(!machine.negotiate(VERSION_1 | bit), "{bit:#x}");
        }
        assert!(machine.negotiate(machine.offered()));
    }
}

// C-182
#[test]
fn behind_the_configuration_there_is_nothing_on_any_transport() {
    everywhere(|setup| {
        let bench = setup.bench();

        assert_eq!(bench.config::<8>(0), SECTORS.to_le_bytes());
        assert_eq!(bench.config::<4>(57), [0; 4]);
        assert_eq!(bench.config::<64>(60), [0; 64]);
    });
}

#[test]
fn what_is_left_of_the_last_sector_is_not_part_of_the_disk() {
    let mut odd = tempfile::tempfile().unwrap();
    odd.write_all(&[0; 512 * 3 + 511]).unwrap();

    let block = Block::new(odd, &Options::new("disk0")).unwrap();

    let mut capacity = [0; 8];
    block.config().read(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 3);
}

// C-189, F-06, F-07
#[test]
fn another_length_is_told_when_somebody_asks_for_it_and_not_before() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        let before = bench.machine.acknowledge();
        bench.file.set_len(2 * SECTORS * SECTOR).unwrap();
        assert_eq!(bench.config::<8>(0), SECTORS.to_le_bytes());
        assert_eq!(bench.status_of(IN, SECTORS, &[], 512), IOERR);
        assert_eq!((before & 2, bench.machine.acknowledge() & 2), (0, 0));

        assert_eq!(bench.size.renew().unwrap(), 2 * SECTORS);

        assert_eq!(bench.machine.acknowledge() & 2, 2, "a configuration interrupt");
        assert_eq!(bench.config::<8>(0), (2 * SECTORS).to_le_bytes());
        assert_eq!(bench.ask(IN, SECTORS, &[], 512), (OK, vec![0; 512], 513));
        bench.file.set_len(8 * SECTOR).unwrap();
        bench.size.renew().unwrap();
        assert_eq!(bench.status_of(OUT, 8, &[1; 512], 0), IOERR);
        assert_eq!(bench.size.renew().unwrap(), 8);
    });
}

// C-189
#[test]
fn another_length_is_told_to_a_driver_that_has_read_the_old_one_when_it_runs() {
    everywhere(|setup| {
        let mut bench = setup.bench();
        assert!(bench.machine.negotiate(VERSION_1 | FLUSH));
        assert_eq!(bench.config::<8>(0), SECTORS.to_le_bytes());
        bench.file.set_len(2 * SECTORS * SECTOR).unwrap();
        bench.size.renew().unwrap();
        let before = bench.machine.acknowledge();

        bench.queues = vec![bench.machine.queue(0, 256)];
        bench.machine.go();

        assert_eq!((before & 2, bench.machine.acknowledge() & 2), (0, 2));
        bench.works();
    });
}

// R-13, C-019
#[test]
fn a_reset_forgets_how_often_a_length_changed() {
    for face in Face::ALL {
        let bench = Setup::new(face, Engine::Sync).bench();
        bench.machine.set_status(0);
        let before = bench.machine.dump();
        for sectors in [2 * SECTORS, SECTORS] {
            assert!(bench.machine.negotiate(VERSION_1 | FLUSH));
            bench.config::<8>(0);
            bench.file.set_len(sectors * SECTOR).unwrap();
            bench.size.renew().unwrap();
        }

        bench.machine.set_status(0);

        assert_eq!(bench.machine.dump(), before);
    }
}

//
#[test]
fn what_a_disk_cannot_be_is_said_with_what_to_change() {
    let refused = |file: File, change: &dyn Fn(&mut Options)| {
        let mut options = Options::new("disk0");
        change(&mut options);
        Block::new(file, &options).err().unwrap().to_string()
    };
    for queues in [0, 17, u16::MAX] {
        assert_eq!(
            refused(image(), &|options| options.queues = queues),
            format!("disk 'disk0' wants {queues} queues; give it 1 to 16")
        );
    }
    for size in [0, 1, 2, 3, 255, 2048, u16::MAX] {
        assert_eq!(
            refused(image(), &|options| options.queue_size = size),
            format!("disk 'disk0' wants queues of {size} entries; give it a power of two from 4 to 1024")
        );
    }
    let (pipe, _) = io::pipe().unwrap();
    assert_eq!(
        refused(File::from(std::os::fd::OwnedFd::from(pipe)), &|_| {}),
        "disk 'disk0' does not say its size: Illegal seek (os error 29); give it a raw image or a block device"
    );
    let null = File::open("/dev/null").unwrap();
    assert_eq!(
        refused(null, &|options| options.cache = Cache::Direct),
        "disk 'disk0' cannot be reached past the page cache: Invalid argument (os error 22); \
         use cache=writeback"
    );
    let source = io::Error::from_raw_os_error(libc::ENOSYS);
    assert_eq!(
        BlockError::Uring { id: "disk0".into(), source }.to_string(),
        "disk 'disk0' is for io_uring, which this kernel refuses: Function not implemented (os error 38); \
         use engine=sync"
    );
}
