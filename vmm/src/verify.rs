//! `ambit verify`: the plan beside what this host's KVM says to it.

use std::collections::HashMap;

use ambit_device_manager::{Board, Plan};
use ambit_resources::human_size;
use serde::Serialize;

use crate::cli::{self, VerifyArgs};
use crate::document::SCHEMA;
use crate::failure::{Exit, Failure};
use crate::kvm::{self, Answer, Outcome, Step};
use crate::report::{self, Align, Format, Grid};
use crate::{models, run};

/// One request, what was planned of it, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Row {
    step: String,
    planned: String,
    answer: Verdict,
    /// Null where there is nothing to add to the answer.
    detail: Option<String>,
    errno: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Ok,
    Otherwise,
    Refused,
    NotAsked,
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Otherwise => "otherwise",
            Self::Refused => "refused",
            Self::NotAsked => "not asked",
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    board: &'a str,
    arch: &'a str,
    cpus: u32,
    ipa_bits: u8,
    as_planned: bool,
    steps: &'a [Row],
}

/// # Errors
/// [`Failure`] if there is no plan, or no KVM here that could be asked.
pub fn verify(args: &VerifyArgs, boards: &[&dyn Board]) -> Result<Exit, Failure> {
    let settings = args.machine.settings_here(boards, None)?;
    let arch = settings.board.arch();
    let (host, note) = cli::host_for(args.host.as_deref(), arch, || None)?;
    if arch != ambit_device_manager::Arch::host() {
        // What makes no sense anywhere is said first.
        settings.check_amounts()?;
        return Err(run::wrong_host(&settings).into());
    }
    let here = kvm::host_facts()?;
    let plan = models::plan(&settings, Some(&host.unwrap_or(here)))?;
    let ram: Vec<_> = plan.ram().collect();
    let memory = ambit_memory::map(&ram);
    let mut rows = Vec::new();
    if let Err(error) = &memory {
        rows.push(Row {
            step: "map RAM in this program".into(),
            planned: human_size(ram.iter().map(|range| range.size()).sum()),
            answer: Verdict::Refused,
            detail: Some(error.to_string()),
            errno: None,
        });
    }
    rows.extend(rows_of(&plan, &kvm::verify(&plan, memory.ok())?));
    let as_planned = rows.iter().all(|row| row.answer == Verdict::Ok);
    report::print(&match args.format {
        Format::Json => report::json(&Report {
            schema: SCHEMA,
            board: &plan.board,
            arch: plan.arch.name(),
            cpus: plan.cpus,
            ipa_bits: plan.ipa_bits.get(),
            as_planned,
            steps: &rows,
        }),
        Format::Table => table(&plan, &rows) + &report::diagnostics(note.iter(), report::Paper::of_output()),
    })?;
    Ok(if as_planned { Exit::Done } else { Exit::DoesNotFit })
}

fn table(plan: &Plan, rows: &[Row]) -> String {
    let mut grid = Grid::new(&[("STEP", Align::Left), ("PLANNED", Align::Left), ("ANSWER", Align::Left)]);
    for row in rows {
        let detail = row.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        grid.row([row.step.clone(), row.planned.clone(), format!("{}{detail}", row.answer.text())]);
    }
    let other = rows.iter().filter(|row| row.answer != Verdict::Ok).count();
    let verdict = match other {
        0 => "this host's KVM takes the machine as planned".to_owned(),
        1 => "1 step is not as planned".to_owned(),
        other => format!("{other} steps are not as planned"),
    };
    let cpus = report::counted(u64::from(plan.cpus), "vCPU");
    format!("board {} ({}), {cpus}: {verdict}\n\n{}", plan.board, plan.arch.name(), grid.text())
}

