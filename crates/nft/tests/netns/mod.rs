//! A thread in a network namespace of its own, and the real `nft` in it.
#![allow(unsafe_code, reason = "a test enters its own network namespace")]
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

use std::io::Write;
use std::process::{Command, Stdio};

/// Runs `body` on a thread in a fresh network namespace; `None` (with a word) when this process may not make one.
pub fn in_namespace<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let thread = std::thread::spawn(|| {
        // SAFETY: moves only this thread.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return None;
        }
        Some(body())
    });
    let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    if result.is_none() {
        skip("unshare(CLONE_NEWNET) needs root");
    }
    result
}

/// Says that a test did not run; where everything must run, fails instead.
pub fn skip(reason: &str) {
    println!("SKIP: {reason}");
    let required =
        std::env::var_os("CI").is_some() || std::env::var_os("FAIRWAY_REQUIRE_ALL").is_some();
    assert!(!required, "a test was skipped where all must run: {reason}");
}

/// Runs a program in this thread's namespace, with standard input, and gives what it prints.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().ok();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!(
            "{program} {arguments:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

pub fn nft(arguments: &[&str], input: &str) -> Result<String, String> {
    run("nft", arguments, input)
}
