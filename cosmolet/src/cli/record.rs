//! `cosmolet record`

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use tokio::signal::unix::{SignalKind, signal};

use super::client;

const PATH: &str = "/api/v1/record";
/// What a record of missed ones begins with; within a text its quotes would be escaped.
const MISSED: &str = "\"record\":{\"missed\":";

/// Records a daemon to a file or to standard output, for a while or until a signal.
///
/// # Errors
/// No daemon answers, it goes away, or what is recorded cannot be written.
pub fn run(server: &str, time: Option<Duration>, file: Option<&Path>) -> Result<ExitCode> {
    let sink: Box<dyn Write> = match file {
        Some(path) => Box::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?),
        None => Box::new(io::stdout()),
    };
    let mut tape = Tape { sink, rest: Vec::new(), records: 0, missed: 0 };
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(follow(server, time, &mut tape))?;
    let (records, seconds) = (tape.records, began.elapsed().as_secs());
    eprintln!("cosmolet: {records} records in {seconds} s");
    if tape.missed > 0 {
        eprintln!("cosmolet: records came too fast to be written, {} times: the recording says where", tape.missed);
    }
    match ended {
        End::Wanted => Ok(ExitCode::SUCCESS),
        End::Gone => bail!("the daemon at {server} is gone; what came until then is recorded"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The time is over, somebody has had enough, or nobody reads any more.
    Wanted,
    Gone,
}

async fn follow(server: &str, time: Option<Duration>, tape: &mut Tape) -> Result<End> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut body = client::stream(server, PATH).await?;
    let over = async {
        match time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    loop {
        let frame = tokio::select! {
            biased;
            () = &mut over => return Ok(End::Wanted),
            _ = interrupt.recv() => return Ok(End::Wanted),
            _ = terminate.recv() => return Ok(End::Wanted),
            frame = body.frame() => frame,
        };
        let Some(Ok(frame)) = frame else { return Ok(End::Gone) };
        match tape.take(frame.data_ref().map_or(&[][..], |data| data)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(End::Wanted),
            Err(error) => return Err(error).context("the recording cannot be written"),
        }
    }
}

/// Writes whole lines only, so that a recording can be ended at any time.
struct Tape {
    sink: Box<dyn Write>,
    rest: Vec<u8>,
    records: usize,
    missed: usize,
}

impl Tape {
    fn take(&mut self, data: &[u8]) -> io::Result<()> {
        // What is there already has no end of a line.
        let Some(end) = data.iter().rposition(|byte| *byte == b'\n') else {
            self.rest.extend_from_slice(data);
            return Ok(());
        };
        let (lines, rest) = data.split_at(end + 1);
        self.rest.extend_from_slice(lines);
        let text = String::from_utf8_lossy(&self.rest);
        self.records += text.matches('\n').count();
        self.missed += text.matches(MISSED).count();
        self.sink.write_all(&self.rest)?;
        self.sink.flush()?;
        self.rest = rest.to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    struct Sink(Sender<Vec<u8>>);

    impl Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.send(data.to_vec()).map_err(io::Error::other)?;
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whole_lines_are_written_and_counted() {
        let (sender, written) = channel();
        let mut tape = Tape { sink: Box::new(Sink(sender)), rest: Vec::new(), records: 0, missed: 0 };
        for part in ["{\"a\"", ":1}\n{", "}\n{\"at\":1,\"record\":{\"missed\":3}}\n{\"cu"] {
            tape.take(part.as_bytes()).unwrap();
        }
        assert_eq!((tape.records, tape.missed), (3, 1));
        let text: Vec<u8> = written.try_iter().flatten().collect();
        assert_eq!(text, b"{\"a\":1}\n{}\n{\"at\":1,\"record\":{\"missed\":3}}\n");
    }
}
