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
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use tokio::task::JoinHandle;

    use super::*;
    use crate::book::Book;
    use crate::engine::event::Event;
    use crate::engine::traffic::TrafficMode;
    use crate::engine::{Engine, Settings};
    use crate::metrics::Metrics;
    use crate::recording::{Reader, What, tap};
    use crate::{http, questions};

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

    fn tape() -> (Tape, Receiver<Vec<u8>>) {
        let (sender, written) = channel();
        (Tape { sink: Box::new(Sink(sender)), rest: Vec::new(), records: 0, missed: 0 }, written)
    }

    /// A daemon's listener, and a loop that is drained every 20 ms.
    async fn daemon() -> (String, JoinHandle<()>) {
        let book = Arc::new(Book::new("node1".to_owned(), "manifests", TrafficMode::Observe));
        let metrics = Arc::new(Metrics::new(Arc::clone(&book), 32));
        let listener = http::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.address().unwrap().to_string();
        let ((asker, _), (recorder, mut tap)) = (questions::channel(), tap::channel());
        tokio::spawn(http::serve(listener, Arc::clone(&book), metrics, asker, recorder));
        let turns = tokio::spawn(async move {
            let mut engine = Engine::new(Settings::default());
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            loop {
                tokio::select! {
                    () = tap.asked() => {}
                    _ = tick.tick() => {
                        tap.event(&Event::Drained(true), book.now());
                        engine.handle(Event::Drained(true), book.now());
                    }
                }
                tap.turned(&engine, book.now());
            }
        });
        (address, turns)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_daemon_is_recorded_until_the_time_is_over_or_it_is_gone() {
        let (server, turns) = daemon().await;
        let (mut tape, written) = tape();
        assert_eq!(follow(&server, Some(Duration::from_millis(500)), &mut tape).await.unwrap(), End::Wanted);
        let text: Vec<u8> = written.try_iter().flatten().collect();
        let mut reader = Reader::open(text.as_slice()).unwrap();
        assert_eq!(reader.header().node, "node1");
        let all: Vec<What> = std::iter::from_fn(|| reader.read().unwrap()).map(|moment| moment.what).collect();
        let live = all.iter().position(|what| *what == What::Live).unwrap();
        assert!(all[live + 1..].contains(&What::Event(Event::Drained(true))), "{all:?}");
        assert!(!reader.is_cut());
        let gone = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            turns.abort();
        };
        assert_eq!(tokio::join!(follow(&server, None, &mut tape), gone).0.unwrap(), End::Gone);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn four_may_record_at_a_time() {
        let (server, _turns) = daemon().await;
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(client::stream(&server, PATH).await.unwrap());
        }
        let error = client::stream(&server, PATH).await.map(drop).unwrap_err();
        assert!(format!("{error:#}").contains("503"), "{error:#}");
        open.pop();
        let again = async {
            while client::stream(&server, PATH).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
    }

    #[test]
    fn whole_lines_are_written_and_counted() {
        let (mut tape, written) = tape();
        for part in ["{\"a\"", ":1}\n{", "}\n{\"at\":1,\"record\":{\"missed\":3}}\n{\"cu"] {
            tape.take(part.as_bytes()).unwrap();
        }
        assert_eq!((tape.records, tape.missed), (3, 1));
        let text: Vec<u8> = written.try_iter().flatten().collect();
        assert_eq!(text, b"{\"a\":1}\n{}\n{\"at\":1,\"record\":{\"missed\":3}}\n");
    }
}
