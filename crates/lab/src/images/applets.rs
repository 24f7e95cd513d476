//! `nc` and `wget`, as far as people use them to look at a Service.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use super::{agnhost, print, say, serve};

/// Plays `nc [-z] [-u] [-v] [-l] [-p PORT] [-w SECONDS] [HOST] PORT`.
pub(super) fn nc(args: &[String]) -> i32 {
    let (mut zero, mut udp, mut listen, mut verbose) = (false, false, false, false);
    let (mut wait, mut port, mut words) = (None, None, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.strip_prefix('-') {
            Some("w" | "i") => wait = args.next().and_then(|v| v.parse::<u64>().ok()),
            Some("p") => port = args.next().and_then(|v| v.parse::<u16>().ok()),
            Some(letters) if !letters.is_empty() => {
                for letter in letters.chars() {
                    match letter {
                        'z' => zero = true,
                        'u' => udp = true,
                        'l' => listen = true,
                        'v' => verbose = true,
                        'n' | 'k' | '4' | '6' | 'N' | 'q' => {}
                        _ => return nc_usage(),
                    }
                }
            }
            _ => words.push(arg.clone()),
        }
    }
    let wait = wait.map(Duration::from_secs);
    if listen {
        let Some(port) = port.or_else(|| words.last()?.parse().ok()) else { return nc_usage() };
        return done(nc_listen(port));
    }
    let [host, port] = words.as_slice() else { return nc_usage() };
    let Ok(port) = port.parse::<u16>() else { return nc_usage() };
    let Some(address) = (host.as_str(), port).to_socket_addrs().ok().and_then(|mut a| a.next())
    else {
        say(&format!("nc: {host}: name or service not known"));
        return 1;
    };
    if udp {
        return done(nc_udp(address, wait));
    }
    let limit = wait.unwrap_or(Duration::from_secs(30));
    match TcpStream::connect_timeout(&address, limit) {
        Ok(stream) => {
            if verbose {
                say(&format!("{host} ({address}) open"));
            }
            if zero { 0 } else { done(relay(&stream, wait)) }
        }
        Err(error) => {
            say(&format!("nc: {host} ({address}): {error}"));
            1
        }
    }
}

fn nc_usage() -> i32 {
    say("usage: nc [-z] [-u] [-v] [-l] [-p PORT] [-w SECONDS] [HOST] PORT");
    2
}

fn done(result: std::io::Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("nc: {error}"));
            1
        }
    }
}

fn nc_listen(port: u16) -> std::io::Result<()> {
    let listener = std::net::TcpListener::bind(("::", port))
        .or_else(|_| std::net::TcpListener::bind(("0.0.0.0", port)))?;
    let (stream, _) = listener.accept()?;
    relay(&stream, None)
}

/// Stdin to the peer, the peer to stdout, until the peer ends.
fn relay(stream: &TcpStream, wait: Option<Duration>) -> std::io::Result<()> {
    stream.set_read_timeout(wait)?;
    let mut to = stream.try_clone()?;
    std::thread::spawn(move || {
        let copied = std::io::copy(&mut std::io::stdin(), &mut to);
        let ended = to.shutdown(Shutdown::Write);
        tracing::trace!(?copied, ?ended, "stdin ended");
    });
    let mut from = stream;
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) if !print(&buffer[..n]) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// What stdin has is one datagram per read; replies are printed until none comes for the wait.
fn nc_udp(address: SocketAddr, wait: Option<Duration>) -> std::io::Result<()> {
    let local = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(local)?;
    socket.connect(address)?;
    let sender = socket.try_clone()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(n) = std::io::stdin().read(&mut buffer) {
            if n == 0 || sender.send(&buffer[..n]).is_err() {
                break;
            }
        }
    });
    socket.set_read_timeout(wait)?;
    let mut buffer = [0; 64 << 10];
    loop {
        match socket.recv(&mut buffer) {
            Ok(n) if !print(&buffer[..n]) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// Plays `wget [-q] [-O FILE|-] [-T SECONDS] URL`.
pub(super) fn wget(args: &[String]) -> i32 {
    let (mut output, mut limit, mut url, mut quiet) = (None, 30, None, false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-O" => output = args.next().cloned(),
            "-T" | "--timeout" => limit = args.next().and_then(|v| v.parse().ok()).unwrap_or(limit),
            "-qO-" | "-O-" => {
                quiet |= arg.starts_with("-q");
                output = Some("-".to_owned());
            }
            "-qO" => {
                quiet = true;
                output = args.next().cloned();
            }
            "-q" => quiet = true,
            other if other.starts_with("--timeout=") => {
                limit = other["--timeout=".len()..].parse().unwrap_or(limit);
            }
            other if !other.starts_with('-') => url = Some(other.to_owned()),
            _ => {}
        }
    }
    let Some(url) = url else {
        say("usage: wget [-q] [-O FILE|-] [-T SECONDS] URL");
        return 1;
    };
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => {
            say(&format!("wget: {scheme} is not spoken here, only http"));
            return 1;
        }
        None => url.as_str(),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().unwrap_or(80)),
        _ => (authority, 80),
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    if !quiet {
        say(&format!("Connecting to {host}:{port}"));
    }
    let name = path.rsplit('/').next().filter(|n| !n.is_empty()).unwrap_or("index.html").to_owned();
    let path = path.to_owned();
    serve::block_on(async move {
        let get = agnhost::http_get(&host, port, &path);
        let body = match tokio::time::timeout(Duration::from_secs(limit), get).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => {
                say(&format!("wget: can't connect to remote host ({host}): {error}"));
                return 1;
            }
            Err(_) => {
                say("wget: download timed out");
                return 1;
            }
        };
        let written = match output.as_deref() {
            Some("-") => return i32::from(!print(body.as_bytes())),
            Some(file) => std::fs::File::create(file),
            None => std::fs::File::create(&name),
        };
        match written.and_then(|mut f| f.write_all(body.as_bytes())) {
            Ok(()) => 0,
            Err(error) => {
                say(&format!("wget: {error}"));
                1
            }
        }
    })
}
