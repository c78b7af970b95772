//! Decisions: the last ones, and those to come as server-sent events.
//!
//! A follower that reads slowly is never waited for: it is told how many decisions it has missed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::status::transition_row;
use super::{Shared, json};
use crate::book::Book;
use crate::engine::Transition;
use crate::metrics::Metrics;

/// Followers at a time.
pub(super) const STREAMS: usize = 64;
/// A silent stream says this often that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What a follower wants.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// How many of the remembered decisions come first.
    #[serde(default)]
    last: usize,
}

pub(super) async fn remembered(State(shared): State<Shared>) -> Response {
    json(shared, |book| {
        let (last, _) = book.follow();
        let rows: Vec<_> = last.iter().map(|transition| transition_row(book, transition)).collect();
        serde_json::to_vec(&rows)
    })
    .await
}

pub(super) async fn stream(State(shared): State<Shared>, Query(wanted): Query<Wanted>) -> Response {
    let Ok(permit) = shared.streams.clone().try_acquire_owned() else {
        shared.metrics.stream(false);
        let text = format!("{STREAMS} streams are open already, which is the most there may be\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let (mut last, coming) = shared.book.follow();
    last.drain(..last.len().saturating_sub(wanted.last));
    shared.metrics.stream(true);
    let follower = Follower { book: shared.book, metrics: shared.metrics, last, coming, _permit: permit };
    let events = stream::unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

struct Follower {
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    last: VecDeque<Transition>,
    coming: Receiver<Transition>,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    async fn next(&mut self) -> Option<Event> {
        let next = match self.last.pop_front() {
            Some(transition) => Ok(transition),
            None => self.coming.recv().await,
        };
        match next {
            Ok(transition) => {
                let row = serde_json::to_string(&transition_row(&self.book, &transition)).ok()?;
                Some(Event::default().event("transition").data(row))
            }
            Err(RecvError::Lagged(missed)) => {
                self.metrics.stream_missed(missed);
                Some(Event::default().event("missed").data(missed.to_string()))
            }
            Err(RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::intent::Decision;
    use crate::engine::traffic::TrafficMode;
    use crate::engine::types::{Timestamp, Vip};

    #[tokio::test]
    async fn a_slow_follower_is_told_what_it_missed_and_so_is_the_operator() {
        let book = Arc::new(Book::new("node1".to_owned(), "manifests", TrafficMode::Off));
        let metrics = Arc::new(Metrics::new(Arc::clone(&book), 32));
        let (last, coming) = book.follow();
        let permit = Arc::new(tokio::sync::Semaphore::new(1)).acquire_owned().await.unwrap();
        let mut follower =
            Follower { book: Arc::clone(&book), metrics: Arc::clone(&metrics), last, coming, _permit: permit };
        let (vip, at) = (Vip::new([10, 0, 0, 1].into()), Timestamp::ZERO);
        let transition = Transition { vip, at, from: None, to: Decision::Advertise, was_up: false };
        // Ten more than are kept for it.
        (0..1024 + 10).for_each(|_| book.remember(transition));
        let told = follower.next().await.unwrap();
        assert!(format!("{told:?}").contains("missed"), "{told:?}");
        let told = follower.next().await.unwrap();
        assert!(format!("{told:?}").contains("10.0.0.1"), "{told:?}");
        assert!(metrics.encode().unwrap().contains("cosmolet_stream_missed_total 10\n"));
    }
}
