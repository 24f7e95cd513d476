//! `crd.projectcalico.org/v1` IPPool, read as Calico means it, and our own `fairway.dev/v1` AddressBlock.

use std::borrow::Cow;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{Findings, Parsed};
use crate::{Block, Encapsulation, Kind, Lent, NodeName, NodeSelector, Pool, Report};

/// Ranges of a pool no pod gets, separated by commas.
const RESERVED: &str = "fairway.dev/reserved";
/// Calico's block lengths when a pool names none.
const BLOCK4: u8 = 26;
const BLOCK6: u8 = 122;

/// The object of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IpPool {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: IpPoolSpec,
}

/// `spec` of an IPPool: the fields that count here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpPoolSpec {
    /// The range.
    pub cidr: String,
    /// `Always`, `CrossSubnet` or `Never`.
    pub ipip_mode: Option<String>,
    /// `Always`, `CrossSubnet` or `Never`.
    pub vxlan_mode: Option<String>,
    /// Masquerade what leaves the cluster.
    pub nat_outgoing: bool,
    /// No new addresses.
    pub disabled: bool,
    /// Prefix length of blocks.
    pub block_size: Option<i64>,
    /// Which nodes may use it.
    pub node_selector: Option<String>,
    /// What addresses are for: `Workload`, `Tunnel`, `LoadBalancer`.
    pub allowed_uses: Option<Vec<String>>,
    /// `Automatic` or `Manual`.
    pub assignment_mode: Option<String>,
}

/// The object of a block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AddressBlock {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// Who holds it.
    #[serde(default)]
    pub spec: AddressBlockSpec,
}

/// `spec` of an AddressBlock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AddressBlockSpec {
    /// The range.
    pub cidr: String,
    /// The node that holds it.
    pub node: String,
    /// Parts other nodes use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lent: Vec<LentPart>,
    /// Nodes that ask for a part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub asking: Vec<String>,
}

/// A part of a block another node uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LentPart {
    /// The part.
    pub cidr: String,
    /// Who uses it.
    pub node: String,
}

