//! A tokio runtime on one thread inside a namespace: every socket its tasks make lives there.

use std::future::Future;
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::netns::Door;

/// The runtime; dropping it ends its tasks and joins its thread.
#[derive(Debug)]
pub struct Runtime {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    /// Starts the thread inside `door`'s namespace, or in the caller's when there is none.
    pub fn start(name: &str, door: Option<Door>) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (report, started) = mpsc::channel();
        let main = move || {
            let built = door.map_or(Ok(()), |door| door.enter());
            let built = built.and_then(|()| Ok(Builder::new_current_thread().enable_all().build()?));
            let (runtime, outcome) = match built {
                Ok(runtime) => {
                    let handle = runtime.handle().clone();
                    (Some(runtime), Ok(handle))
                }
                Err(error) => (None, Err(error)),
            };
            if report.send(outcome).is_ok()
                && let Some(runtime) = runtime
            {
                // Ends with the sender, dropped or used: both mean stop.
                drop(runtime.block_on(stopped));
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(main)?;
        let handle = started.recv().context("the runtime's thread ended")??;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Starts a task; it ends with the runtime at the latest.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.handle.spawn(task)
    }

    /// Runs a future there and blocks the caller until it is done.
    pub fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (report, done) = mpsc::channel();
        self.handle.spawn(async move {
            let value = task.await;
            if report.send(value).is_err() {
                tracing::debug!("nobody waits for this result");
            }
        });
        done.recv().map_err(|gone| anyhow!("the task panicked or its runtime ended: {gone}"))
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("a lab runtime's thread panicked");
        }
    }
}
