//! One fabric for all tests of a process, one test at a time; ended with the process.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, anyhow};

use super::Clos;

/// The fabric, or why it could not be raised: the tests after the first do not try again.
static FABRIC: Mutex<Option<Result<Clos, String>>> = Mutex::new(None);

/// Runs a test on the fabric while no other does.
pub fn alone<T>(test: impl FnOnce(&mut Clos) -> Result<T>) -> Result<T> {
    let mut slot: MutexGuard<'_, _> = FABRIC.lock().unwrap_or_else(PoisonError::into_inner);
    let raise = || {
        crate::lab::clean_up_at_exit();
        Clos::raise(|step| tracing::info!(step, "raising the fabric")).map_err(|error| format!("{error:#}"))
    };
    match slot.get_or_insert_with(raise) {
        Ok(clos) => test(clos),
        Err(why) => Err(anyhow!("the fabric could not be raised: {why}")),
    }
}
