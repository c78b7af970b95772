//! Keeps the daemon's memory at what it holds.
//!
//! glibc gives each thread an arena of its own and keeps what is freed in it: after ten thousand Services have been read,
//! a third of the resident memory is such left-overs. Other C libraries give it back by themselves.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// Soon enough after a start, and rare enough for the few milliseconds in which nobody else gets memory.
const EVERY: Duration = Duration::from_secs(30);

/// From this size on, in bytes, a block gets pages of its own, which go back when it is freed: files, replies, buffers.
/// It is glibc's default, which grows with the largest block that was freed unless somebody sets it.
#[cfg(target_env = "gnu")]
const OWN_PAGES: libc::c_int = 128 << 10;

/// Has all threads share one arena: the daemon allocates little once it runs. Call it before there are threads.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt(3) has no safe wrapper")]
pub(super) fn keep_lean() {
    // SAFETY: mallopt takes two numbers; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES);
    }
}

#[cfg(not(target_env = "gnu"))]
pub(super) const fn keep_lean() {}

/// Gives freed memory back to the kernel, now and then, for ever.
pub(super) async fn give_back() {
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if tokio::task::spawn_blocking(trim).await.is_err() {
            return;
        }
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "malloc_trim(3) has no safe wrapper")]
fn trim() {
    // SAFETY: malloc_trim takes a number and locks the arenas itself.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
const fn trim() {}
