//! One cluster for all tests of a process: raised by the first that asks, ended with the process.
//!
//! Tests run side by side, each in a Kubernetes namespace and with VIPs of its own. One that breaks a node asks to be alone.

use std::ops::Deref;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::{Result, anyhow};
use serde_json::json;

use super::{Cluster, Spec};

static TURN: RwLock<()> = RwLock::new(());
/// The cluster, or why it could not be raised: the tests after the first do not try again.
static CLUSTER: Mutex<Option<Result<&'static Cluster, String>>> = Mutex::new(None);

/// The cluster for as long as a test uses it.
#[derive(Debug)]
pub struct Guard {
    cluster: &'static Cluster,
    _turn: Turn,
}

#[derive(Debug)]
enum Turn {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

impl Deref for Guard {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

/// The cluster, with cosmolet installed, beside other tests.
pub fn shared() -> Result<Guard> {
    let guard = TURN.read().unwrap_or_else(PoisonError::into_inner);
    Ok(Guard { cluster: get()?, _turn: Turn::Shared { _guard: guard } })
}

/// The cluster, with cosmolet installed, while no other test uses it.
pub fn alone() -> Result<Guard> {
    let guard = TURN.write().unwrap_or_else(PoisonError::into_inner);
    Ok(Guard { cluster: get()?, _turn: Turn::Alone { _guard: guard } })
}

fn get() -> Result<&'static Cluster> {
    let mut slot = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
    let raised = slot.get_or_insert_with(|| raise().map_err(|error| format!("{error:#}")));
    raised.as_ref().copied().map_err(|why| anyhow!("the shared cluster could not be raised: {why}"))
}

fn raise() -> Result<&'static Cluster> {
    crate::lab::clean_up_at_exit();
    let cluster = Cluster::raise(&Spec::default(), |step| tracing::info!(step, "raising the shared cluster"))?;
    cluster.install(&json!({}))?;
    Ok(Box::leak(Box::new(cluster)))
}
