//! What a card offers by how it is configured, and what it is not made with.

use super::*;

// Bits of 5.1.3.
const ALWAYS: [u32; 4] = [5, 16, 17, 23];
const OFFLOADS: [u32; 9] = [0, 1, 2, 7, 8, 9, 11, 12, 13];

fn card(pairs: usize, options: &Options) -> Result<Net, NetError> {
    let wire = |_| {
        let (near, _) = UnixDatagram::pair().unwrap();
        Wire { socket: near.into(), told: Arc::default() }
    };
    Net::new("offers", (0..pairs).map(wire).collect(), options)
}

fn bits(all: &[&[u32]]) -> u64 {
    all.concat().into_iter().fold(0, |all, bit| all | 1 << bit)
}

#[test]
fn a_card_offers_what_it_was_configured_with() {
    let plain = Options { offloads: false, mergeable: false, ..Options::new(Mac([2; 6])) };
    let offered = |pairs, options: &Options| card(pairs, options).unwrap().features();

    assert_eq!(offered(1, &plain), bits(&[&ALWAYS]));
    assert_eq!(offered(1, &Options { offloads: true, ..plain.clone() }), bits(&[&ALWAYS, &OFFLOADS]));
    assert_eq!(offered(1, &Options { mergeable: true, ..plain.clone() }), bits(&[&ALWAYS, &[15]]));
    assert_eq!(offered(1, &Options { mtu: Some(1500), ..plain.clone() }), bits(&[&ALWAYS, &[3]]));
    assert_eq!(offered(2, &plain), bits(&[&ALWAYS, &[22]]));
}

#[test]
fn a_card_has_two_queues_for_each_pair_and_one_for_control() {
    let sizes = |pairs, queue_size| {
        let options = Options { queue_size, ..Options::new(Mac([2; 6])) };
        card(pairs, &options).unwrap().queue_sizes().to_vec()
    };

    assert_eq!(sizes(1, 256), [256, 256, 64]);
    assert_eq!(sizes(3, 16), [16, 16, 16, 16, 16, 16, 64]);
}

// C-210, R-16
#[test]
fn a_card_is_refused_with_what_it_can_be_made_with() {
    let options = Options::new(Mac([2; 6]));
    let said = |pairs, options: &Options| card(pairs, options).map(drop).map_err(|error| error.to_string());
    let pairs = |count| format!("net 'offers' wants {count} pairs of queues; give it 1 to 8");
    let size =
        |size| format!("net 'offers' wants queues of {size} entries; give it a power of two from 2 to 1024");
    let mtu = |mtu| format!("net 'offers' wants an MTU of {mtu}; give it one from 68 to 65535");

    assert_eq!(said(0, &options), Err(pairs(0)));
    assert_eq!(said(9, &options), Err(pairs(9)));
    assert_eq!(said(8, &options), Ok(()));
    for wrong in [0, 1, 3, 100, 1023, 2048] {
        assert_eq!(said(1, &Options { queue_size: wrong, ..options.clone() }), Err(size(wrong)));
    }
    for right in [2, 1024] {
        assert_eq!(said(1, &Options { queue_size: right, ..options.clone() }), Ok(()));
    }
    assert_eq!(said(1, &Options { mtu: Some(67), ..options.clone() }), Err(mtu(67)));
    assert_eq!(said(1, &Options { mtu: Some(68), ..options.clone() }), Ok(()));
}

// 5.1.3.1
#[test]
fn several_pairs_without_a_queue_to_ask_for_them_by_are_refused() {
    let card = card(2, &Options::new(Mac([2; 6]))).unwrap();

    assert!(!card.accepts(bits(&[&[22]])));
    assert!(card.accepts(bits(&[&[17, 22]])));
}
