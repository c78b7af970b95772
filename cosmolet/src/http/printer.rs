//! Makes long answers one after another, in a thread of low priority.
//!
//! A scrape of ten thousand VIPs is work for tens of milliseconds: whoever looks must take them neither from the control loop
//! nor from FRR, however many look at once.

use tokio::sync::{mpsc, oneshot};

/// Answers that may wait to be made; whoever asks for more waits with his question.
const QUEUE: usize = 64;
/// A third of the processor's time that others get, where there is not enough for all (setpriority(2)). Not less: what is read
/// for an answer cannot be written meanwhile.
const NICENESS: i32 = 5;

type Job = Box<dyn FnOnce() + Send>;

/// The way to the thread, which ends with the last of these.
#[derive(Clone)]
pub(super) struct Printer(mpsc::Sender<Job>);

impl Printer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The process may have no more threads.
    pub(super) fn start() -> std::io::Result<Self> {
        let (jobs, mut inbox) = mpsc::channel::<Job>(QUEUE);
        std::thread::Builder::new().name("pages".to_owned()).spawn(move || {
            give_way();
            while let Some(job) = inbox.blocking_recv() {
                job();
            }
        })?;
        Ok(Self(jobs))
    }

    /// What `make` makes; nothing if it panicked.
    pub(super) async fn print<T: Send + 'static>(&self, make: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (answer, made) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody may be waiting any more: then it is not made at all.
            if !answer.is_closed() {
                let text = std::panic::catch_unwind(std::panic::AssertUnwindSafe(make));
                drop(text.map(|text| answer.send(text)));
            }
        });
        self.0.send(job).await.ok()?;
        made.await.ok()
    }
}

#[expect(unsafe_code, reason = "setpriority(2) has no safe wrapper in std")]
fn give_way() {
    // SAFETY: setpriority touches no memory; 0 is the calling thread. If it fails the priority is the usual one.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_are_made_in_their_order_and_a_panic_costs_only_its_own() {
        let printer = Printer::start().unwrap();
        let first = printer.print(|| 1);
        assert_eq!(first.await, Some(1));
        let failed: Option<u8> = printer.print(|| panic!("a page that cannot be made")).await;
        assert_eq!(failed, None);
        assert_eq!(printer.print(|| 2).await, Some(2));
    }
}
