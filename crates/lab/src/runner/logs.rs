//! Container logs as `kubectl logs` asks for them: the choice of lines is pure ([`Filter`]); following a file is the edge.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::inotify::Changes;
use crate::container::log::{parse_line, rotated};

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogQuery {
    /// Stay and send what comes.
    pub follow: bool,
    /// The last so many lines.
    pub tail: Option<usize>,
    /// With the time in front.
    pub timestamps: bool,
    /// The attempt before.
    pub previous: bool,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// At most so many bytes.
    pub limit: Option<usize>,
}

impl LogQuery {
    /// From the query of `/containerLogs`.
    ///
    /// # Errors
    /// A value that is none, by name.
    pub fn parse(query: &[(String, String)], now: Timestamp) -> Result<LogQuery, String> {
        let mut found = LogQuery::default();
        let bad = |name: &str, value: &str| format!("invalid value {value:?} for {name}");
        for (name, value) in query {
            let number = || value.parse::<usize>().map_err(|_| bad(name, value));
            match name.as_str() {
                "follow" => found.follow = is_true(value),
                "timestamps" => found.timestamps = is_true(value),
                "previous" => found.previous = is_true(value),
                "tailLines" => found.tail = Some(number()?),
                "limitBytes" => found.limit = Some(number()?),
                "sinceSeconds" => {
                    let seconds = i64::try_from(number()?).map_err(|_| bad(name, value))?;
                    found.since = Some(now - jiff::SignedDuration::from_secs(seconds));
                }
                "sinceTime" => found.since = Some(value.parse().map_err(|_| bad(name, value))?),
                _ => {}
            }
        }
        Ok(found)
    }
}

pub(super) fn is_true(value: &str) -> bool {
    matches!(value, "true" | "1" | "")
}

/// Turns log records into what is sent. Pure.
#[derive(Debug)]
pub struct Filter {
    timestamps: bool,
    since: Option<Timestamp>,
    left: usize,
    continued: bool,
}

impl Filter {
    /// For this query.
    pub fn new(query: &LogQuery) -> Filter {
        Filter {
            timestamps: query.timestamps,
            since: query.since,
            left: query.limit.unwrap_or(usize::MAX),
            continued: false,
        }
    }

    /// Appends what is sent for one record.
    pub fn take(&mut self, record: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse_line(record) else { return };
        if self.since.is_some_and(|since| line.time.parse::<Timestamp>().is_ok_and(|t| t < since)) {
            return;
        }
        let start = out.len();
        if self.timestamps && !self.continued {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.continued = line.partial;
        let sent = out.len() - start;
        out.truncate(start + sent.min(self.left));
        self.left -= sent.min(self.left);
    }

    /// Whether the limit of bytes is reached.
    pub fn full(&self) -> bool {
        self.left == 0
    }
}

/// The part of a log that holds its last `lines` whole lines.
pub fn tail(log: &[u8], lines: usize) -> &[u8] {
    if lines == 0 {
        return &log[log.len()..];
    }
    let mut seen = 0;
    let mut end = log.len();
    let mut start = end;
    for (index, _) in
        log.iter().enumerate().rev().filter(|(_, b)| **b == b'\n').chain([(usize::MAX, &b'\n')])
    {
        let from = index.wrapping_add(1);
        if from < end {
            let whole = parse_line(log[from..end].trim_ascii_end()).is_some_and(|l| !l.partial);
            if whole || seen == 0 && end == log.len() {
                if seen == lines {
                    return &log[end..];
                }
                seen += 1;
            }
            start = from;
            end = from;
        }
    }
    &log[start..]
}

/// The text (no times) of the last lines, at most `bytes` of it.
pub fn tail_text(log: &[u8], lines: usize, bytes: usize) -> Vec<u8> {
    let mut filter = Filter::new(&LogQuery::default());
    let mut out = Vec::new();
    for record in tail(log, lines).split(|b| *b == b'\n') {
        filter.take(record, &mut out);
    }
    out.split_off(out.len().saturating_sub(bytes))
}

/// Sends a log, and with `follow` goes on until `done` says that no more will come (or nobody listens).
///
/// # Errors
/// The log cannot be read.
pub async fn send(
    path: PathBuf,
    query: LogQuery,
    out: mpsc::Sender<Bytes>,
    done: impl Fn() -> bool,
) -> io::Result<()> {
    let mut filter = Filter::new(&query);
    let mut changes = query.follow.then(|| Changes::of(&path)).transpose()?;
    let mut whole = std::fs::read(rotated(&path)).unwrap_or_default();
    let earlier = whole.len();
    whole.extend(std::fs::read(&path)?);
    let mut offset = whole.len() - earlier;
    // a record that is being written is taken with its end
    let cut = whole.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    offset -= whole.len() - cut.max(earlier);
    let from = query.tail.map_or(&whole[..cut], |lines| tail(&whole[..cut], lines));
    if !push(&mut filter, from, &out).await || !query.follow {
        return Ok(());
    }
    drop(whole);
    loop {
        let over = done();
        let fresh = read_from(&path, &mut offset)?;
        if !fresh.is_empty() && !push(&mut filter, &fresh, &out).await {
            return Ok(());
        }
        if over && fresh.is_empty() {
            return Ok(());
        }
        let Some(changes) = &mut changes else { return Ok(()) };
        tokio::select! {
            changed = changes.next() => changed?,
            // the end of a container changes nothing in its log
            () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {
                if std::fs::metadata(&path).is_ok_and(|m| m.len() < offset as u64) {
                    offset = 0;
                    *changes = Changes::of(&path)?;
                }
            }
            () = out.closed() => return Ok(()),
        }
    }
}

/// Whole records from an offset, which moves behind them.
fn read_from(path: &Path, offset: &mut usize) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(*offset as u64))?;
    let mut fresh = Vec::new();
    file.take(1 << 20).read_to_end(&mut fresh)?;
    fresh.truncate(fresh.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1));
    *offset += fresh.len();
    Ok(fresh)
}

