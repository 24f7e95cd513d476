//! Conntrack with real UDP packets: after the flow is deleted, the same client reaches the new endpoint at once.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says what it skips"
)]

mod netns;
mod program;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use netns::{in_namespace, run};
use nft::conntrack::{Conntrack, Flow, Frontend};
use nft::kernel::Netlink;
use nft::{
    Chain, Data, Element, Family, Hook, HookKind, HookPoint, IpFamily, Kernel, Packed, Selector,
    Set, SetData, SetSpec, Statement, Table, diff,
};
use program::name;

const FRONTEND: &str = "10.96.0.10:53";

fn service(endpoint: Option<SocketAddr>) -> Table {
    let mut table = Table::new(Family::Inet, name("flows"));
    let key = [Selector::IpDaddr, Selector::MetaL4proto, Selector::ThDport];
    let spec = SetSpec::new(name("slot4"), key.clone())
        .with_data(SetData::value([Selector::IpDaddr, Selector::ThDport]));
    let mut slots = Set::new(spec);
    if let Some(SocketAddr::V4(to)) = endpoint {
        let key = Packed::new().ipv4([10, 96, 0, 10].into()).proto(17).port(53);
        let data = Data::Value(Packed::new().ipv4(*to.ip()).port(to.port()));
        slots.elements.insert(&Element::new(key, data)).unwrap();
    }
    table.insert_set(slots);
    table.insert_chain(
        Chain::base(name("out"), Hook::new(HookKind::Nat, HookPoint::Output, -100))
            .rule([Statement::any_transport(), Statement::dnat(IpFamily::V4, key, name("slot4"))]),
    );
    table
}

fn endpoint(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn received(socket: &UdpSocket) -> Option<SocketAddr> {
    let mut buffer = [0; 16];
    socket.recv_from(&mut buffer).ok().map(|(_, from)| from)
}

#[test]
fn a_deleted_udp_flow_is_translated_anew() {
    in_namespace(|| {
        run("ip", &["link", "set", "lo", "up"], "").unwrap();
        run("ip", &["route", "add", "10.96.0.0/16", "dev", "lo"], "").unwrap();
        let (first, first_address) = endpoint("127.0.0.2:5300");
        let (second, second_address) = endpoint("127.0.0.3:5300");
        let mut kernel = Netlink::open().unwrap();
        let mut conntrack = Conntrack::open().unwrap();
        let switch = |kernel: &mut Netlink, to: Option<SocketAddr>| {
            let wanted = service(to);
            let listed = kernel.list(wanted.family, &wanted.name).unwrap();
            kernel.commit(&diff(&wanted, listed.as_ref())).unwrap();
        };
        switch(&mut kernel, Some(first_address));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(FRONTEND).unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        other.send_to(b"x", second_address).unwrap();
        assert!(received(&second).is_some());
        client.send(b"1").unwrap();
        assert!(received(&first).is_some());

        let to: SocketAddr = FRONTEND.parse().unwrap();
        let frontend = Frontend { protocol: 17, address: Some(to.ip()), port: 53 };
        let flows = conntrack.of_frontend(frontend).unwrap();
        assert_eq!(flows.len(), 1, "{flows:?}");
        let flow = &flows[0];
        assert_eq!((flow.original.destination, flow.original.destination_port), (to.ip(), 53));
        assert_eq!((flow.reply.source, flow.reply.source_port), (first_address.ip(), 5300));
        assert_eq!(flow.original.source_port, client.local_addr().unwrap().port());
        assert_eq!((flow.status & 32, flow.mark, flow.zone), (32, 0, 0));
        assert!(flow.timeout > 0 && flow.timeout <= 180, "{flow:?}");
        assert!(conntrack.list().unwrap().len() >= 2);
        // By whoever began or answers, translated or not; each once.
        let ports = |flows: &[Flow]| -> Vec<u16> {
            let mut ports: Vec<_> = flows.iter().map(|it| it.original.source_port).collect();
            ports.sort_unstable();
            ports
        };
        let asker = client.local_addr().unwrap();
        let own = asker.port();
        assert_eq!(ports(&conntrack.of_end(first_address.ip()).unwrap()), [own]);
        assert_eq!(ports(&conntrack.of_end(to.ip()).unwrap()), [0; 0], "nobody's end");
        let begun = ports(&conntrack.of_end(asker.ip()).unwrap());
        let mut both = [own, other.local_addr().unwrap().port()];
        both.sort_unstable();
        assert_eq!(begun, both);

        // The endpoint changed, the flow did not: this is what the deletion is for.
        switch(&mut kernel, Some(second_address));
        client.send(b"2").unwrap();
        assert!(received(&first).is_some() && received(&second).is_none());

        assert!(flow.is_redirected() && flow.answered_by() == first_address, "{flow:?}");
        assert_eq!(conntrack.delete(&flows).unwrap(), 1);
        client.send(b"3").unwrap();
        assert!(received(&second).is_some());

        let any = Frontend { address: None, ..frontend };
        let again = conntrack.of_frontend(any).unwrap();
        assert_eq!(conntrack.delete(&again).unwrap(), 1);
        assert_eq!(conntrack.delete(&flows).unwrap(), 0);
        let left = conntrack.list().unwrap();
        assert!(
            left.iter().any(|flow| flow.original.destination == second_address.ip()),
            "{left:?}"
        );

        switch(&mut kernel, None);
        client.send(b"4").ok();
        let alone = conntrack.of_frontend(frontend).unwrap();
        assert!(alone.len() == 1 && !alone[0].is_redirected(), "{alone:?}");
        assert_eq!(conntrack.delete(&alone).unwrap(), 1);
    });
}
