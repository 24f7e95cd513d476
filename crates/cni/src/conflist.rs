//! The configuration list the agent leaves for the container runtime.

use std::path::Path;

use ipnet::IpNet;
use serde_json::json;

/// What goes into the list.
#[derive(Debug, Clone)]
pub struct Conflist<'a> {
    /// Name of the network.
    pub name: &'a str,
    /// MTU of pods.
    pub mtu: u32,
    /// This node's pod CIDRs: one address is taken from each. None: addresses come from the blocks the agent lists in
    /// `data_dir`.
    pub pod_cidrs: &'a [IpNet],
    /// Where reservations are kept. It must survive the plugin, not the node's reboot.
    pub data_dir: &'a Path,
    /// Where run-time files are.
    pub run_dir: &'a Path,
    /// Where the agent says that a new pod's policy is in the kernel; `None` where policies are not enforced.
    pub policy_socket: Option<&'a Path>,
}

/// The text of `10-fairway.conflist`. Equal inputs give equal bytes, so a writer can skip the write.
///
/// The version is 1.0.0, which every runtime in use reads; runtimes that know `cniVersions` (1.1)
/// choose the newest they speak, and with it STATUS and GC.
pub fn conflist(spec: &Conflist<'_>) -> String {
    let ranges: Vec<_> =
        spec.pod_cidrs.iter().map(|cidr| json!([{ "subnet": cidr.trunc().to_string() }])).collect();
    let data_dir = spec.data_dir.to_string_lossy();
    let ipam = if ranges.is_empty() {
        json!({ "type": "fairway", "dataDir": data_dir })
    } else {
        json!({ "type": "host-local", "dataDir": data_dir, "ranges": ranges })
    };
    let mut list = json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": spec.name,
        "plugins": [{
            "type": "fairway",
            "mtu": spec.mtu,
            "runDir": spec.run_dir.to_string_lossy(),
            "capabilities": {
                "ips": true, "mac": true, "portMappings": true, "bandwidth": true, "dns": true,
            },
            "ipam": ipam,
        }],
    });
    if let Some(socket) = spec.policy_socket {
        list["plugins"][0]["policySocket"] = socket.to_string_lossy().into();
    }
    format!("{list:#}\n")
}

/// A list for a node by itself: pods on a bridge, leaving with the node's address, with host ports and
/// bandwidth limits; one address from each subnet.
pub fn bridge_conflist(bridge: &str, subnets: &[IpNet]) -> String {
    let ranges: Vec<_> =
        subnets.iter().map(|subnet| json!([{ "subnet": subnet.trunc().to_string() }])).collect();
    let list = json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": bridge,
        "plugins": [
            {
                "type": "bridge",
                "bridge": bridge,
                "isDefaultGateway": true,
                "hairpinMode": true,
                "ipMasq": true,
                "capabilities": { "ips": true, "mac": true },
                "ipam": { "type": "host-local", "ranges": ranges },
            },
            { "type": "portmap", "snat": true, "capabilities": { "portMappings": true } },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
        ],
    });
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NetworkConfig, SpecVersion};

    #[test]
    fn its_plugin_is_a_configuration_the_plugin_takes() {
        let cidrs = ["10.244.1.0/24".parse().unwrap(), "fd00:10:244:1::/64".parse().unwrap()];
        let spec = Conflist {
            name: "fairway",
            mtu: 1450,
            pod_cidrs: &cidrs,
            data_dir: Path::new("/run/fairway/ipam"),
            run_dir: Path::new("/run/fairway/x"),
            policy_socket: Some(Path::new("/run/fairway/policy.sock")),
        };
        let list: serde_json::Value = serde_json::from_str(&conflist(&spec)).unwrap();
        // What a runtime does: name and version of the list go into the plugin's configuration.
        let mut plugin = list["plugins"][0].clone();
        plugin["name"] = list["name"].clone();
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            plugin["cniVersion"] = version.into();
            let mut told = SpecVersion::V0_3_0;
            let config = NetworkConfig::parse(plugin.to_string().as_bytes(), &mut told).unwrap();
            let Some(crate::ipam::Ipam::HostLocal(ipam)) = &config.ipam else {
                panic!("{:?}", config.ipam)
            };
            assert_eq!((config.mtu, ipam.ranges.len()), (Some(1450), 2));
            assert_eq!(ipam.data_dir, Path::new("/run/fairway/ipam"));
            assert_eq!(config.policy_socket.as_deref(), spec.policy_socket);
            assert_eq!(config.run_dir.as_deref(), Some(spec.run_dir));
            assert_eq!(told.as_str(), version);
        }
    }
}
