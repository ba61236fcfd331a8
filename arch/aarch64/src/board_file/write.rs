//! A board as the text of a file that says all of it.

use std::fmt::Write as _;

use ambit_resources::AddressRange;

use super::finding::{hex, size_text};
use crate::spec::{BoardSpec, FixtureSpec, GicSpec, HighSpec, ItsPlace, Mmio64Spec, PciSpec, RedistSpec};
use crate::tree::{Change, Edit, Value};

/// `spec` as TOML. Read again without a parent, it is the same board.
pub fn write(spec: &BoardSpec) -> String {
    let mut file = File(String::new());
    file.line(&format!("name = {}", quoted(&spec.name)));
    file.line(&format!("about = {}", quoted(&spec.about)));
    file.line(&match spec.width {
        Some(bits) => format!("width = {bits}"),
        None => "width = false  # what the host has".into(),
    });
    file.line(&format!("max_cpus = {}", spec.max_cpus));
    file.table("ram");
    file.line(&format!("base = {}", address(spec.ram.base)));
    file.line(&format!("grain = {}", size(spec.ram.grain)));
    file.line(&format!("slot_room = {}", size(spec.ram.slot_room)));
    file.line(&format!("max_slots = {}", spec.ram.max_slots));
    for (name, range) in &spec.reserved {
        file.list("reserved");
        file.line(&format!("name = {}", quoted(name)));
        file.range(*range);
    }
    file.gic(&spec.gic);
    file.table("interrupts");
    file.line(&format!("count = {}", spec.pins));
    file.line(&format!("devices = [{}, {}]", spec.devices.pins.start(), spec.devices.pins.end()));
    if let Some(pci) = &spec.pci {
        file.line(&match pci.intx {
            Some(pin) => format!("intx = {pin}  # and the three after it"),
            None => "intx = false".into(),
        });
    }
    file.table("devices");
    file.range(spec.devices.window);
    file.line(&format!("grain = {}", size(spec.devices.grain)));
    file.line(&format!("transport = {}", quoted(spec.transport.name())));
    spec.fixtures.iter().for_each(|fixture| file.fixture(fixture));
    if let Some(pci) = &spec.pci {
        file.pci(pci);
    }
    file.table("above_ram");
    file.line(&format!("floor = {}", size(spec.floor)));
    file.line(&format!("holes = {}", spec.holes));
    file.table("boot");
    file.line(&format!("kernel_offset = {}", size(spec.kernel_offset)));
    spec.edits.iter().for_each(|edit| file.edit(edit));
    file.0
}

