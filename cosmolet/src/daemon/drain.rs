//! Follows the file by which a node is drained (`services.drain_file`).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::engine::event::Event;

/// How often the file is looked for.
const EVERY: Duration = Duration::from_millis(500);

/// Says whether the node is drained before anything is decided, and whenever that changes.
pub(super) async fn spawn(
    file: Option<PathBuf>,
    events: mpsc::Sender<Event>,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let mut drained = is_there(&file).unwrap_or_default();
    if drained {
        events.send(Event::Drained(true)).await.context("the control loop is gone")?;
    }
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            // What cannot be looked at says nothing: it stays as it was.
            let now = is_there(&file).unwrap_or(drained);
            if now != std::mem::replace(&mut drained, now) && events.send(Event::Drained(now)).await.is_err() {
                return Ok(());
            }
        }
    });
    Ok(())
}

fn is_there(file: &std::path::Path) -> Option<bool> {
    file.try_exists().ok()
}
