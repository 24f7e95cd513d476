//! Nodes: pod CIDRs and taints.

use ipnet::IpNet;
use serde_json::Value;

use super::path::{items, text};
use super::{Check, Path, names};

pub(super) fn node(new: &Value, old: Option<&Value>, check: &mut Check) {
    let path = Path::ROOT.child("spec");
    let spec = &new["spec"];
    let at = path.child("podCIDRs");
    let cidrs = items(spec, "podCIDRs");
    let mut families = Vec::new();
    for (index, cidr) in cidrs.iter().enumerate() {
        let cidr = cidr.as_str().unwrap_or_default();
        match cidr.parse::<IpNet>() {
            Err(_) => check.invalid(&at.index(index), cidr, names::CIDR_MESSAGE),
            Ok(net) => families.push(net.addr().is_ipv6()),
        }
    }
    if cidrs.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
        check.invalid(
            &at,
            spec["podCIDRs"].clone(),
            "may specify no more than one CIDR for each IP family",
        );
    }
    let first = cidrs.first().and_then(Value::as_str).unwrap_or_default();
    let single = text(spec, "podCIDR");
    if !single.is_empty() && !first.is_empty() && single != first {
        check.invalid(&at, spec["podCIDRs"].clone(), "must contain podCIDR as its first element");
    }
    if let Some(old) = old {
        let was = items(&old["spec"], "podCIDRs");
        if !was.is_empty() && was != cidrs {
            check.forbidden(&at, "node updates may not change podCIDR except from \"\" to valid");
        }
        let was = text(&old["spec"], "providerID");
        if !was.is_empty() && was != text(spec, "providerID") {
            check.forbidden(
                &path.child("providerID"),
                "node updates may not change providerID except from \"\" to valid",
            );
        }
    }
    taints(spec, &path, check);
}

fn taints(spec: &Value, path: &Path<'_>, check: &mut Check) {
    let list = path.child("taints");
    let taints = items(spec, "taints");
    for (index, taint) in taints.iter().enumerate() {
        let path = list.index(index);
        let (key, value, effect) =
            (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        check.invalid_all(&path.child("key"), key, &names::qualified_name(key));
        check.invalid_all(&path.child("value"), value, &names::label_value(value));
        if effect.is_empty() {
            check.required(&path.child("effect"), "");
        }
        let same = |other: &Value| text(other, "key") == key && text(other, "effect") == effect;
        if taints[..index].iter().any(same) {
            check.duplicate(&path, taint.clone());
        }
    }
}
