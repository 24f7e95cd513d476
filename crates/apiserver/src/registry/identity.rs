//! Names, uids and times the server gives out. The one place of this crate that asks for
//! randomness.

use jiff::Timestamp;

/// `2026-11-22T13:00:00Z`: `metav1.Time`.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-22T13:00:00.000000Z`: `metav1.MicroTime`.
pub fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Random bytes from the TLS provider's generator.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .expect("invariant: the generator is seeded by the operating system");
    bytes
}

/// A random (version 4) UUID.
pub fn uid() -> String {
    let mut bytes: [u8; 16] = random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Upstream's alphabet without vowels and look-alikes.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// `prefix` cut to 58 bytes and five random characters.
pub fn generate_name(prefix: &str) -> String {
    let end = (0..=prefix.len().min(58)).rev().find(|&end| prefix.is_char_boundary(end));
    let mut name = prefix[..end.unwrap_or_default()].to_owned();
    for byte in random::<5>() {
        name.push(char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_and_names_have_their_form() {
        let uid = uid();
        assert_eq!((uid.len(), &uid[14..15]), (36, "4"));
        assert_eq!(generate_name("web-").len(), 9);
        assert_eq!(generate_name(&"ä".repeat(40)).len(), 58 + 5);
        assert_eq!(time(Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00Z");
        assert_eq!(micro_time(Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
    }
}
