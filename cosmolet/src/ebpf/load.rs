//! Loads the embedded object.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};

use aya::maps::{Array, HashMap, MapData};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};

use cosmolet_common::probe::Prefix;

use super::attach::{Direction, Link};
use super::counters::Counters;
use super::followed::{self, Followed};
use super::log::Forwarder;
use super::vips::Vips;
use super::{Error, Programs};
use crate::engine::types::PerFamily;

/// How to load the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The most entries of the maps: each VIP takes one, and one more for each of its ports. A kernel of `n` CPUs
    /// keeps 152 × `n` bytes for each.
    pub max_ports: u32,
    /// The places of handshakes that are followed at once, 40 bytes each; made a power of two, up to 1 048 576. What
    /// finds no place is not followed, and counted.
    pub handshakes: u32,
    /// What the programs log.
    pub log: ProgramLog,
    /// How to attach.
    pub hook: Hook,
    /// Where wire-true probes come from, by family: what comes from there is not counted, and what would leave by an
    /// uplink to or from there is dropped and told.
    pub probes: PerFamily<Prefix>,
}

/// No source of probes: nothing is taken for one.
const NO_PROBES: PerFamily<Prefix> = PerFamily { v4: Prefix::NONE, v6: Prefix::NONE };

impl Default for Options {
    fn default() -> Self {
        Self { max_ports: 4096, handshakes: 32_768, log: ProgramLog::Off, hook: Hook::Tcx, probes: NO_PROBES }
    }
}

/// The [`Options::max_ports`] that fit 64 MiB on this machine, within bounds.
#[must_use]
pub fn fitting_ports() -> u32 {
    let cpus = aya::util::nr_cpus().unwrap_or(1).max(1);
    let entries = (64 << 20) / (size_of::<cosmolet_common::Counters>() * cpus);
    u32::try_from(entries).unwrap_or(u32::MAX).clamp(4096, 65_536)
}

/// What the programs log: chosen when they are loaded, and then either compiled in or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgramLog {
    /// Nothing.
    #[default]
    Off,
    /// Odd packets, and refusals by this host.
    Debug,
    /// Every packet of a declared port as well.
    Trace,
}

impl ProgramLog {
    /// As `aya_log_common::Level` has it.
    const fn level(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Debug => aya_log::Level::Debug as u8,
            Self::Trace => aya_log::Level::Trace as u8,
        }
    }
}

/// How to attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hook {
    /// TCX, and clsact where the kernel does not know it (before 6.6).
    #[default]
    Tcx,
    /// clsact.
    Clsact,
}

/// The embedded ELF object.
#[must_use]
pub fn object() -> &'static [u8] {
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cosmolet-ebpf.o"))
}

/// Without CAP_PERFMON the kernel may refuse the logging programs, with whatever error: better no log than no programs.
pub(super) fn load(options: &Options) -> Result<Programs, Error> {
    match load_as_asked(options) {
        Err(error) if options.log != ProgramLog::Off => {
            tracing::warn!(%error, "the programs cannot log; loading those that do not");
            load_as_asked(&Options { log: ProgramLog::Off, ..*options })
        }
        result => result,
    }
}

fn load_as_asked(options: &Options) -> Result<Programs, Error> {
    let level = options.log.level();
    let places = followed::places(options.handshakes);
    let mut ebpf = EbpfLoader::new()
        .override_global("AYA_LOG_LEVEL", &level, true)
        .override_global("PROBE_V4", &options.probes.v4, true)
        .override_global("PROBE_V6", &options.probes.v6, true)
        .override_global("FOLLOWED_MASK", &(places - 1), true)
        .override_global("FLOW_SEED", &RandomState::new().hash_one(0), true)
        .map_max_entries("FOLLOWED", places)
        .map_max_entries("FOLLOW_MASKS", options.max_ports)
        .map_max_entries("VIP_PORTS", options.max_ports)
        .map_max_entries("COUNTERS", options.max_ports)
        .map_max_entries("TOUCHED", options.max_ports)
        .load(object())
        .map_err(Error::from_load)?;
    let counters = Counters::new(&mut ebpf, options.max_ports)?;
    let followed = Followed::new(&mut ebpf, options)?;
    let ports: HashMap<MapData, _, _> = take(&mut ebpf, "VIP_PORTS")?;
    let filter: Array<MapData, _> = take(&mut ebpf, "VIP_FILTER")?;
    let front: Array<MapData, _> = take(&mut ebpf, "VIP_FRONT")?;
    let vips = Vips::new(ports, filter, front, options.max_ports);
    // The kernel's answer is wanted now and not when the first uplink appears.
    for direction in Direction::BOTH {
        program(&mut ebpf, direction, Link::Ethernet, options.log)?;
    }
    let caught = Some(take(&mut ebpf, "PROBE_CAUGHT")?);
    let log = match options.log {
        ProgramLog::Off => None,
        ProgramLog::Debug | ProgramLog::Trace => Some(Forwarder::new(&mut ebpf)?),
    };
    Ok(Programs { ebpf, options: *options, attached: BTreeMap::new(), vips, counters, followed, caught, log })
}

/// The program for a direction and a kind of link, loaded into the kernel.
pub(super) fn program(
    ebpf: &mut Ebpf,
    direction: Direction,
    link: Link,
    log: ProgramLog,
) -> Result<&mut SchedClassifier, Error> {
    let name = program_name(direction, link, log != ProgramLog::Off);
    let program = ebpf.program_mut(&name).ok_or_else(|| Error::Missing(format!("program {name}")))?;
    let program: &mut SchedClassifier = program.try_into().map_err(|error| Error::from_load(load_error(error)))?;
    if program.fd().is_err() {
        program.load().map_err(|error| Error::from_load(load_error(error)))?;
    }
    Ok(program)
}

/// Every program is called `cosmolet_in…` or `cosmolet_out…`.
fn program_name(direction: Direction, link: Link, log: bool) -> String {
    let direction = match direction {
        Direction::In => "in",
        Direction::Out => "out",
    };
    let link = match link {
        Link::Ethernet => "",
        Link::Bare => "_l3",
    };
    let log = if log { "_log" } else { "" };
    format!("cosmolet_{direction}{link}{log}")
}

fn load_error(error: aya::programs::ProgramError) -> aya::EbpfError {
    aya::EbpfError::ProgramError(error)
}

pub(super) fn take<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, Error> {
    let map = ebpf.take_map(name).ok_or_else(|| Error::Missing(format!("map {name}")))?;
    Ok(T::try_from(map)?)
}
