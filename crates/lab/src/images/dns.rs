//! `nslookup NAME [SERVER]`: asks for A and AAAA over UDP, walking the search list. The codec is small and total: what it
//! cannot read it says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::{print, say};

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;

/// Builds a query.
pub(super) fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.').filter(|l| !l.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend_from_slice(label);
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out
}

/// A response: its code and the addresses or names in it; `None` when it is not one.
pub(super) fn response(id: u16, bytes: &[u8]) -> Option<(u8, Vec<String>)> {
    let u16_at = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    if u16_at(0)? != id || bytes.get(2)? & 0x80 == 0 {
        return None;
    }
    let code = bytes.get(3)? & 0x0f;
    let (questions, answers) = (u16_at(4)?, u16_at(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = skip_name(bytes, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        at = skip_name(bytes, at)?;
        let kind = u16_at(at)?;
        let length = usize::from(u16_at(at + 8)?);
        let data = bytes.get(at + 10..at + 10 + length)?;
        match kind {
            A => found.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).to_string()),
            AAAA => found.push(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string()),
            PTR => found.push(name_at(bytes, at + 10)?),
            _ => {}
        }
        at += 10 + length;
    }
    Some((code, found))
}

fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

fn name_at(bytes: &[u8], mut at: usize) -> Option<String> {
    let mut labels = Vec::new();
    // a compression loop ends here
    for _ in 0..128 {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some(labels.join(".")),
            _ if length & 0xc0 == 0xc0 => {
                at = usize::from(u16::from_be_bytes([length & 0x3f, *bytes.get(at + 1)?]));
            }
            _ => {
                let label = bytes.get(at + 1..at + 1 + usize::from(length))?;
                labels.push(String::from_utf8_lossy(label).into_owned());
                at += 1 + usize::from(length);
            }
        }
    }
    None
}

fn ask(server: SocketAddr, name: &str, kind: u16) -> Result<(u8, Vec<String>), String> {
    let local = if server.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(local).map_err(|e| e.to_string())?;
    socket.connect(server).map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(Duration::from_secs(2))).map_err(|e| e.to_string())?;
    let id = u16::try_from(std::process::id() & 0xffff).unwrap_or(1) ^ kind;
    let mut buffer = [0; 4096];
    let mut why = String::new();
    for _ in 0..2 {
        socket.send(&question(id, name, kind)).map_err(|e| e.to_string())?;
        match socket.recv(&mut buffer) {
            Ok(n) => match response(id, &buffer[..n]) {
                Some(answer) => return Ok(answer),
                None => why = "a reply that is not one".into(),
            },
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => why = "timed out".into(),
            Err(e) => why = e.to_string(),
        }
    }
    Err(why)
}

/// Plays `nslookup`.
pub(super) fn main(args: &[String]) -> i32 {
    let mut words = args.iter().filter(|a| !a.starts_with('-'));
    let Some(name) = words.next() else {
        say("usage: nslookup NAME [SERVER]");
        return 2;
    };
    let conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let lines =
        |key: &'static str| conf.lines().filter_map(move |l| l.strip_prefix(key)).map(str::trim);
    let server = words.next().cloned().or_else(|| lines("nameserver").next().map(str::to_owned));
    let Some(server) = server.and_then(|s| s.parse::<IpAddr>().ok()) else {
        say("nslookup: no name server: give its address, or name one in /etc/resolv.conf");
        return 1;
    };
    if !print(format!("Server:\t\t{server}\nAddress:\t{server}#53\n\n").as_bytes()) {
        return 1;
    }
    let server = SocketAddr::new(server, 53);
    let mut names = Vec::new();
    if let Ok(ip) = name.parse::<IpAddr>() {
        return reverse(server, ip);
    }
    if !name.ends_with('.') {
        let searches = lines("search").next_back().unwrap_or_default();
        names.extend(searches.split_whitespace().map(|s| format!("{name}.{s}")));
    }
    let ndots =
        conf.split_whitespace().find_map(|w| w.strip_prefix("ndots:")?.parse().ok()).unwrap_or(1);
    let at = if name.matches('.').count() >= ndots { 0 } else { names.len() };
    names.insert(at, name.clone());
    let mut last = format!("** server can't find {name}: NXDOMAIN");
    for candidate in names {
        let answers = [ask(server, &candidate, A), ask(server, &candidate, AAAA)];
        let mut found = Vec::new();
        for answer in answers {
            match answer {
                Ok((0, list)) => found.extend(list),
                Ok((code, _)) => {
                    last = format!("** server can't find {candidate}: {}", code_name(code))
                }
                Err(why) => {
                    say(&format!(";; communications error to {server}: {why}"));
                    return 1;
                }
            }
        }
        if !found.is_empty() {
            let lines: String =
                found.iter().map(|a| format!("Name:\t{candidate}\nAddress: {a}\n")).collect();
            return i32::from(!print(lines.as_bytes()));
        }
    }
    say(&last);
    1
}

fn code_name(code: u8) -> &'static str {
    match code {
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        5 => "REFUSED",
        _ => "no answer",
    }
}

fn reverse(server: SocketAddr, ip: IpAddr) -> i32 {
    let name = match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let nibbles =
                ip.octets().into_iter().rev().map(|b| format!("{:x}.{:x}.", b & 15, b >> 4));
            format!("{}ip6.arpa", nibbles.collect::<String>())
        }
    };
    match ask(server, &name, PTR) {
        Ok((0, found)) if !found.is_empty() => {
            let lines: String = found.iter().map(|n| format!("{name}\tname = {n}.\n")).collect();
            i32::from(!print(lines.as_bytes()))
        }
        Ok((code, _)) => {
            say(&format!("** server can't find {name}: {}", code_name(code)));
            1
        }
        Err(why) => {
            say(&format!(";; communications error to {server}: {why}"));
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> Vec<u8> {
        let mut bytes = question(7, "a.b", A);
        bytes[2] = 0x81;
        bytes[7] = 1;
        bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 96, 0, 1]);
        bytes
    }

    #[test]
    fn a_reply_is_read() {
        assert_eq!(response(7, &reply()), Some((0, vec!["10.96.0.1".to_owned()])));
        assert_eq!(response(8, &reply()), None, "not the answer to this question");
    }

    #[test]
    fn cut_and_looping_replies_never_panic() {
        let whole = reply();
        for end in 0..whole.len() {
            assert_eq!(response(7, &whole[..end]), None);
        }
        let mut looping = vec![0; 12];
        looping.extend_from_slice(&[0xc0, 12]);
        assert_eq!(name_at(&looping, 12), None);
    }
}
