//! Files every container of a pod shares: resolv.conf by dnsPolicy, hosts, hostname. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, PodSpec};

/// A resolver configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<(String, Option<String>)>,
}

impl Resolver {
    /// Takes a resolv.conf apart; what it does not know it leaves out.
    pub fn parse(text: &str) -> Resolver {
        let mut found = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.nameservers.extend(words.next().map(str::to_owned)),
                Some("search") => found.searches = words.map(str::to_owned).collect(),
                Some("options") => found.options.extend(words.map(|w| match w.split_once(':') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (w.to_owned(), None),
                })),
                _ => {}
            }
        }
        found
    }

    /// As a file.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if !self.searches.is_empty() {
            out.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            let options = self.options.iter().map(|(name, value)| match value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
            out.push_str(&format!("options {}\n", options.collect::<Vec<_>>().join(" ")));
        }
        out
    }
}

/// The pod's resolver: `ClusterFirst` unless it says otherwise (and `Default` for hostNetwork without
/// `ClusterFirstWithHostNet`), with its dnsConfig merged in.
pub fn resolver(
    spec: &PodSpec,
    namespace: &str,
    cluster_dns: &[IpAddr],
    domain: &str,
    node: &Resolver,
) -> Resolver {
    let host_network = spec.host_network == Some(true);
    let cluster = || Resolver {
        nameservers: cluster_dns.iter().map(ToString::to_string).collect(),
        searches: [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()]
            .into_iter()
            .chain(node.searches.iter().cloned())
            .collect(),
        options: vec![("ndots".into(), Some("5".into()))],
    };
    let mut result = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => Resolver::default(),
        "Default" => node.clone(),
        "ClusterFirstWithHostNet" => cluster(),
        _ if host_network => node.clone(),
        _ => cluster(),
    };
    if let Some(config) = &spec.dns_config {
        let add = |list: &mut Vec<String>, more: &Option<Vec<String>>| {
            for item in more.iter().flatten() {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        };
        add(&mut result.nameservers, &config.nameservers);
        add(&mut result.searches, &config.searches);
        for option in config.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            result.options.retain(|(n, _)| *n != name);
            result.options.push((name, option.value.clone()));
        }
    }
    result
}

/// The hosts file of a pod with addresses of its own.
pub fn hosts(hostname: &str, fqdn: Option<&str>, ips: &[IpAddr], aliases: &[HostAlias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        match fqdn {
            Some(fqdn) => out.push_str(&format!("{ip}\t{fqdn}\t{hostname}\n")),
            None => out.push_str(&format!("{ip}\t{hostname}\n")),
        }
    }
    out.push_str(&host_aliases(aliases));
    out
}

/// The lines of hostAliases.
pub fn host_aliases(aliases: &[HostAlias]) -> String {
    let lines = aliases
        .iter()
        .map(|a| format!("{}\t{}\n", a.ip, a.hostnames.as_deref().unwrap_or_default().join("\t")));
    let lines: String = lines.collect();
    if lines.is_empty() { lines } else { format!("\n# Entries added by HostAliases.\n{lines}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(spec: serde_json::Value) -> String {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let node = Resolver::parse("nameserver 9.9.9.9\nsearch lan\n");
        resolver(&spec, "ns", &["10.96.0.10".parse().unwrap()], "cluster.local", &node).text()
    }

    #[test]
    fn policies() {
        let cluster = "search ns.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.96.0.10\noptions ndots:5\n";
        let node = "search lan\nnameserver 9.9.9.9\n";
        assert_eq!(of(json!({"containers": []})), cluster);
        assert_eq!(of(json!({"containers": [], "hostNetwork": true})), node);
        assert_eq!(
            of(
                json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})
            ),
            cluster
        );
        assert_eq!(of(json!({"containers": [], "dnsPolicy": "Default"})), node);
        assert_eq!(
            of(
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}})
            ),
            "nameserver 1.1.1.1\noptions ndots:2 edns0\n"
        );
    }

    #[test]
    fn hosts_name_the_pod_by_every_address() {
        let ips = ["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let text = hosts("web-1", Some("web-1.sub.ns.svc.cluster.local"), &ips, &[]);
        assert!(text.contains("10.244.1.2\tweb-1.sub.ns.svc.cluster.local\tweb-1\n"));
        assert!(text.contains("fd00::2\t"));
    }
}
