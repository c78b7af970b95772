//! One HTTP request into a namespace, for a daemon's own pages.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

const MAX_REPLY: u64 = 64 << 20;
/// How often a follower looks whether it is over.
const SHORT: Duration = Duration::from_millis(500);

/// A reply: status and body.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Such as 200.
    pub status: u16,
    /// The text.
    pub body: String,
}

/// `GET path` from inside `netns`, over HTTP/1.0 so that the reply ends with the connection.
pub fn get(netns: &Netns, address: SocketAddr, path: &str, limit: Duration) -> Result<Reply> {
    netns.run(|| request(address, path, limit))?.with_context(|| format!("GET http://{address}{path}"))
}

/// The same, and leaves the answer to be read.
pub fn open(netns: &Netns, address: SocketAddr, path: &str, limit: Duration) -> Result<TcpStream> {
    netns.run(|| ask(address, path, limit))?.with_context(|| format!("GET http://{address}{path}"))
}

/// Asks for an answer that goes on, and reads it until `over`.
pub fn follow(netns: &Netns, address: SocketAddr, path: &str, over: &AtomicBool) -> Result<()> {
    let mut stream = open(netns, address, path, SHORT)?;
    let mut buffer = [0; 4096];
    while !over.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => bail!("http://{address}{path} has ended"),
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(error.into());
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

fn ask(address: SocketAddr, path: &str, limit: Duration) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    Ok(stream)
}

fn request(address: SocketAddr, path: &str, limit: Duration) -> Result<Reply> {
    let stream = ask(address, path, limit)?;
    let mut text = String::new();
    stream.take(MAX_REPLY).read_to_string(&mut text)?;
    let head = text.find("\r\n\r\n").context("no end of the header")?;
    let status = text[..head].split_whitespace().nth(1).context("no status line")?.parse()?;
    text.drain(..head + 4);
    Ok(Reply { status, body: text })
}
