//! Who answers which packet: one table of cases, run over the evaluator of the in-memory kernel and over real packets.
//!
//! The cases are of two kinds. `matrix` crosses traffic policies, states of endpoints, kinds of frontend and sources, in both
//! families; what must come out is said by `oracle`, in the words of the API's documentation and with no code of the crate.
//! `crates/service/cases/*.yaml` are the special ones: objects, configuration, and one line per probe.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod case;
mod evaluator;
mod kernel;
mod matrix;
#[path = "../objects/mod.rs"]
mod objects;
mod oracle;

use case::Case;

/// Checks every probe of a case and collects what differs.
fn differences(
    case: &Case,
    mut answer: impl FnMut(&case::Probe) -> Result<(), String>,
    into: &mut Vec<String>,
) {
    for probe in &case.probes {
        if let Err(found) = answer(probe) {
            into.push(format!("{}: {probe}\n    {found}", case.name));
        }
    }
}

fn none(differences: &[String], of: usize) {
    assert!(
        differences.is_empty(),
        "{} of {of} probes differ:\n{}",
        differences.len(),
        differences.iter().take(40).cloned().collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn the_matrix_over_the_evaluator() {
    let case = matrix::case();
    let plan = evaluator::Planned::of(&case);
    let mut wrong = Vec::new();
    differences(&case, |probe| plan.check(probe), &mut wrong);
    println!("{} probes", case.probes.len());
    assert!(case.probes.len() > 2000);
    none(&wrong, case.probes.len());
}

#[test]
fn the_special_cases_over_the_evaluator() {
    let cases = case::special();
    assert!(cases.len() >= 15, "cases are missing");
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in &cases {
        let plan = evaluator::Planned::of(case);
        differences(case, |probe| plan.check(probe), &mut wrong);
        count += case.probes.len();
    }
    println!("{count} probes in {} cases", cases.len());
    none(&wrong, count);
}

#[test]
fn both_over_real_packets() {
    let mut cases = case::special();
    cases.push(matrix::case());
    let Some(mut world) = kernel::World::or_skip() else { return };
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in &cases {
        world.load(case);
        count += world.check(case, &mut wrong);
    }
    println!("{count} probes in {} cases", cases.len());
    none(&wrong, count);
}
