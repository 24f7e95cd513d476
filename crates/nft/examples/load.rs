//! Loads N Services × M endpoints into a fresh network namespace and prints what each step took.
//!
//! `cargo run --release -p fairway-nft --example load -- 10000 5`
#![allow(unsafe_code, reason = "enters a network namespace of its own")]
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;
use std::time::{Duration, Instant};

use nft::kernel::Netlink;
use nft::{
    Chain, Data, Element, Family, Field, Hook, HookKind, HookPoint, IpFamily, Kernel, Name, Op,
    Packed, Selector, Set, SetData, SetSpec, Statement, Table, Transaction, Verdict, diff,
};

fn program(services: u32, endpoints: u32) -> Result<Table, Box<dyn Error>> {
    let mut table = Table::new(Family::Inet, Name::new("load")?);
    let key = [Selector::IpDaddr, Selector::MetaL4proto, Selector::ThDport];
    let numbered = |modulus| {
        key.iter()
            .cloned()
            .chain([Selector::NumgenRandom { modulus, offset: 0 }])
            .collect::<Vec<_>>()
    };
    let count = Name::new(&format!("random-{endpoints}"))?;
    let chain = Chain::new(count.clone()).rule([
        Statement::any_transport(),
        Statement::dnat(IpFamily::V4, numbered(endpoints), Name::new("slot4")?),
    ]);
    table.insert_chain(chain);
    let hook = Hook::new(HookKind::Nat, HookPoint::Prerouting, -100);
    let dispatch = Chain::base(Name::new("dispatch")?, hook)
        .rule([Statement::vmap(key.clone(), Name::new("frontend4")?)]);
    table.insert_chain(dispatch);
    let fields = [Field::Ipv4Addr, Field::InetProto, Field::InetService];
    let mut frontends =
        Set::new(SetSpec::new(Name::new("frontend4")?, fields).with_data(SetData::Verdict));
    let data = SetData::value([Selector::IpDaddr, Selector::ThDport]);
    let mut slots = Set::new(SetSpec::new(Name::new("slot4")?, numbered(2)).with_data(data));
    for service in 0..services {
        let key = Packed::new().ipv4((0x0a60_0000 + service).into()).proto(6).port(80);
        frontends.elements.insert(&Element::verdict(key, Verdict::Goto(count.clone())))?;
        for slot in 0..endpoints {
            let pod = 0x0af4_0000 + service * endpoints + slot;
            let to = Packed::new().ipv4(pod.into()).port(8080);
            slots.elements.insert(&Element::new(key.index(slot), Data::Value(to)))?;
        }
    }
    table.insert_set(frontends);
    table.insert_set(slots);
    Ok(table)
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what:<44}{:>10.2} ms", milliseconds(start.elapsed()));
    result
}

/// Resident memory of this process in bytes; 0 when the kernel does not say.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok())
        .map_or(0, |pages| pages * 4096)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let services = arguments.next().map_or(Ok(10_000), |text| text.parse())?;
    let endpoints = arguments.next().map_or(Ok(5), |text| text.parse())?;
    // SAFETY: this process has one thread, and moves it.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(format!(
            "a network namespace: {}; run as root",
            std::io::Error::last_os_error()
        )
        .into());
    }
    let before = resident();
    let table = timed("building the table", || program(services, endpoints))?;
    let bytes = resident().saturating_sub(before);
    println!("  {} bytes per element in memory", bytes / table.element_count().max(1));
    println!("  {services} Services × {endpoints} endpoints, {} elements", table.element_count());
    let mut kernel = Netlink::open()?;
    let all = timed("first diff", || diff(&table, None));
    let done = timed("encoding and committing", || kernel.commit(&all))?;
    println!("  {} operations, {} bytes in one send", done.operations, done.bytes);
    drop(all);
    let listed = timed("listing back", || kernel.list(table.family, &table.name))?;
    let again = timed("second diff", || diff(&table, listed.as_ref()));
    println!("  {} operations", again.len());

    let mut times = Vec::new();
    for round in 0..101_u32 {
        let key =
            Packed::new().ipv4((0x0a60_0000 + round % services).into()).proto(6).port(80).index(0);
        let old = table.sets["slot4"].elements.get(&key);
        let to = Data::Value(Packed::new().ipv4((0x0b00_0000 + round).into()).port(8080));
        let mut step = Transaction::new(table.family, table.name.clone());
        let set = &table.sets["slot4"].spec;
        let elements = old.into_iter().collect();
        step.push(Op::DeleteElements { set: set.clone(), elements });
        step.push(Op::AddElements { set: set.clone(), elements: vec![Element::new(key, to)] });
        let start = Instant::now();
        kernel.commit(&step)?;
        times.push(start.elapsed());
    }
    times.sort();
    println!("{:<44}{:>10.2} ms", "replacing one slot, median of 101", milliseconds(times[50]));
    Ok(())
}
