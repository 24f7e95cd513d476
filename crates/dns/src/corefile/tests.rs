use super::*;
use crate::config::{Policy, Transport};
use crate::zone::PodRecords;

struct Files(&'static [(&'static str, &'static str)]);

impl World for Files {
    fn read(&self, path: &Path) -> Result<String, String> {
        let found = self.0.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| "No such file".into())
    }

    fn variable(&self, name: &str) -> Option<String> {
        (name == "DOMAIN").then(|| "from.env".to_owned())
    }
}

const FILES: Files = Files(&[
    ("/etc/resolv.conf", "search lan\nnameserver 192.0.2.1\nnameserver 2001:db8::53\n"),
    ("/etc/coredns/more", "errors\ncache 7\n"),
]);

fn read(text: &str) -> Result<Config, String> {
    parse(Path::new("/etc/coredns/Corefile"), text, &FILES).map_err(|error| error.to_string())
}

/// What kubeadm 1.36 writes.
const KUBEADM: &str = "\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";

#[test]
fn kubeadms_is_done() {
    let plain = KUBEADM.replace("       disable success cluster.local\n", "");
    let plain = plain.replace("       disable denial cluster.local\n", "");
    for text in [KUBEADM, &plain] {
        let config = read(text).expect("kubeadm's Corefile");
        let block = &config.blocks[0];
        assert_eq!((block.port, block.zones[0].to_string().as_str()), (53, "."));
        let kubernetes = block.kubernetes.as_ref().expect("kubernetes");
        assert_eq!((kubernetes.ttl, kubernetes.pods), (30, PodRecords::Insecure));
        assert_eq!(kubernetes.zones.len(), 3);
        let upstreams = &block.forwards[0].upstreams;
        assert_eq!(upstreams[1].address.to_string(), "[2001:db8::53]:53");
        assert_eq!(block.forwards[0].max_concurrent, 1000);
        assert_eq!(block.cache.as_ref().map(|cache| cache.success.most), Some(30));
        assert!(block.loadbalance && block.detect_loop && block.errors.is_some());
        let health = block.health.map(|it| (it.address.to_string(), it.lameduck.as_secs()));
        assert_eq!(health, Some(("[::]:8080".into(), 5)));
        let pages = [block.ready, block.prometheus].map(|it| it.map(|it| it.port()));
        assert_eq!(pages, [Some(8181), Some(9153)]);
    }
}

#[test]
fn more_of_it() {
    let config = read(
        "(shared) {\n  import more\n}\n\
         {$DOMAIN}:1053, stub.example {\n import shared\n\
           forward stub.example tls://9.9.9.9 1.1.1.1:54 {\n except no.stub.example\n tls_servername dns.quad9.net\n policy sequential\n }\n\
           hosts {\n 10.0.0.1 a.stub.example # one\n fallthrough\n }\n\
           rewrite stop name suffix .old.example .new.example answer auto\n\
           template IN A t.example {\n match \"^ip-(?P<a>[0-9]+)[.]t[.]example[.]$\"\n answer \"{{ .Name }} 60 IN A 10.0.0.{{ .Group.a }}\"\n fallthrough\n }\n}\n",
    )
    .expect("a Corefile");
    let zones: Vec<_> = config.blocks.iter().map(|it| (it.port, it.zones[0].to_string())).collect();
    assert_eq!(zones, [(1053, "from.env".to_owned()), (53, "stub.example".to_owned())]);
    let block = &config.blocks[0];
    assert_eq!(block.cache.as_ref().map(|cache| cache.success.most), Some(7));
    let forward = &block.forwards[0];
    assert_eq!(forward.policy, Policy::Sequential);
    assert_eq!(forward.upstreams[0].transport, Transport::Tls);
    assert_eq!(forward.upstreams[0].address.port(), 853);
    assert_eq!(forward.upstreams[1].address.port(), 54);
    assert_eq!((block.rewrites.len(), block.templates.len()), (1, 1));
    assert_eq!(block.hosts.as_ref().map(|hosts| hosts.hosts.len()), Some(1));
}

#[test]
fn what_is_not_there_is_named_with_its_line() {
    let wrong = |text: &str| read(text).expect_err("a bad Corefile");
    let text = wrong(".:53 {\n    errors\n    etcd cluster.local\n}\n");
    assert!(
        text.starts_with("/etc/coredns/Corefile:3: plugin \"etcd\" is not one Fairway has"),
        "{text}"
    );
    assert!(text.contains("kubernetes") && text.contains("leave DNS to CoreDNS"), "{text}");
    let text = wrong(".:53 {\n  kubernetes cluster.local {\n    namespaces a\n  }\n}\n");
    assert!(
        text.starts_with("/etc/coredns/Corefile:3: kubernetes: property \"namespaces\""),
        "{text}"
    );
    for (text, line) in [
        (".:53 {\n errors\n", 1),
        (".:53 {\n forward .\n}", 2),
        (".:53 {\n forward . nobody\n}", 2),
        (".:53 {\n forward . /no/such/file\n}", 2),
        (".:53 {\n cache x..y\n}", 2),
        ("a..b {\n}\n", 1),
        ("tls://. {\n}\n", 1),
        ("", 1),
        (".:53 {\n import nowhere\n}", 2),
        (".:53 {\n kubernetes a {\n pods maybe\n }\n}", 3),
        (".:53 {\n template IN A {\n answer \"{{ .Remote }} 1 IN A 1.1.1.1\"\n }\n}", 3),
        (".:53 {\n reload soon\n}", 2),
        (".:53 {\n ready nowhere\n}", 2),
        (".:53 {\n health {\n lameduck\n }\n}", 3),
        (".:53 {\n errors {\n stacktrace\n }\n}", 3),
        (".:53 {\n errors {\n consolidate 5m ( error\n }\n}", 3),
        (".:53 {\n errors {\n consolidate 5m . loud\n }\n}", 3),
        (".:53 {\n hosts {\n reload\n }\n}", 3),
        (".:53 {\n hosts {\n \"unclosed\n }\n}", 3),
    ] {
        let said = wrong(text);
        assert!(said.starts_with(&format!("/etc/coredns/Corefile:{line}: ")), "{text:?}: {said}");
    }
}

#[test]
fn networks_are_their_reverse_zones() {
    let zones = |text: &str| {
        let zones = super::zones(text).expect("zones");
        zones.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(zones("10.96.0.0/16"), ["96.10.in-addr.arpa"]);
    assert_eq!(zones("10.96.0.0/15"), ["96.10.in-addr.arpa", "97.10.in-addr.arpa"]);
    assert_eq!(zones("fd00:10::/32"), ["0.1.0.0.0.0.d.f.ip6.arpa"]);
}

proptest::proptest! {
    #[test]
    fn nothing_panics(text in "[ -~\n]{0,200}") {
        drop(read(&text));
    }

    #[test]
    fn nothing_made_of_its_words_panics(words in proptest::collection::vec(
        proptest::sample::select(vec![".", ":53", "{", "}", "\n", "\"", "#", "kubernetes", "forward", "cache", "hosts", "rewrite",
            "name", "regex", "(", "import", "shared", "(shared)", "template", "IN", "A", "answer", "{{", "10.0.0.0/7", "\\", "ttl", "5"]), 0..40)) {
        drop(read(&words.join(" ")));
    }
}
