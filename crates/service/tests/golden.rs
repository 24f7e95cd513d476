//! `golden/<case>/objects.yaml` compiles to `ruleset.nft` (and `reports.txt` where there is something to say), and the real
//! `nft` accepts it. `UPDATE_GOLDEN=1` rewrites.

mod objects;

use std::path::{Path, PathBuf};
use std::process::Command;

use model::{NodeName, SnapshotWriter};
use service::{Config, Planner};

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let entries = std::fs::read_dir(&root).expect("the golden directory");
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    cases.sort();
    assert!(cases.len() >= 9, "cases are missing: {cases:?}");
    cases
}

/// The text of a file, with the path in the panic.
fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn compile(case: &Path) -> (String, String) {
    let mut writer = SnapshotWriter::default();
    let mut reports = objects::apply(&mut writer, &read(&case.join("objects.yaml")));
    let mut planner = Planner::new(NodeName::new("node-1"), Config::default());
    let plan = planner.full(writer.snapshot(), None);
    reports.extend(plan.reports);
    (plan.table.to_string(), reports.iter().map(|report| format!("{report}\n")).collect())
}

fn check(path: &Path, found: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        if found.is_empty() {
            std::fs::remove_file(path).ok();
        } else {
            std::fs::write(path, found).expect("write the golden file");
        }
        return;
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        expected == found,
        "{} differs; found:\n{found}\n(UPDATE_GOLDEN=1 rewrites it)",
        path.display()
    );
}

#[test]
fn every_case_compiles_to_its_ruleset() {
    for case in cases() {
        let (ruleset, reports) = compile(&case);
        check(&case.join("ruleset.nft"), &ruleset);
        check(&case.join("reports.txt"), &reports);
    }
}

#[test]
fn nft_accepts_every_ruleset() {
    // `nft -c` needs a namespace of its own: it checks against what is there.
    let usable = Command::new("unshare").args(["-n", "nft", "list", "ruleset"]).output();
    if !usable.is_ok_and(|output| output.status.success()) {
        let reason = "nft in a namespace of its own (root, unshare and nft are needed)";
        let required =
            ["CI", "FAIRWAY_REQUIRE_ALL"].iter().any(|name| std::env::var_os(name).is_some());
        assert!(!required, "missing: {reason}");
        println!("SKIP: {reason}");
        return;
    }
    for case in cases() {
        let path = case.join("ruleset.nft");
        let output = Command::new("unshare")
            .args(["-n", "nft", "-c", "-f"])
            .arg(&path)
            .output()
            .expect("nft");
        assert!(
            output.status.success(),
            "{}:\n{}",
            path.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
