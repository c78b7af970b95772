//! The client of a daemon's vty socket.
//!
//! Owns the protocol: a command and a NUL go out; text, three NULs and a status byte come back. Never knows what a
//! command means. Source: FRR `lib/vty.c`, `vtysh_read`.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::error::FrrError;
use crate::engine::types::{Vip, Vrf};

/// Longest reply that is taken, in bytes: a running configuration of some hundred thousand lines.
const MAX_REPLY: usize = 64 << 20;
/// Bytes asked of the kernel at a time.
const READ_CHUNK: usize = 16 << 10;

/// One command, without its terminator. Not longer than [`Line::MAX`]: FRR drops a command over 4096 bytes and
/// executes its tail as a command of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line(Cow<'static, str>);

/// Why a text is not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Longer than [`Line::MAX`].
    #[error("a command of {0} bytes is longer than {max}", max = Line::MAX)]
    TooLong(usize),
    /// Empty, or holds something else than printable ASCII.
    #[error("a command holds printable ASCII only")]
    NotPrintable,
}

impl Line {
    /// The longest command, in bytes.
    pub const MAX: usize = 256;

    /// Checks a text.
    ///
    /// # Errors
    /// When it is empty, too long, or holds anything but printable ASCII.
    pub fn new(text: impl Into<Cow<'static, str>>) -> Result<Self, LineError> {
        let text = text.into();
        if text.len() > Self::MAX {
            return Err(LineError::TooLong(text.len()));
        }
        if text.is_empty() || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return Err(LineError::NotPrintable);
        }
        Ok(Self(text))
    }

    /// Takes a literal; one that is too long does not compile in a constant.
    pub(crate) const fn fixed(text: &'static str) -> Self {
        assert!(text.len() <= Self::MAX, "longer than Line::MAX");
        Self(Cow::Borrowed(text))
    }

    /// A question about a VRF's BGP, as `summary json`.
    pub(crate) fn bgp(vrf: &Vrf, what: &'static str) -> Self {
        Self(Cow::Owned(format!("show bgp {}{what}", of(vrf))))
    }

    /// The question for a VRF's sessions.
    pub(crate) fn summary(vrf: &Vrf) -> Self {
        Self::bgp(vrf, "summary json")
    }

    /// The question for one VIP's host prefix in a VRF's RIB.
    pub(super) fn prefix_query(vrf: &Vrf, vip: Vip) -> Self {
        Self(Cow::Owned(format!("show bgp {}{} unicast {} json", of(vrf), vip.family(), vip.prefix())))
    }

    /// The command.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How `show bgp` is asked of a VRF.
fn of(vrf: &Vrf) -> String {
    vrf.name().map(|name| format!("vrf {name} ")).unwrap_or_default()
}

/// A command's status (FRR `lib/command.h`, `CMD_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 0: done.
    Success,
    /// 1: a show command found nothing, mostly.
    Warning,
    /// 2: no such command here, or an argument of the wrong form.
    NoMatch,
    /// 3: an abbreviation of several commands.
    Ambiguous,
    /// 4: arguments are missing.
    Incomplete,
    /// 13: the configuration was not changed; the text says why.
    ConfigFailed,
    /// Any other.
    Other(u8),
}

impl From<u8> for Status {
    fn from(byte: u8) -> Self {
        match byte {
            0 => Self::Success,
            1 => Self::Warning,
            2 => Self::NoMatch,
            3 => Self::Ambiguous,
            4 => Self::Incomplete,
            13 => Self::ConfigFailed,
            other => Self::Other(other),
        }
    }
}

/// The reply to one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What FRR printed; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// How it ended.
    pub status: Status,
}

impl Reply {
    /// The first line that says something, for an error message; at most 200 characters.
    #[must_use]
    pub fn summary(&self) -> String {
        let line = self.text.lines().map(str::trim).find(|line| !line.is_empty());
        let line = line.map(|line| line.trim_start_matches("% "));
        line.map_or_else(|| format!("status {:?}", self.status), |line| line.chars().take(200).collect())
    }
}

/// Why bytes are not a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// One NUL that is not followed by two others.
    #[error("a NUL within the text")]
    StrayNul,
    /// No end within the longest reply that is taken.
    #[error("a reply longer than {MAX_REPLY} bytes")]
    TooLong,
}

/// Cuts a stream of bytes into replies, however the bytes are chunked.
#[derive(Debug, Default)]
pub struct ReplyParser {
    /// What was not handed out yet.
    buffer: BytesMut,
    /// Its first bytes, as many as are known to hold no NUL.
    scanned: usize,
}

