//! A small blocking client of an FRR daemon's vty socket, for assertions and baselines.
//!
//! Request: command and one NUL. Reply: text, then `00 00 00 STATUS`. Written apart from the daemon's own client on purpose, so
//! that a misreading there is not repeated here.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// FRR's own limit for one line (8.x); longer ones are executed in pieces.
const MAX_COMMAND: usize = 4096;

/// One session, in the ENABLE node.
#[derive(Debug)]
pub struct Vty {
    stream: BufReader<UnixStream>,
}

/// What FRR answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The text, without the trailer.
    pub text: String,
    /// 0 success, 1 warning, 2 no match, 13 configuration failed …
    pub status: u8,
}

impl Vty {
    /// Connects to `DAEMON.vty` and enables.
    pub fn connect(socket: &Path, limit: Duration) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let mut vty = Self { stream: BufReader::new(stream) };
        vty.expect_success("enable")?;
        Ok(vty)
    }

    /// Sends one command and reads its reply.
    pub fn command(&mut self, command: &str) -> Result<Reply> {
        ensure!(command.len() < MAX_COMMAND && !command.contains('\0'), "command too long or with a NUL");
        self.stream.get_mut().write_all(&[command.as_bytes(), b"\0"].concat())?;
        self.reply().with_context(|| format!("reading the reply to {command:?}"))
    }

    /// Like [`Vty::command`]; a status other than 0 is an error. Returns the text.
    pub fn expect_success(&mut self, command: &str) -> Result<String> {
        let reply = self.command(command)?;
        ensure!(reply.status == 0, "{command:?} answered {}: {}", reply.status, reply.text.trim());
        Ok(reply.text)
    }

    /// A `show … json` command's document.
    pub fn json(&mut self, command: &str) -> Result<Value> {
        let text = self.expect_success(command)?;
        serde_json::from_str(&text).with_context(|| format!("{command:?} answered no JSON: {text:.200}"))
    }

    /// Runs lines in configuration mode, wrapped in `configure terminal` … `end`, in one write (the raw pipelined client that
    /// the benches compare with). The replies of `lines` only.
    pub fn configure<S: AsRef<str>>(&mut self, lines: &[S]) -> Result<Vec<Reply>> {
        let mut request = b"configure terminal\0".to_vec();
        for line in lines {
            ensure!(line.as_ref().len() < MAX_COMMAND, "command too long");
            request.extend_from_slice(line.as_ref().as_bytes());
            request.push(0);
        }
        request.extend_from_slice(b"end\0");
        self.stream.get_mut().write_all(&request)?;
        let mut replies = (0..lines.len() + 2).map(|_| self.reply()).collect::<Result<Vec<_>>>()?;
        replies.pop();
        replies.remove(0);
        Ok(replies)
    }

    /// Like [`Vty::configure`]; any status other than 0 is an error.
    pub fn configure_ok<S: AsRef<str>>(&mut self, lines: &[S]) -> Result<()> {
        for (line, reply) in lines.iter().zip(self.configure(lines)?) {
            let line = line.as_ref();
            ensure!(reply.status == 0, "{line:?} answered {}: {}", reply.status, reply.text.trim());
        }
        Ok(())
    }

    fn reply(&mut self) -> Result<Reply> {
        let mut text = Vec::new();
        self.stream.read_until(0, &mut text)?;
        ensure!(text.pop() == Some(0), "FRR closed the session");
        let mut trailer = [0; 3];
        self.stream.read_exact(&mut trailer)?;
        ensure!(trailer[..2] == [0, 0], "bad trailer {trailer:?}");
        Ok(Reply { text: String::from_utf8_lossy(&text).into_owned(), status: trailer[2] })
    }
}
