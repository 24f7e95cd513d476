//! The demo's chapters, in the order a newcomer would ask.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::request;
use super::stage::{RunningPod, Stage, is_even, percent, spread};
use crate::layout::NodePlan;
use crate::node::{self, Which};

const HTTPD: &str = include_str!("../../../../examples/httpd.yaml");
const HTTPD_SVC: &str = include_str!("../../../../examples/httpd-svc.yaml");
const MYHTTPD: &str = include_str!("../../../../examples/myhttpd.yaml");
const HOSTNAMES: &str = include_str!("../../../../examples/hostnames.yaml");
const WORKS: &str = "It works!";

/// Plays every chapter; a check that fails is tallied, what keeps the next chapter from making sense is an error.
pub(super) async fn tell(stage: &mut Stage) -> anyhow::Result<()> {
    if !stage.kubectl.is_real() {
        stage.voice.line("");
        stage.voice.line("kubectl is not installed here: its commands are done through the API.");
    }
    let said = stage.kubectl.get(&stage.client, "nodes").await?;
    stage.show("kubectl get nodes -o wide", &said);
    cluster_ip(stage).await?;
    node_port(stage).await?;
    let pods = load_balancing(stage).await?;
    affinity(stage).await?;
    hairpin(stage, &pods).await?;
    no_agent(stage).await?;
    no_endpoints(stage).await
}

async fn apply(stage: &Stage, file: &str, yaml: &str) -> anyhow::Result<()> {
    let said = stage.kubectl.apply(&stage.client, yaml).await?;
    stage.show(&format!("kubectl apply -f examples/{file}"), &said);
    Ok(())
}

/// Seed 002, part 1: pods come and go, their Service stays.
async fn cluster_ip(stage: &mut Stage) -> anyhow::Result<()> {
    stage.voice.headline("A Deployment and its Service: a ClusterIP in front of three pods");
    apply(stage, "httpd.yaml", HTTPD).await?;
    let pods = stage.pods("run=httpd", 3).await?;
    apply(stage, "httpd-svc.yaml", HTTPD_SVC).await?;
    let service = stage.cluster_ip("httpd-svc", 8080).await?;
    stage.expect("first answer from node-3  ", &stage.node("node-3"), service, "/", WORKS)?;
    for resource in ["pods", "services"] {
        let said = stage.kubectl.get(&stage.client, resource).await?;
        stage.show(&format!("kubectl get {resource} -o wide"), &said);
    }
    let pod = &pods[0];
    let direct = SocketAddr::new(pod.address, 80);
    stage.expect("node-1 → pod address      ", &stage.node("node-1"), direct, "/", WORKS)?;
    stage.expect("pod    → pod address      ", &pods[1].netns, direct, "/", WORKS)?;
    stage.expect("pod    → ClusterIP        ", &pod.netns, service, "/", WORKS)?;
    for plan in NodePlan::all(3) {
        let who = format!("{} → ClusterIP        ", plan.name);
        stage.expect(&who, &stage.node(&plan.name), service, "/", WORKS)?;
    }
    let refused = request::get(&stage.outside(), service, "/")?;
    let text = match &refused {
        Ok(_) => "client → ClusterIP answered, which is not for the outside".to_owned(),
        Err(error) => {
            format!("client → ClusterIP          {service}  {error}: not for the outside")
        }
    };
    stage.check(refused.is_err(), &text, None);
    Ok(())
}

/// Seed 002, part 4: from outside, through any node.
async fn node_port(stage: &mut Stage) -> anyhow::Result<()> {
    stage.voice.headline("A NodePort: the same from outside, through any node");
    apply(stage, "myhttpd.yaml", MYHTTPD).await?;
    stage.pods("run=httpd", 6).await?;
    for plan in NodePlan::all(3) {
        let door = SocketAddr::new(IpAddr::V4(plan.v4), 30000);
        let who = format!("client → {}:30000    ", plan.name);
        stage.expect(&who, &stage.outside(), door, "/", WORKS)?;
    }
    Ok(())
}

/// Seed 001: scale, and see every backend get its share.
async fn load_balancing(stage: &mut Stage) -> anyhow::Result<Vec<RunningPod>> {
    stage.voice.headline("Load balancing: every backend gets its share, also after scaling");
    apply(stage, "hostnames.yaml", HOSTNAMES).await?;
    let pods = stage.pods("app=hostnames", 3).await?;
    share(stage, 3).await?;
    let said = stage.kubectl.scale(&stage.client, "hostnames", 5).await?;
    stage.show("kubectl scale deployment/hostnames --replicas=5", &said);
    stage.pods("app=hostnames", 5).await?;
    share(stage, 5).await?;
    Ok(pods)
}

async fn share(stage: &mut Stage, backends: usize) -> anyhow::Result<()> {
    const TOTAL: usize = 3000;
    let service = stage.cluster_ip("hostnames", 80).await?;
    let from = stage.node("node-1");
    await_backends(stage, service, backends)?;
    let began = Instant::now();
    let counts = spread(request::many(&from, service, "/hostname", TOTAL)?);
    let took = began.elapsed();
    for (who, count) in &counts {
        let bar = "▪".repeat(count * 60 / TOTAL);
        stage
            .voice
            .line(&format!("    {who:30} {count:5}  {:4.1} %  {bar}", percent(*count, TOTAL)));
    }
    let even = is_even(&counts, backends, TOTAL, 5.0);
    stage.check(
        even,
        &format!("{TOTAL} connections over {backends} backends, within 5 points"),
        Some(took),
    );
    Ok(())
}

/// The last endpoint may still be on its way to the node.
fn await_backends(stage: &Stage, service: SocketAddr, backends: usize) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let counts =
            spread(request::many(&stage.node("node-1"), service, "/hostname", backends * 10)?);
        if counts.len() == backends {
            break;
        }
    }
    Ok(())
}

