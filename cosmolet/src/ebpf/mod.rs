//! The eBPF programs on the node's uplinks: loads and attaches them, tells them which ports to count, reads what
//! they counted.
//!
//! Owns the programs, their links and their maps; all of it goes away with the process, and nothing is pinned. Never
//! judges a count, and never finds uplinks: `netlink` does. It has no tasks and no locks: one thread calls it.

mod attach;
mod counters;
pub(crate) mod error;
mod followed;
mod load;
mod log;
mod shared;
mod vips;

use std::collections::BTreeMap;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use cosmolet_common::Oddities;

pub use self::error::Error;
pub use self::load::{Hook, Options, ProgramLog, fitting_ports, object};
pub use self::vips::Apart;
use crate::engine::event::{TrafficCounts, TrafficSample};
pub use crate::engine::types::Uplink;
use crate::engine::types::{Port, Vip};

/// A ring of [`Caught`](cosmolet_common::probe::Caught), short ones and long ones.
pub type CaughtRing = RingBuf<MapData>;

/// The loaded programs. Dropping them detaches them.
pub struct Programs {
    ebpf: Ebpf,
    options: Options,
    attached: BTreeMap<u32, attach::Attached>,
    vips: vips::Vips,
    counters: counters::Counters,
    followed: followed::Followed,
    caught: Option<CaughtRing>,
    log: Option<log::Forwarder>,
}

impl Programs {
    /// Loads the programs into the kernel, attached to nothing yet.
    ///
    /// # Errors
    /// [`Error::NotPermitted`], [`Error::NoBtf`], or what else the kernel said.
    pub fn load(options: &Options) -> Result<Self, Error> {
        load::load(options)
    }

    /// Attaches to exactly these uplinks: to those that are new, not again to those that have the programs, and no
    /// longer to the others. Interfaces are told apart by index, so one that was created again under its old name
    /// gets programs again. Returns one result for each uplink.
    pub fn attach(&mut self, uplinks: &[Uplink]) -> Vec<(Uplink, Result<(), Error>)> {
        attach::reconcile(&mut self.ebpf, &self.options, &mut self.attached, uplinks)
    }

    /// Forgets an interface that the kernel has removed; the next [`attach`](Self::attach) that names its index
    /// attaches again.
    pub fn forget(&mut self, ifindex: u32) {
        self.attached.remove(&ifindex);
    }

    /// The uplinks that have the programs.
    pub fn attached(&self) -> impl Iterator<Item = &Uplink> {
        self.attached.values().map(attach::Attached::uplink)
    }

    /// Counts these ports of a VIP from now on, and no others of it; ports that it has already keep their counts.
    ///
    /// # Errors
    /// [`Error::Full`] changes nothing; after another error it may be called again with the same arguments.
    pub fn track(&mut self, vip: Vip, ports: &[Port]) -> Result<(), Error> {
        self.vips.track(&mut self.counters, vip, ports)
    }

    /// Stops counting a VIP.
    ///
    /// # Errors
    /// What the kernel said; it may be called again.
    pub fn untrack(&mut self, vip: Vip) -> Result<(), Error> {
        self.vips.untrack(vip)
    }

    /// The VIPs that are counted, with their ports.
    #[must_use]
    pub fn tracked(&self) -> BTreeMap<Vip, Vec<Port>> {
        self.vips.tracked()
    }

    /// Reads the counters and the followed handshakes: one sample for each port of which there is something to tell
    /// since the last reading, `span` ago.
    ///
    /// # Errors
    /// What the kernel said; nothing is lost, the next reading has it.
    pub fn sample(&mut self, span: Duration) -> Result<Vec<TrafficSample>, Error> {
        self.vips.sample(&mut self.counters, &mut self.followed, span)
    }

    /// The counts of a declared port since it is tracked, as of the last [`sample`](Self::sample).
    #[must_use]
    pub fn sum(&self, vip: Vip, port: Port) -> Option<TrafficCounts> {
        self.vips.sum(vip, port)
    }

    /// The counts of every declared port since it is tracked, as of the last [`sample`](Self::sample).
    pub fn sums(&self) -> impl Iterator<Item = (Vip, Port, TrafficCounts)> {
        self.vips.sums()
    }

    /// What was counted apart from the ports of each VIP since it is tracked, as of the last
    /// [`sample`](Self::sample).
    pub fn apart(&self) -> impl Iterator<Item = (Vip, Apart)> {
        self.vips.apart()
    }

    /// The odd packets that no VIP's counters hold, since the programs were loaded.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn oddities(&self) -> Result<Oddities, Error> {
        let oddities = self.counters.oddities()?;
        Ok(Oddities { unfollowed: oddities.unfollowed + self.followed.torn(), ..oddities })
    }

    /// What was about to leave the node to or from a probe's source: a ring.
    /// There is one, for whoever asks first.
    pub const fn take_caught(&mut self) -> Option<CaughtRing> {
        self.caught.take()
    }

    /// The loaded object: for `BPF_PROG_TEST_RUN`, in tests and benches.
    pub const fn object(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Writes what the programs logged to the daemon's log; nothing unless [`Options::log`] asked for it. The
    /// programs drop records that do not fit in 128 KiB.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}
