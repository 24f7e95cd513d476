//! A real runtime: containerd and runc, as Debian has them, start pods that our plugins join to their node.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

use std::path::Path;
use std::process::Command;

/// Whether all of it is here; says what is not.
fn ready() -> bool {
    let is_there = |program: &str| {
        ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
            .iter()
            .any(|dir| Path::new(dir).join(program).exists())
    };
    let root = std::process::Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let missing: Vec<&str> = ["containerd", "runc", "ctr", "busybox", "nsenter", "nft"]
        .into_iter()
        .filter(|program| !is_there(program))
        .collect();
    if root && missing.is_empty() {
        return true;
    }
    println!("SKIP: needs root and {missing:?} (tools/install test)");
    let required = std::env::var_os("CI").or(std::env::var_os("FAIRWAY_REQUIRE_ALL"));
    assert!(required.is_none(), "a test was skipped where all must run");
    false
}

#[test]
fn containerd_starts_two_pods_and_nothing_is_left() {
    if !ready() {
        return;
    }
    let work = std::env::temp_dir().join(format!("fwtest-containerd-{}", std::process::id()));
    let (bin, conflist) = (work.join("bin"), work.join("pods.conflist"));
    let laid = Command::new(env!("CARGO_BIN_EXE_fairway"))
        .args(["cni", "install", bin.to_str().unwrap(), "--conflist", conflist.to_str().unwrap()])
        .args(["--subnet", "10.89.0.0/24", "--bridge", "cni-test0"])
        .output()
        .unwrap();
    assert!(laid.status.success(), "{}", String::from_utf8_lossy(&laid.stderr));
    // Reservations belong below the test's own directory too.
    let text = std::fs::read_to_string(&conflist).unwrap();
    let mut list: serde_json::Value = serde_json::from_str(&text).unwrap();
    list["plugins"][0]["ipam"]["dataDir"] = serde_json::json!(work.join("ipam"));
    std::fs::write(&conflist, list.to_string()).unwrap();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/containerd/two-pods.sh");
    let output = Command::new("bash")
        .arg(script)
        .env("BIN", &bin)
        .env("CONFLIST", &conflist)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let reserved = std::fs::read_dir(work.join("ipam/cni-test0")).unwrap();
    let reserved: Vec<_> = reserved
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .collect();
    std::fs::remove_dir_all(&work).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    for (pod, address) in [("pod-1", "10.89.0.2"), ("pod-2", "10.89.0.3")] {
        let part = said.split(&format!("== {pod}\n")).nth(1).unwrap();
        let (seen, after) = part.split_once(&format!("== left after {pod}\n")).unwrap();
        assert!(seen.contains(&format!("inet {address}/24")), "{said}");
        assert!(seen.contains("default via 10.89.0.1 dev eth0"), "{said}");
        assert!(seen.contains("1 packets transmitted, 1 packets received"), "{said}");
        assert!(seen.contains("LOOPBACK,UP"), "{said}");
        let after = after.split("== ").next().unwrap();
        assert_eq!(after, "", "links or rules are left: {said}");
    }
    assert_eq!(reserved, Vec::<String>::new());
}