impl ReplyParser {
    /// An empty parser.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes as they came.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next complete reply, if there is one.
    ///
    /// # Errors
    /// When the bytes cannot be a reply. The connection is of no use then.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, ParseError> {
        let Some(end) = self.buffer.iter().skip(self.scanned).position(|byte| *byte == 0) else {
            self.scanned = self.buffer.len();
            return if self.scanned > MAX_REPLY { Err(ParseError::TooLong) } else { Ok(None) };
        };
        let end = self.scanned + end;
        self.scanned = end;
        let (text, trailer) = self.buffer.split_at(end);
        if trailer.iter().take(3).any(|byte| *byte != 0) {
            return Err(ParseError::StrayNul);
        }
        let Some(status) = trailer.get(3) else { return Ok(None) };
        let reply = Reply { text: String::from_utf8_lossy(text).into_owned(), status: Status::from(*status) };
        self.buffer.advance(end + 4);
        self.scanned = 0;
        Ok(Some(reply))
    }

    /// Nothing is left that was not handed out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// Cuts bytes that are there as a whole into replies; the rest of an incomplete one is left out.
///
/// # Errors
/// When the bytes cannot be replies.
pub fn parse(bytes: &[u8]) -> Result<Vec<Reply>, ParseError> {
    let mut parser = ReplyParser::new();
    parser.feed(bytes);
    let mut replies = Vec::new();
    while let Some(reply) = parser.next_reply()? {
        replies.push(reply);
    }
    Ok(replies)
}

/// An open connection, in the ENABLE node between two calls.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    parser: ReplyParser,
    patience: Duration,
    /// Replies that are still to come.
    pending: usize,
}

impl Session {
    /// Connects and sends `enable`. `patience` is how long bgpd may say nothing while it owes a reply.
    ///
    /// # Errors
    /// When nobody listens, the user is refused, or bgpd does not answer as a vty server does.
    pub async fn open(path: &Path, patience: Duration) -> Result<Self, FrrError> {
        let connected = timeout(patience, UnixStream::connect(path)).await;
        let stream = connected.map_err(|_elapsed| FrrError::Timeout(patience))?;
        let stream = stream.map_err(|error| FrrError::from_connect(path, error))?;
        let mut session = Self { stream, parser: ReplyParser::new(), patience, pending: 0 };
        let reply = session.ask(&Line::fixed("enable")).await?;
        if reply.status != Status::Success {
            return Err(FrrError::Garbled(format!("`enable` was refused: {}", reply.summary())));
        }
        Ok(session)
    }

    /// Sends one command and waits for its reply.
    ///
    /// # Errors
    /// When the connection ends, times out or garbles; it is of no use then.
    pub async fn ask(&mut self, line: &Line) -> Result<Reply, FrrError> {
        let mut bytes = Vec::with_capacity(line.as_str().len() + 1);
        push_line(&mut bytes, line.as_str());
        self.send(&bytes, 1).await?;
        self.reply().await
    }

