//! Requests from inside a namespace: plain HTTP/1.0, one connection each, as `curl` would make them. An edge.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use link::Namespace;

/// How long a connection may take to be made, and to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Most bytes of an answer that are read.
const LONGEST: u64 = 1 << 20;

/// The body of `GET path` from `address`, asked from the namespace at `from`.
///
/// # Errors
/// [`io::ErrorKind::ConnectionRefused`] and its like as the kernel says; an answer that is not 200 is an error too.
pub fn get(from: &Path, address: SocketAddr, path: &str) -> anyhow::Result<io::Result<String>> {
    many(from, address, path, 1)?.pop().context("invariant: one request, one answer")
}

/// `count` requests one after the other, each on a connection of its own.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn many(
    from: &Path,
    address: SocketAddr,
    path: &str,
    count: usize,
) -> anyhow::Result<Vec<io::Result<String>>> {
    let namespace = Namespace::open_path(from)?;
    Ok(namespace.run(|| (0..count).map(|_| once(address, path)).collect())?)
}

fn once(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer)?;
    body(&answer).map(str::to_owned)
}

fn body(answer: &str) -> io::Result<&str> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "no HTTP answer"))?;
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(body),
        _ => Err(io::Error::other(format!("answered {status:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_200_is_an_answer() {
        assert_eq!(body("HTTP/1.0 200 OK\r\nA: b\r\n\r\nhello").unwrap(), "hello");
        assert!(body("HTTP/1.0 503 no\r\n\r\nhello").unwrap_err().to_string().contains("503"));
        assert!(body("hello").is_err());
    }
}
