//! Names in a lab: every pod's questions are answered on its own node, and while the agent there restarts or is killed, on
//! another.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dns::client::ask;
use dns::query::kind;
use link::Namespace;
use support::{Lab, eventually, ready};

const SERVER: &str = "10.96.0.10:53";
/// Clients of the pod, each with one question after the other from a port of its own.
const CLIENTS: usize = 4;

/// What happened to questions asked steadily while something else did.
#[derive(Debug, Default)]
struct Tally {
    answered: AtomicUsize,
    /// Asked once more after 200 ms.
    again: AtomicUsize,
    /// Not answered after five tries.
    lost: AtomicUsize,
}

/// Asks from the pod, 500 questions a second, while `work` is done and a second longer.
fn while_asking(pod: &Namespace, work: impl FnOnce()) -> Tally {
    let tally = Tally::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                pod.run(|| {
                    let server: SocketAddr = SERVER.parse().unwrap();
                    let name = "kubernetes.default.svc.cluster.local".parse().unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        let asked =
                            || ask(server, &name, kind::A, false, Duration::from_millis(200));
                        let mut tries = 0;
                        while tries < 5 && !asked().is_ok_and(|it| it.reply.answers.len() == 1) {
                            tries += 1;
                        }
                        let count = if tries == 5 { &tally.lost } else { &tally.answered };
                        count.fetch_add(1, Ordering::Relaxed);
                        tally.again.fetch_add(tries, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(8));
                    }
                })
                .unwrap();
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        work();
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
    });
    tally
}

#[test]
fn questions_are_answered_here_and_elsewhere_while_the_agent_is_away() {
    if !ready(&["kubectl", "nft", "conntrack", "bash"]) {
        return;
    }
    let lab = Lab::up("names", &["--nodes", "2"]);
    lab.sh("until kubectl get sa default >/dev/null 2>&1; do sleep 0.1; done
        kubectl run asker --image=busybox --labels=run=asker --restart=Never --overrides='{\"spec\":{\"nodeName\":\"node-1\"}}' -- sleep 1000
        kubectl wait --for=condition=Ready pod/asker --timeout=30s");
    let (_, (_, _, netns)) = lab.pods("run=asker").pop_first().unwrap();
    let pod = Namespace::open_path(&netns).unwrap();
    let tracked =
        || lab.sh("fairway lab exec node-1 -- conntrack -L -p udp --dport 53 2>/dev/null");
    let here = || lab.sh("fairway lab exec node-1 -- nft list tables").contains("fairway-dns-");
    eventually("node-1 answers", Duration::from_secs(10), || {
        here().then_some(()).ok_or_else(|| "no table".into())
    });

    let quiet = while_asking(&pod, || std::thread::sleep(Duration::from_secs(1)));
    assert_eq!(quiet.lost.load(Ordering::Relaxed), 0);
    assert_eq!(quiet.again.load(Ordering::Relaxed), 0, "{quiet:?}");
    assert_eq!(tracked().trim(), "", "questions to the node itself are not tracked");

    // An orderly restart loses nothing, not even a first try.
    let restart = while_asking(&pod, || {
        let table =
            || lab.sh("fairway lab exec node-1 -- nft list tables | grep fairway-dns- || true");
        let before = table();
        lab.sh("kill -TERM $(fairway lab exec node-1 -- ss -Hlunp 'sport = 53' | grep -o 'pid=[0-9]*' | head -1 | cut -d= -f2)");
        eventually("node-1 answers again", Duration::from_secs(30), || {
            let now = table();
            (!now.is_empty() && now != before && now.lines().count() == 1).then_some(()).ok_or(now)
        });
    });
    println!("restart: {restart:?}");
    assert_eq!(restart.lost.load(Ordering::Relaxed), 0, "{restart:?}");

    // A killed agent takes the questions it holds with it; they are asked again, and another node answers at once.
    let killed = while_asking(&pod, || {
        lab.sh("fairway lab node kill node-1 --agent-only");
        let since = Instant::now();
        while here() {
            assert!(since.elapsed() < Duration::from_secs(5), "the table went with its process");
        }
        std::thread::sleep(Duration::from_secs(1));
        // It is compared with what that agent was told, not with what one without options would do.
        lab.sh("fairway diff --node node-1");
        lab.sh("fairway lab node restart node-1 --agent-only");
        eventually("node-1 answers again", Duration::from_secs(20), || {
            here().then_some(()).ok_or_else(|| "no table".into())
        });
    });
    println!("killed: {killed:?}");
    assert_eq!(killed.lost.load(Ordering::Relaxed), 0, "{killed:?}");
    assert!(killed.again.load(Ordering::Relaxed) <= 3 * CLIENTS, "{killed:?}");

    // What an operator sees.
    let text = lab.sh("fairway dns query kubernetes --from pod/default/asker");
    assert!(
        text.contains("kubernetes.default.svc.cluster.local") && text.contains("10.96.0.1"),
        "{text}"
    );
    let text = lab.sh("fairway dns top --node node-1");
    assert!(text.contains("default/asker"), "{text}");
}
