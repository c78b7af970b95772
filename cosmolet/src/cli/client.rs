//! Asks a running daemon over HTTP.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http::status::Status;

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer that is read: ten thousand VIPs take about ten MiB.
const LIMIT: usize = 256 << 20;

/// Asks a daemon for its status.
///
/// # Errors
/// As [`ask`].
pub(super) fn status(server: &str) -> Result<Status> {
    ask(server, "/api/v1/status")
}

/// Gets a path from a daemon and reads its JSON.
///
/// # Errors
/// As [`get`], and if the answer is another than this version's.
pub(super) fn ask<T: DeserializeOwned>(server: &str, path: &str) -> Result<T> {
    serde_json::from_slice(&get(server, path)?).context("the daemon's answer cannot be read; another version?")
}

/// Gets a path from a daemon.
///
/// # Errors
/// Nobody listens there, it does not answer in time, or it answers with an error.
pub(super) fn get(server: &str, path: &str) -> Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = address(server);
    let asked = async { tokio::time::timeout(PATIENCE, fetch(server, path)).await };
    runtime.block_on(asked).with_context(|| unanswered(server))?.with_context(|| absent(server))
}

/// Gets a path from a daemon whose answer goes on for as long as it lives.
///
/// # Errors
/// As [`get`].
pub(super) async fn stream(server: &str, path: &str) -> Result<Incoming> {
    let server = address(server);
    let asked = tokio::time::timeout(PATIENCE, open(server, path)).await;
    asked.with_context(|| unanswered(server))?.with_context(|| absent(server))
}

/// Gets a path from the daemon at the other end of a stream.
///
/// # Errors
/// The stream ends before the answer does, or it answers with an error.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    path: &str,
) -> Result<Vec<u8>> {
    let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
    // It ends with the stream, or with the runtime; what ends it too early is an error of the request.
    drop(tokio::spawn(connection));
    let request = Request::get(path).header("host", "cosmolet").body(Empty::new())?;
    whole(succeeded(sender.send_request(request).await?).await?).await
}

fn address(server: &str) -> &str {
    server.strip_prefix("http://").unwrap_or(server).trim_end_matches('/')
}

fn unanswered(server: &str) -> String {
    format!("{server} did not answer in {PATIENCE:?}")
}

fn absent(server: &str) -> String {
    format!("cannot ask the daemon at {server}; is it running there (http.listen, --server)?")
}

async fn open(server: &str, path: &str) -> Result<Incoming> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    succeeded(client.get(format!("http://{server}{path}").parse()?).await?).await
}

async fn fetch(server: &str, path: &str) -> Result<Vec<u8>> {
    whole(open(server, path).await?).await
}

async fn succeeded(response: Response<Incoming>) -> Result<Incoming> {
    let status = response.status();
    if !status.is_success() {
        bail!("it answered {status}: {}", String::from_utf8_lossy(&whole(response.into_body()).await?).trim());
    }
    Ok(response.into_body())
}

async fn whole(body: Incoming) -> Result<Vec<u8>> {
    Ok(Limited::new(body, LIMIT).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes().to_vec())
}
