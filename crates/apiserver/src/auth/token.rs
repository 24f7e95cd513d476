//! Service account tokens: JWTs signed with the authority's key (ES256, RFC 7515, RFC 7518).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jiff::Timestamp;
use rcgen::{PublicKeyData, SigningKey};
use serde_json::{Value, json};

use super::Authority;

/// Who a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The account's namespace.
    pub namespace: String,
    /// The account's name.
    pub name: String,
    /// The account's uid.
    pub uid: String,
}

/// What `iss` says.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Signs a token that is good until `expires`. `None` if the key cannot sign.
pub fn issue(
    authority: &Authority,
    claims: &Claims,
    audiences: &[String],
    now: Timestamp,
    expires: Timestamp,
) -> Option<String> {
    let header = json!({"alg": "ES256", "typ": "JWT"});
    let body = json!({
        "aud": audiences,
        "exp": expires.as_second(),
        "iat": now.as_second(),
        "iss": ISSUER,
        "jti": crate::registry::identity::uid(),
        "kubernetes.io": {
            "namespace": claims.namespace,
            "serviceaccount": {"name": claims.name, "uid": claims.uid},
        },
        "nbf": now.as_second(),
        "sub": format!("system:serviceaccount:{}:{}", claims.namespace, claims.name),
    });
    let signed =
        format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(body.to_string()));
    let der = authority.key().sign(signed.as_bytes()).ok()?;
    Some(format!("{signed}.{}", BASE64.encode(raw_signature(&der)?)))
}

/// The claims of a token this authority signed and that has not expired.
pub fn verify(authority: &Authority, token: &str, now: Timestamp) -> Option<Claims> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (_, body) = signed.split_once('.')?;
    let signature = der_signature(&BASE64.decode(signature).ok()?)?;
    let algorithms =
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let key = authority.key().der_bytes();
    let genuine = algorithms.all.iter().any(|algorithm| {
        algorithm.public_key_alg_id() == rustls::pki_types::alg_id::ECDSA_P256
            && algorithm.signature_alg_id() == rustls::pki_types::alg_id::ECDSA_SHA256
            && algorithm.verify_signature(key, signed.as_bytes(), &signature).is_ok()
    });
    if !genuine {
        return None;
    }
    let body: Value = serde_json::from_slice(&BASE64.decode(body).ok()?).ok()?;
    if body.get("exp")?.as_i64()? <= now.as_second() {
        return None;
    }
    let text = |at: &str| body.pointer(at).and_then(Value::as_str).map(str::to_owned);
    Some(Claims {
        namespace: text("/kubernetes.io/namespace")?,
        name: text("/kubernetes.io/serviceaccount/name")?,
        uid: text("/kubernetes.io/serviceaccount/uid")?,
    })
}

/// ECDSA-Sig-Value (two DER integers) → the 64 bytes of a JWT.
fn raw_signature(der: &[u8]) -> Option<Vec<u8>> {
    let rest = der.strip_prefix(&[0x30])?;
    let (_, mut rest) = rest.split_first()?;
    let mut out = Vec::with_capacity(64);
    for _ in 0..2 {
        let [0x02, length, after @ ..] = rest else { return None };
        let (number, after) = after.split_at_checked(usize::from(*length))?;
        rest = after;
        let number = match number {
            [0, number @ ..] => number,
            number => number,
        };
        out.extend(std::iter::repeat_n(0, 32usize.checked_sub(number.len())?));
        out.extend_from_slice(number);
    }
    Some(out)
}

fn der_signature(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.len() != 64 {
        return None;
    }
    let mut body = Vec::with_capacity(72);
    for number in raw.chunks(32) {
        let start = number.iter().position(|&byte| byte != 0).unwrap_or(31);
        let number = &number[start..];
        let pad = number[0] >= 0x80;
        body.push(0x02);
        body.push(u8::try_from(number.len() + usize::from(pad)).ok()?);
        if pad {
            body.push(0);
        }
        body.extend_from_slice(number);
    }
    let mut der = vec![0x30, u8::try_from(body.len()).ok()?];
    der.append(&mut body);
    Some(der)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_token_is_good_until_it_expires_and_only_here() {
        let authority = Authority::generate().unwrap();
        let claims = Claims { namespace: "default".into(), name: "web".into(), uid: "u-1".into() };
        let now = Timestamp::UNIX_EPOCH;
        let expires = now + SignedDuration::from_hours(1);
        // Signatures differ each time, leading zeros and high bits included.
        for _ in 0..64 {
            let token = issue(&authority, &claims, &["api".into()], now, expires).unwrap();
            assert_eq!(verify(&authority, &token, now), Some(claims.clone()));
            assert_eq!(verify(&authority, &token, expires), None);
            let forged = token.replace('.', "A.");
            assert_eq!(verify(&authority, &forged, now), None);
        }
        let token = issue(&authority, &claims, &[], now, expires).unwrap();
        assert_eq!(verify(&Authority::generate().unwrap(), &token, now), None);
        assert_eq!(verify(&authority, "a.b.c", now), None);
        let again = Authority::from_pem(authority.certificate_pem(), &authority.key_pem()).unwrap();
        assert_eq!(verify(&again, &token, now), Some(claims));
    }
}
