//! A device tree in memory: changed by a board's edits, then written flat or as source.
//!
//! Sections are those of the Devicetree Specification 0.4.

use std::fmt::Write as _;

use vm_fdt::FdtWriter;

/// One node, with everything below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// With its unit address: "pl011@9000000". The root's is empty.
    pub name: String,
    /// In the order they are written; no name twice.
    pub properties: Vec<(String, Value)>,
    pub children: Vec<Node>,
}

/// A property's value (2.2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Present, without a value.
    Flag,
    Cells(Vec<u32>),
    /// Two cells each.
    Cells64(Vec<u64>),
    Strings(Vec<String>),
    Bytes(Vec<u8>),
}

impl From<u32> for Value {
    fn from(cell: u32) -> Self {
        Self::Cells(vec![cell])
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Strings(vec![text.into()])
    }
}

/// One change to a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// From the root: "/pl011@1000000". Nodes that are not there are made.
    pub path: String,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets properties; those of the same name are replaced.
    Set(Vec<(String, Value)>),
    /// Takes properties away.
    Unset(Vec<String>),
    /// Takes the node away, with all below it.
    Remove,
}

impl Node {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    pub fn child(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    pub fn flag(self, name: &str) -> Self {
        self.with(name, Value::Flag)
    }

    /// Makes `edit`. False if there is nothing to take away at its path.
    pub fn apply(&mut self, edit: &Edit) -> bool {
        let path: Vec<&str> = edit.path.split('/').filter(|name| !name.is_empty()).collect();
        match &edit.change {
            Change::Remove => self.remove(&path),
            Change::Unset(names) => match self.find(&path) {
                Some(node) => {
                    let before = node.properties.len();
                    node.properties.retain(|(name, _)| !names.contains(name));
                    node.properties.len() + names.len() == before
                }
                None => false,
            },
            Change::Set(values) => {
                let node = path.iter().fold(self, |node, name| node.descend(name));
                for (name, value) in values {
                    match node.properties.iter_mut().find(|(known, _)| known == name) {
                        Some((_, old)) => *old = value.clone(),
                        None => node.properties.push((name.clone(), value.clone())),
                    }
                }
                true
            }
        }
    }

    fn find(&mut self, path: &[&str]) -> Option<&mut Self> {
        let mut node = self;
        for name in path {
            node = node.children.iter_mut().find(|child| child.name == *name)?;
        }
        Some(node)
    }

    fn descend(&mut self, name: &str) -> &mut Self {
        let at = self.children.iter().position(|child| child.name == name).unwrap_or_else(|| {
            self.children.push(Self::new(name));
            self.children.len() - 1
        });
        &mut self.children[at]
    }

    fn remove(&mut self, path: &[&str]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let Some(parent) = self.find(parents) else { return false };
        let before = parent.children.len();
        parent.children.retain(|child| child.name != *last);
        parent.children.len() < before
    }

    /// The tree flat, as a guest finds it (5).
    ///
    /// # Errors
    /// For a name or a string with a NUL in it, and two nodes with one phandle.
    pub fn flat(&self) -> Result<Vec<u8>, vm_fdt::Error> {
        let mut fdt = FdtWriter::new()?;
        self.write(&mut fdt)?;
        fdt.finish()
    }

    fn write(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        let node = fdt.begin_node(&self.name)?;
        for (name, value) in &self.properties {
            match value {
                Value::Cells(cells) if name == "phandle" && cells.len() == 1 => {
                    fdt.property_phandle(cells[0])?
                }
                Value::Flag => fdt.property_null(name)?,
                Value::Cells(cells) => fdt.property_array_u32(name, cells)?,
                Value::Cells64(cells) => fdt.property_array_u64(name, cells)?,
                Value::Strings(strings) => fdt.property_string_list(name, strings.clone())?,
                Value::Bytes(bytes) => fdt.property(name, bytes)?,
            }
        }
        for child in &self.children {
            child.write(fdt)?;
        }
        fdt.end_node(node)
    }

    /// The tree as source, which `dtc` turns into the same bytes (6).
    pub fn source(&self) -> String {
        let mut text = String::from("/dts-v1/;\n\n");
        self.print(&mut text, 0);
        text
    }

    fn print(&self, text: &mut String, depth: usize) {
        let indent = "\t".repeat(depth);
        let name = if self.name.is_empty() { "/" } else { &self.name };
        line(text, &format!("{indent}{name} {{"));
        for (name, value) in &self.properties {
            match source(value) {
                Some(value) => line(text, &format!("{indent}\t{name} = {value};")),
                None => line(text, &format!("{indent}\t{name};")),
            }
        }
        for (index, child) in self.children.iter().enumerate() {
            if index > 0 || !self.properties.is_empty() {
                text.push('\n');
            }
            child.print(text, depth + 1);
        }
        line(text, &format!("{indent}}};"));
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes every line");
}

/// `None` for a property without a value.
fn source(value: &Value) -> Option<String> {
    let cells = |cells: &mut dyn Iterator<Item = u32>| {
        let cells: Vec<String> = cells.map(|cell| format!("{cell:#x}")).collect();
        format!("<{}>", cells.join(" "))
    };
    match value {
        Value::Flag => None,
        Value::Cells(list) => Some(cells(&mut list.iter().copied())),
        Value::Cells64(list) => Some(cells(&mut list.iter().flat_map(|wide| halves(*wide)))),
        Value::Strings(strings) => {
            let quoted: Vec<String> = strings.iter().map(|string| quoted(string)).collect();
            Some(quoted.join(", "))
        }
        Value::Bytes(bytes) => {
            let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Some(format!("[{}]", bytes.join(" ")))
        }
    }
}

// dtc reads escapes as C does (6.3).
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            _ => write!(quoted, "\\x{byte:02x}").expect("a String takes every character"),
        }
    }
    quoted.push('"');
    quoted
}