macro_rules! custom_resource {
    ($type:ty, $group:literal, $version:literal, $kind:literal, $plural:literal) => {
        impl k8s_openapi::Resource for $type {
            const API_VERSION: &'static str = concat!($group, "/", $version);
            const GROUP: &'static str = $group;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = $version;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::ClusterResourceScope;
        }

        impl k8s_openapi::Metadata for $type {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

pub(super) use custom_resource;

custom_resource!(IpPool, "crd.projectcalico.org", "v1", "IPPool", "ippools");
custom_resource!(AddressBlock, "fairway.dev", "v1", "AddressBlock", "addressblocks");

impl TryFrom<&IpPool> for Parsed<Pool> {
    type Error = Report;

    fn try_from(object: &IpPool) -> Result<Self, Report> {
        let mut findings = Findings::about(Kind::Pool, &object.metadata);
        let spec = &object.spec;
        let wrong = |findings: &Findings, message: String, hint: &'static str| {
            Err(findings.error("BadPool", message, hint))
        };
        let Ok(cidr) = spec.cidr.parse::<IpNet>() else {
            let message = format!("cidr {:?} is not a CIDR", spec.cidr);
            return wrong(&findings, message, "write address/prefix, for example 10.244.0.0/16");
        };
        let v4 = cidr.addr().is_ipv4();
        let default = if v4 { BLOCK4 } else { BLOCK6 };
        let block_len = match spec.block_size {
            None | Some(0) => default,
            Some(size) => match u8::try_from(size) {
                Ok(size) if size >= cidr.prefix_len() && size <= cidr.max_prefix_len() - 2 => size,
                _ => {
                    let message = format!("blockSize {size} does not fit into {cidr}");
                    let hint = "use a length from the pool's own to 30 (IPv4) or 126 (IPv6)";
                    return wrong(&findings, message, hint);
                }
            },
        };
        // A pool smaller than a block is one block.
        let block_len = block_len.max(cidr.prefix_len());
        let mode = |field: &'static str, text: Option<&String>| match text.map(String::as_str) {
            None | Some("" | "Never") => Ok(None),
            Some("Always") => Ok(Some(false)),
            Some("CrossSubnet") => Ok(Some(true)),
            Some(other) => Err(findings.error(
                "BadPool",
                format!("{field} {other:?} is not known"),
                "use Always, CrossSubnet or Never",
            )),
        };
        let ipip = mode("ipipMode", spec.ipip_mode.as_ref())?;
        let vxlan = mode("vxlanMode", spec.vxlan_mode.as_ref())?;
        let encapsulation = match (ipip, vxlan) {
            (None, None) => Encapsulation::Never,
            (None, Some(false)) => Encapsulation::Vxlan,
            (None, Some(true)) => Encapsulation::VxlanCrossSubnet,
            (Some(false), None) => Encapsulation::Ipip,
            (Some(true), None) => Encapsulation::IpipCrossSubnet,
            (Some(_), Some(_)) => {
                let message = "ipipMode and vxlanMode are both on".to_owned();
                return wrong(&findings, message, "set one of them to Never");
            }
        };
        let encapsulation = if encapsulation.is_ipip() && !v4 {
            findings.warn(
                "NoIPIPv6",
                format!("{cidr} cannot go in IP in IP, which is for IPv4 only; it goes in VXLAN"),
                "set vxlanMode instead of ipipMode",
            );
            if encapsulation.only_across_subnets() {
                Encapsulation::VxlanCrossSubnet
            } else {
                Encapsulation::Vxlan
            }
        } else {
            encapsulation
        };
        let nodes = match spec.node_selector.as_deref().unwrap_or_default().parse::<NodeSelector>()
        {
            Ok(nodes) => nodes,
            // Selecting everything instead would give addresses to nodes that were kept out.
            Err(error) => {
                let hint = "write for example all(), has(label) or label == 'value'";
                return wrong(&findings, format!("nodeSelector: {error}"), hint);
            }
        };
        let uses = spec.allowed_uses.as_deref().unwrap_or_default();
        let for_pods = uses.is_empty() || uses.iter().any(|of| of == "Workload");
        let value = Pool {
            key: findings.object.key.clone(),
            cidr: cidr.trunc(),
            block_len,
            encapsulation,
            nat_outgoing: spec.nat_outgoing,
            nodes,
            disabled: spec.disabled || !for_pods || object.metadata.deletion_timestamp.is_some(),
            on_request: spec.assignment_mode.as_deref() == Some("Manual"),
            reserved: reserved(&object.metadata, &mut findings),
        };
        Ok(Self { value, reports: findings.reports })
    }
}

fn reserved(meta: &ObjectMeta, findings: &mut Findings) -> Vec<IpNet> {
    let annotation = meta.annotations.as_ref().and_then(|all| all.get(RESERVED));
    let mut ranges = Vec::new();
    for text in annotation.into_iter().flat_map(|all| all.split(',')).map(str::trim) {
        let address = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
        match text.parse::<IpNet>().ok().or_else(address) {
            Some(range) => ranges.push(range.trunc()),
            None if text.is_empty() => {}
            None => findings.warn(
                "BadReservation",
                format!(
                    "{RESERVED}: {text:?} is neither an address nor a CIDR; it is not kept free"
                ),
                "separate addresses and CIDRs by commas",
            ),
        }
    }
    ranges
}

impl TryFrom<&AddressBlock> for Parsed<Block> {
    type Error = Report;

    fn try_from(object: &AddressBlock) -> Result<Self, Report> {
        let mut findings = Findings::about(Kind::Block, &object.metadata);
        let spec = &object.spec;
        let bad = |findings: &Findings, message| {
            let hint: Cow<'static, str> = "blocks are written by agents only; delete it".into();
            Err(findings.report(crate::Severity::Error, "BadBlock", message, hint))
        };
        let Ok(cidr) = spec.cidr.parse::<IpNet>() else {
            return bad(&findings, format!("cidr {:?} is not a CIDR", spec.cidr));
        };
        let cidr = cidr.trunc();
        // The name is the lock: under another name two objects could be about one range.
        if findings.object.key.name() != Block::name_of(cidr) {
            let name = Block::name_of(cidr);
            return bad(&findings, format!("the block {cidr} must have the name {name}"));
        }
        if spec.node.is_empty() {
            return bad(&findings, "it names no node".to_owned());
        }
        let mut lent: Vec<Lent> = Vec::new();
        for part in &spec.lent {
            match part.cidr.parse::<IpNet>() {
                Ok(part_cidr)
                    if cidr.contains(&part_cidr)
                        && !part.node.is_empty()
                        && !lent.iter().any(|other| overlap(other.cidr, part_cidr)) =>
                {
                    lent.push(Lent { cidr: part_cidr.trunc(), node: NodeName::new(&part.node) });
                }
                _ => findings.warn(
                    "BadBlock",
                    format!("lent part {:?} of {:?} is not used", part.cidr, part.node),
                    "blocks are written by agents only",
                ),
            }
        }
        let value = Block {
            key: findings.object.key.clone(),
            cidr,
            node: NodeName::new(&spec.node),
            lent,
            asking: spec.asking.iter().map(|name| NodeName::new(name)).collect(),
            version: object.metadata.resource_version.clone(),
        };
        Ok(Self { value, reports: findings.reports })
    }
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(spec: serde_json::Value) -> Result<Parsed<Pool>, Report> {
        let object = json!({"metadata": {"name": "p", "annotations": {RESERVED: "10.1.0.1, 10.1.2.0/24,x"}}, "spec": spec});
        Parsed::try_from(&serde_json::from_value::<IpPool>(object).unwrap())
    }

    #[test]
    fn a_pool_of_calico_is_read() {
        let parsed = pool(
            json!({"cidr": "10.1.0.0/16", "vxlanMode": "CrossSubnet", "ipipMode": "Never", "natOutgoing": true,
            "nodeSelector": "zone == 'a'", "blockSize": 27, "allowedUses": ["Workload", "Tunnel"]}),
        );
        let parsed = parsed.unwrap();
        let pool = &parsed.value;
        assert_eq!((pool.block_len, pool.encapsulation), (27, Encapsulation::VxlanCrossSubnet));
        assert!(pool.nat_outgoing && !pool.disabled && !pool.on_request);
        assert!(pool.nodes.selects(&[("zone", "a")].into_iter().collect()));
        assert_eq!(pool.reserved.len(), 2);
        assert_eq!(parsed.reports[0].reason, "BadReservation");
        let back: Pool = serde_json::from_str(&serde_json::to_string(pool).unwrap()).unwrap();
        assert_eq!(&back, pool);
    }

    #[test]
    fn what_a_pool_cannot_mean_is_said() {
        for spec in [
            json!({"cidr": "x"}),
            json!({"cidr": "10.1.0.0/16", "blockSize": 15}),
            json!({"cidr": "10.1.0.0/16", "blockSize": 31}),
            json!({"cidr": "10.1.0.0/16", "ipipMode": "Always", "vxlanMode": "Always"}),
            json!({"cidr": "10.1.0.0/16", "ipipMode": "Sometimes"}),
            json!({"cidr": "10.1.0.0/16", "nodeSelector": "zone"}),
        ] {
            assert_eq!(pool(spec.clone()).unwrap_err().reason, "BadPool", "{spec}");
        }
        let six = pool(json!({"cidr": "fd00:1::/48", "ipipMode": "CrossSubnet"})).unwrap();
        assert_eq!(six.value.encapsulation, Encapsulation::VxlanCrossSubnet);
        assert_eq!(six.value.block_len, 122);
        assert_eq!(pool(json!({"cidr": "10.1.0.0/28"})).unwrap().value.block_len, 28);
    }

    #[test]
    fn a_block_under_another_name_is_none() {
        let block = |name: &str| {
            let object = json!({"metadata": {"name": name, "resourceVersion": "7"},
                "spec": {"cidr": "10.1.0.64/26", "node": "node-1",
                    "lent": [{"cidr": "10.1.0.120/29", "node": "node-2"}, {"cidr": "10.1.0.124/30", "node": "node-3"}]}});
            Parsed::<Block>::try_from(&serde_json::from_value::<AddressBlock>(object).unwrap())
        };
        let parsed = block("10-1-0-64-26").unwrap();
        assert_eq!((parsed.value.lent.len(), parsed.reports.len()), (1, 1));
        assert_eq!(parsed.value.version.as_deref(), Some("7"));
        assert_eq!(block("other").unwrap_err().reason, "BadBlock");
    }
}
