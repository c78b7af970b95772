//! What runs in the pods of the lab's cluster: a backend whose probes answer as they are told, and the pause container.
//!
//! `GET /` answers with the node's name; `/ready` and `/live` answer 200 or 503, and `/ready/off`, `/ready/on`,
//! `/live/off`, `/live/on` say which. SIGTERM makes it serve on for a moment, as a backend that drains does, and end.

use std::io;
use std::net::Ipv6Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

const PORT: u16 = 8080;
const MAX_REQUEST: usize = 4096;
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Long enough for a route to go before its backend.
const DRAIN: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("pause") => ended().await,
        Some("serve") => serve().await,
        _ => Err(anyhow::anyhow!("say `serve` or `pause`")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pod: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the pod says of itself.
struct Pod {
    node: String,
    ready: AtomicBool,
    live: AtomicBool,
}

async fn ended() -> Result<()> {
    signal(SignalKind::terminate())?.recv().await.context("no more signals")
}

async fn serve() -> Result<()> {
    let node = std::env::var("NODE_NAME").context("NODE_NAME is not set")?;
    let pod = Arc::new(Pod { node, ready: AtomicBool::new(true), live: AtomicBool::new(true) });
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).await?;
    tokio::select! {
        ended = accept(listener, pod) => ended,
        signal = async { ended().await?; tokio::time::sleep(DRAIN).await; Ok(()) } => signal,
    }
}

async fn accept(listener: TcpListener, pod: Arc<Pod>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let pod = Arc::clone(&pod);
        tokio::spawn(async move {
            if let Ok(Err(error)) = timeout(REQUEST_LIMIT, answer(stream, &pod)).await {
                eprintln!("pod: a request failed: {error}");
            }
        });
    }
}

/// One request, one answer, then an orderly end: reading up to the client's FIN keeps the kernel from sending a RST.
async fn answer(mut stream: TcpStream, pod: &Pod) -> Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if request.len() >= MAX_REQUEST || stream.read_buf(&mut request).await? == 0 {
            bail!(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
    }
    let text = String::from_utf8_lossy(&request);
    let (status, body) = pod.reply(text.split(' ').nth(1).unwrap_or_default());
    let length = body.len();
    let reply = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = [0; 256];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

impl Pod {
    fn reply(&self, path: &str) -> (&'static str, &str) {
        let probe = |flag: &AtomicBool| {
            if flag.load(Ordering::Relaxed) { ("200 OK", "yes") } else { ("503 Service Unavailable", "no") }
        };
        let set = |flag: &AtomicBool, yes| {
            flag.store(yes, Ordering::Relaxed);
            ("200 OK", "done")
        };
        match path {
            "/" => ("200 OK", self.node.as_str()),
            "/ready" => probe(&self.ready),
            "/live" => probe(&self.live),
            "/ready/on" => set(&self.ready, true),
            "/ready/off" => set(&self.ready, false),
            "/live/on" => set(&self.live, true),
            "/live/off" => set(&self.live, false),
            _ => ("404 Not Found", "no such path"),
        }
    }
}
