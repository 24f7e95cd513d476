//! A question to one server, for those who look: blocking, over UDP and, where the answer does not fit, TCP.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::name::Name;
use crate::query::QName;
use crate::reply::Reply;
use crate::upstream::{BadAnswer, Question, Said, read};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody said anything in time.
    #[error("{server} does not answer: {source}")]
    Silent {
        /// Who was asked.
        server: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// What came is no answer.
    #[error("{server}: {source}")]
    Bad {
        /// Who was asked.
        server: SocketAddr,
        /// Why.
        source: BadAnswer,
    },
}

/// An answer, and how it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// It.
    pub reply: Reply,
    /// Over TCP, because it was asked so or did not fit otherwise.
    pub over_tcp: bool,
    /// How long it took.
    pub took: Duration,
}

/// Asks `server` for a name; `wait` bounds each try.
///
/// # Errors
/// [`AskError`].
pub fn ask(
    server: SocketAddr,
    name: &Name,
    kind: u16,
    over_tcp: bool,
    wait: Duration,
) -> Result<Answered, AskError> {
    let silent = |source| AskError::Silent { server, source };
    let bad = |source| AskError::Bad { server, source };
    let since = Instant::now();
    let qname = QName::of_wire(name.wire()).ok_or(bad(BadAnswer::Malformed))?;
    let id = RandomState::new().hash_one(since) as u16;
    let question = Question::new(id, &qname, kind, || false);
    if !over_tcp {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).map_err(silent)?;
        socket.connect(server).map_err(silent)?;
        socket.set_read_timeout(Some(wait)).map_err(silent)?;
        socket.send(&question.wire()).map_err(silent)?;
        let mut buffer = vec![0; 4096];
        loop {
            let length = socket.recv(&mut buffer).map_err(silent)?;
            match read(&question, &buffer[..length]) {
                Ok(Said::Reply(reply)) => {
                    return Ok(Answered { reply, over_tcp: false, took: since.elapsed() });
                }
                Ok(Said::Truncated) => break,
                Err(BadAnswer::Unasked) => {}
                Err(source) => return Err(bad(source)),
            }
        }
    }
    let mut stream = TcpStream::connect_timeout(&server, wait).map_err(silent)?;
    stream.set_read_timeout(Some(wait)).map_err(silent)?;
    let wire = question.wire();
    let length = u16::try_from(wire.len()).unwrap_or(u16::MAX).to_be_bytes();
    stream.write_all(&[length.as_slice(), &wire].concat()).map_err(silent)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).map_err(silent)?;
    let mut buffer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut buffer).map_err(silent)?;
    match read(&question, &buffer) {
        Ok(Said::Reply(reply)) => Ok(Answered { reply, over_tcp: true, took: since.elapsed() }),
        Ok(Said::Truncated) => Err(bad(BadAnswer::Malformed)),
        Err(source) => Err(bad(source)),
    }
}

/// The names a resolver tries for one, in its order (resolv.conf(5)).
#[must_use]
pub fn candidates(name: &str, searches: &[String], ndots: usize) -> Vec<String> {
    if let Some(whole) = name.strip_suffix('.') {
        return vec![whole.to_owned()];
    }
    let mut all: Vec<String> = searches.iter().map(|it| format!("{name}.{it}")).collect();
    let at = if name.matches('.').count() >= ndots { 0 } else { all.len() };
    all.insert(at, name.to_owned());
    all
}
