//! docs/tour.md is true: its commands run against a lab and print what it shows; and what it says in words (an even
//! spread, affinity that holds and expires, hairpin) is measured.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use lab::demo::request;
use lab::demo::stage::{is_even, spread};
use regex::Regex;
use support::{Lab, eventually, output, ready, root};

const TOOLS: [&str; 7] = ["kubectl", "curl", "nft", "ip", "bridge", "bash", "sed"];

/// A `console` block: commands and, after each, what it prints.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    /// Line of the document the command is on, from 1.
    line: usize,
    command: String,
    shown: String,
}

/// A piece of the document: prose kept as it is, or a console block.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Console(Vec<Step>),
}

fn parse(document: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut lines = document.lines().enumerate().peekable();
    while let Some((_, line)) = lines.next() {
        text.push_str(line);
        text.push('\n');
        if line != "```console" {
            continue;
        }
        pieces.push(Piece::Text(std::mem::take(&mut text)));
        let mut steps: Vec<Step> = Vec::new();
        while let Some((at, line)) = lines.next_if(|(_, line)| *line != "```") {
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step {
                    line: at + 1,
                    command: command.to_owned(),
                    shown: String::new(),
                });
            } else if let Some(step) = steps.last_mut() {
                match line.strip_prefix("> ") {
                    Some(more) if step.shown.is_empty() => {
                        step.command.push('\n');
                        step.command.push_str(more);
                    }
                    _ => {
                        step.shown.push_str(line);
                        step.shown.push('\n');
                    }
                }
            }
        }
        pieces.push(Piece::Console(steps));
    }
    pieces.push(Piece::Text(text));
    pieces
}

fn render(pieces: &[Piece]) -> String {
    let mut text = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(words) => text.push_str(words),
            Piece::Console(steps) => {
                for step in steps {
                    writeln!(text, "$ {}", step.command.replace('\n', "\n> ")).unwrap();
                    text.push_str(&step.shown);
                }
            }
        }
    }
    text
}

/// What differs from run to run, made equal; runs of blanks too, as column widths follow the longest name.
fn normal(text: &str) -> Vec<String> {
    const HASH: &str = "[bcdfghjklmnpqrstvwxz2456789]";
    let rules: Vec<(Regex, &str)> = [
        (format!("-{HASH}{{6,10}}-{HASH}{{5}}"), "-<pod>"),
        (r"\b10\.244\.\d+\.\d+".to_owned(), "<pod-ip>"),
        (r"\b10\.96\.0\.1\b".to_owned(), "<kubernetes>"),
        (r"\b10\.96\.\d+\.\d+".to_owned(), "<cluster-ip>"),
        (r"127\.0\.0\.1:\d+".to_owned(), "127.0.0.1:<port>"),
        (r"\b\d+(\.\d+)? (µs|ms|s)\b".to_owned(), "<age>"),
        (r"(^|\s)(<invalid>|(\d+[dhms]){1,3})(\s|$)".to_owned(), "$1<age>$4"),
        (r"^(\S+-<pod>.*<pod-ip>\s+)node-\d".to_owned(), "$1<node>"),
        (r"node-\d is Ready".to_owned(), "<node> is Ready"),
        (r"\bfw[0-9a-f]{13}\b".to_owned(), "<link>"),
        (r"\s+".to_owned(), " "),
    ]
    .into_iter()
    .map(|(pattern, with)| (Regex::new(&pattern).unwrap(), with))
    .collect();
    text.lines()
        .map(|line| {
            let line = rules.iter().fold(line.to_owned(), |line, (rule, with)| {
                rule.replace_all(&line, *with).into_owned()
            });
            line.trim().to_owned()
        })
        .filter(|line| !line.is_empty())
        .collect()
}

/// Whether what was printed is what is shown; `...` in the latter stands for any lines.
fn agrees(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=printed.len()).any(|skipped| agrees(rest, &printed[skipped..]))
        }
        Some((first, rest)) => printed.first() == Some(first) && agrees(rest, &printed[1..]),
    }
}

