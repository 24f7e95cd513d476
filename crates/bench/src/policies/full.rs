//! The planner and the kernel alone: the whole from the facts, the same again, and the changes of single pods and policies. In
//! a namespace of its own.

use std::time::Instant;

use anyhow::Context as _;
use model::{Event, NodeName, Parsed, SnapshotWriter, Update};
use nft::Kernel as _;
use nft::kernel::Netlink;
use policy::Planner;

use super::objects::{PER_NODE, namespaces, one_of_many, one_policy};
use crate::objects::NODE_NAME;
use crate::report::Measured;
use crate::samples::Samples;
use crate::world::unnamed;

/// How often the whole is programmed; the median counts.
const ROUNDS: usize = 5;
/// Changes of each kind.
const CHANGES: u32 = 200;

/// The facts of that many pods and policies, as the watches tell them.
pub(super) fn facts(pods: u32, policies: u32) -> anyhow::Result<SnapshotWriter> {
    let mut writer = SnapshotWriter::default();
    for namespace in namespaces()? {
        let value = Parsed::<model::Namespace>::try_from(&namespace).map_err(said)?.value;
        writer.apply(Event::Namespace(Update::Applied(value)));
    }
    for number in 0..pods {
        writer.apply(pod(&one_of_many(number)?)?);
    }
    for number in 0..policies {
        writer.apply(policy(&one_policy(number, 80)?)?);
    }
    writer.take_change();
    Ok(writer)
}

/// A pod as its watch tells it.
pub(super) fn pod(object: &k8s_openapi::api::core::v1::Pod) -> anyhow::Result<Event> {
    let value = Parsed::<model::Pod>::try_from(object).map_err(said)?.value;
    Ok(Event::Pod(Update::Applied(value)))
}

/// A policy as its watch tells it.
pub(super) fn policy(
    object: &k8s_openapi::api::networking::v1::NetworkPolicy,
) -> anyhow::Result<Event> {
    let value = Parsed::<model::NetworkPolicy>::try_from(object).map_err(said)?.value;
    Ok(Event::NetworkPolicy(Update::Applied(value)))
}

fn said(report: model::Report) -> anyhow::Error {
    anyhow::anyhow!("{report}")
}

/// Measures.
pub(super) fn measure(pods: u32, policies: u32, measured: &mut Measured) -> anyhow::Result<()> {
    let namespace = unnamed("full")?;
    let mut writer = facts(pods, policies)?;
    namespace.run(|| -> anyhow::Result<()> {
        let mut kernel = Netlink::open()?;
        let mut planner = Planner::new(NodeName::new(NODE_NAME));
        let table = nft::Name::new(policy::TABLE)?;
        let (mut whole, mut kernels, mut again) =
            (Samples::default(), Samples::default(), Samples::default());
        let mut operations = 0;
        for round in 0..ROUNDS {
            if round > 0 {
                let mut gone = nft::Transaction::new(nft::Family::Inet, table.clone());
                gone.push(nft::Op::DeleteTable);
                kernel.commit(&gone)?;
            }
            let began = Instant::now();
            let plan = planner.full(writer.snapshot());
            let transaction = nft::diff(&plan.table, None);
            let compared = began.elapsed();
            kernel.commit(&transaction)?;
            whole.add(began.elapsed().as_secs_f64());
            kernels.add((began.elapsed() - compared).as_secs_f64());
            // An agent that starts knows nothing, reads what there is, and compares.
            let began = Instant::now();
            let mut fresh = Planner::new(NodeName::new(NODE_NAME));
            let plan = fresh.full(writer.snapshot());
            let listed = kernel.list(nft::Family::Inet, &table)?.context("no table")?;
            operations += nft::diff(&plan.table, Some(&listed)).len();
            again.add(began.elapsed().as_secs_f64());
            if round == 0 {
                measured.insert("elements", listed.element_count() as f64);
                measured.insert("chains", listed.chains.len() as f64);
            }
        }
        measured.extend(whole.quantile(0.5).map(|value| ("full_s", value)));
        measured.extend(kernels.quantile(0.5).map(|value| ("full_kernel_s", value)));
        measured.extend(again.quantile(0.5).map(|value| ("again_s", value)));
        measured.insert("again_operations", operations as f64);

        let mut change = |event: Event| -> anyhow::Result<f64> {
            let began = Instant::now();
            writer.apply(event);
            let change = writer.take_change();
            let delta = planner.update(writer.snapshot(), &change);
            if !delta.transaction.is_empty() {
                kernel.commit(&delta.transaction)?;
            }
            Ok(began.elapsed().as_secs_f64() * 1e3)
        };
        let relabelled = |number: u32, app: u32| -> anyhow::Result<Event> {
            let mut object = one_of_many(number)?;
            let labels = object.metadata.labels.get_or_insert_default();
            labels.insert("app".to_owned(), format!("app-{app}"));
            pod(&object)
        };
        for (key, from) in
            [("plan_elsewhere_ms_p99", PER_NODE.min(pods - 1)), ("plan_here_ms_p99", 0)]
        {
            let mut took = Samples::default();
            for n in 0..CHANGES {
                let number = from + (n / 2) % PER_NODE.min(pods - from);
                let app = if n % 2 == 0 { 7 } else { number % super::objects::APPS };
                took.add(change(relabelled(number, app)?)?);
            }
            measured.extend(took.quantile(0.99).map(|value| (key, value)));
        }
        let mut took = Samples::default();
        for n in 0..CHANGES.min(policies) {
            took.add(change(policy(&one_policy(n, 81)?)?)?);
        }
        measured.extend(took.quantile(0.99).map(|value| ("plan_policy_ms_p99", value)));
        Ok(())
    })?
}
