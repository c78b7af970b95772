//! Measures what the programs cost a packet, by `BPF_PROG_TEST_RUN`.
//!
//! Every case is measured against an empty program of the same run, turn by turn, so that what slows the machine slows
//! both. Handshakes are at the sampled rate: every VIP has had more SYN in the last second than are all followed. What a
//! reading of many VIPs costs is measured too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

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
/// The most nanoseconds over the empty program for a packet of no VIP.
const MISS: f64 = 15.0;
/// Likewise for one of a VIP.
const HIT: f64 = 25.0;
/// SYN of one port within a second: past 1000 of them one in 16 is followed.
const SAMPLED: u32 = 10_000;
/// The VIPs that are read, and the most milliseconds of a reading: 0.5 % of a core, once a second.
const READ: u16 = 10_000;
const READING: f64 = 5.0;

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
    let cases = cases(turns);
    // Other connections' SYN than those that are measured; 3 s later their places would be free again.
    for frame in cases.iter().filter(|case| case.case == "syn").flat_map(|case| &case.frames) {
        let mut other = frame.clone();
        if let Some(port) = other.get_mut(case_port(frame)) {
            *port ^= 0xff;
        }
        run(&mut programs, "cosmolet_in", &other, SAMPLED)?;
    }
    programs.sample(Duration::from_secs(1))?;
    let mut figures = Vec::new();
    for case in &cases {
        figures.push(measure_case(&mut programs, case)?);
    }
    drop(programs);
    figures.push(followed()?);
    figures.extend(readings(turns)?);
    Ok(figures)
}

/// Where the lower byte of the client's port is, in an Ethernet frame from it.
fn case_port(frame: &[u8]) -> usize {
    const ETHERNET: usize = 14;
    let ip = if frame.get(ETHERNET).is_some_and(|byte| byte >> 4 == 6) { 40 } else { 20 };
    ETHERNET + ip + 1
}

/// A SYN that takes a place in the table, each of another connection. Only told: one such run cannot be repeated, so that the
/// clock's own cost and cold caches are in it, and in the empty program's.
fn followed() -> Result<Figure> {
    const CONNECTIONS: u16 = 2000;
    let mut programs = Programs::load(&Options::default())?;
    programs.track(Vip::new(v4(0)), &[Port { protocol: Protocol::Tcp, number: 443 }])?;
    classifier(&mut programs, "cosmolet_empty")?.load()?;
    let (mut own, mut empty) = (Vec::new(), Vec::new());
    for n in 1..=CONNECTIONS {
        let frame = frame(true, (v4(0), v4(n)), flag::SYN);
        empty.push(run(&mut programs, "cosmolet_empty", &frame, 1)?);
        own.push(run(&mut programs, "cosmolet_in", &frame, 1)?);
    }
    Ok(Figure {
        name: "eBPF: in, ipv4, a SYN that is followed, single runs".to_owned(),
        unit: "ns",
        own: Summary::of(&own),
        against: "an empty program".to_owned(),
        baseline: Some(Summary::of(&empty)),
        measure: Measure::OverBaseline,
        target: None,
    })
}

/// What one reading of [`READ`] VIPs with a port each takes: while nothing comes, and while each gets packets.
fn readings(turns: u16) -> Result<Vec<Figure>> {
    let mut programs = Programs::load(&Options { max_ports: 2 * u32::from(READ) + 16, ..Options::default() })?;
    let frames: Vec<_> = (0..READ).map(|n| frame(true, (v4(n), v4(u16::MAX)), flag::ACK | flag::PSH)).collect();
    for n in 0..READ {
        programs.track(Vip::new(v4(n)), &[Port { protocol: Protocol::Tcp, number: 443 }])?;
    }
    classifier(&mut programs, "cosmolet_empty")?.load()?;
    let mut figures = Vec::new();
    for (name, busy) in [("idle", false), ("with traffic each", true)] {
        let mut spans = Vec::new();
        for _ in 0..turns {
            if busy {
                frames.iter().try_for_each(|frame| run(&mut programs, "cosmolet_in", frame, 1).map(drop))?;
            }
            let start = processor_time();
            let samples = programs.sample(Duration::from_secs(1))?;
            spans.push(processor_time() - start);
            let expected = if busy { usize::from(READ) } else { 0 };
            anyhow::ensure!(samples.len() == expected, "{} samples", samples.len());
        }
        figures.push(Figure {
            name: format!("eBPF, one reading of {READ} VIPs, {name}"),
            unit: "ms",
            own: Summary::of_spans(&spans),
            against: "processor time: 0.5 % of a core".to_owned(),
            baseline: None,
            measure: Measure::P50,
            target: Some(READING),
        });
    }
    Ok(figures)
}

/// What this thread has had of a processor.
#[expect(unsafe_code, reason = "std has no clock of processor time")]
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the structure that it is given; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
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
            ("in", "miss", VIPS, data, MISS),
            ("in", "hit", 0, data, HIT),
            ("in", "syn", 0, flag::SYN, HIT),
            ("out", "miss", VIPS, data, MISS),
            ("out", "hit", 0, data, HIT),
            ("out", "syn_ack", 0, flag::SYN | flag::ACK, HIT),
        ] {
            let frame = |turn: u16| {
                let addresses = (address(first + turn * (VIPS / turns)), address(u16::MAX - turn));
                frame(direction == "in", addresses, flags)
            };
            cases.push(Case { direction, family, case, frames: (0..turns).map(frame).collect(), limit });
        }
    }
    cases
}

/// A segment between a VIP's port and a client.
fn frame(inward: bool, (vip, client): (IpAddr, IpAddr), flags: u8) -> Vec<u8> {
    let (ours, theirs) = (SocketAddr::new(vip, 443), SocketAddr::new(client, 40_000));
    let (from, to) = if inward { (theirs, ours) } else { (ours, theirs) };
    packet::ethernet(&packet::tcp_packet(from, to, 1, 2, flags))
}

fn measure_case(programs: &mut Programs, case: &Case) -> Result<Figure> {
    let Case { direction, family, case, frames, limit } = case;
    let name = format!("cosmolet_{direction}");
    let (mut own, mut empty) = (Vec::new(), Vec::new());
    for frame in frames {
        empty.push(run(programs, "cosmolet_empty", frame, REPEAT)?);
        own.push(run(programs, &name, frame, REPEAT)?);
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
fn run(programs: &mut Programs, name: &str, frame: &[u8], repeat: u32) -> Result<f64> {
    let program = classifier(programs, name)?;
    let result = program.test_run(TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::new() })?;
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
