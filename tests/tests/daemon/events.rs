//! `cosmolet events --follow`: decisions as they happen, over the daemon's restart, and never waited for.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cosmolet_tests::daemon::binary;
use cosmolet_tests::fabric::{Mode, vip4};
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage};
use cosmolet_tests::wait;
use serde_json::Value;

use crate::{LIMIT, NODE, Running, metric, one_node, wait_vip};

/// The command beside the first node's daemon.
struct Follower {
    _child: Running,
    lines: Receiver<String>,
}

impl Follower {
    fn start(stage: &Stage) -> Result<Self> {
        let mut command = stage.fabric.nodes[0].netns.command(&binary()?.to_string_lossy());
        command.args(["events", "--follow", "-o", "json"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("no pipe")?);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { _child: Running(child), lines })
    }

    /// Waits for a decision about the first VIP.
    fn wait(&self, to: &str, reason: Option<&str>) -> Result<Duration> {
        let since = Instant::now();
        while let Ok(line) = self.lines.recv_timeout(LIMIT.saturating_sub(since.elapsed())) {
            let row: Value = serde_json::from_str(&line)?;
            if row["vip"] == vip4(1).to_string() && row["to"] == to && row["reason"].as_str() == reason {
                ensure!(reason.is_none() || row["message"].is_string(), "no sentence in {row}");
                return Ok(since.elapsed());
            }
        }
        bail!("no {to} ({reason:?}) in {LIMIT:?}")
    }
}

#[test]
fn decisions_are_followed_as_they_happen() -> Result<()> {
    let mut stage = one_node(Mode::Dynamic, Options::default())?;
    let follower = Follower::start(&stage)?;
    follower.wait("advertise", None)?;
    stage.set_endpoint(0, State::NotReady)?;
    println!("told {:?} after the endpoint's file was written", follower.wait("withdraw", Some("NoLocalEndpoint"))?);
    stage.set_endpoint(0, State::Ready)?;
    follower.wait("advertise", None)?;
    // The next daemon, and what it decides.
    stage.daemons[0].kill()?;
    stage.daemons[0].start()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    stage.set_endpoint(0, State::NotReady)?;
    follower.wait("withdraw", Some("NoLocalEndpoint"))?;
    let output = stage.daemons[0].cli(&["events"])?;
    let text = String::from_utf8(output.stdout)?;
    let sentence = "NoLocalEndpoint: its traffic policy is Local and this node has no usable endpoint";
    ensure!(output.status.success() && text.lines().any(|line| line.contains(sentence)), "{text}");
    Ok(())
}

/// Streams that nobody reads hold nothing up, and there are only so many of them.
#[test]
fn streams_are_bounded_and_never_waited_for() -> Result<()> {
    let mut stage = one_node(Mode::Dynamic, Options::default())?;
    // The status line is waited for: requests that are under way at once may be served in another order.
    let open = |stage: &Stage| -> Result<(TcpStream, String)> {
        let mut stream = stage.daemons[0].open("/api/v1/transitions/stream?last=256")?;
        let mut line = String::new();
        BufReader::new(&mut stream).read_line(&mut line)?;
        Ok((stream, line))
    };
    let mut idle = Vec::new();
    for number in 1..=64 {
        let (stream, answer) = open(&stage)?;
        ensure!(answer.contains("200"), "stream {number}: {answer}");
        idle.push(stream);
    }
    let (_, answer) = open(&stage)?;
    ensure!(answer.contains("503"), "one stream too many: {answer}");
    for (outcome, count) in [("opened", 64), ("refused", 1)] {
        let counted = metric(&stage, &format!("cosmolet_streams_total{{outcome=\"{outcome}\"}}"))?;
        ensure!(counted == count, "{counted} streams {outcome}");
    }
    stage.set_endpoint(0, State::NotReady)?;
    wait_vip(&stage, vip4(1), &[])?;
    stage.set_endpoint(0, State::Ready)?;
    wait_vip(&stage, vip4(1), &[NODE])?;
    drop(idle);
    wait::until_true("there is room again", LIMIT, || Ok(open(&stage)?.1.contains("200")))
}
