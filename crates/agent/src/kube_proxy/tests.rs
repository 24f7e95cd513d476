//! The file kubeadm writes, files people write, and files that are something else.

use super::field::duration;
use super::reading::OTHER_SECTION;
use super::*;

/// As kubeadm 1.33 writes it into the ConfigMap `kube-proxy`.
const KUBEADM: &str = r#"
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"#;

fn read(rest: &str) -> KubeProxyConfiguration {
    parse(&format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{rest}")).expect("a configuration")
}

fn verdict<'a>(config: &'a KubeProxyConfiguration, path: &str) -> &'a Verdict {
    let field = config.fields.iter().find(|field| field.path == path);
    &field.unwrap_or_else(|| panic!("{path} is not among {:?}", config.fields)).verdict
}

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[test]
fn kubeadms_file_is_kube_proxys_defaults_and_says_two_things() {
    let config = parse(KUBEADM).expect("a configuration");
    let said: Vec<_> =
        config.fields.iter().map(|field| (field.path.as_str(), &field.verdict)).collect();
    assert_eq!(
        said,
        [("clientConnection.kubeconfig", &Verdict::Honoured), ("clusterCIDR", &Verdict::Honoured)]
    );
    let set = config.settings;
    assert_eq!(set.kubeconfig, Some("/var/lib/kube-proxy/kubeconfig.conf".into()));
    let ranges = ["10.244.0.0/16", "fd00:10:244::/56"].map(|text| text.parse().expect("a range"));
    assert_eq!((set.local, set.pod_cidrs), (LocalTraffic::ClusterCidrs, ranges.to_vec()));
    assert_eq!(
        (set.health.to_string(), set.metrics.to_string()),
        ("0.0.0.0:10256".into(), "127.0.0.1:10249".into())
    );
    assert_eq!(set.conntrack, Conntrack::kube_proxy_defaults());
    assert_eq!((set.node_ports, set.localhost_node_ports), (NodePortAddresses::All, true));
    assert_eq!((set.masquerade_all, set.masquerade_bit), (false, 14));
}

#[test]
fn kubeadms_config_map_is_read_too() {
    let indented: String = KUBEADM.lines().map(|line| format!("    {line}\n")).collect();
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: kube-proxy}}\ndata:\n  config.conf: |-\n{indented}  kubeconfig.conf: x\n"
    );
    assert_eq!(parse(&map).expect("a configuration"), parse(KUBEADM).expect("a configuration"));
}

#[test]
fn everything_that_applies_is_honoured() {
    let config = read(
        "mode: nftables
hostnameOverride: node-9
bindAddress: 172.30.1.9
healthzBindAddress: ':10300'
metricsBindAddress: 0.0.0.0
nodePortAddresses: [192.0.2.0/24, 127.0.0.0/8]
nftables: {masqueradeAll: true, masqueradeBit: 15, syncPeriod: 1m0s, minSyncPeriod: 500ms}
iptables: {masqueradeBit: 3}
conntrack: {maxPerCore: 0, min: 7, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 1h0m0s, tcpBeLiberal: true, udpTimeout: 10s, udpStreamTimeout: 2m}
",
    );
    let honoured = config.fields.iter().filter(|field| field.verdict == Verdict::Honoured).count();
    assert_eq!(honoured, config.fields.len() - 2, "{:?}", config.fields);
    assert!(matches!(verdict(&config, "mode"), Verdict::NotApplied(_)));
    assert_eq!(verdict(&config, "iptables.masqueradeBit"), &OTHER_SECTION);
    let set = config.settings;
    assert_eq!(set.node_name.as_deref(), Some("node-9"));
    assert_eq!(set.primary, Some("172.30.1.9".parse().expect("an address")));
    assert_eq!(
        (set.health.to_string(), set.metrics.to_string()),
        ("[::]:10300".into(), "0.0.0.0:10249".into())
    );
    let NodePortAddresses::Ranges(ranges) = &set.node_ports else { panic!("{:?}", set.node_ports) };
    assert_eq!(ranges.len(), 2);
    assert!(set.localhost_node_ports, "127.0.0.0/8 was asked for");
    assert_eq!((set.masquerade_all, set.masquerade_bit), (true, 15));
    assert_eq!(
        (set.sync_period, set.min_sync_period),
        (seconds(60), Some(Duration::from_millis(500)))
    );
    let wanted = Conntrack {
        max_per_core: 0,
        min: 7,
        tcp_established: None,
        tcp_close_wait: seconds(3600),
        tcp_be_liberal: true,
        udp: seconds(10),
        udp_stream: seconds(120),
    };
    assert_eq!(set.conntrack, wanted);
}

