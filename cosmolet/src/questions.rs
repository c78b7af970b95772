//! Questions that only the control loop can answer: the explanation of a VIP, with scores that change each second.
//!
//! Owns the queue between those who ask and the loop. Never holds the loop up: few questions may wait, and each costs it
//! one row.

use tokio::sync::{mpsc, oneshot};

use crate::engine::Engine;
use crate::engine::explain::Explanation;
use crate::engine::types::{Timestamp, Vip};

/// Questions that may wait.
const QUEUE: usize = 4;

#[derive(Debug)]
struct Question {
    vip: Vip,
    reply: oneshot::Sender<Option<Explanation>>,
}

/// The end of those who ask.
#[derive(Clone, Debug)]
pub struct Asker {
    questions: mpsc::Sender<Question>,
}

/// The loop's end.
#[derive(Debug)]
pub struct Questions {
    waiting: mpsc::Receiver<Question>,
    /// The one that woke the loop.
    first: Option<Question>,
}

/// Both ends.
#[must_use]
pub fn channel() -> (Asker, Questions) {
    let (questions, waiting) = mpsc::channel(QUEUE);
    (Asker { questions }, Questions { waiting, first: None })
}

impl Asker {
    /// Asks for an explanation; `Some(None)` says that the VIP is not known here, `None` that nobody answers now.
    pub async fn explain(&self, vip: Vip) -> Option<Option<Explanation>> {
        let (reply, answer) = oneshot::channel();
        self.questions.try_send(Question { vip, reply }).ok()?;
        answer.await.ok()
    }
}

impl Questions {
    /// Waits until somebody asks.
    pub async fn asked(&mut self) {
        match self.waiting.recv().await {
            Some(question) => self.first = Some(question),
            // Nobody is left who could ask.
            None => std::future::pending().await,
        }
    }

    /// Answers what waits.
    pub fn answer(&mut self, engine: &Engine, now: Timestamp) {
        for _ in 0..QUEUE {
            let Some(question) = self.first.take().or_else(|| self.waiting.try_recv().ok()) else { return };
            // Whoever asked may be gone by now; then nobody wants the answer.
            drop(question.reply.send(engine.explain(question.vip, now)));
        }
    }
}
