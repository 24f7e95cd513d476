//! `ping [-c N] [-W S] ADDRESS`: ICMP echo.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use link::echo::Echo;

use super::{print, say};

/// Plays `ping`.
pub(super) fn main(args: &[String]) -> i32 {
    let (mut count, mut wait, mut target) = (u16::MAX, 1.0_f64, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|v| v.parse::<f64>().ok());
        match arg.as_str() {
            "-c" => match number() {
                Some(n) if n >= 1.0 => count = n as u16,
                _ => return usage(),
            },
            "-W" | "-w" => match number() {
                Some(n) if n > 0.0 => wait = n,
                _ => return usage(),
            },
            "-4" | "-6" | "-n" | "-q" => {}
            other if !other.starts_with('-') => target = Some(other.to_owned()),
            _ => return usage(),
        }
    }
    let Some(target) = target else { return usage() };
    let Some(address) = (target.as_str(), 0).to_socket_addrs().ok().and_then(|mut a| a.next())
    else {
        say(&format!("ping: {target}: name or service not known"));
        return 2;
    };
    match ping(&target, address, count, Duration::from_secs_f64(wait.min(3600.0))) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(error) => {
            say(&format!("ping: {error}"));
            2
        }
    }
}

fn usage() -> i32 {
    say("usage: ping [-c COUNT] [-W SECONDS] ADDRESS");
    2
}

fn ping(name: &str, to: SocketAddr, count: u16, wait: Duration) -> std::io::Result<bool> {
    let mut echo = Echo::to(to.ip(), wait)?;
    if !print(format!("PING {name} ({}): 56 data bytes\n", to.ip()).as_bytes()) {
        return Ok(false);
    }
    let mut received = 0_u32;
    let mut sent = 0_u32;
    for sequence in 0..count {
        if sequence > 0 {
            std::thread::sleep(Duration::from_secs(1));
        }
        sent += 1;
        let answer = match echo.ask(56) {
            Ok(Some(answer)) => answer,
            Ok(None) => continue,
            Err(error) => {
                say(&format!("ping: {error}"));
                continue;
            }
        };
        received += 1;
        let time = answer.took.as_secs_f64() * 1000.0;
        let line =
            format!("{} bytes from {}: seq={sequence} time={time:.3} ms\n", answer.bytes, to.ip());
        if !print(line.as_bytes()) {
            return Ok(false);
        }
    }
    let lost = (sent - received) * 100 / sent.max(1);
    let summary = format!(
        "\n--- {name} ping statistics ---\n{sent} packets transmitted, {received} packets received, {lost}% packet loss\n"
    );
    Ok(print(summary.as_bytes()) && received > 0)
}
