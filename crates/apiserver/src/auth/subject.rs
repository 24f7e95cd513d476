//! The subject of a client certificate: CN is the user, O its groups.
//!
//! The certificate was verified by TLS before; this only walks its DER (X.690, RFC 5280) as far
//! as the subject. Reads outside bytes, so every length is checked.

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const VERSION: u8 = 0xa0;

/// One tag-length-value: (tag, content, what follows).
fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 3 {
            return None;
        }
        let (bytes, after) = rest.split_at_checked(count)?;
        rest = after;
        bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte))
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn expect(input: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    element(input).and_then(|(tag, content, rest)| (tag == wanted).then_some((content, rest)))
}

/// Common name and organisations of a certificate's subject.
pub(super) fn read(der: &[u8]) -> Option<(String, Vec<String>)> {
    let (certificate, _) = expect(der, SEQUENCE)?;
    let (mut body, _) = expect(certificate, SEQUENCE)?;
    if let Some((_, rest)) = expect(body, VERSION) {
        body = rest;
    }
    // serial number, signature algorithm, issuer, validity
    for _ in 0..4 {
        (_, _, body) = element(body)?;
    }
    let (mut names, _) = expect(body, SEQUENCE)?;
    let (mut user, mut groups) = (String::new(), Vec::new());
    while !names.is_empty() {
        let (mut set, rest) = expect(names, SET)?;
        names = rest;
        while !set.is_empty() {
            let (pair, rest) = expect(set, SEQUENCE)?;
            set = rest;
            let (oid, value) = expect(pair, OID)?;
            let (_, text, _) = element(value)?;
            let text = std::str::from_utf8(text).ok()?.to_owned();
            match oid {
                [0x55, 0x04, 0x03] => user = text,
                [0x55, 0x04, 0x0a] => groups.push(text),
                _ => {}
            }
        }
    }
    Some((user, groups))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::auth::Authority;

    fn certificate() -> CertificateDer<'static> {
        let made =
            Authority::generate().unwrap().client("system:node:node-1", "system:nodes").unwrap();
        CertificateDer::from_pem_slice(made.certificate_pem.as_bytes()).unwrap()
    }

    #[test]
    fn reads_user_and_group() {
        assert_eq!(
            read(&certificate()),
            Some(("system:node:node-1".to_owned(), vec!["system:nodes".to_owned()]))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_certificates_never_panic(at in 0..400usize, byte: u8, cut in 0..500usize) {
            static DER: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
            let mut der = DER.get_or_init(|| certificate().to_vec()).clone();
            let at = at % der.len();
            der[at] = byte;
            der.truncate(cut.max(1));
            prop_assert!(read(&der).is_none_or(|(user, _)| user.len() < 500));
        }
    }
}
