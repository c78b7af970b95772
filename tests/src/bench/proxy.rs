//! A transparent proxy before a vty socket that notes when which command arrived.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::wait;

/// Bytes read at a time: more than a batch of the daemon.
const CHUNK: usize = 16 << 10;

type Record = Arc<Mutex<Vec<(Instant, Vec<u8>)>>>;

/// The proxy; its threads end with the connections' other ends.
#[derive(Debug)]
pub struct Proxy {
    record: Record,
    path: PathBuf,
}

impl Proxy {
    /// Listens as `bgpd.vty` in `directory` and hands everything on to `server`.
    pub fn listen(directory: &Path, server: &Path) -> Result<Self> {
        let path = directory.join(cosmolet::frr::SOCKET);
        let listener = UnixListener::bind(&path).with_context(|| format!("listening on {}", path.display()))?;
        let (record, server) = (Record::default(), server.to_owned());
        let shared = Arc::clone(&record);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if let Err(error) = join(client, &server, &shared) {
                    tracing::warn!(%error, "a connection through the proxy failed");
                }
            }
        });
        Ok(Self { record, path })
    }

    /// The socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a command; returns when its first byte was read after `since`.
    pub fn wait_command(&self, command: &str, since: Instant, limit: Duration) -> Result<Instant> {
        wait::until(&format!("`{command}` at the vty socket"), limit, || {
            let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            let from = record.partition_point(|(at, _)| *at < since);
            let holds = |bytes: &[u8]| bytes.split(|byte| *byte == 0).any(|line| line.starts_with(command.as_bytes()));
            Ok(record[from..].iter().find(|(_, bytes)| holds(bytes)).map(|(at, _)| *at))
        })
    }
}

/// Joins a client and the server by one thread for each direction.
fn join(client: UnixStream, server: &Path, record: &Record) -> Result<()> {
    let server = UnixStream::connect(server)?;
    let (client_too, server_too, record) = (client.try_clone()?, server.try_clone()?, Arc::clone(record));
    thread::spawn(move || carry(client, server, Some(&record)));
    thread::spawn(move || carry(server_too, client_too, None));
    Ok(())
}

/// Hands bytes on until either side ends, and then ends the other.
fn carry(mut from: UnixStream, mut to: UnixStream, record: Option<&Record>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let at = Instant::now();
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
        if let Some(record) = record {
            record.lock().unwrap_or_else(PoisonError::into_inner).push((at, buffer[..count].to_vec()));
        }
    }
    from.shutdown(Shutdown::Both)?;
    to.shutdown(Shutdown::Both)
}