/// A row for each answer; what is the same for all vCPUs is one.
fn rows_of(plan: &Plan, answers: &[Answer]) -> Vec<Row> {
    let granted = |answer: &&Answer| matches!(answer.outcome, Outcome::Granted);
    let mut done: HashMap<String, u32> = HashMap::new();
    for answer in answers.iter().filter(granted) {
        *done.entry(words(&answer.step, plan).0).or_default() += 1;
    }
    let mut rows = Vec::new();
    for answer in answers {
        let (step, planned) = words(&answer.step, plan);
        let (verdict, detail, errno) = match &answer.outcome {
            // Said once for all vCPUs, if all have it.
            Outcome::Granted if of_each_vcpu(&answer.step) && done[&step] < plan.cpus => continue,
            Outcome::Granted => (Verdict::Ok, None, None),
            Outcome::Otherwise { given, named } => {
                let text = format!("it was given {given:#x} and has {named:#x}");
                (Verdict::Otherwise, Some(text), None)
            }
            Outcome::Refused(error) => {
                let errno = error.raw_os_error();
                let after = match answer.step {
                    Step::CreateVcpu { .. } => {
                        let made = done.get(&step).copied().unwrap_or(0);
                        format!("after {}, ", report::counted(made.into(), "vCPU"))
                    }
                    _ => String::new(),
                };
                let why = answer.step.why(errno.unwrap_or(0));
                (Verdict::Refused, Some(format!("{after}{error}{why}")), errno)
            }
            Outcome::NotAsked => (Verdict::NotAsked, None, None),
        };
        let row = Row { step, planned, answer: verdict, detail, errno };
        // The vCPUs are made one after the other, each in some steps.
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    rows
}

fn of_each_vcpu(step: &Step) -> bool {
    matches!(step, Step::CreateVcpu { .. } | Step::DescribeVcpu { .. } | Step::SetRegister { .. })
}

/// What was asked for, and how much of it.
fn words(step: &Step, plan: &Plan) -> (String, String) {
    let none = || "-".to_owned();
    match step {
        Step::CreateVm { ipa_bits } => {
            let widest = if *ipa_bits == plan.ipa_bits { "" } else { ", the most this host has" };
            ("make the virtual machine".into(), format!("{ipa_bits} address bits{widest}"))
        }
        Step::AddRam { range } => ("map RAM".into(), format!("{range}")),
        Step::CreateVcpu { .. } => ("make vCPUs".into(), plan.cpus.to_string()),
        Step::CreateGic => {
            let version = if plan.range(ambit_aarch64::gic::CPU).is_some() { "GICv2" } else { "GICv3" };
            ("make the GIC".into(), version.into())
        }
        Step::GicLines { count } => ("set its interrupt lines".into(), count.to_string()),
        Step::GicFrame { what, range } => (format!("set {what}"), format!("{range}")),
        Step::CreateIts => ("make the ITS".into(), none()),
        Step::InitIts => ("start the ITS".into(), none()),
        Step::InitGic => ("start the GIC".into(), none()),
        Step::KvmPages { address } => ("give KVM pages for its own use".into(), format!("{address:#x}")),
        Step::CreateIrqchip => ("make the interrupt controllers".into(), none()),
        Step::WideIds => ("have APIC IDs of 32 bits".into(), none()),
        Step::SupportedCpuid => ("ask what vCPUs can do".into(), none()),
        Step::DescribeVcpu { .. } => ("tell vCPUs what they are".into(), plan.cpus.to_string()),
        Step::SetRegister { name, .. } => (format!("set {name} of vCPUs"), plan.cpus.to_string()),
        // What only a machine that is to run asks for.
        other => (format!("{other:?}"), none()),
    }
}

#[cfg(test)]
mod tests {
    use ambit_aarch64::native;
    use ambit_device_manager::{HostFacts, MachineConfig, plan};
    use ambit_resources::{AddressRange, PaBits};

    use super::*;

    fn planned(cpus: u32) -> Plan {
        plan(&native(), &MachineConfig { cpus, ..MachineConfig::default() }, &HostFacts::assumed()).unwrap()
    }

    fn answer(step: Step, outcome: Outcome) -> Answer {
        Answer { step, outcome }
    }

    fn refused(errno: i32) -> Outcome {
        Outcome::Refused(std::io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn what_was_refused_is_said_beside_the_plan_with_what_it_means() {
        let plan = planned(2);
        let frame = AddressRange::fixed(0x900_0000, 0x10000);
        let answers = [
            answer(Step::CreateVm { ipa_bits: plan.ipa_bits }, refused(libc::EINVAL)),
            answer(Step::CreateVm { ipa_bits: PaBits::new(36).unwrap() }, Outcome::Granted),
            answer(Step::AddRam { range: AddressRange::fixed(1 << 30, 1 << 30) }, Outcome::NotAsked),
            answer(Step::CreateVcpu { id: 0 }, Outcome::Granted),
            answer(Step::CreateVcpu { id: 1 }, refused(libc::EINVAL)),
            answer(Step::CreateGic, Outcome::Granted),
            answer(
                Step::GicFrame { what: "the distributor".into(), range: frame },
                Outcome::Otherwise { given: 0x900_0000, named: 0x800_0000 },
            ),
        ];

        assert_eq!(
            table(&plan, &rows_of(&plan, &answers)),
            "\
board native (aarch64), 2 vCPUs: 4 steps are not as planned

STEP                      PLANNED                                  ANSWER
make the virtual machine  32 address bits                          refused: Invalid argument (os error 22): it is \
more than this host's KVM can give; see 'ambit probe'
make the virtual machine  36 address bits, the most this host has  ok
map RAM                   [0x40000000-0x7fffffff]                  not asked
make vCPUs                2                                        refused: after 1 vCPU, Invalid argument (os \
error 22): KVM has no more; see 'ambit probe' for the most it gives
make the GIC              GICv3                                    ok
set the distributor       [0x9000000-0x900ffff]                    otherwise: it was given 0x9000000 and has 0x8000000
"
        );
    }

    #[test]
    fn what_is_done_for_each_vcpu_is_one_row() {
        let plan = planned(3);
        let steps = |id| {
            let set = Step::SetRegister { id, name: "MTRRdefType" };
            [Step::CreateVcpu { id }, Step::DescribeVcpu { id }, set]
        };
        let answers: Vec<_> = (0..3).flat_map(steps).map(|step| answer(step, Outcome::Granted)).collect();

        let rows = rows_of(&plan, &answers);

        let said: Vec<_> = rows.iter().map(|row| (row.step.as_str(), row.planned.as_str())).collect();
        assert_eq!(
            said,
            [("make vCPUs", "3"), ("tell vCPUs what they are", "3"), ("set MTRRdefType of vCPUs", "3")]
        );
    }

    #[test]
    fn what_one_vcpu_was_refused_is_not_said_to_be_granted() {
        let plan = planned(2);
        let answers = [
            answer(Step::CreateVcpu { id: 0 }, Outcome::Granted),
            answer(Step::DescribeVcpu { id: 0 }, Outcome::Granted),
            answer(Step::CreateVcpu { id: 1 }, Outcome::Granted),
            answer(Step::DescribeVcpu { id: 1 }, refused(libc::EINVAL)),
        ];

        let rows = rows_of(&plan, &answers);

        let said: Vec<_> = rows.iter().map(|row| (row.step.as_str(), row.answer.text())).collect();
        assert_eq!(said, [("make vCPUs", "ok"), ("tell vCPUs what they are", "refused")]);
    }
}
