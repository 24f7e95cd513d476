//! Measures what steering reaches with real connections: three endpoints, the first holds each connection four times as
//! long, and clients of mixed patience. Prints most / mean of the connections held, averaged over the measured time.
//!
//! `cargo run -p fairway-service --example least_connections`, as root; it takes about three minutes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that fails says so and ends"
)]

#[path = "../tests/objects/mod.rs"]
mod objects;
#[allow(dead_code, reason = "the tests use other parts of the world")]
#[path = "../tests/world/mod.rs"]
mod world;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use world::World;

const PER_SECOND: f64 = 60.0;
const SLOW: u32 = 4;
const WARM_UP: Duration = Duration::from_secs(20);
const MEASURED: Duration = Duration::from_secs(40);

fn objects(balance: &str) -> String {
    let slice = |at: u16, address: &str| {
        format!(
            "---\nkind: EndpointSlice\nmetadata: {{namespace: default, name: web-{at}, labels: \
             {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{port: {}}}]\nendpoints:\n- {{addresses: \
             ['{address}'], nodeName: node-1}}\n",
            9000 + at
        )
    };
    format!(
        "kind: Node\nmetadata: {{name: node-1}}\nspec: {{podCIDRs: [10.244.1.0/24]}}\n---\nkind: Service\nmetadata: \
         {{namespace: default, name: web, annotations: {{fairway.dev/balance: {balance}}}}}\nspec:\n  clusterIPs: \
         [10.96.0.1]\n  ports: [{{port: 80}}]\n{}{}{}",
        slice(0, "10.244.1.5"),
        slice(1, "10.244.1.5"),
        slice(2, "10.244.1.6"),
    )
}

/// Random numbers from 0 to 1 (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn after(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.roll()).ln()
    }
}

/// Holds each connection as many milliseconds as the client asks for, times `slow`.
fn serve(port: u16, address: &str, slow: u32, held: Arc<AtomicU32>) {
    let listener = TcpListener::bind((address, port)).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let held = held.clone();
            thread::spawn(move || {
                held.fetch_add(1, Ordering::Relaxed);
                let mut asked = [0; 4];
                if stream.read_exact(&mut asked).is_ok() {
                    thread::sleep(Duration::from_millis((u32::from_be_bytes(asked) * slow).into()));
                }
                held.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
}

fn measure(balance: &str) -> f64 {
    let mut world = World::or_skip().unwrap();
    world.set(&objects(balance));
    let held: [Arc<AtomicU32>; 3] = Default::default();
    for (at, held) in (0u16..).zip(&held) {
        let (pod, address) =
            if at < 2 { (&world.pods[0], "10.244.1.5") } else { (&world.pods[1], "10.244.1.6") };
        let slow = if at == 0 { SLOW } else { 1 };
        pod.run(|| serve(9000 + at, address, slow, held.clone())).unwrap();
    }
    let started = Instant::now();
    // New threads are in the namespace of the one that makes them.
    let clients = || {
        thread::spawn(move || {
            let mut dice = Dice(0x1234_5678_9abc_def1);
            let mut next = started;
            while started.elapsed() < WARM_UP + MEASURED {
                thread::sleep(next.saturating_duration_since(Instant::now()));
                next += Duration::from_secs_f64(dice.after(1.0 / PER_SECOND));
                let mean = if dice.roll() < 0.8 { 300.0 } else { 1500.0 };
                let hold = dice.after(mean) as u32;
                thread::spawn(move || {
                    let mut stream = TcpStream::connect("10.96.0.1:80").unwrap();
                    stream.write_all(&hold.to_be_bytes()).unwrap();
                    drop(stream.read(&mut [0]));
                });
            }
        })
    };
    let clients = world.client.run(clients).unwrap();
    let (mut sum, mut samples, mut steps) = (0.0, 0.0, 0);
    while started.elapsed() < WARM_UP + MEASURED {
        thread::sleep(Duration::from_millis(50));
        if balance == "least-connections" && started.elapsed().as_secs() > steps {
            steps = started.elapsed().as_secs();
            world.steer();
        }
        let counts = held.each_ref().map(|held| f64::from(held.load(Ordering::Relaxed)));
        let total: f64 = counts.iter().sum();
        if started.elapsed() > WARM_UP && total > 0.0 {
            sum += counts.iter().copied().fold(0.0, f64::max) * 3.0 / total;
            samples += 1.0;
        }
    }
    clients.join().unwrap();
    sum / samples
}

fn main() {
    for balance in ["random", "round-robin", "least-connections"] {
        println!("{balance}: most / mean {:.2}", measure(balance));
    }
}
