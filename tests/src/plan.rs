//! Where `ambit plan` says that things are.

use std::path::Path;

use serde_json::Value;

use crate::{place, to_its_end};

pub struct Plan {
    /// The width that KVM is asked for.
    pub ipa_bits: u32,
    pub regions: Vec<Region>,
}

#[derive(Clone, Debug)]
pub struct Region {
    pub name: String,
    pub base: u64,
    pub size: u64,
    /// How many redistributors it has, if the plan says so.
    pub count: Option<u64>,
}

impl Plan {
    /// Of the machine that `ambit run` would make of these words.
    pub fn of(machine: &[&str]) -> Self {
        Self::by(&place::monitor(), machine)
    }

    /// The same of another monitor than the one under test.
    pub fn by(program: &Path, machine: &[&str]) -> Self {
        let planned = to_its_end(program, [&["plan", "--format", "json"], machine].concat());
        assert_eq!(planned.code, 0, "{}", planned.stderr);
        Self::read(&planned.stdout)
    }

    fn read(json: &str) -> Self {
        let plan: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
        let regions = plan["regions"].as_array().expect("a plan has regions");
        Self {
            ipa_bits: u32::try_from(plan["ipa_bits"].as_u64().expect("a plan has a width")).unwrap(),
            regions: regions.iter().filter_map(Region::read).collect(),
        }
    }

    #[track_caller]
    pub fn region(&self, name: &str) -> Region {
        let found = self.regions.iter().find(|region| region.name == name);
        found.cloned().unwrap_or_else(|| panic!("the plan has no {name}"))
    }
}

impl Region {
    /// `None` for one that was left out.
    fn read(region: &Value) -> Option<Self> {
        let base = region["base"].as_str()?.trim_start_matches("0x");
        Some(Self {
            name: region["name"].as_str()?.to_owned(),
            base: u64::from_str_radix(base, 16).unwrap_or_else(|error| panic!("{error}: {base}")),
            size: region["size"].as_u64()?,
            count: region["count"].as_u64(),
        })
    }
}
