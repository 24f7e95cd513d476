//! `fairway lab demo`: a lab comes up, the manifests of `examples/` are applied, requests travel, and what happened is
//! printed as a person wants to read it. Fails when anything was not as it should be; always takes its lab down.
//!
//! | module | room |
//! |---|---|
//! | [`story`] | the chapters: what is done and what is expected |
//! | [`stage`] | where it plays: the lab's namespaces, waiting, counting what went well |
//! | [`request`] | requests from inside a namespace |
//! | [`kubectl`] | the commands shown |

pub mod kubectl;
pub mod request;
pub mod stage;
mod story;

use std::time::Instant;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::layout::{LabName, Layout};
use crate::say::{Mark, Voice, duration};
use crate::{client, teardown, up};
use stage::Stage;

/// Runs the demo in a lab called `name`; `true` when everything went as it should.
///
/// # Errors
/// When the lab does not come up, or cannot be taken down.
pub async fn run(name: LabName) -> anyhow::Result<bool> {
    let voice = Voice::new();
    let began = Instant::now();
    let layout = Layout::new(name.clone());
    voice.headline("A cluster of three nodes on this machine");
    voice.command(&format!("fairway lab up --nodes 3 --name {name} --detach"));
    up::up(up::UpOptions {
        name,
        nodes: Some(3),
        detach: true,
        api_port: None,
        zones: Vec::new(),
        kubeconfig: None,
        bind_pods: false,
        persist: false,
        talk: up::Talk::Steps,
    })
    .await?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let played = tokio::select! {
        played = play(&layout, voice) => played,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("interrupted")),
    };
    let ending = Instant::now();
    let down = teardown::down(&layout, true);
    voice.headline("Taken down");
    match &down {
        Ok(_) => voice.result(
            Mark::Good,
            "no process, namespace, mount or file stays behind",
            Some(ending.elapsed()),
        ),
        Err(error) => voice.result(Mark::Bad, &format!("{error:#}"), None),
    }
    let (good, bad) = played?;
    down?;
    voice.line("");
    let took = duration(began.elapsed());
    if bad == 0 {
        voice.line(&format!("All {good} checks passed, in {took}."));
    } else {
        voice.line(&format!("{bad} of {} checks failed, in {took}.", good + bad));
    }
    Ok(bad == 0)
}

async fn play(layout: &Layout, voice: Voice) -> anyhow::Result<(usize, usize)> {
    let client = client::connect(layout).await?;
    let mut stage = Stage::new(layout.clone(), client, voice);
    story::tell(&mut stage).await?;
    Ok(stage.count())
}
