//! Tables as `kubectl` prints them: left-aligned columns three spaces apart, no lines. Pure.

use std::fmt::Write as _;

/// Rows under a header; every row has as many cells as the header.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(header.get(column).map(|title| title.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    let head: Vec<String> = header.iter().map(|title| (*title).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            write!(line, "{cell:width$}   ").expect("invariant: writing to a String cannot fail");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `Key:   value` lines, the values under each other.
#[must_use]
pub fn key_values(rows: &[(&str, String)]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|(key, value)| vec![format!("{key}:"), value.clone()]).collect();
    // A table wants a header; these rows have none.
    table(&["", ""], &rows).split_once('\n').map(|(_, rows)| rows.to_owned()).unwrap_or_default()
}

/// An age as `kubectl` writes it: `5s`, `3m12s`, `2h5m`, `3d4h`, `12d`.
#[must_use]
pub fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |large: u64, unit: char, small: u64, sub: char| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{sub}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, 'm', seconds % 60, 's'),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, 'h', minutes % 60, 'm'),
        () if days < 2 => format!("{hours}h"),
        () if days < 8 => pair(days, 'd', hours % 24, 'h'),
        () => format!("{days}d"),
    }
}

/// Bytes as `12.3 MiB`.
#[must_use]
pub fn mebibytes(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["a".into(), "longer".into()], vec!["bcd".into(), String::new()]];
        assert_eq!(table(&["X", "NAME"], &rows), "X     NAME\na     longer\nbcd\n");
    }

    #[test]
    fn ages_read_like_kubectl() {
        let shown: Vec<String> = [0, 119, 130, 600, 7_200, 10_800, 29_000, 180_000, 700_000]
            .into_iter()
            .map(age)
            .collect();
        assert_eq!(shown, ["0s", "119s", "2m10s", "10m", "120m", "3h", "8h", "2d2h", "8d"]);
    }

    #[test]
    fn mebibytes_have_one_decimal() {
        assert_eq!(mebibytes(12_902_400), "12.3 MiB");
    }
}
