//! A Service's backend: an HTTP and a UDP server in a namespace that answer with their node's name.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::netns::Netns;
use crate::runtime::Runtime;

const MAX_REQUEST: usize = 4096;
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// A backend, started or stopped; it listens on both families.
#[derive(Debug)]
pub struct Backend {
    name: String,
    port: u16,
    status: Arc<AtomicU16>,
    runtime: Runtime,
    servers: Vec<JoinHandle<()>>,
}

impl Backend {
    /// Starts servers on `port` (TCP and UDP) in `netns`.
    pub fn start(netns: &Netns, name: &str, port: u16) -> Result<Self> {
        let runtime = Runtime::start(&format!("backend-{name}"), Some(netns.door()))?;
        let status = Arc::new(AtomicU16::new(200));
        let mut backend = Self { name: name.to_owned(), port, status, runtime, servers: vec![] };
        backend.resume()?;
        Ok(backend)
    }

    /// Stops listening and answers nothing more: the namespace's kernel refuses connections from now on.
    pub fn stop(&mut self) -> Result<()> {
        for server in self.servers.drain(..) {
            server.abort();
            // The listener is closed only when the task is gone.
            self.runtime.run(async move { drop(server.await) })?;
        }
        Ok(())
    }

    /// Answers HTTP with this status from now on; connections are taken as before.
    pub fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// Listens again after [`Backend::stop`].
    pub fn resume(&mut self) -> Result<()> {
        self.stop()?;
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port));
        let bind = async move { io::Result::Ok((TcpListener::bind(address).await?, UdpSocket::bind(address).await?)) };
        let (tcp, udp) = self.runtime.run(bind)?.with_context(|| format!("listening on {address}"))?;
        self.servers.push(self.runtime.spawn(serve_tcp(tcp, self.name.clone(), Arc::clone(&self.status))));
        self.servers.push(self.runtime.spawn(serve_udp(udp, self.name.clone())));
        Ok(())
    }
}

async fn serve_tcp(listener: TcpListener, name: String, status: Arc<AtomicU16>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (name, status) = (name.clone(), status.load(Ordering::Relaxed));
                tokio::spawn(async move {
                    if let Ok(Err(error)) = timeout(REQUEST_LIMIT, answer(stream, status, &name)).await {
                        tracing::debug!(%peer, %error, "request failed");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// One request, one answer, then an orderly end: reading up to the client's FIN keeps the kernel from sending a RST.
async fn answer(mut stream: TcpStream, status: u16, name: &str) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if request.len() >= MAX_REQUEST || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let length = name.len();
    let reply = format!("HTTP/1.1 {status} So\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}");
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = [0; 256];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn serve_udp(socket: UdpSocket, name: String) {
    let mut buffer = [0; 2048];
    loop {
        let answered = match socket.recv_from(&mut buffer).await {
            Ok((_, peer)) => socket.send_to(name.as_bytes(), peer).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = answered {
            tracing::debug!(%error, "udp");
        }
    }
}
