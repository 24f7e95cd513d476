//! A thread that owns blocking sockets and does one thing after the other.

use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, anyhow};
use tokio::sync::oneshot;

type Work<S> = Box<dyn FnOnce(&mut S) + Send>;

/// The thread. It ends when this is dropped and what it was asked for is done.
#[derive(Debug)]
pub(crate) struct Worker<S> {
    work: mpsc::SyncSender<Work<S>>,
}

impl<S: Send + 'static> Worker<S> {
    /// Starts the thread; it takes over `state`. New threads are in the network namespace of the thread that makes them.
    pub(crate) fn start(name: &str, mut state: S) -> anyhow::Result<Self> {
        let (work, requests) = mpsc::sync_channel::<Work<S>>(4);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Ok(request) = requests.recv() {
                    request(&mut state);
                }
            })
            .with_context(|| format!("cannot start the thread {name}"))?;
        Ok(Self { work })
    }

    /// Does `work` on the thread.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (answer, result) = oneshot::channel();
        let request: Work<S> = Box::new(move |state| drop(answer.send(work(state))));
        self.work
            .try_send(request)
            .map_err(|_| anyhow!("a kernel thread does not take requests; restart the agent"))?;
        result.await.map_err(|_| anyhow!("a kernel thread ended; restart the agent"))
    }

    /// Has `work` done on the thread, and does not wait for it; `false` when the thread has too much to do or is gone.
    pub(crate) fn cast(&self, work: impl FnOnce(&mut S) + Send + 'static) -> bool {
        self.work.try_send(Box::new(work)).is_ok()
    }
}
