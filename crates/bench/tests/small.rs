//! The bench itself, small: what it prints is measured, and a short soak finds nothing wrong.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// The fairway binary `make test` built, or the one beside the bench.
fn fairway() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_BIN_EXE_fairway-bench")).with_file_name("fairway");
    let binary = std::env::var_os("FAIRWAY_BIN").map_or(beside, PathBuf::from);
    if binary.exists() && rustix::process::geteuid().is_root() {
        return Some(binary);
    }
    println!("SKIP: needs root and the fairway binary (cargo build -p fairway)");
    let required =
        std::env::var_os("CI").is_some() || std::env::var_os("FAIRWAY_REQUIRE_ALL").is_some();
    assert!(!required, "a test was skipped where all must run");
    None
}

fn bench(words: &[&str]) -> Option<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fairway-bench"));
    Some(command.args(words).env("FAIRWAY_BIN", fairway()?).output().unwrap())
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn services_are_measured_beside_their_promises() {
    let words = "services --services 30 --endpoints 2 --samples 3 --connections 50 -o json";
    let Some(output) = bench(&words.split(' ').collect::<Vec<_>>()) else { return };
    let report = json(&output);
    let measured = &report["planes"][0]["measured"];
    let number = |key: &str| measured[key].as_f64().unwrap_or_else(|| panic!("{key}: {report:#}"));
    for key in ["first_sync_s", "add_ms_p99", "delete_ms_p50", "service_us_p50", "resident_mib"] {
        assert!(number(key) > 0.0, "{key}: {report:#}");
    }
    assert!(number("kernel_elements") >= 30.0 * 3.0, "{report:#}");
    assert_eq!(number("changes"), 3.0);
    assert_eq!(number("never"), 0.0, "every change had its effect");
    assert!(number("operations_per_change") > 0.0);
    assert_eq!(number("restart_operations"), 0.0, "{report:#}");
    assert_eq!(number("restart_lost"), 0.0, "{report:#}");
    assert_eq!(report["promised"]["restart_operations"], 0.0);
}

#[test]
fn a_short_soak_finds_nothing_wrong() {
    let words = "soak --services 120 --endpoints 3 --rate 100 --seconds 6 -o json";
    let Some(output) = bench(&words.split(' ').collect::<Vec<_>>()) else { return };
    let outcome = json(&output);
    assert_eq!(outcome["wrong"], serde_json::json!([]), "{outcome:#}");
    assert!(outcome["seen"]["changes made"].as_u64().unwrap() > 50, "{outcome:#}");
    assert!(outcome["seen"]["UDP connections tracked at the end"].as_u64().is_some());
}

#[test]
fn pods_of_different_nodes_are_measured_in_every_mode() {
    let Some(output) = bench(&["fabric", "--seconds", "1", "-o", "json"]) else { return };
    let outcome = json(&output);
    let rows = outcome["rows"].as_array().unwrap();
    let modes: Vec<&str> = rows.iter().map(|row| row["mode"].as_str().unwrap()).collect();
    let wanted =
        ["bare veth pair", "never", "vxlan", "vxlan", "vxlan-cross-subnet", "vxlan-cross-subnet"];
    assert_eq!(modes[..6], wanted, "{outcome:#}");
    assert_eq!(modes[6], "ipip", "measured or named: {outcome:#}");
    for row in &rows[..6] {
        assert!(row["bitsPerSecond"].as_f64().unwrap() > 1e6, "{row:#}");
        assert!(row["roundTripMicroseconds"]["p50"].as_f64().unwrap() > 0.0, "{row:#}");
    }
    assert_eq!((&rows[1]["mtu"], &rows[2]["mtu"]), (&1500.into(), &1450.into()));
}

#[test]
fn policies_are_measured_and_no_packet_goes_astray() {
    let words =
        "policy --pods 150 --policies 20 --samples 2 --seconds 3 --burst 6 --rounds 1 -o json";
    let Some(output) = bench(&words.split(' ').collect::<Vec<_>>()) else { return };
    let report = json(&output);
    let number =
        |key: &str| report["measured"][key].as_f64().unwrap_or_else(|| panic!("{key}: {report:#}"));
    for key in ["full_s", "granted_ms_p99", "isolated_ms_p99", "burst_ms_p99", "resident_mib"] {
        assert!(number(key) > 0.0, "{key}: {report:#}");
    }
    for (key, least) in [("churn_changes", 10.0), ("churn_allowed", 100.0), ("churn_denied", 100.0)]
    {
        assert!(number(key) >= least, "{key}: {report:#}");
    }
    for (key, most) in report["promised"].as_object().unwrap() {
        if most == 0.0 {
            assert_eq!(number(key), 0.0, "{key}: {report:#}");
        }
    }
    assert!(number("burst_sent") > 0.0, "{report:#}");
    assert_eq!(report["speed"].as_array().unwrap().len(), 6);
}

#[test]
fn a_peer_that_does_not_start_is_an_error_with_its_last_words() {
    let words = "services --services 1 --peer /bin/false --peer-only";
    let Some(output) = bench(&words.split(' ').collect::<Vec<_>>()) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("kube-proxy nftables") && said.contains("it ended"), "{said}");
}
