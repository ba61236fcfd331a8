use proptest::prelude::*;

use super::*;
use crate::config::{Disk, Net};

fn toml(text: &str) -> String {
    refusal("guest.toml", text)
}

fn json(text: &str) -> String {
    refusal("guest.json", text)
}

fn refusal(path: &str, text: &str) -> String {
    match parse(text, Path::new(path)) {
        Ok(config) => format!("{config:?} was accepted"),
        Err(error) => error.to_string(),
    }
}

fn disk(text: &str) -> String {
    text.parse::<Disk>().map_or_else(|said| said, |disk| format!("{disk:?} was accepted"))
}

#[test]
fn toml_and_json_say_the_same_machine() {
    let from_toml = parse(
        r#"
            kernel = "Image"
            memory = "1G"
            cpus = 2
            pa_bits = 36
            rng = false
            [[disks]]
            path = "root.img"
            readonly = true
            [[nets]]
            tap = "tap0"
            mac = "52:54:00:12:34:56"
        "#,
        Path::new("guest.toml"),
    );
    let from_json = parse(
        r#"{
            "kernel": "Image", "memory": 1073741824, "cpus": 2, "pa_bits": "36", "rng": "off",
            "disks": [{"path": "root.img", "readonly": "on"}],
            "nets": [{"tap": "tap0", "mac": "52:54:00:12:34:56"}]
        }"#,
        Path::new("guest.json"),
    );

    assert_eq!(from_toml.unwrap(), from_json.unwrap());
}

#[test]
fn a_file_without_a_telling_name_is_json_if_it_begins_with_a_brace() {
    assert!(parse("\n {\"cpus\": 2}", Path::new("guest")).is_ok());
    assert!(parse("cpus = 2", Path::new("guest.conf")).is_ok());
}