/// The high cell, then the low one.
fn halves(wide: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = wide.to_be_bytes();
    [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Node {
        let uart =
            Node::new("pl011@1000").with("status", "okay").with("reg", Value::Cells64(vec![0x1000, 0x10]));
        Node::new("").with("#address-cells", 2).flag("ok").child(uart)
    }

    fn edit(path: &str, change: Change) -> Edit {
        Edit { path: path.into(), change }
    }

    #[test]
    fn the_source_has_every_kind_of_value() {
        let tree = sample()
            .with("bytes", Value::Bytes(vec![1, 0xff]))
            .with("text", Value::Strings(vec!["a\"b\\".into(), "tab\t".into()]));

        assert_eq!(
            tree.source(),
            "/dts-v1/;\n\n/ {\n\t#address-cells = <0x2>;\n\tok;\n\tbytes = [01 ff];\n\
             \ttext = \"a\\\"b\\\\\", \"tab\\x09\";\n\n\tpl011@1000 {\n\t\tstatus = \"okay\";\n\
             \t\treg = <0x0 0x1000 0x0 0x10>;\n\t};\n};\n"
        );
    }

    #[test]
    fn an_edit_replaces_a_property_and_makes_nodes_that_are_not_there() {
        let mut tree = sample();

        assert!(tree.apply(&edit("/pl011@1000", Change::Set(vec![("status".into(), "disabled".into())]))));
        assert!(tree.apply(&edit("/soc/led", Change::Set(vec![("on".into(), Value::Flag)]))));

        assert_eq!(tree.children[0].properties[0], ("status".to_owned(), Value::from("disabled")));
        assert_eq!(tree.children[1], Node::new("soc").child(Node::new("led").flag("on")));
    }

    #[test]
    fn what_is_taken_away_has_to_be_there() {
        let mut tree = sample();

        assert!(!tree.apply(&edit("/nowhere", Change::Remove)));
        assert!(!tree.apply(&edit("/", Change::Remove)));
        assert!(!tree.apply(&edit("/pl011@1000", Change::Unset(vec!["no".into()]))));
        assert!(tree.apply(&edit("/pl011@1000", Change::Unset(vec!["status".into()]))));
        assert_eq!(tree.children[0].properties.len(), 1);
        assert!(tree.apply(&edit("/pl011@1000", Change::Remove)));
        assert_eq!(tree.children, []);
    }
}
