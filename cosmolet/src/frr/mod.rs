//! FRR, through bgpd's vty socket.
//!
//! Owns what cosmolet reads from bgpd and the `network` statements it puts there, which carry one of its route-maps, and the
//! entries of the prefix-list that an operator may lend (`withdrawn`).
//! Never touches an instance, a peer, or a statement of anybody else, and never writes FRR's configuration to disk.

mod apply;
pub mod error;
pub mod maps;
pub mod observe;
mod observer;
pub mod render;
mod rib;
pub mod vty;
pub mod withdrawn;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use self::apply::{Admission, Applier};
use self::observer::{Memory, Observer};
use crate::engine::event::Event;
use crate::engine::observed::BgpFault;
use crate::engine::plan::{Applied, Outcome, Step};
use crate::engine::types::{Mode, Vip, Vrf};

/// The socket's name within its directory.
pub const SOCKET: &str = "bgpd.vty";

/// What the edge needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of the vty sockets (`frr.socket_path`).
    pub socket_dir: PathBuf,
    /// The AS number that FRR must have; `None` takes what it has (`bgp.asn`).
    pub asn: Option<u32>,
    /// Overrides what is detected, for both families (`bgp.mode`).
    pub mode: Option<Mode>,
    /// The VRF whose instance VIPs go into (`bgp.vrf`).
    pub vrf: Vrf,
    /// VIPs have addresses (`loopback.enabled`); if not, FRR must not check for them.
    pub addresses: bool,
    /// How long bgpd may say nothing while it owes a reply.
    pub patience: Duration,
    /// The time between two readings of the running configuration when nothing happens.
    pub period: Duration,
}

impl Options {
    /// The usual times, no override.
    #[must_use]
    pub fn new(socket_dir: impl Into<PathBuf>) -> Self {
        Self {
            socket_dir: socket_dir.into(),
            asn: None,
            mode: None,
            vrf: Vrf::default(),
            addresses: true,
            patience: Duration::from_secs(2),
            period: Duration::from_secs(10),
        }
    }
}

/// The edge.
#[derive(Debug)]
pub struct Frr;

impl Frr {
    /// Starts the task that watches bgpd, on the current runtime, and reports to `events`: `Event::Bgp` and `Event::Rib`.
    /// It ends when `events` is closed or the last handle is dropped.
    #[must_use]
    pub fn spawn(options: Options, events: mpsc::Sender<Event>) -> FrrHandle {
        let path = options.socket_dir.join(SOCKET);
        let applier = Arc::new(Applier::new(path.clone(), options.patience));
        let (admission, admitted) = watch::channel(Admission::Closed(BgpFault::Starting));
        let (requests, requested) = mpsc::unbounded_channel();
        let observer = Observer {
            path,
            options,
            events,
            requests: requested,
            admission,
            applier: Arc::clone(&applier),
            memory: Memory::default(),
        };
        tokio::spawn(observer.run());
        FrrHandle { applier, admission: admitted, requests }
    }
}

/// What the observer is asked for.
#[derive(Debug)]
enum Request {
    /// Something went wrong: read the configuration now.
    Reread,
    /// These VIPs were changed: read them from the RIB soon, and those that should be there for ever after.
    Touched { vips: Vec<Vip>, present: bool },
    /// The same, but only for those of which something else was expected so far.
    Expected { vips: Vec<Vip>, present: bool },
}

/// The daemon's end of the edge.
#[derive(Clone, Debug)]
pub struct FrrHandle {
    applier: Arc<Applier>,
    admission: watch::Receiver<Admission>,
    requests: mpsc::UnboundedSender<Request>,
}

impl FrrHandle {
    /// Carries out `Advertise` and `Withdraw` steps, all pipelined, and says what became of each, in no particular
    /// order. While FRR is away every outcome is `Retry`. The VIPs are read from the RIB soon after.
    pub async fn apply(&self, steps: Vec<Step>) -> Vec<Applied> {
        let admission = self.admission.borrow().clone();
        let applied = self.applier.run(steps, &admission).await;
        let done = |wanted: fn(&Step) -> bool| {
            let done = applied.iter().filter(|applied| applied.outcome == Outcome::Done && wanted(&applied.step));
            done.map(|applied| applied.step.vip()).collect::<Vec<_>>()
        };
        self.request(Request::Touched { vips: done(|step| matches!(step, Step::Advertise(..))), present: true });
        self.request(Request::Touched { vips: done(|step| matches!(step, Step::Withdraw(_))), present: false });
        if applied.iter().any(|applied| applied.outcome != Outcome::Done) {
            self.request(Request::Reread);
        }
        applied
    }

    /// Reads these VIPs from the RIB 60 ms, 150 ms, 1 s and 3 s from now, as `Event::Rib`. Those that should be `present` are
    /// read on every 10 s or more; the others are forgotten. One of which the same was said before is left alone, so that it
    /// may be said again with every renewal of a lease. `apply` does it for its own steps; in Connected mode, where there are
    /// none, and for VIPs that were adopted, the caller does.
    pub fn watch_rib(&self, vips: Vec<Vip>, present: bool) {
        if !vips.is_empty() {
            self.request(Request::Expected { vips, present });
        }
    }

    /// Reads VIPs that should be present soon, as after an `Advertise` step.
    pub fn recheck_rib(&self, vips: Vec<Vip>) {
        if !vips.is_empty() {
            self.request(Request::Touched { vips, present: true });
        }
    }

    fn request(&self, request: Request) {
        // Without its task the edge has no more to report, and the daemon is about to end.
        drop(self.requests.send(request));
    }
}
