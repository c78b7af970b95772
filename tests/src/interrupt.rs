//! The end by Ctrl-C: a program of the lab cleans up before it goes.

use std::thread;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::lab;

/// The exit code of a program that SIGINT ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// From now on SIGINT, SIGTERM and SIGHUP remove everything this process made in the lab, and end it.
pub fn clean_up_on_signals() {
    thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let kinds = (SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup());
            let (Ok(mut a), Ok(mut b), Ok(mut c)) = (signal(kinds.0), signal(kinds.1), signal(kinds.2)) else {
                return;
            };
            tokio::select! { _ = a.recv() => {}, _ = b.recv() => {}, _ = c.recv() => {} }
        });
        lab::clean_up_now();
        std::process::exit(INTERRUPTED);
    });
}

/// Waits for the signal.
pub fn wait() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}
