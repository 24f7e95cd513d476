//! The codec against bytes from anywhere.

use proptest::prelude::*;

use super::socket::{parse, split};
use super::*;
use crate::{LinkEnd, LinkSettings, Veth};

proptest! {
    #[test]
    fn any_datagram_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(messages) = split(&bytes) {
            for message in messages {
                let _parsed = parse(message).is_ok();
            }
        }
    }

    #[test]
    fn well_framed_garbage_is_answered(
        kind in prop_oneof![Just(16u16), Just(20), Just(24), Just(28), Just(2), Just(3)],
        body in proptest::collection::vec(any::<u8>(), 0..128),
    ) {
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(&body);
        for message in split(&bytes).unwrap() {
            let _parsed = parse(message).is_ok();
        }
    }
}

#[test]
fn names_the_kernel_would_refuse_never_reach_it() {
    for bad in ["", ".", "..", "a/b", "a b", "a:b", "sixteen-bytes-xx"] {
        let veth = Veth::new(LinkEnd::named(bad), LinkEnd::named("ok"));
        assert!(encode::change(&Change::AddVeth(veth)).is_err(), "{bad:?}");
    }
    let rename = LinkSettings { rename: Some("new".to_owned()), ..LinkSettings::default() };
    assert!(encode::change(&Change::SetLink("old".into(), rename)).is_err());
}

#[test]
fn a_route_of_two_families_is_invalid() {
    let route = Route::to("10.0.0.0/8".parse().unwrap()).via("fe80::1".parse().unwrap()).on(1);
    let error = encode::change(&Change::AddRoute(route)).unwrap_err();
    assert!(error.to_string().contains("ip route add 10.0.0.0/8 via fe80::1"), "{error}");
}