/// What no plan shows of `spec`, in lines as [`write`] has them.
pub fn particulars(spec: &BoardSpec) -> Vec<String> {
    let mut file = File(String::new());
    if spec.kernel_offset != 0 {
        file.line(&format!("kernel_offset = {}", size(spec.kernel_offset)));
    }
    spec.edits.iter().for_each(|edit| file.edit(edit));
    file.0.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

struct File(String);

impl File {
    fn line(&mut self, line: &str) {
        writeln!(self.0, "{line}").expect("a String takes every line");
    }

    fn table(&mut self, name: &str) {
        self.line(&format!("\n[{name}]"));
    }

    fn list(&mut self, name: &str) {
        self.line(&format!("\n[[{name}]]"));
    }

    fn range(&mut self, range: AddressRange) {
        self.line(&format!("base = {}", address(range.first())));
        self.line(&format!("size = {}", size(range.size())));
    }

    fn gic(&mut self, gic: &GicSpec) {
        self.table("gic");
        self.line(&format!("version = {}", gic.version()));
        match gic {
            GicSpec::V2 { dist, cpu, kept } => {
                self.line(&format!("dist = {}", inline(*dist)));
                self.line(&format!("cpu = {}", inline(*cpu)));
                let kept: Vec<String> = kept.iter().map(|kept| self::high("above_ram", kept)).collect();
                self.line(&format!("redistributors = [{}]", kept.join(", ")));
            }
            GicSpec::V3 { dist, its, redists, .. } => {
                self.line(&format!("dist = {}", address(*dist)));
                self.line(&match its {
                    None => "its = false".into(),
                    Some(ItsPlace::At(at)) => format!("its = {}", address(*at)),
                    Some(ItsPlace::BelowRedists) => "its = \"below-redists\"".into(),
                });
                self.line("redistributors = [");
                redists.iter().for_each(|redist| self.line(&format!("    {},", self::redist(redist))));
                self.line("]");
            }
        }
    }

    fn fixture(&mut self, fixture: &FixtureSpec) {
        self.list("fixture");
        self.line(&format!("id = {}", quoted(&fixture.id)));
        self.line(&format!("kind = {}", quoted(&fixture.kind)));
        self.line(&format!("base = {}", address(fixture.base)));
        self.line(&match fixture.pin {
            Some(pin) => format!("pin = {pin}"),
            None => "pin = false".into(),
        });
    }

    fn pci(&mut self, pci: &PciSpec) {
        self.table("pci");
        self.line(&format!("ecam = {}", inline(pci.ecam)));
        self.line(&match &pci.high_ecam {
            None => "high_ecam = false".into(),
            Some(high) => format!("high_ecam = {}", self::high("size", high)),
        });
        self.line(&match pci.io {
            None => "io = false".into(),
            Some(io) => format!("io = {}", inline(io)),
        });
        self.line(&format!("mmio32 = {}", inline(pci.mmio32)));
        self.line(&match &pci.mmio64 {
            None => "mmio64 = false".into(),
            Some(Mmio64Spec::Fixed(high)) => format!("mmio64 = {}", self::high("size", high)),
            Some(Mmio64Spec::ByNeed { room, cap }) => {
                format!("mmio64 = {{ room = {}, cap = {} }}", size(*room), size(*cap))
            }
        });
    }

    fn edit(&mut self, edit: &Edit) {
        self.list("tree");
        self.line(&format!("path = {}", quoted(&edit.path)));
        match &edit.change {
            Change::Remove => self.line("remove = true"),
            Change::Unset(names) => self.line(&format!("unset = {}", strings(names))),
            Change::Set(values) => {
                self.line("[tree.set]");
                values.iter().for_each(|(name, value)| {
                    self.line(&format!("{} = {}", key(name), self::value(value)));
                });
            }
        }
    }
}

fn address(address: u64) -> String {
    format!("\"{}\"", hex(address))
}

fn size(size: u64) -> String {
    match size {
        0..1024 => size.to_string(),
        _ => format!("\"{}\"", size_text(size)),
    }
}

fn inline(range: AddressRange) -> String {
    format!("{{ base = {}, size = {} }}", address(range.first()), size(range.size()))
}

fn high(key: &str, high: &HighSpec) -> String {
    let off = high.off.as_ref().map(|off| format!(", off = {}", quoted(off))).unwrap_or_default();
    format!("{{ {key} = {}{off} }}", size(high.size))
}

fn redist(redist: &RedistSpec) -> String {
    match redist {
        RedistSpec::Up { window, whole } => {
            let (base, size) = (address(window.first()), size(window.size()));
            format!("{{ base = {base}, size = {size}, keep = {whole} }}")
        }
        RedistSpec::Down { top } => format!("{{ top = {} }}", address(*top)),
        RedistSpec::High { size, off } => high("above_ram", &HighSpec { size: *size, off: off.clone() }),
    }
}

fn value(value: &Value) -> String {
    let list = |cells: Vec<String>| format!("[{}]", cells.join(", "));
    match value {
        Value::Flag => "true".into(),
        Value::Cells(cells) => {
            format!("{{ cells = {} }}", list(cells.iter().map(ToString::to_string).collect()))
        }
        Value::Cells64(wide) => {
            format!("{{ cells64 = {} }}", list(wide.iter().map(|wide| format!("\"{wide:#x}\"")).collect()))
        }
        Value::Strings(texts) if texts.len() == 1 => quoted(&texts[0]),
        Value::Strings(texts) => strings(texts),
        Value::Bytes(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{{ bytes = \"{digits}\" }}")
        }
    }
}

fn strings(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

/// A key as it is, or in quotes where TOML wants them.
fn key(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !name.is_empty() && name.bytes().all(bare) { name.into() } else { quoted(name) }
}

/// A basic string (TOML 1.0, String).
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            other if other.is_control() => {
                write!(quoted, "\\u{:04X}", u32::from(other)).expect("a String takes every character");
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
