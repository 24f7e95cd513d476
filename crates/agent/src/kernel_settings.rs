//! Settings of the kernel a Service proxy makes, as kube-proxy makes them: connection tracking, and loopback addresses that
//! may leave the loopback. Only what is asked for; what the kernel or a container's read-only /proc does not permit is said,
//! and nothing depends on it. The fabric makes its own settings (`fabric_loop`).

use std::time::Duration;

use link::sysctl::{self, SysctlError};

use crate::kube_proxy::Conntrack;

const MAX: &str = "net/netfilter/nf_conntrack_max";
const BUCKETS: &str = "net/netfilter/nf_conntrack_buckets";
/// Entries per hash bucket, as kube-proxy keeps them.
const PER_BUCKET: u32 = 4;

/// One setting, and whether a higher value that is there already may stay.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    name: &'static str,
    value: u32,
    at_least: bool,
}

/// What is to be set on a machine with so many cores. Pure.
fn wanted(conntrack: Option<&Conntrack>, localhost: bool, cores: u32) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |name, value| settings.push(Setting { name, value, at_least: false });
    if localhost {
        set("net/ipv4/conf/all/route_localnet", 1);
    }
    let Some(conntrack) = conntrack else { return settings };
    let timeouts = [
        ("net/netfilter/nf_conntrack_tcp_timeout_established", conntrack.tcp_established),
        ("net/netfilter/nf_conntrack_tcp_timeout_close_wait", conntrack.tcp_close_wait),
        ("net/netfilter/nf_conntrack_udp_timeout", conntrack.udp),
        ("net/netfilter/nf_conntrack_udp_timeout_stream", conntrack.udp_stream),
    ];
    for (name, timeout) in timeouts {
        if let Some(timeout) = timeout {
            set(name, seconds(timeout));
        }
    }
    if conntrack.tcp_be_liberal {
        set("net/netfilter/nf_conntrack_tcp_be_liberal", 1);
    }
    if let Some(max) = conntrack.max(cores) {
        settings.push(Setting { name: MAX, value: max, at_least: true });
        settings.push(Setting { name: BUCKETS, value: max / PER_BUCKET, at_least: true });
    }
    settings
}

/// The kernel counts whole seconds, and 0 would be "at once".
fn seconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1)
}

/// Makes the settings, in the calling thread's network namespace; returns what could not be made, for people.
pub(crate) fn apply(conntrack: Option<&Conntrack>, localhost: bool) -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut refused = Vec::new();
    for setting in wanted(conntrack, localhost, u32::try_from(cores).unwrap_or(1)) {
        match make(&setting) {
            Ok(true) => {
                tracing::info!(name = setting.name, value = setting.value, "sysctl set");
            }
            Ok(false) => {}
            Err(error) => {
                let Setting { name, value, .. } = setting;
                tracing::warn!(name, value, %error, "a setting of the kernel was not made");
                refused.push(format!("{name} = {value}: {error}"));
            }
        }
    }
    refused
}

fn make(setting: &Setting) -> Result<bool, SysctlError> {
    if setting.at_least {
        let now = sysctl::read(setting.name)?.parse::<u64>().unwrap_or(0);
        if now >= u64::from(setting.value) {
            return Ok(false);
        }
    }
    sysctl::ensure(setting.name, &setting.value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(settings: &[Setting]) -> Vec<String> {
        let text = |setting: &Setting| {
            let name = setting.name.rsplit('/').next().unwrap_or_default();
            format!("{name}{}{}", if setting.at_least { ">=" } else { "=" }, setting.value)
        };
        settings.iter().map(text).collect()
    }

    #[test]
    fn nothing_is_touched_that_nobody_asked_for() {
        assert_eq!(wanted(None, false, 64), []);
        let leave = Conntrack { max_per_core: 0, min: 1 << 20, ..Conntrack::default() };
        assert_eq!(wanted(Some(&leave), false, 64), []);
        assert_eq!(texts(&wanted(None, true, 1)), ["route_localnet=1"]);
    }

    #[test]
    fn kube_proxys_defaults() {
        let set = wanted(Some(&Conntrack::kube_proxy_defaults()), false, 8);
        assert_eq!(
            texts(&set),
            [
                "nf_conntrack_tcp_timeout_established=86400",
                "nf_conntrack_tcp_timeout_close_wait=3600",
                "nf_conntrack_max>=262144",
                "nf_conntrack_buckets>=65536"
            ]
        );
    }

    #[test]
    fn everything_that_can_be_asked_for() {
        let conntrack = Conntrack {
            tcp_be_liberal: true,
            udp: Some(Duration::from_millis(200)),
            udp_stream: Some(Duration::from_secs(90)),
            ..Conntrack::default()
        };
        assert_eq!(
            texts(&wanted(Some(&conntrack), false, 8)),
            [
                "nf_conntrack_udp_timeout=1",
                "nf_conntrack_udp_timeout_stream=90",
                "nf_conntrack_tcp_be_liberal=1"
            ]
        );
    }
}
