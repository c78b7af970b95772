//! Measures what the programs cost a packet, by `BPF_PROG_TEST_RUN`.
//!
//! Every case is measured against an empty program of the same
//! run, turn by turn, so that what slows the machine slows both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use cosmolet::ebpf::{Options, Programs};
use cosmolet::engine::types::{Port, Protocol, Vip};

use super::figure::{Figure, Measure, Summary};
use crate::packet::{self, flag};

/// The number of VIPs of each family.
pub const VIPS: u16 = 1000;
/// Packets in one turn.
const REPEAT: u32 = 200_000;

/// Measures all cases, each turn with another VIP (at most [`VIPS`] turns). Needs root, and takes a few seconds.
///
/// # Errors
/// The programs cannot be loaded or run.
pub fn measure(turns: u16) -> Result<Vec<Figure>> {
    let mut programs = Programs::load(&Options { max_ports: 4 * u32::from(VIPS) + 16, ..Options::default() })?;
    for n in 0..VIPS {
        for address in [v4(n), v6(n)] {
            programs.track(Vip::new(address), &[Port { protocol: Protocol::Tcp, number: 443 }])?;
        }
    }
    classifier(&mut programs, "cosmolet_empty")?.load()?;
    cases(turns).iter().map(|case| measure_case(&mut programs, case)).collect()
}

struct Case {
    /// The program: `in` or `out`.
    direction: &'static str,
    /// `ipv4` or `ipv6`.
    family: &'static str,
    /// `miss` is a packet of no VIP; `hit` a data packet of a declared port; `syn` and `syn_ack` likewise.
    case: &'static str,
    /// One for each turn, each of another VIP.
    frames: Vec<Vec<u8>>,
    /// The most nanoseconds over the empty program.
    limit: f64,
}

fn cases(turns: u16) -> Vec<Case> {
    let data = flag::ACK | flag::PSH;
    let mut cases = Vec::new();
    for (family, address) in [("ipv4", v4 as fn(u16) -> IpAddr), ("ipv6", v6)] {
        for (direction, case, first, flags, limit) in [
            ("in", "miss", VIPS, data, 15.0),
            ("in", "hit", 0, data, 30.0),
            ("in", "syn", 0, flag::SYN, 30.0),
            ("out", "miss", VIPS, data, 15.0),
            ("out", "hit", 0, data, 30.0),
            ("out", "syn_ack", 0, flag::SYN | flag::ACK, 30.0),
        ] {
            let frame = |turn: u16| {
                let ours = SocketAddr::new(address(first + turn * (VIPS / turns)), 443);
                let theirs = SocketAddr::new(address(u16::MAX - turn), 40_000);
                let (from, to) = if direction == "in" { (theirs, ours) } else { (ours, theirs) };
                packet::ethernet(&packet::tcp_packet(from, to, 1, 2, flags))
            };
            cases.push(Case { direction, family, case, frames: (0..turns).map(frame).collect(), limit });
        }
    }
    cases
}

fn measure_case(programs: &mut Programs, case: &Case) -> Result<Figure> {
    let Case { direction, family, case, frames, limit } = case;
    let name = format!("cosmolet_{direction}");
    let (mut own, mut empty) = (Vec::new(), Vec::new());
    for frame in frames {
        empty.push(run(programs, "cosmolet_empty", frame)?);
        own.push(run(programs, &name, frame)?);
    }
    Ok(Figure {
        name: format!("eBPF, {VIPS} VIPs: {direction}, {family}, {case}"),
        unit: "ns",
        own: Summary::of(&own),
        against: "an empty program".to_owned(),
        baseline: Some(Summary::of(&empty)),
        measure: Measure::OverBaseline,
        target: Some(*limit),
    })
}

/// Nanoseconds a packet, as the kernel says: it leaves out the time in which it ran others.
fn run(programs: &mut Programs, name: &str, frame: &[u8]) -> Result<f64> {
    let program = classifier(programs, name)?;
    let result = program.test_run(TestRunOptions { data_in: Some(frame), repeat: REPEAT, ..TestRunOptions::new() })?;
    anyhow::ensure!(result.return_value == u32::MAX, "{name} returned {}", result.return_value);
    Ok(result.duration.as_secs_f64() * 1e9)
}

fn classifier<'a>(programs: &'a mut Programs, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = programs.object().program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

fn v4(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(192, high, 2, low))
}

fn v6(n: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, n))
}
