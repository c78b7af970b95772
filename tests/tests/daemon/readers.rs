//! Whoever reads the daemon's pages, in whatever way, holds up nothing that it does.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cosmolet_tests::fabric::{Mode, vip4};
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage};
use cosmolet_tests::{http, wait};

use super::{LIMIT, NODE, metric, one_node, wait_vip};

/// How many of one address may be there, as the page of the metrics says.
const OF_ONE: usize = 128;
const CROWD: usize = 1000;
const SCRAPES: usize = 50;

fn raise() -> Result<(Stage, SocketAddr)> {
    let env = vec![("COSMOLET_HTTP_LISTEN", "0.0.0.0:9470")];
    let stage = one_node(Mode::Dynamic, Options { env, ..Options::default() })?;
    let address = SocketAddr::new(stage.fabric.nodes[0].plan.link4(2).into(), 9470);
    Ok((stage, address))
}

/// Withdraws a VIP and brings it back: the control loop and the node's own readers find their way.
fn moves(stage: &mut Stage) -> Result<()> {
    stage.set_endpoint(0, State::NotReady)?;
    wait_vip(stage, vip4(1), &[])?;
    let lives = stage.daemons[0].get("/livez")?;
    ensure!(lives.status == 200, "/livez answers {}: {}", lives.status, lives.body);
    stage.set_endpoint(0, State::Ready)?;
    wait_vip(stage, vip4(1), &[NODE])
}

#[test]
fn a_crowd_takes_no_place_from_the_node_itself() -> Result<()> {
    let (mut stage, address) = raise()?;
    let crowd = stage.fabric.tor.run(|| -> Result<Vec<TcpStream>> {
        (0..CROWD).map(|_| Ok(TcpStream::connect_timeout(&address, LIMIT)?)).collect()
    })??;
    let refused = u64::try_from(CROWD - OF_ONE)?;
    wait::until_true("all but some are closed", LIMIT, || {
        Ok(metric(&stage, "cosmolet_connections_refused_total")? >= refused)
    })?;
    moves(&mut stage)?;
    drop(crowd);
    wait::until_true("there is room again", LIMIT, || {
        Ok(http::get(&stage.fabric.tor, address, "/livez", Duration::from_secs(2))?.status == 200)
    })
}

#[test]
fn bursts_giant_requests_and_readers_that_stall() -> Result<()> {
    let (mut stage, address) = raise()?;
    let tor = &stage.fabric.tor;
    let connect = || tor.run(|| TcpStream::connect_timeout(&address, LIMIT))?.context("connecting");
    // Readers that ask for everything and take nothing.
    let stalled = (0..32).map(|_| {
        let mut stream = connect()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\nGET /api/v1/status HTTP/1.1\r\nhost: x\r\n\r\n")?;
        Ok(stream)
    });
    let _stalled: Vec<TcpStream> = stalled.collect::<Result<_>>()?;
    let burst: Vec<Result<u16>> = std::thread::scope(|scope| {
        let scrape = || http::get(tor, address, "/metrics", LIMIT).map(|reply| reply.status);
        let all: Vec<_> = (0..SCRAPES).map(|_| scope.spawn(scrape)).collect();
        all.into_iter().map(|one| one.join().unwrap_or(Ok(0))).collect()
    });
    for status in burst {
        ensure!(status? == 200, "a scrape of the burst fails");
    }
    // A request line of a megabyte, and a head that never ends.
    for giant in [
        format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)),
        format!("GET / HTTP/1.1\r\na: {}", "b".repeat(1 << 20)),
    ] {
        let mut stream = connect()?;
        stream.set_read_timeout(Some(LIMIT))?;
        // It may be closed before all is written.
        drop(stream.write_all(giant.as_bytes()));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    moves(&mut stage)
}
