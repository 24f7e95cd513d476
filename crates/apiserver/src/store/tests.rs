use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pods() -> Resource {
    Resource::new("", "pods")
}

fn key(name: &str) -> Key {
    Key::new(&pods(), "default", name)
}

fn object(name: &str, n: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"n": n}})
}

#[test]
fn writes_carry_one_growing_revision() {
    let store = Store::new();
    let a = store.create(&key("a"), object("a", 0)).unwrap();
    let b = store.create(&Key::new(&Resource::new("", "nodes"), "", "b"), object("b", 0)).unwrap();
    assert!(revision_of(&b).unwrap() > revision_of(&a).unwrap());
    assert_eq!(store.revision(), revision_of(&b).unwrap());
    assert!(matches!(store.create(&key("a"), object("a", 1)), Err(WriteError::Exists(_))));
    assert!(matches!(
        store.update(&key("a"), object("a", 1), Some(99)),
        Err(WriteError::Conflict { expected: 99, .. })
    ));
    assert!(matches!(store.delete(&key("zz"), None), Err(WriteError::NotFound(_))));
}

#[test]
fn an_equal_value_is_no_write() {
    let store = Store::new();
    let a = store.create(&key("a"), object("a", 0)).unwrap();
    let same = store.update(&key("a"), object("a", 0), None).unwrap();
    assert_eq!(a, same);
    assert_eq!(store.revision(), revision_of(&a).unwrap());
}

#[test]
fn a_watch_that_is_too_old_expires() {
    let store = Store::with_ring(4);
    let from = store.revision();
    let mut slow = store.watch(&pods(), None, from).unwrap();
    for n in 0..6 {
        store.create(&key(&format!("p{n}")), object("p", n)).unwrap();
    }
    let expired = store.watch(&pods(), None, from).unwrap_err();
    assert_eq!(expired.asked, from);
    assert_eq!(expired.oldest, from + 2);
    assert_eq!(slow.try_next().unwrap_err(), expired);
    assert!(store.watch(&pods(), None, from + 2).is_ok());
    // A quiet resource does not expire because others are busy.
    assert!(store.watch(&Resource::new("", "services"), None, from).is_ok());
    assert!(store.watch(&pods(), None, store.revision() + 1).is_err());
}

#[test]
fn a_watch_that_waits_is_woken() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::new();
        let mut watch = store.watch(&pods(), Some("default"), store.revision()).unwrap();
        let writer = store.clone();
        let thread = std::thread::spawn(move || {
            writer.create(&Key::new(&pods(), "other", "x"), object("x", 0)).unwrap();
            writer.create(&key("a"), object("a", 0)).unwrap();
        });
        let event = watch.next().await.unwrap();
        assert_eq!((&*event.key.name, event.change), ("a", Change::Added));
        thread.join().unwrap();
    });
}

#[derive(Debug, Clone)]
enum Op {
    Put(u8, u8, u64),
    Delete(u8, u8),
    Relist,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3u8, 0..6u8, 0..4u64).prop_map(|(ns, name, n)| Op::Put(ns, name, n)),
        2 => (0..3u8, 0..6u8).prop_map(|(ns, name)| Op::Delete(ns, name)),
        1 => Just(Op::Relist),
    ]
}

proptest! {
    /// list + replayed watch = state, at every moment, for the whole resource and a namespace.
    #[test]
    fn list_and_watch_replay_to_the_state(ops in proptest::collection::vec(op(), 1..120)) {
        let store = Store::new();
        let resource = pods();
        let views = [None, Some("1")];
        let mut replicas: Vec<_> = views.iter().map(|ns| {
            let (listing, watch) = store.list_watch(&resource, *ns);
            (*ns, index(&listing), watch)
        }).collect();
        for op in ops {
            match op {
                Op::Put(ns, name, n) => {
                    let key = Key::new(&resource, &ns.to_string(), &name.to_string());
                    let value = json!({"metadata": {"name": &*key.name, "namespace": &*key.namespace}, "n": n});
                    if store.create(&key, value.clone()).is_err() {
                        store.update(&key, value, None).unwrap();
                    }
                }
                Op::Delete(ns, name) => {
                    let _gone = store.delete(
                        &Key::new(&resource, &ns.to_string(), &name.to_string()), None);
                }
                Op::Relist => {
                    let (listing, watch) = store.list_watch(&resource, None);
                    replicas.push((None, index(&listing), watch));
                }
            }
            for (ns, state, watch) in &mut replicas {
                let mut last = 0;
                while let Some(event) = watch.try_next().unwrap() {
                    prop_assert!(event.revision > last);
                    last = event.revision;
                    prop_assert_eq!(revision_of(&event.object), Some(event.revision));
                    let at = (event.key.namespace.to_string(), event.key.name.to_string());
                    let before = match event.change {
                        Change::Deleted => state.remove(&at),
                        _ => state.insert(at, event.object.clone()),
                    };
                    prop_assert_eq!(&before, &event.previous);
                }
                prop_assert_eq!(&*state, &index(&store.list(&resource, *ns)));
                prop_assert_eq!(watch.seen(), store.revision());
            }
        }
    }
}

fn index(listing: &Listing) -> BTreeMap<(String, String), Arc<Value>> {
    listing
        .items
        .iter()
        .map(|value| {
            let text = |field: &str| value["metadata"][field].as_str().unwrap().to_owned();
            ((text("namespace"), text("name")), value.clone())
        })
        .collect()
}
