//! Reads `objects.yaml` into a snapshot, through the same conversions the agent uses.

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use model::{Event, Parsed, Report, SnapshotWriter, Update};
use serde_json::Value;

/// Applies every object of a YAML stream; returns what conversions had to say.
pub(crate) fn apply(writer: &mut SnapshotWriter, yaml: &str) -> Vec<Report> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("YAML");
    let mut reports = Vec::new();
    for object in objects {
        let kind = object["kind"].as_str().expect("a kind").to_owned();
        let event = match kind.as_str() {
            "Service" => {
                let object: Service = serde_json::from_value(object).expect("a Service");
                keep(Parsed::try_from(&object), &mut reports)
                    .map(|value| Event::Service(Update::Applied(value)))
            }
            "EndpointSlice" => {
                let object: EndpointSlice =
                    serde_json::from_value(object).expect("an EndpointSlice");
                keep(Parsed::try_from(&object), &mut reports)
                    .map(|value| Event::Slice(Update::Applied(value)))
            }
            "Node" => {
                let object: Node = serde_json::from_value(object).expect("a Node");
                keep(Parsed::try_from(&object), &mut reports)
                    .map(|value| Event::Node(Update::Applied(value)))
            }
            "ServiceCIDR" => {
                let object: ServiceCIDR = serde_json::from_value(object).expect("a ServiceCIDR");
                keep(Parsed::try_from(&object), &mut reports)
                    .map(|value| Event::ServiceCidr(Update::Applied(value)))
            }
            other => panic!("no {other} in these tests"),
        };
        if let Some(event) = event {
            writer.apply(event);
        }
    }
    reports
}

fn keep<T>(outcome: Result<Parsed<T>, Report>, reports: &mut Vec<Report>) -> Option<T> {
    match outcome {
        Ok(parsed) => {
            reports.extend(parsed.reports);
            Some(parsed.value)
        }
        Err(report) => {
            reports.push(report);
            None
        }
    }
}
