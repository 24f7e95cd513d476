//! How upstreams are reached, with real packets: TLS, IPv6, TCP for who asks over TCP; loops; failures in the log; and what
//! a new configuration keeps.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dns::Settings;
use dns::client::ask;
use dns::query::{code, kind};
use support::alone::{SERVER, WAIT, address, alone, data, fake, name, serve, start};

/// Answers each query of a stream with this address.
fn answer_all(stream: &mut (impl Read + Write), ip: [u8; 4]) -> std::io::Result<()> {
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query)?;
        let answer = address(&query, ip, 60);
        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &answer].concat())?;
        stream.flush()?;
    }
}

/// An upstream over TCP, and how many connections it had.
fn over_tcp(at: &str, ip: [u8; 4]) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(at).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut stream: TcpStream = stream.unwrap();
            std::thread::spawn(move || answer_all(&mut stream, ip));
        }
    });
    count
}

#[test]
fn tls_takes_only_the_named_servers_certificate() {
    alone(|| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["dns.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let file = std::env::temp_dir().join(format!("fwdns-ca-{}.pem", std::process::id()));
        std::fs::write(&file, certificate.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.2:853").unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = rustls::ServerConnection::new(config.clone()).unwrap();
                let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
                std::thread::spawn(move || answer_all(&mut stream, [192, 0, 2, 53]));
            }
        });
        let forward = |server: &str| {
            format!(
                ".:53 {{\n forward . tls://127.0.0.2 {{\n tls {}\n tls_servername {server}\n }}\n}}",
                file.display()
            )
        };
        let server = serve(&forward("dns.example"));
        assert_eq!(data("www.example.com"), (0, vec!["192.0.2.53".into()]));
        // The connection is kept: a second question costs no handshake, and has an answer all the same.
        assert_eq!(data("two.example.com"), (0, vec!["192.0.2.53".into()]));
        drop(server);
        let _server = serve(&forward("other.example"));
        assert_eq!(data("www.example.com"), (code::SERVFAIL, Vec::new()));
        std::fs::remove_file(&file).unwrap();
    });
}

#[test]
fn ipv6_is_listened_at_and_forwarded_to() {
    alone(|| {
        let _upstream = fake("[::1]:5353", |query| vec![address(query, [192, 0, 2, 6], 60)]);
        let server = serve(
            ".:53 {\n hosts {\n 192.0.2.7 own.example\n fallthrough\n }\n forward . [::1]:5353\n}",
        );
        let six: SocketAddr = "[::1]:53".parse().unwrap();
        server.listen(&[SERVER, six]).unwrap();
        for at in [SERVER, six] {
            let answered = ask(at, &name("www.example.com"), kind::A, false, WAIT).unwrap();
            assert_eq!(answered.reply.answers[0].data.to_string(), "192.0.2.6", "{at}");
        }
        let answered = ask(six, &name("own.example"), kind::A, true, WAIT).unwrap();
        assert!(answered.over_tcp);
        assert_eq!(answered.reply.answers[0].data.to_string(), "192.0.2.7");
    });
}

#[test]
fn who_asks_over_tcp_is_asked_for_over_tcp() {
    alone(|| {
        let udp = fake("127.0.0.2:53", |query| vec![address(query, [192, 0, 2, 1], 60)]);
        let tcp = over_tcp("127.0.0.2:53", [192, 0, 2, 2]);
        let server = serve(".:53 {\n forward . 127.0.0.2\n}");
        let asked = |over_tcp| {
            let answered = ask(SERVER, &name("a.example"), kind::A, over_tcp, WAIT).unwrap();
            answered.reply.answers[0].data.to_string()
        };
        assert_eq!(asked(false), "192.0.2.1");
        assert_eq!(asked(true), "192.0.2.2");
        assert_eq!(tcp.load(Ordering::SeqCst), 1);
        drop(server);
        let _server = serve(".:53 {\n forward . 127.0.0.2 {\n prefer_udp\n }\n}");
        let before = udp.asked.load(Ordering::SeqCst);
        assert_eq!(asked(true), "192.0.2.1");
        assert_eq!(udp.asked.load(Ordering::SeqCst), before + 1);
    });
}

