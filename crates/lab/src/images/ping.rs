//! `ping [-c N] [-W S] ADDRESS`: ICMP echo over a datagram socket where the kernel allows it, else a raw one.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, connect, ipproto, recv, send, socket,
};

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
    let v6 = matches!(to.ip(), IpAddr::V6(_));
    let (family, protocol, request, reply) = if v6 {
        (AddressFamily::INET6, ipproto::ICMPV6, 128, 129)
    } else {
        (AddressFamily::INET, ipproto::ICMP, 8, 0)
    };
    let raw = socket(family, SocketType::RAW, Some(protocol))?;
    rustix::net::sockopt::set_socket_timeout(
        &raw,
        rustix::net::sockopt::Timeout::Recv,
        Some(wait),
    )?;
    connect(&raw, &to)?;
    if !print(format!("PING {name} ({}): 56 data bytes\n", to.ip()).as_bytes()) {
        return Ok(false);
    }
    let id = u16::try_from(std::process::id() & 0xffff).unwrap_or(1);
    let mut received = 0_u32;
    let mut sent = 0_u32;
    for sequence in 0..count {
        if sequence > 0 {
            std::thread::sleep(Duration::from_secs(1));
        }
        let packet = echo(request, id, sequence, !v6);
        let began = Instant::now();
        sent += 1;
        if let Err(error) = send(&raw, &packet, SendFlags::empty()) {
            say(&format!("ping: {error}"));
            continue;
        }
        while began.elapsed() < wait {
            let mut buffer = [0; 2048];
            let Ok((n, _)) = recv(&raw, &mut buffer, RecvFlags::empty()) else { break };
            // IPv4 raw sockets show the IP header
            let skip = if v6 { 0 } else { usize::from(buffer[0] & 15) * 4 };
            let Some(icmp) = buffer.get(skip..n) else { continue };
            if icmp.first() == Some(&reply)
                && icmp.get(4..8) == Some(&[id.to_be_bytes(), sequence.to_be_bytes()].concat()[..])
            {
                received += 1;
                let time = began.elapsed().as_secs_f64() * 1000.0;
                let line = format!(
                    "{} bytes from {}: seq={sequence} time={time:.3} ms\n",
                    icmp.len(),
                    to.ip()
                );
                if !print(line.as_bytes()) {
                    return Ok(false);
                }
                break;
            }
        }
    }
    let lost = (sent - received) * 100 / sent.max(1);
    let summary = format!(
        "\n--- {name} ping statistics ---\n{sent} packets transmitted, {received} packets received, {lost}% packet loss\n"
    );
    Ok(print(summary.as_bytes()) && received > 0)
}

/// An echo request; for IPv6 the kernel fills in the checksum.
fn echo(kind: u8, id: u16, sequence: u16, checksum: bool) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend_from_slice(&id.to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend(0..56);
    if checksum {
        let words = packet.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let sum = !u16::try_from(sum).unwrap_or_default();
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_packet_with_its_checksum_is_zero() {
        let packet = echo(8, 0x1234, 7, true);
        let mut sum: u32 = packet.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
    }
}
