//! Reads a recording, line by line and strictly: whoever has written it, a bad line is named.

use std::io::{self, BufRead};
use std::time::Duration;

use serde::Deserialize;

use super::format::{FORMAT, Header, Line, What};
use crate::config::ConfigError;
use crate::engine::types::Timestamp;

/// The longest line that is read: ten thousand ports in one second take a tenth of it.
const LONGEST: u64 = 64 << 20;
/// The longest pause between two records. Time that leaps further is none of a daemon's.
const LONGEST_PAUSE: Duration = Duration::from_secs(86_400);

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's answer.
    #[error("it cannot be read: {0}")]
    Read(#[source] io::Error),
    /// There is no line at all.
    #[error("it is empty: `cosmolet record` writes a header first")]
    Empty,
    /// Made by a version with another format.
    #[error("line 1: its format is {0}, and this version reads {FORMAT}: replay it with the version that recorded it")]
    Version(u32),
    /// A line is wrong; holds its number, from 1 on.
    #[error("line {0}: {1}")]
    Line(usize, String),
    /// The recorded settings are none.
    #[error("line 1: {0}")]
    Settings(#[from] ConfigError),
}

/// A line that has been read.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// When, on the clock of the daemon that recorded it.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

fn point(nanos: u64) -> Timestamp {
    Timestamp::from_start(Duration::from_nanos(nanos))
}

/// Reads a recording line by line.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    header: Header,
    number: usize,
    live: bool,
    last: Timestamp,
    cut: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// It is no recording, or one of another format.
    pub fn open(mut input: R) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Version {
            cosmolet_recording: u32,
        }
        let text = line(&mut input, 1)?.ok_or(Error::Empty)?;
        let none = |error: serde_json::Error| Error::Line(1, format!("it is no header of `cosmolet record`: {error}"));
        let version: Version = serde_json::from_slice(&text).map_err(none)?;
        if version.cosmolet_recording != FORMAT {
            return Err(Error::Version(version.cosmolet_recording));
        }
        let header: Header = serde_json::from_slice(&text).map_err(none)?;
        let last = point(header.at);
        Ok(Self { input, header, number: 1, live: false, last, cut: false })
    }

    /// The first line.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// When it began.
    #[must_use]
    pub fn begun(&self) -> Timestamp {
        point(self.header.at)
    }

    /// Its last line was cut short: it was interrupted.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.cut
    }

    /// The next line, in the order of time but for decisions, which may stand behind what came just after them.
    ///
    /// # Errors
    /// The line cannot be read, or has no place here. One that was cut short at the end is none, see [`Self::is_cut`].
    pub fn read(&mut self) -> Result<Option<Moment>, Error> {
        self.number += 1;
        let Some(text) = line(&mut self.input, self.number)? else { return Ok(None) };
        let ended = text.ends_with(b"\n");
        match self.parse(&text) {
            Ok(moment) => Ok(Some(moment)),
            Err(_) if !ended => {
                self.cut = true;
                Ok(None)
            }
            Err(error) => Err(Error::Line(self.number, error)),
        }
    }

    fn parse(&mut self, text: &[u8]) -> Result<Moment, String> {
        let line: Line = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let moment = Moment { at: point(line.at), what: line.record.meaning()? };
        if moment.at.since(self.last) > LONGEST_PAUSE {
            return Err(format!("time leaps by more than {} hours", LONGEST_PAUSE.as_secs() / 3600));
        }
        match (&moment.what, self.live) {
            (What::Standing(..), true) | (What::Live, true) => {
                return Err("what was known at the beginning stands before `live`, which stands once".to_owned());
            }
            (What::Decision(..) | What::Missed(_), false) => {
                return Err("a decision before `live`, which ends what was known at the beginning".to_owned());
            }
            (What::Decision(..), true) => return Ok(moment),
            (What::Live, false) => self.live = true,
            (What::Standing(..) | What::Event(_), _) | (What::Missed(_), true) => {}
        }
        if moment.at < self.last {
            return Err("time goes back".to_owned());
        }
        self.last = moment.at;
        Ok(moment)
    }
}

/// A line with its end, if it has one; nothing at the end.
fn line(input: &mut impl BufRead, number: usize) -> Result<Option<Vec<u8>>, Error> {
    let mut text = Vec::new();
    io::Read::take(&mut *input, LONGEST).read_until(b'\n', &mut text).map_err(Error::Read)?;
    if text.len() as u64 == LONGEST && !text.ends_with(b"\n") {
        return Err(Error::Line(number, format!("it is longer than {} MiB", LONGEST >> 20)));
    }
    Ok((!text.is_empty()).then_some(text))
}