async fn push(filter: &mut Filter, records: &[u8], out: &mpsc::Sender<Bytes>) -> bool {
    let mut text = Vec::new();
    for record in records.split(|b| *b == b'\n') {
        filter.take(record, &mut text);
        if text.len() > 64 << 10 && out.send(std::mem::take(&mut text).into()).await.is_err() {
            return false;
        }
        if filter.full() {
            break;
        }
    }
    let sent = text.is_empty() || out.send(text.into()).await.is_ok();
    sent && !filter.full()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"2026-01-01T00:00:01Z stdout F one\n\
        2026-01-01T00:00:02Z stdout P tw\n\
        2026-01-01T00:00:02Z stdout F o\n\
        2026-01-01T00:00:03Z stderr F three\n";

    fn all(query: &LogQuery, log: &[u8]) -> String {
        let mut filter = Filter::new(query);
        let mut out = Vec::new();
        for record in query.tail.map_or(log, |n| tail(log, n)).split(|b| *b == b'\n') {
            filter.take(record, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_chosen_by_tail_since_and_limit() {
        let q = LogQuery::default;
        assert_eq!(all(&q(), LOG), "one\ntwo\nthree\n");
        assert_eq!(all(&LogQuery { tail: Some(1), ..q() }, LOG), "three\n");
        assert_eq!(all(&LogQuery { tail: Some(2), ..q() }, LOG), "two\nthree\n");
        assert_eq!(all(&LogQuery { tail: Some(0), ..q() }, LOG), "");
        assert_eq!(all(&LogQuery { tail: Some(99), ..q() }, LOG), "one\ntwo\nthree\n");
        let since = Some("2026-01-01T00:00:03Z".parse().unwrap());
        assert_eq!(all(&LogQuery { since, ..q() }, LOG), "three\n");
        assert_eq!(all(&LogQuery { limit: Some(5), ..q() }, LOG), "one\nt");
        assert_eq!(
            all(&LogQuery { timestamps: true, tail: Some(2), ..q() }, LOG),
            "2026-01-01T00:00:02Z two\n2026-01-01T00:00:03Z three\n"
        );
        assert_eq!(tail_text(LOG, 80, 6), b"three\n");
    }

    #[test]
    fn a_query_with_nonsense_is_refused_by_name() {
        let now = Timestamp::UNIX_EPOCH;
        let bad = LogQuery::parse(&[("tailLines".into(), "x".into())], now).unwrap_err();
        assert_eq!(bad, "invalid value \"x\" for tailLines");
        let good = LogQuery::parse(
            &[("follow".into(), "true".into()), ("sinceSeconds".into(), "5".into())],
            now,
        )
        .unwrap();
        assert!(good.follow && good.since.is_some());
    }
}
