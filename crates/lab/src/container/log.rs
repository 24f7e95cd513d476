//! The container log: one line per line of output, `<RFC 3339 time> stdout|stderr F|P text`, as the CRI writes it.
//!
//! `P` marks a piece of a longer line (a line is cut at 16 KiB, and what is there is written when the program pauses or
//! ends). A file over [`ROTATE_BYTES`] is renamed to `.1` (replacing the one before), so a chatty container holds at
//! most twice that on disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A log file is rotated when it is larger than this.
pub const ROTATE_BYTES: u64 = 10 << 20;
const MAX_LINE: usize = 16 << 10;

/// Which of the program's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output (and a terminal).
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Writes one container's log.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    partial: [Vec<u8>; 2],
}

impl LogWriter {
    /// Opens (and creates) the log file.
    ///
    /// # Errors
    /// The directory is not writable or full.
    pub fn open(path: &Path) -> io::Result<LogWriter> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(LogWriter { path: path.to_owned(), file, size, partial: [Vec::new(), Vec::new()] })
    }

    /// Takes what the program wrote at `now`.
    ///
    /// # Errors
    /// The file cannot be written; the bytes are lost, later ones are tried again.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now: jiff::Timestamp) -> io::Result<()> {
        let slot = stream as usize;
        let mut out = Vec::with_capacity(bytes.len() + 64);
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.partial[slot].extend_from_slice(piece);
            let whole = piece.ends_with(b"\n");
            while self.partial[slot].len() > MAX_LINE {
                let rest = self.partial[slot].split_off(MAX_LINE);
                line(&mut out, now, stream, b'P', &self.partial[slot]);
                self.partial[slot] = rest;
            }
            if whole {
                let text = std::mem::take(&mut self.partial[slot]);
                line(&mut out, now, stream, b'F', text.strip_suffix(b"\n").unwrap_or(&text));
            }
        }
        self.put(&out)
    }

    /// Writes what is left of unfinished lines; the program ended or waits with a prompt.
    ///
    /// # Errors
    /// As [`LogWriter::write`].
    pub fn flush(&mut self, now: jiff::Timestamp) -> io::Result<()> {
        let mut out = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let text = std::mem::take(&mut self.partial[stream as usize]);
            if !text.is_empty() {
                line(&mut out, now, stream, b'P', &text);
            }
        }
        self.put(&out)
    }

    fn put(&mut self, out: &[u8]) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        if self.size > ROTATE_BYTES {
            std::fs::rename(&self.path, rotated(&self.path))?;
            self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(out)?;
        self.size += out.len() as u64;
        Ok(())
    }
}

/// Where an earlier part of a log is kept.
pub fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

fn line(out: &mut Vec<u8>, now: jiff::Timestamp, stream: Stream, tag: u8, text: &[u8]) {
    out.extend_from_slice(format!("{now:.9}").as_bytes());
    out.push(b' ');
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(&[b' ', tag, b' ']);
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// One line read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// The time as written.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// The line goes on in the next record of this stream.
    pub partial: bool,
    /// The text without the line end.
    pub text: &'a [u8],
}

/// Takes one record apart; `None` when it is not one (a torn write after a crash).
pub fn parse_line(record: &[u8]) -> Option<LogLine<'_>> {
    let mut parts = record.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tag = parts.next()?;
    let text = parts.next()?;
    Some(LogLine { time, stream, partial: tag == b"P", text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_whole_or_marked_partial_and_read_back() {
        let dir = std::env::temp_dir().join(format!("fairway-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("0.log");
        let now: jiff::Timestamp = "2026-01-02T03:04:05.6Z".parse().unwrap();
        let mut log = LogWriter::open(&path).unwrap();
        log.write(Stream::Stdout, b"one\ntw", now).unwrap();
        log.write(Stream::Stderr, b"oops\n", now).unwrap();
        log.write(Stream::Stdout, b"o\nprompt> ", now).unwrap();
        log.flush(now).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "2026-01-02T03:04:05.600000000Z stdout F one\n\
             2026-01-02T03:04:05.600000000Z stderr F oops\n\
             2026-01-02T03:04:05.600000000Z stdout F two\n\
             2026-01-02T03:04:05.600000000Z stdout P prompt> \n"
        );
        let last = parse_line(text.lines().last().unwrap().as_bytes()).unwrap();
        assert!(last.partial);
        assert_eq!(last.text, b"prompt> ");
        assert_eq!(parse_line(b"garbage"), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_large_log_is_rotated_once() {
        let dir = std::env::temp_dir().join(format!("fairway-rot-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("0.log");
        let now = jiff::Timestamp::UNIX_EPOCH;
        let mut log = LogWriter::open(&path).unwrap();
        let mut chunk = vec![b'x'; 8000];
        chunk.push(b'\n');
        for _ in 0..1400 {
            log.write(Stream::Stdout, &chunk, now).unwrap();
        }
        assert!(rotated(&path).exists());
        assert!(std::fs::metadata(&path).unwrap().len() < ROTATE_BYTES);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
