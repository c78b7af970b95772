//! The loop's tap: what the engine is told and decides goes to whoever records.
//!
//! Owns the queues between the loop and those who record. Never waits for any of them: what finds no room is counted, and
//! the count stands where the records would. While nobody records, an event costs a look at an empty list.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::format::{Bgp, Decided, FORMAT, Header, Line, Record, Recorded, nanos};
use crate::engine::event::Event;
use crate::engine::intent::Decision;
use crate::engine::types::{Timestamp, Vip};
use crate::engine::{Engine, Settings, Transition};

/// What may wait for one reader: a record weighs one, and one more for each sample, report or answer in it. Of samples that is
/// 11 MiB.
const ROOM: u32 = 32_768;
/// Recordings that may wait to begin.
const QUEUE: usize = 4;
/// Records that one text holds at most.
const AT_ONCE: usize = 64;

/// The end of those who record.
#[derive(Clone, Debug)]
pub struct Recorder {
    wishes: mpsc::Sender<oneshot::Sender<Tape>>,
}

/// The loop's end.
#[derive(Debug)]
pub struct Tap {
    wishes: mpsc::Receiver<oneshot::Sender<Tape>>,
    /// Those that wait for the end of the turn.
    waiting: VecDeque<oneshot::Sender<Tape>>,
    readers: Vec<Reader>,
}

/// One recording.
#[derive(Debug)]
pub struct Tape {
    beginning: Option<Box<Beginning>>,
    records: mpsc::UnboundedReceiver<(Arc<Taped>, OwnedSemaphorePermit)>,
    /// The room of what was taken last, which may not be written yet.
    held: Vec<OwnedSemaphorePermit>,
}

/// What may be made a text of, wherever there is time for that.
#[derive(Debug)]
pub struct Cut {
    beginning: Option<Box<Beginning>>,
    records: Vec<Arc<Taped>>,
}

#[derive(Debug)]
struct Beginning {
    at: Timestamp,
    settings: Settings,
    bgp: Bgp,
    standing: Vec<(Vip, Decision)>,
    known: Vec<Event>,
}

#[derive(Debug)]
enum Taped {
    Event(Timestamp, Event),
    Decision(Transition),
    Missed(Timestamp, u64),
}

#[derive(Debug)]
struct Reader {
    records: mpsc::UnboundedSender<(Arc<Taped>, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    missed: u64,
}

/// Both ends.
#[must_use]
pub fn channel() -> (Recorder, Tap) {
    let (asker, wishes) = mpsc::channel(QUEUE);
    (Recorder { wishes: asker }, Tap { wishes, waiting: VecDeque::new(), readers: Vec::new() })
}

impl Recorder {
    /// Begins a recording; `None` if the loop does not answer.
    pub async fn begin(&self) -> Option<Tape> {
        let (reply, tape) = oneshot::channel();
        self.wishes.try_send(reply).ok()?;
        tape.await.ok()
    }
}

impl Tap {
    /// Waits until somebody wants to record.
    pub async fn asked(&mut self) {
        match self.wishes.recv().await {
            Some(wish) => self.waiting.push_back(wish),
            // Nobody is left who could.
            None => std::future::pending().await,
        }
    }

    /// The engine is about to be told this.
    pub fn event(&mut self, event: &Event, now: Timestamp) {
        if !self.readers.is_empty()
            && let Some(weight) = weight(event)
        {
            self.push(Taped::Event(now, event.clone()), weight, now);
        }
    }

    /// The engine has decided so.
    pub fn decided(&mut self, transitions: &[Transition], now: Timestamp) {
        if !self.readers.is_empty() {
            transitions.iter().for_each(|transition| self.push(Taped::Decision(*transition), 0, now));
        }
    }

    /// The turn is over and nothing is left to be told of it: those who were too slow hear of it, and recordings begin.
    pub fn turned(&mut self, engine: &Engine, now: Timestamp) {
        self.readers.retain_mut(|reader| reader.tell_missed(now));
        while let Some(wish) = self.waiting.pop_front().or_else(|| self.wishes.try_recv().ok()) {
            // Whoever asked may be gone by now.
            if wish.is_closed() {
                continue;
            }
            let beginning = Beginning {
                at: now,
                settings: engine.settings().clone(),
                bgp: Bgp::of(&engine.observed().bgp),
                standing: engine.intent().collect(),
                known: engine.recall(),
            };
            let (sender, records) = mpsc::unbounded_channel();
            if wish.send(Tape { beginning: Some(Box::new(beginning)), records, held: Vec::new() }).is_ok() {
                let room = Arc::new(Semaphore::new(ROOM as usize));
                self.readers.push(Reader { records: sender, room, missed: 0 });
            }
        }
    }

