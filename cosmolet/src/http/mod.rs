//! What the daemon tells over HTTP: whether it lives, whether it is ready, metrics and status. Read-only.
//!
//! Owns the listener and the routes. Reads the book; asks the control loop for two things, the explanation of a VIP and a
//! recording, and never waits for it for long.

mod bgp;
mod connections;
pub mod explain;
mod page;
mod printer;
mod record;
pub mod status;
mod transitions;
pub mod troubles;
pub mod vips;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::advertised::Advertised;
use crate::book::Book;
use crate::engine::observed::BgpState;
use crate::engine::types::{Timestamp, Vip};
use crate::metrics::Metrics;
use crate::questions::Asker;
use crate::recording::tap::Recorder;
use explain::Explain;
use printer::Printer;
use status::{NodeStatus, Status};

/// A control loop that has not turned for so long hangs: it turns at least once a second.
const HANGS_AFTER: Duration = Duration::from_secs(10);
/// How long the control loop may take to answer a question.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// The content type of the OpenMetrics text format.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Shared {
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    asker: Asker,
    printer: Printer,
    /// One for each follower of decisions that there may be.
    streams: Arc<Semaphore>,
    recorder: Recorder,
    /// One for each recording that there may be.
    recordings: Arc<Semaphore>,
}

/// Where the daemon serves.
pub struct Listener {
    socket: TcpListener,
    printer: Printer,
}

impl Listener {
    /// The address, with the port that the kernel has chosen where none was named.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Why nobody can be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is in use, not ours or not permitted: an operator must choose another.
    #[error("http.listen: {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The process may have no more threads.
    #[error("no thread for answers: {0}")]
    Thread(#[source] std::io::Error),
}

/// Takes the listener's address, and starts what makes long answers.
///
/// # Errors
/// [`Error::Bind`] and [`Error::Thread`]
pub async fn bind(address: SocketAddr) -> Result<Listener, Error> {
    let socket = TcpListener::bind(address).await.map_err(|source| Error::Bind { address, source })?;
    Ok(Listener { socket, printer: Printer::start().map_err(Error::Thread)? })
}

/// Serves until the process ends.
pub async fn serve(
    listener: Listener,
    book: Arc<Book>,
    metrics: Arc<Metrics>,
    asker: Asker,
    recorder: Recorder,
) -> std::convert::Infallible {
    let Listener { socket, printer } = listener;
    let counted = Arc::clone(&metrics);
    let streams = Arc::new(Semaphore::new(transitions::STREAMS));
    let recordings = Arc::new(Semaphore::new(record::RECORDINGS));
    let router = Router::new()
        .route("/", get(page::index))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(encode))
        .route("/api/v1/status", get(whole_status))
        .route("/api/v1/node", get(node))
        .route("/api/v1/vips", get(vips::list))
        .route("/api/v1/advertised", get(advertised))
        .route("/api/v1/explain/{vip}", get(explained))
        .route("/api/v1/transitions", get(transitions::remembered))
        .route("/api/v1/transitions/stream", get(transitions::stream))
        .route("/api/v1/record", get(record::stream))
        .with_state(Shared { book, metrics, asker, printer, streams, recorder, recordings });
    connections::serve(socket, router, move || counted.connection_refused()).await
}

async fn livez(State(shared): State<Shared>) -> Response {
    let idle = shared.book.now().since(shared.book.summary().turned_at);
    if idle < HANGS_AFTER {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("the control loop has not turned for {idle:?}\n")).into_response()
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let summary = shared.book.summary();
    let mut missing = Vec::new();
    if !summary.synced {
        missing.push(format!("the source of Services ({}) has not delivered everything yet", summary.source_kind));
    }
    if !summary.kernel_seen {
        missing.push("the kernel's addresses have not been read yet".to_owned());
    }
    if let BgpState::Down(fault) = &summary.bgp {
        missing.push(fault.to_string());
    }
    if missing.is_empty() {
        (StatusCode::OK, "ok\n".to_owned()).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response()
    }
}

async fn encode(State(shared): State<Shared>) -> Response {
    let metrics = shared.metrics;
    match shared.printer.print(move || metrics.encode()).await {
        Some(Ok(text)) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Some(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn whole_status(State(shared): State<Shared>) -> Response {
    json(shared, |book| serde_json::to_vec(&Status::of(book))).await
}

async fn node(State(shared): State<Shared>) -> Response {
    json(shared, |book| serde_json::to_vec(&NodeStatus::of(book))).await
}

async fn advertised(State(shared): State<Shared>) -> Response {
    json(shared, |book| serde_json::to_vec(&Advertised::of(book))).await
}

async fn explained(State(shared): State<Shared>, Path(vip): Path<String>) -> Response {
    let Ok(address) = vip.parse::<IpAddr>() else {
        return (StatusCode::BAD_REQUEST, format!("{vip:?} is no IP address\n")).into_response();
    };
    match tokio::time::timeout(ANSWERS_WITHIN, shared.asker.explain(Vip::new(address))).await {
        Ok(Some(Some(explanation))) => {
            json(shared, move |book| serde_json::to_vec(&Explain::of(book, explanation))).await
        }
        Ok(Some(None)) => {
            let text = format!("{address}: no Service of this node names it, and cosmolet has not put it anywhere\n");
            (StatusCode::NOT_FOUND, text).into_response()
        }
        Ok(None) | Err(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the control loop is busy; ask again\n".to_owned()).into_response()
        }
    }
}

/// A point of the daemon's clock as its JSON has it: seconds since 1970.
fn since_1970(book: &Book, at: Timestamp) -> f64 {
    status::seconds(book.time_of_day(at).duration_since(UNIX_EPOCH).unwrap_or_default())
}

async fn json(shared: Shared, make: impl FnOnce(&Book) -> serde_json::Result<Vec<u8>> + Send + 'static) -> Response {
    let book = shared.book;
    match shared.printer.print(move || make(&book)).await {
        Some(Ok(json)) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Some(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