/// Runs all steps in one shell, so that variables live on; what each printed, both outputs together.
fn run(lab: &Lab, steps: &[&Step]) -> Vec<(String, i32)> {
    let file = std::env::temp_dir().join(format!("fairway-tour-{}.sh", std::process::id()));
    let mut script = String::from("exec 2>&1 </dev/null\n");
    for (at, step) in steps.iter().enumerate() {
        writeln!(script, "{}\nprintf '\\n@@ %d %d\\n' {at} $?", step.command).unwrap();
    }
    fs::write(&file, script).unwrap();
    let (out, err, _) = output(&mut lab.shell(&format!("exec bash {}", file.display())));
    fs::remove_file(&file).unwrap();
    let mut results = Vec::new();
    let mut rest = out.as_str();
    for (at, _) in steps.iter().enumerate() {
        let mark = format!("\n@@ {at} ");
        let Some((printed, after)) = rest.split_once(&mark) else {
            panic!("{:?} did not come back: {rest}{err}\n{}", steps[at].command, lab.logs());
        };
        let (code, after) = after.split_once('\n').unwrap_or((after, ""));
        // The document speaks of the lab a person would make: the default one.
        let printed =
            printed.replace(&format!(" --name {}", lab.name), "").replace(&lab.name, "lab");
        results.push((printed, code.parse().unwrap()));
        rest = after;
    }
    results
}

#[test]
fn the_tour_prints_what_it_shows() {
    if !ready(&TOOLS) {
        return;
    }
    let path = root().join("docs/tour.md");
    let mut pieces = parse(&fs::read_to_string(&path).unwrap());
    let lab = Lab::named("tour");
    let steps: Vec<&Step> = pieces
        .iter()
        .filter_map(|piece| if let Piece::Console(steps) = piece { Some(steps) } else { None })
        .flatten()
        .collect();
    assert!(steps.len() > 30, "the tour has {} commands", steps.len());
    let results = run(&lab, &steps);
    let mut wrong = String::new();
    let mut corrected: BTreeMap<usize, String> = BTreeMap::new();
    for (step, (printed, code)) in steps.iter().zip(&results) {
        if agrees(&normal(&step.shown), &normal(printed)) {
            continue;
        }
        corrected.insert(step.line, printed.trim_matches('\n').to_owned());
        writeln!(
            wrong,
            "docs/tour.md:{}: $ {}\n--- shown\n{}--- printed (exit {code})\n{printed}\n--- compared\n{:#?}\n{:#?}\n",
            step.line, step.command, step.shown, normal(&step.shown), normal(printed)
        )
        .unwrap();
    }
    if wrong.is_empty() {
        return;
    }
    if std::env::var_os("UPDATE_TOUR").is_some() {
        for piece in &mut pieces {
            let Piece::Console(steps) = piece else { continue };
            for step in steps {
                if let Some(printed) = corrected.get(&step.line) {
                    step.shown =
                        if printed.is_empty() { String::new() } else { format!("{printed}\n") };
                }
            }
        }
        fs::write(&path, render(&pieces)).unwrap();
    }
    panic!(
        "{} of {} commands print something else:\n{wrong}\n{}",
        corrected.len(),
        results.len(),
        lab.logs()
    );
}

#[test]
fn manifests_in_the_tour_are_the_examples() {
    let document = fs::read_to_string(root().join("docs/tour.md")).unwrap();
    let mut seen = 0;
    for block in document.split("```yaml\n").skip(1) {
        let (yaml, _) = block.split_once("```").unwrap();
        let (title, yaml) = yaml.split_once('\n').unwrap();
        let file = title.strip_prefix("# ").unwrap();
        assert_eq!(yaml, fs::read_to_string(root().join(file)).unwrap(), "{file}");
        seen += 1;
    }
    assert_eq!(seen, 6, "httpd, httpd-svc, myhttpd, near, balanced and allow-db-access are shown");
}

#[test]
fn the_document_is_read_and_written_alike() {
    let document = fs::read_to_string(root().join("docs/tour.md")).unwrap();
    assert_eq!(render(&parse(&document)), document);
    let text = "a\n```console\n$ one \\\n> two\nshown\n$ three\n```\nb\n";
    let pieces = parse(text);
    let Piece::Console(steps) = &pieces[1] else { panic!("{pieces:?}") };
    assert_eq!(steps[0].command, "one \\\ntwo");
    assert_eq!((steps[0].shown.as_str(), steps[1].line), ("shown\n", 6));
    assert_eq!(render(&pieces), text);
}