#[test]
fn a_loop_ends_and_a_better_configuration_is_used() {
    alone(|| {
        let looping = ".:53 {\n loop\n errors\n forward . 127.0.0.1\n}";
        let server = serve(looping);
        let until = Instant::now() + Duration::from_secs(10);
        // Without an end each question goes round until its time is over; with it the answer is a failure at once.
        loop {
            let since = Instant::now();
            assert_eq!(data("www.example.com").0, code::SERVFAIL);
            if since.elapsed() < Duration::from_millis(200) {
                break;
            }
            assert!(Instant::now() < until, "the loop is not noticed");
        }
        let _upstream = fake("127.0.0.2:53", |query| vec![address(query, [192, 0, 2, 1], 60)]);
        let better = looping.replace("127.0.0.1", "127.0.0.2");
        let config = dns::corefile::parse("Corefile".as_ref(), &better, &dns::corefile::Machine);
        server.reconfigure(config.unwrap());
        assert_eq!(data("www.example.com"), (0, vec!["192.0.2.1".into()]));
    });
}

#[test]
fn what_is_remembered_survives_a_change_of_something_else() {
    alone(|| {
        let upstream = fake("127.0.0.2:53", |query| vec![address(query, [192, 0, 2, 1], 60)]);
        let hosts = |ip: &str| {
            format!(
                ".:53 {{\n hosts {{\n {ip} own.example\n fallthrough\n }}\n forward . 127.0.0.2\n cache\n}}"
            )
        };
        let server = serve(&hosts("10.0.0.1"));
        assert_eq!(data("www.example.com").1, ["192.0.2.1"]);
        let asked = upstream.asked.load(Ordering::SeqCst);
        let config = |text: &str| {
            dns::corefile::parse("Corefile".as_ref(), text, &dns::corefile::Machine).unwrap()
        };
        server.reconfigure(config(&hosts("10.0.0.2")));
        assert_eq!(data("own.example").1, ["10.0.0.2"]);
        assert_eq!(data("www.example.com").1, ["192.0.2.1"]);
        assert_eq!(upstream.asked.load(Ordering::SeqCst), asked, "it was remembered");
        // Another cache is another memory.
        server.reconfigure(config(&hosts("10.0.0.2").replace("cache", "cache 7")));
        assert_eq!(data("www.example.com").1, ["192.0.2.1"]);
        assert_eq!(upstream.asked.load(Ordering::SeqCst), asked + 1);
    });
}

/// The log as lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn failures_are_logged_or_counted() {
    alone(|| {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        // The server's threads log, not this one.
        tracing::subscriber::set_global_default(subscriber).unwrap();
        let settings = Settings { threads: 1, ..Settings::default() };
        let _server = start(
            ".:53 {\n errors {\n consolidate 1s \"Connection refused\" warning\n }\n forward . 127.0.0.3\n}\n\
             other:53 {\n errors\n forward . 127.0.0.3\n}",
            &settings,
        );
        for at in 0..5 {
            assert_eq!(data(&format!("n{at}.example")).0, code::SERVFAIL);
        }
        assert_eq!(data("n.other").0, code::SERVFAIL);
        let text = || String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while !text().contains("errors like") {
            assert!(Instant::now() < until, "{}", text());
            std::thread::sleep(Duration::from_millis(50));
        }
        let text = text();
        assert!(
            text.contains("WARN dns: 5 errors like 'Connection refused' occurred in last 1s"),
            "{text}"
        );
        assert!(text.contains("ERROR dns: 2 n.other. A: 127.0.0.3:53:"), "{text}");
        assert_eq!(text.matches("ERROR").count(), 1, "{text}");
    });
}
