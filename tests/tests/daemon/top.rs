//! `cosmolet top` in a real terminal, beside a daemon whose VIP comes and goes.

use std::io::{Read as _, Write as _};
use std::num::NonZeroU16;
use std::process::{ChildStdin, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use cosmolet_tests::daemon::binary;
use cosmolet_tests::fabric::Mode;
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage};
use cosmolet_tests::wait;

use crate::{LIMIT, NODE, Running, one_node};

const ROWS: NonZeroU16 = NonZeroU16::new(30).unwrap();
const COLUMNS: NonZeroU16 = NonZeroU16::new(110).unwrap();

/// The command in a terminal of its own, and what that shows.
struct Terminal {
    child: Running,
    keys: ChildStdin,
    seen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    fn start(stage: &Stage) -> Result<Self> {
        let mut command = stage.fabric.nodes[0].netns.command("script");
        let top = format!("stty rows {ROWS} cols {COLUMNS}; exec {} top", binary()?.display());
        command.args(["-qefc", &top, "/dev/null"]).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let keys = child.stdin.take().context("no keys")?;
        let mut output = child.stdout.take().context("no output")?;
        let seen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let parser = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut chunk) {
                lock(&parser).process(&chunk[..count]);
            }
        });
        Ok(Self { child: Running(child), keys, seen })
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes())?;
        Ok(self.keys.flush()?)
    }

    /// The screen, once it has all of these.
    fn wait(&self, parts: &[&str]) -> Result<String> {
        wait::until(&format!("a screen with {parts:?}"), LIMIT, || {
            let screen = lock(&self.seen).screen().contents();
            if parts.iter().all(|part| screen.contains(part)) { Ok(Some(screen)) } else { bail!("it is:\n{screen}") }
        })
    }
}

fn lock(parser: &Mutex<vt100::Parser>) -> MutexGuard<'_, vt100::Parser> {
    parser.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn top_follows_what_happens_and_tells_why() -> Result<()> {
    let mut stage = one_node(Mode::Dynamic, Options::default())?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    let mut terminal = Terminal::start(&stage)?;
    let screen =
        terminal.wait(&["node1: cosmolet ", "2 advertised", "10.100.0.1", "default/web", "1/2, by handshakes"])?;
    println!("{screen}");
    stage.set_endpoint(0, State::NotReady)?;
    terminal.wait(&["2 withdrawn", "NoLocalEndpoint"])?;
    // The second row, the IPv6 VIP, and its story.
    terminal.press("j\r")?;
    terminal.wait(&["fd00:100::1 on node1: withdrawn, NoLocalEndpoint", "What would change the answer"])?;
    stage.set_endpoint(0, State::Ready)?;
    terminal.wait(&["fd00:100::1 on node1: advertised"])?;
    // A daemon that is away is asked until it is back.
    stage.daemons[0].kill()?;
    terminal.wait(&["! cannot ask the daemon at 127.0.0.1:9470", "fd00:100::1 on node1"])?;
    stage.daemons[0].start()?;
    terminal.press("\u{1b}")?;
    terminal.wait(&["2/2, by handshakes", "2 advertised"])?;
    terminal.press("q")?;
    let status = wait::until("the end of top", LIMIT, || Ok(terminal.child.0.try_wait()?))?;
    ensure!(status.success(), "{status}");
    let parser = lock(&terminal.seen);
    ensure!(!parser.screen().alternate_screen() && !parser.screen().hide_cursor(), "the terminal is left as it was");
    drop(parser);
    Ok(())
}
