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

use std::io::Write as _;
use std::process::{Command, Stdio};

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

/// Loads a table with `nft`, lists it, and loads the listing into an empty ruleset: other programs on the node do that.
fn loads_and_lists(text: &str) -> Result<(), String> {
    let script = "nft -f - && L=$(nft list ruleset) && nft flush ruleset && printf '%s\\n' \"$L\" | nft -f -";
    let mut child = Command::new("unshare")
        .args(["-n", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    child.stdin.take().unwrap().write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn nft_loads_lists_and_loads_back_every_case() {
    if let Err(reason) = loads_and_lists("table inet t {\n}\n") {
        let required =
            ["CI", "FAIRWAY_REQUIRE_ALL"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!required, "missing: nft in a namespace of its own: {reason}");
        println!("SKIP: nft in a namespace of its own (root, unshare and nft are needed)");
        return;
    }
    for case in case::special().iter().chain([&matrix::case()]) {
        let plan = evaluator::Planned::of(case);
        if let Err(error) = loads_and_lists(&plan.text()) {
            panic!("{}: {error}", case.name);
        }
    }
}
