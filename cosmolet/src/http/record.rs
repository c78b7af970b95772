//! A recording as newline-delimited JSON: what the engine is told and decides, from now on.
//!
//! A reader that is slow is never waited for: a record says how many it has missed.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::printer::Printer;
use super::{ANSWERS_WITHIN, Shared, since_1970};
use crate::book::Book;
use crate::metrics::Metrics;
use crate::recording::tap::Tape;

/// Recordings at a time.
pub(super) const RECORDINGS: usize = 4;

pub(super) async fn stream(State(shared): State<Shared>) -> Response {
    let Ok(permit) = shared.recordings.clone().try_acquire_owned() else {
        shared.metrics.stream(false);
        let text = format!("{RECORDINGS} recordings are under way already, which is the most there may be\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let Ok(Some(tape)) = tokio::time::timeout(ANSWERS_WITHIN, shared.recorder.begin()).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the control loop is busy; ask again\n".to_owned()).into_response();
    };
    shared.metrics.stream(true);
    let Shared { book, metrics, printer, .. } = shared;
    let node = book.summary().node;
    let reader = Reader { tape, node, book, metrics, printer, _permit: permit };
    let lines = stream::unfold(reader, |mut reader| async {
        let lines = reader.next().await?;
        Some((Ok::<_, Infallible>(lines), reader))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}

struct Reader {
    tape: Tape,
    node: String,
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    printer: Printer,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        let cut = self.tape.next().await?;
        self.metrics.stream_missed(cut.missed());
        let clock = cut.begins().map_or(0.0, |at| since_1970(&self.book, at));
        let node = self.node.clone();
        let text = self.printer.print(move || cut.text(&node, clock)).await?;
        text.ok().map(Bytes::from)
    }
}