    /// Sends commands in one go and waits for all replies, in order. For a few dozen: there is no window.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub async fn ask_all(&mut self, lines: &[Line]) -> Result<Vec<Reply>, FrrError> {
        let mut bytes = Vec::new();
        for line in lines {
            push_line(&mut bytes, line.as_str());
        }
        self.send(&bytes, lines.len()).await?;
        let mut replies = Vec::with_capacity(lines.len());
        for _ in lines {
            replies.push(self.reply().await?);
        }
        Ok(replies)
    }

    /// Writes whole commands, `replies` of them, at once if the kernel takes them.
    ///
    /// # Errors
    /// When the connection ends or takes nothing for too long.
    pub async fn send(&mut self, bytes: &[u8], replies: usize) -> Result<(), FrrError> {
        if self.pending == 0 && !self.parser.is_empty() {
            return Err(unasked());
        }
        self.pending += replies;
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.stream.try_write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = timeout(self.patience, self.stream.writable()).await;
                    ready.map_err(|_elapsed| FrrError::Timeout(self.patience))??;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub async fn reply(&mut self) -> Result<Reply, FrrError> {
        loop {
            if let Some(reply) = self.reply_at_hand()? {
                return Ok(reply);
            }
            if !self.read_at_hand()? {
                let ready = timeout(self.patience, self.stream.readable()).await;
                ready.map_err(|_elapsed| FrrError::Timeout(self.patience))??;
            }
        }
    }

    /// Takes a reply that was read already.
    ///
    /// # Errors
    /// When what was read is no reply.
    pub fn reply_at_hand(&mut self) -> Result<Option<Reply>, FrrError> {
        let reply = self.parser.next_reply().map_err(|error| FrrError::Garbled(error.to_string()))?;
        if reply.is_some() {
            self.pending = self.pending.checked_sub(1).ok_or_else(unasked)?;
        }
        Ok(reply)
    }

    /// Takes a reply that has come, without waiting: the connection may have ended since.
    ///
    /// # Errors
    /// As [`Session::reply_at_hand`].
    pub fn reply_left(&mut self) -> Result<Option<Reply>, FrrError> {
        while self.read_at_hand().is_ok_and(|more| more) {}
        self.reply_at_hand()
    }

    /// Waits until bgpd closes the connection or says something unasked, and returns that as the error. Can be
    /// dropped at any time.
    pub async fn closed(&mut self) -> FrrError {
        loop {
            match self.stream.readable().await.map_err(FrrError::from).and_then(|()| self.read_at_hand()) {
                Ok(false) => {}
                Ok(true) => return unasked(),
                Err(error) => return error,
            }
        }
    }

    /// No reply is owed: the connection was not left in the middle of a call.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.pending == 0
    }

    /// Reads once, without waiting; false if nothing was there.
    fn read_at_hand(&mut self) -> Result<bool, FrrError> {
        let buffer = &mut self.parser.buffer;
        buffer.reserve(READ_CHUNK);
        match self.stream.try_read_buf(buffer) {
            Ok(0) => Err(FrrError::Closed),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn unasked() -> FrrError {
    FrrError::Garbled("a reply to nothing that was asked".to_owned())
}

/// Appends a command and its terminator.
pub(super) fn push_line(bytes: &mut Vec<u8>, line: &str) {
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reply_is_text_three_nuls_and_a_status() {
        let replies = parse(b"% no\n\0\0\0\x0d\0\0\0\0half\0\0").unwrap();
        assert_eq!(
            replies,
            [
                Reply { text: "% no\n".to_owned(), status: Status::ConfigFailed },
                Reply { text: String::new(), status: Status::Success },
            ]
        );
        assert_eq!(replies[0].summary(), "no");
        assert_eq!(replies[1].summary(), "status Success");
    }

    #[test]
    fn a_status_of_zero_is_not_taken_for_the_next_text() {
        let replies = parse(b"\0\0\0\0\0\0\0\x01a\0\0\0\0").unwrap();
        assert_eq!(replies.iter().map(|reply| reply.status).collect::<Vec<_>>().len(), 3);
        assert_eq!(replies[1].status, Status::Warning);
        assert_eq!(replies[2].text, "a");
    }

    #[test]
    fn a_single_nul_is_no_reply() {
        assert_eq!(parse(b"text\0more"), Err(ParseError::StrayNul));
        assert_eq!(parse(b"text\0\0x"), Err(ParseError::StrayNul));
    }

    #[test]
    fn lines_are_short_and_printable() {
        assert!(Line::new("show bgp summary json").is_ok());
        assert_eq!(Line::new("a\0b"), Err(LineError::NotPrintable));
        assert_eq!(Line::new("a\nb"), Err(LineError::NotPrintable));
        assert_eq!(Line::new(""), Err(LineError::NotPrintable));
        assert_eq!(Line::new("x".repeat(4097)), Err(LineError::TooLong(4097)));
    }

    proptest! {
        #[test]
        fn chunking_does_not_change_replies(
            replies in proptest::collection::vec(("[^\0]{0,40}", any::<u8>()), 0..12),
            cuts in proptest::collection::vec(1_usize..24, 0..60),
            garbage in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
        ) {
            let mut bytes = Vec::new();
            for (text, status) in &replies {
                bytes.extend_from_slice(text.as_bytes());
                bytes.extend_from_slice(&[0, 0, 0, *status]);
            }
            bytes.extend_from_slice(&garbage.unwrap_or_default());
            let whole = parse(&bytes);

            let mut parser = ReplyParser::new();
            let mut chunked = Ok(Vec::new());
            let mut rest = bytes.as_slice();
            let mut cuts = cuts.into_iter().chain(std::iter::repeat(7));
            'feeding: while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                rest = later;
                parser.feed(now);
                loop {
                    match parser.next_reply() {
                        Ok(Some(reply)) => chunked.as_mut().unwrap().push(reply),
                        Ok(None) => break,
                        Err(error) => { chunked = Err(error); break 'feeding; }
                    }
                }
            }
            prop_assert_eq!(&whole, &chunked);
            if let Ok(whole) = whole {
                prop_assert!(whole.len() >= replies.len());
                for (reply, (text, status)) in whole.iter().zip(&replies) {
                    prop_assert_eq!(&reply.text, text);
                    prop_assert_eq!(reply.status, Status::from(*status));
                }
            }
        }
    }
}
