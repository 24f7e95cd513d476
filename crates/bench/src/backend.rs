//! What answers behind the Services: one byte in, the dialled address out, closed. An edge: sockets and threads.
//!
//! The threads end with the process; they hold nothing but their sockets.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use link::Namespace;

/// Where every endpoint listens.
pub(crate) const PORT: u16 = 8080;
/// How many connections are answered at the same time.
const THREADS: usize = 2;
/// How long a client may take to send its byte.
const PATIENCE: Duration = Duration::from_millis(500);

/// Answers in `backend` from now on.
pub(crate) fn serve(backend: &Namespace) -> anyhow::Result<()> {
    let listener = backend.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    for _ in 0..THREADS {
        let listener = listener.try_clone()?;
        thread::Builder::new().name("backend".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that went away is its own affair.
                drop(answer(stream));
            }
        })?;
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0])?;
    if let SocketAddr::V4(dialled) = stream.local_addr()? {
        stream.write_all(&dialled.ip().octets())?;
    }
    Ok(())
}