#[test]
fn an_option_and_a_table_say_the_same_disk() {
    let table = parse(r#"disks = [{ path = "a,b=c", id = "x", readonly = true }]"#, Path::new("f.toml"));
    let option: Disk = "path=a,,b=c,id=x,readonly=on".parse().unwrap();

    assert_eq!(table.unwrap().disks, [option]);
}

#[test]
fn the_first_part_of_an_option_may_be_the_bare_name() {
    assert_eq!("a.img".parse::<Disk>(), "path=a.img".parse());
    assert_eq!("a,,b.img,readonly=on".parse::<Disk>(), "readonly=on,path=a,,b.img".parse());
    assert_eq!("tap0,id=x".parse::<Net>(), "id=x,tap=tap0".parse());
}

#[test]
fn a_typo_is_told_with_its_place_and_the_nearest_key() {
    assert_eq!(toml("cpus = 1\nmemroy = 4"), "guest.toml:2:1: unknown key 'memroy'; did you mean 'memory'?");
    assert_eq!(toml("pa-bits = 36"), "guest.toml:1:1: unknown key 'pa-bits'; did you mean 'pa_bits'?");
    assert_eq!(
        json("{\n  \"kernal\": \"Image\"\n}"),
        "guest.json:2:10: unknown key 'kernal'; did you mean 'kernel'?"
    );
    assert_eq!(
        toml("[[disks]]\npath = 'a'\nread-only = true"),
        "guest.toml:3:1: unknown key 'read-only'; did you mean 'readonly'?"
    );
}

#[test]
fn a_key_like_no_other_is_told_with_all_there_are() {
    assert_eq!(
        toml("zz = 1"),
        "guest.toml:1:1: unknown key 'zz'; known are kernel, initrd, cmdline, memory, cpus, disks, nets, pa_bits, \
         board, rng, console, balloon, max_memory, memory_slots, pci, pci_window, guest_reach, queue_reach, strict, \
         vendor, hole, reserve_ht, reserve"
    );
}

#[test]
fn a_key_that_comes_twice_is_refused() {
    assert_eq!(toml("cpus = 1\ncpus = 2"), "guest.toml:2:1: this key is there twice");
    assert_eq!(json(r#"{"cpus": 1, "cpus": 2}"#), "guest.json:1:18: the key 'cpus' is there twice");
    assert_eq!(disk("path=a,path=b"), "the key 'path' is there twice");
}

#[test]
fn a_key_that_has_to_be_there_is_missed() {
    assert_eq!(toml("[[disks]]\nid = 'a'"), "guest.toml:1:1: the key 'path' is missing");
    assert_eq!(disk("id=a"), "the key 'path' is missing");
    assert_eq!(
        "mac=52:54:00:12:34:56".parse::<Net>().unwrap_err(),
        "the key 'tap' is missing, or 'fd' for one that is open"
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_told_with_its_place() {
    assert_eq!(
        toml("memory = '12X'"),
        "guest.toml:1:10: '12X' is not a size; write a whole number of bytes, or one with K, M, G or T (512M, 4G)"
    );
    assert_eq!(
        toml("memory = 1.5"),
        "guest.toml:1:10: invalid type: floating point '1.5', expected one word or a whole number"
    );
    assert_eq!(
        toml("cpus = -1"),
        "guest.toml:1:8: '-1' is not a count; write a whole number, at most 4294967295"
    );
    assert_eq!(
        toml("disks = ['a.img']"),
        "guest.toml:1:10: invalid type: string \"a.img\", expected a table with at least a path"
    );
    assert_eq!(
        json(r#"{"disks": [{"path": "a", "id": "a b"}]}"#),
        "guest.json:1:36: 'a b' cannot be the id of a device; use 1 to 64 letters, digits, '_', '.' or '-'"
    );
    assert_eq!(
        json(r#"{"disks": [{"path": "a", "id": null}]}"#),
        "guest.json:1:35: invalid type: null, expected one word or a whole number"
    );
}

#[test]
fn a_file_that_is_neither_says_what_its_parser_missed() {
    assert_eq!(toml("cpus 2"), "guest.toml:1:6: key with no value, expected '='");
    assert_eq!(json("{\"cpus\": 2"), "guest.json:1:10: EOF while parsing an object");
    assert_eq!(json("[]"), "guest.json:1:1: this is not a JSON object; is it TOML? then call it *.toml");
    assert_eq!(json("{} {}"), "guest.json:1:4: trailing characters");
}

#[test]
fn an_option_with_an_unknown_key_names_the_nearest() {
    assert_eq!(disk("path=a,redonly=on"), "unknown key 'redonly'; did you mean 'readonly'?");
    assert_eq!(
        disk("pth=a"),
        "unknown key 'pth'; did you mean 'path'? (a name with '=' in it is written path=NAME)"
    );
}

#[test]
fn an_option_that_is_not_pairs_says_how_to_write_one() {
    assert_eq!(
        disk("path=a,readonly"),
        "'readonly' is not of the form key=value; a comma in a value is written twice"
    );
    assert_eq!(disk(""), "'' is not of the form key=value; a comma in a value is written twice");
    assert_eq!(disk("path=a,readonly=yes"), "'yes' is neither on nor off");
}

#[test]
fn a_file_without_end_is_not_read_to_its_end() {
    assert_eq!(
        read(Path::new("/dev/zero")).unwrap_err().to_string(),
        "the configuration /dev/zero has more than 1048576 bytes; it is probably another file"
    );
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();

    for text in ["\u{feff}cpus = 2", "\u{feff}{\"cpus\": 2}"] {
        std::fs::write(&file, text).unwrap();
        assert_eq!(read(file.path()).unwrap(), parse("cpus = 2", Path::new("guest.toml")).unwrap());
    }
}

#[test]
fn a_file_that_is_no_text_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, b"cpus = \xff").unwrap();

    let said = read(file.path()).unwrap_err().to_string();

    assert_eq!(
        said,
        format!(
            "the configuration {} is not text in UTF-8; it is probably another file",
            file.path().display()
        )
    );
}

proptest! {
    #[test]
    fn no_text_makes_reading_it_panic(text in ".{0,200}") {
        let _refused = parse(&text, Path::new("guest"));
        let _refused = text.parse::<Disk>();
        let _refused = text.parse::<Net>();
        for key in ["memory", "cpus", "pa_bits", "rng"] {
            let _refused = parse(&format!("{key} = '''{text}'''"), Path::new("guest.toml"));
        }
    }

    #[test]
    fn any_name_can_be_a_disk_if_its_commas_are_doubled(name in "[^\u{0}]{1,40}") {
        let disk: Disk = format!("path={},readonly=on", name.replace(',', ",,")).parse().unwrap();

        prop_assert_eq!(disk.path, PathBuf::from(name));
    }
}