/// Seed 001: session affinity, and its end.
async fn affinity(stage: &mut Stage) -> anyhow::Result<()> {
    stage.voice.headline("Session affinity: a client keeps its backend, for as long as was said");
    let patch = r#"{"spec":{"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":1}}}}"#;
    let said = stage.kubectl.patch_service(&stage.client, "hostnames", patch).await?;
    stage.show(&format!("kubectl patch service hostnames -p '{patch}'"), &said);
    let service = stage.cluster_ip("hostnames", 80).await?;
    let from = stage.node("node-2");
    let sticky = |stage: &Stage| -> anyhow::Result<Option<String>> {
        let counts = spread(request::many(&stage.node("node-2"), service, "/hostname", 100)?);
        Ok(counts.into_iter().find_map(|(who, count)| (count == 100).then_some(who)))
    };
    let began = Instant::now();
    let mut kept = sticky(stage)?;
    while kept.is_none() && began.elapsed() < Duration::from_secs(3) {
        kept = sticky(stage)?;
    }
    let text = match &kept {
        Some(who) => format!("100 connections of node-2, all to {who}"),
        None => "node-2's connections went to several backends".to_owned(),
    };
    stage.check(
        kept.as_ref().is_some_and(|who| !who.starts_with("failed")),
        &text,
        Some(began.elapsed()),
    );
    // After a pause longer than the timeout the choice is free again: one of five, so look a few times.
    let began = Instant::now();
    let mut moved = None;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(1300)).await;
        if let Ok(who) = request::get(&from, service, "/hostname")?
            && kept.as_deref() != Some(who.trim())
        {
            moved = Some(who.trim().to_owned());
            break;
        }
    }
    let text = match &moved {
        Some(who) => format!("after a pause longer than 1 s: {who}"),
        None => "the affinity did not expire".to_owned(),
    };
    stage.check(moved.is_some(), &text, Some(began.elapsed()));
    let patch = r#"{"spec":{"sessionAffinity":"None","sessionAffinityConfig":null}}"#;
    stage.kubectl.patch_service(&stage.client, "hostnames", patch).await?;
    Ok(())
}

/// A pod that is its own Service's backend.
async fn hairpin(stage: &mut Stage, pods: &[RunningPod]) -> anyhow::Result<()> {
    stage.voice.headline("Hairpin: a pod reaches itself through its own Service");
    let service = stage.cluster_ip("hostnames", 80).await?;
    let pod = &pods[0];
    let began = Instant::now();
    let counts = spread(request::many(&pod.netns, service, "/hostname", 100)?);
    let own = counts.get(&pod.name).copied().unwrap_or(0);
    let lost = counts.iter().filter(|(who, _)| who.starts_with("failed")).count();
    let text = format!("{}: {own} of 100 connections came back to itself", pod.name);
    stage.check(own > 0 && lost == 0, &text, Some(began.elapsed()));
    Ok(())
}

/// The data path is the kernel's: it works on while the agent is dead.
async fn no_agent(stage: &mut Stage) -> anyhow::Result<()> {
    stage
        .voice
        .headline("The agent dies: traffic goes on, and a restart finds everything in place");
    let service = stage.cluster_ip("hostnames", 80).await?;
    let name = stage.layout.name().clone();
    node::kill(&stage.layout, "node-1", Which::AgentOnly)?;
    stage.show(&format!("fairway lab node kill --name {name} --agent-only node-1"), "");
    let began = Instant::now();
    let counts = spread(request::many(&stage.node("node-1"), service, "/hostname", 500)?);
    let lost: usize =
        counts.iter().filter(|(who, _)| who.starts_with("failed")).map(|(_, n)| n).sum();
    stage.check(
        lost == 0,
        &format!("500 connections without an agent, {lost} lost"),
        Some(began.elapsed()),
    );
    node::restart(&stage.layout, "node-1", Which::AgentOnly)?;
    stage.show(&format!("fairway lab node restart --name {name} --agent-only node-1"), "");
    let began = Instant::now();
    let counts = spread(request::many(&stage.node("node-1"), service, "/hostname", 500)?);
    let lost: usize =
        counts.iter().filter(|(who, _)| who.starts_with("failed")).map(|(_, n)| n).sum();
    stage.check(
        lost == 0,
        &format!("500 connections while it starts, {lost} lost"),
        Some(began.elapsed()),
    );
    Ok(())
}

/// Nobody behind the Service: an answer at once instead of a timeout.
async fn no_endpoints(stage: &mut Stage) -> anyhow::Result<()> {
    stage.voice.headline("No backends: refused at once instead of a timeout");
    let service = stage.cluster_ip("hostnames", 80).await?;
    let said = stage.kubectl.scale(&stage.client, "hostnames", 0).await?;
    stage.show("kubectl scale deployment/hostnames --replicas=0", &said);
    stage.pods("app=hostnames", 0).await?;
    let began = Instant::now();
    let mut last = request::get(&stage.node("node-2"), service, "/hostname")?;
    while !is_refused(&last) && began.elapsed() < Duration::from_secs(3) {
        last = request::get(&stage.node("node-2"), service, "/hostname")?;
    }
    let asked = Instant::now();
    let last = request::get(&stage.node("node-2"), service, "/hostname")?;
    let text = match &last {
        Ok(body) => format!("node-2 → ClusterIP still answers: {}", body.trim()),
        Err(error) => format!("node-2 → ClusterIP  {service}  {error}"),
    };
    stage.check(is_refused(&last), &text, Some(asked.elapsed()));
    Ok(())
}

fn is_refused(answer: &io::Result<String>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