#[test]
fn comparing_sees_real_differences_only() {
    let same = |shown: &str, printed: &str| agrees(&normal(shown), &normal(printed));
    let row = "httpd-741508562-4h08z   1/1   Running   0   25s   10.244.1.28   node-2   <none>";
    assert!(same(
        "httpd-6b4c5d7f88-x7k2p 1/1 Running 0 3m10s 10.244.3.4 node-1 <none>",
        "httpd-6b4c5d7f89-x7k2q 1/1 Running 0 2s 10.244.1.4 node-2 <none>"
    ));
    assert!(!same(row, &row.replace("Running", "Pending")));
    assert!(!same(row, &row.replace("1/1", "0/1")));
    assert!(same(
        "kubernetes ClusterIP 10.96.0.1 <none> 443/TCP 4s",
        "kubernetes  ClusterIP  10.96.0.1  <none>  443/TCP  2m"
    ));
    assert!(!same("svc 10.96.0.1 8080/TCP", "svc 10.96.0.2 8080/TCP"));
    assert!(same("a\n...\nz", "a\nb\nc\nz") && same("...", "") && !same("a\n...\nz", "a\nb"));
    assert!(!same("", "something"));
}

/// The backends of `hostnames` as a place in the lab sees them.
fn ask(netns: &Path, service: SocketAddr, count: usize) -> BTreeMap<String, usize> {
    spread(request::many(netns, service, "/hostname", count).unwrap())
}

#[test]
fn services_do_what_the_tour_says_in_words() {
    if !ready(&TOOLS) {
        return;
    }
    let lab = Lab::up("words", &["--nodes", "3"]);
    lab.sh("kubectl apply -f examples/hostnames.yaml -f examples/myhttpd.yaml && \
            kubectl rollout status deployment/hostnames --timeout=30s && \
            kubectl rollout status deployment/myhttpd --timeout=30s");
    let service = lab.cluster_ip("hostnames", 80);
    let pods = lab.pods("app=hostnames");
    assert_eq!(pods.len(), 3);
    let (own, (_, _, inside)) = pods.first_key_value().unwrap();

    // An even spread: each of three within 5 points of a third over 3,000 connections, from a node and from a pod.
    for from in [&lab.netns("node-1"), &lab.netns("node-3"), inside] {
        eventually("all three answer", Duration::from_secs(5), || {
            let counts = ask(from, service, 30);
            if counts.len() == 3 { Ok(()) } else { Err(format!("{counts:?}")) }
        });
        let counts = ask(from, service, 3000);
        assert!(is_even(&counts, 3, 3000, 5.0), "{counts:?}");
    }

    // Hairpin: the pod is among the backends it reaches, nothing is lost.
    let counts = ask(inside, service, 300);
    assert!(counts.get(own).is_some_and(|own| *own > 50) && counts.len() == 3, "{own}: {counts:?}");

    // Every node's NodePort from outside, again and again.
    for node in 1..=3_u8 {
        let door = SocketAddr::new(IpAddr::from([172, 30, 1, node]), 30000);
        let answers = request::many(&lab.netns("client"), door, "/", 50).unwrap();
        assert!(
            answers
                .iter()
                .all(|answer| answer.as_ref().is_ok_and(|body| body.contains("It works!"))),
            "{answers:?}"
        );
    }
    // The ClusterIP is not for the outside.
    assert!(request::get(&lab.netns("client"), service, "/hostname").unwrap().is_err());

    // Affinity holds and expires.
    lab.sh(r#"kubectl patch svc hostnames -p '{"spec":{"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":2}}}}'"#);
    let from = lab.netns("node-2");
    let kept = eventually("affinity holds", Duration::from_secs(5), || {
        let counts = ask(&from, service, 60);
        if counts.len() == 1 {
            Ok(counts.into_keys().next().unwrap())
        } else {
            Err(format!("{counts:?}"))
        }
    });
    assert!(pods.contains_key(&kept), "{kept}");
    // Renewed by use: longer than the timeout in all, never idle as long.
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(800));
        assert_eq!(
            ask(&from, service, 1).into_keys().next(),
            Some(kept.clone()),
            "affinity is renewed by use"
        );
    }
    let moved = (0..15).any(|_| {
        std::thread::sleep(Duration::from_millis(2300));
        ask(&from, service, 1).into_keys().next().is_some_and(|now| now != kept)
    });
    assert!(moved, "the affinity expires (15 free choices of one in three, all {kept})");

    // Scaled to none: refused at once.
    lab.sh("kubectl scale deployment/hostnames --replicas=0");
    eventually("refused", Duration::from_secs(10), || {
        match request::get(&lab.netns("node-1"), service, "/hostname").unwrap() {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}
