//! Measures what the programs cost a packet, by `BPF_PROG_TEST_RUN`.
//!
//! Owns the measuring and nothing of its presentation. Every case is measured against an empty program of the same
//! run, turn by turn, so that what slows the machine slows both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use cosmolet::ebpf::{Options, Programs};
use cosmolet::engine::types::{Port, Protocol, Vip};
use serde::Serialize;

use crate::packet::{self, flag};

/// The number of VIPs of each family.
pub const VIPS: u16 = 1000;
/// Packets in one turn.
const REPEAT: u32 = 200_000;
/// Turns of each case, each with another VIP; the result is the median.
const TURNS: u16 = 21;

/// One measured case.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The program: `in` or `out`.
    pub direction: &'static str,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// `miss` is a packet of no VIP; `hit` a data packet of a declared port; `syn` and `syn_ack` likewise.
    pub case: &'static str,
    /// Nanoseconds a packet, the median of the turns.
    pub nanoseconds: f64,
    /// The same of the empty program, in turns between.
    pub empty: f64,
    /// The most that `nanoseconds - empty` may be.
    pub limit: f64,
}

impl Row {
    /// Nanoseconds a packet beyond those of the empty program.
    #[must_use]
    pub fn over_empty(&self) -> f64 {
        self.nanoseconds - self.empty
    }

    /// Whether the cost is within its limit.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.over_empty() <= self.limit
    }
}

/// Measures all cases. Needs root, and takes a few seconds.
///
/// # Errors
/// The programs cannot be loaded or run.
pub fn measure() -> Result<Vec<Row>> {
    let mut programs = Programs::load(&Options { max_ports: 4 * u32::from(VIPS) + 16, ..Options::default() })?;
    for n in 0..VIPS {
        for address in [v4(n), v6(n)] {
            programs.track(Vip::new(address), &[Port { protocol: Protocol::Tcp, number: 443 }])?;
        }
    }
    classifier(&mut programs, "cosmolet_empty")?.load()?;
    cases().into_iter().map(|case| measure_case(&mut programs, case)).collect()
}

struct Case {
    direction: &'static str,
    family: &'static str,
    case: &'static str,
    /// One for each turn, each of another VIP.
    frames: Vec<Vec<u8>>,
    limit: f64,
}

fn cases() -> Vec<Case> {
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
                let ours = SocketAddr::new(address(first + turn * (VIPS / TURNS)), 443);
                let theirs = SocketAddr::new(address(u16::MAX - turn), 40_000);
                let (from, to) = if direction == "in" { (theirs, ours) } else { (ours, theirs) };
                packet::ethernet(&packet::tcp_packet(from, to, 1, 2, flags))
            };
            cases.push(Case { direction, family, case, frames: (0..TURNS).map(frame).collect(), limit });
        }
    }
    cases
}

fn measure_case(programs: &mut Programs, case: Case) -> Result<Row> {
    let Case { direction, family, case, frames, limit } = case;
    let name = format!("cosmolet_{direction}");
    let (mut own, mut empty) = (Vec::new(), Vec::new());
    for frame in &frames {
        empty.push(run(programs, "cosmolet_empty", frame)?);
        own.push(run(programs, &name, frame)?);
    }
    Ok(Row { direction, family, case, nanoseconds: median(&mut own), empty: median(&mut empty), limit })
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

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn v4(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(192, high, 2, low))
}

fn v6(n: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, n))
}