#[test]
fn local_traffic_in_every_mode() {
    let mode = |rest: &str| read(rest).settings.local;
    assert_eq!(mode("detectLocalMode: NodeCIDR"), LocalTraffic::NodeCidrs);
    let bridge = "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cbr0}\nclusterCIDR: 10.0.0.0/8";
    assert_eq!(mode(bridge), LocalTraffic::Bridge("cbr0".into()));
    let config = read(bridge);
    assert!(matches!(verdict(&config, "clusterCIDR"), Verdict::NotApplied(_)));
    let prefix = "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cali}";
    assert_eq!(mode(prefix), LocalTraffic::InterfacePrefix("cali".into()));
    assert_eq!(mode(""), LocalTraffic::ClusterCidrs);
    let config = read("detectLocalMode: BridgeInterface");
    assert!(
        matches!(verdict(&config, "detectLocalMode"), Verdict::Bad(why) if why.contains("bridgeInterface"))
    );
}

#[test]
fn what_does_not_apply_is_named_and_what_is_wrong_is_said() {
    let config = read(
        "surprise: 1
featureGates: {TopologyAwareHints: true}
ipvs: {scheduler: rr, strictARP: true}
winkernel: {enableDSR: true}
clientConnection: {qps: 50, burst: 100, colour: red}
configSyncPeriod: 15m0s
conntrack: {min: -1, udpTimeout: soon}
nodePortAddresses: [primary, 10.0.0.0/8]
clusterCIDR: 10.244.0.0
iptables: {localhostNodePorts: maybe}
",
    );
    for path in ["surprise", "clientConnection.colour"] {
        assert_eq!(verdict(&config, path), &Verdict::Unknown);
    }
    for path in [
        "featureGates.TopologyAwareHints",
        "ipvs.scheduler",
        "ipvs.strictARP",
        "winkernel.enableDSR",
        "clientConnection.qps",
        "configSyncPeriod",
    ] {
        assert!(matches!(verdict(&config, path), Verdict::NotApplied(_)), "{path}");
    }
    for path in [
        "conntrack.min",
        "conntrack.udpTimeout",
        "nodePortAddresses",
        "clusterCIDR",
        "iptables.localhostNodePorts",
    ] {
        assert!(matches!(verdict(&config, path), Verdict::Bad(_)), "{path}");
    }
    assert_eq!(config.settings.conntrack, Conntrack::kube_proxy_defaults());
}

#[test]
fn another_file_is_refused_by_name() {
    let error = parse("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration")
        .expect_err("no");
    assert!(error.to_string().contains("KubeletConfiguration"), "{error}");
    assert!(matches!(parse("a: [").expect_err("no"), ConfigError::Yaml(_)));
    assert!(matches!(parse("- 1").expect_err("no"), ConfigError::Kind { .. }));
}

#[test]
fn the_size_of_the_table_is_per_core_and_at_least_the_least() {
    let conntrack = Conntrack::kube_proxy_defaults();
    assert_eq!((conntrack.max(2), conntrack.max(8)), (Some(131_072), Some(262_144)));
    assert_eq!(Conntrack { max_per_core: 0, ..conntrack }.max(8), None);
}

#[test]
fn durations_as_go_writes_them() {
    let read = |text: &str| duration(&Value::from(text));
    assert_eq!(read("1h0m0s"), Ok(Duration::from_secs(3600)));
    assert_eq!(read("1.5s"), Ok(Duration::from_millis(1500)));
    assert_eq!(read("0"), Ok(Duration::ZERO));
    for bad in ["", "5", "s", "-1s", "1d", "1..2s", "1e400h"] {
        assert!(read(bad).is_err(), "{bad:?}");
    }
}