    fn push(&mut self, taped: Taped, weight: usize, now: Timestamp) {
        let taped = Arc::new(taped);
        let weight = u32::try_from(weight).unwrap_or(ROOM).saturating_add(1).min(ROOM);
        self.readers.retain_mut(|reader| reader.take(&taped, weight, now));
    }
}

impl Reader {
    /// False once nobody reads any more.
    fn take(&mut self, taped: &Arc<Taped>, weight: u32, now: Timestamp) -> bool {
        if !self.tell_missed(now) {
            return false;
        }
        // What comes after a gap waits until that has been told.
        let room = if self.missed == 0 { Arc::clone(&self.room).try_acquire_many_owned(weight).ok() } else { None };
        match room {
            Some(room) => self.records.send((Arc::clone(taped), room)).is_ok(),
            None => {
                self.missed = self.missed.saturating_add(1);
                true
            }
        }
    }

    /// Tells what was missed once half of the room is free. False once nobody reads any more.
    fn tell_missed(&mut self, now: Timestamp) -> bool {
        if self.missed > 0
            && self.room.available_permits() >= ROOM as usize / 2
            && let Ok(room) = Arc::clone(&self.room).try_acquire_owned()
        {
            let missed = Taped::Missed(now, std::mem::take(&mut self.missed));
            return self.records.send((Arc::new(missed), room)).is_ok();
        }
        !self.records.is_closed()
    }
}

/// What an event weighs beside itself; nothing where it is not recorded.
fn weight(event: &Event) -> Option<usize> {
    match event {
        Event::Traffic(samples) => Some(samples.len()),
        Event::Probe(reports) => Some(reports.len()),
        Event::Permissions(permissions) => Some(permissions.answers.len()),
        Event::Service(view) => Some(view.vips.len() + view.endpoints.v4.local.len() + view.endpoints.v6.local.len()),
        Event::ServiceGone(_)
        | Event::Node(_)
        | Event::Pod(..)
        | Event::PodGone(_)
        | Event::Source(_)
        | Event::Prober(_)
        | Event::Programs(_)
        | Event::Drained(_)
        | Event::Exit => Some(0),
        Event::Kernel(_) | Event::Bgp(_) | Event::Rib(_) | Event::Applied(_) | Event::Tick => None,
    }
}

impl Tape {
    /// What has come, some of it; nothing once the loop has ended. What came before has been written by then.
    pub async fn next(&mut self) -> Option<Cut> {
        if let Some(beginning) = self.beginning.take() {
            return Some(Cut { beginning: Some(beginning), records: Vec::new() });
        }
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Cut>> {
        let mut taken = Vec::new();
        self.held.clear();
        match self.records.poll_recv_many(context, &mut taken, AT_ONCE) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(0) => Poll::Ready(None),
            Poll::Ready(_) => {
                let (records, held) = taken.into_iter().unzip();
                self.held = held;
                Poll::Ready(Some(Cut { beginning: None, records }))
            }
        }
    }
}

impl Cut {
    /// When the recording began, in the part that says so.
    #[must_use]
    pub fn begins(&self) -> Option<Timestamp> {
        self.beginning.as_ref().map(|beginning| beginning.at)
    }

    /// Records that its reader was too slow for.
    #[must_use]
    pub fn missed(&self) -> u64 {
        let missed = self.records.iter().map(|taped| match **taped {
            Taped::Missed(_, count) => count,
            Taped::Event(..) | Taped::Decision(_) => 0,
        });
        missed.sum()
    }

    /// Its lines; `clock` is the time of day at which it began, in seconds since 1970.
    ///
    /// # Errors
    /// None that a line of ours can have.
    pub fn text(&self, node: &str, clock: f64) -> serde_json::Result<String> {
        let mut text = String::new();
        if let Some(beginning) = &self.beginning {
            text.push_str(&serde_json::to_string(&beginning.header(node, clock))?);
            text.push('\n');
            for record in beginning.records() {
                text.push_str(&Line { at: nanos(beginning.at), record }.text()?);
            }
        }
        for taped in &self.records {
            if let Some(line) = taped.line() {
                text.push_str(&line.text()?);
            }
        }
        Ok(text)
    }
}

impl Beginning {
    fn header(&self, node: &str, clock: f64) -> Header {
        Header {
            cosmolet_recording: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: node.to_owned(),
            clock,
            at: nanos(self.at),
            settings: Recorded::of(&self.settings),
            bgp: self.bgp,
        }
    }

    fn records(&self) -> impl Iterator<Item = Record> {
        let standing = self.standing.iter().map(|(vip, decision)| Record::Standing(Decided::of(*vip, *decision)));
        standing.chain(self.known.iter().filter_map(Record::of)).chain([Record::Live])
    }
}

impl Taped {
    fn line(&self) -> Option<Line> {
        let (at, record) = match self {
            Self::Event(at, event) => (at, Record::of(event)?),
            Self::Decision(transition) => {
                (&transition.at, Record::Decision(Decided::of(transition.vip, transition.to)))
            }
            Self::Missed(at, count) => (at, Record::Missed(*count)),
        };
        Some(Line { at: nanos(*at), record })
    }
}

#[cfg(test)]
#[path = "tap_tests.rs"]
pub(in crate::recording) mod tests;
