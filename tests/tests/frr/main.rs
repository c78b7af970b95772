//! The FRR edge on real daemons: what it reads, what it changes, what it leaves alone, and how it gets through failures.
#![allow(clippy::expect_used, reason = "the helpers of tests fail like tests")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a wait passes over every event but those it is for")]

mod attributes;
mod faults;
mod impostors;
mod meanwhile;
mod operators;
mod pair;
mod reading;
mod steps;
mod vrfs;
mod withdrawn;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use cosmolet::engine::event::Event;
use cosmolet::engine::observed::{BgpFault, BgpState, BgpView, RibState};
use cosmolet::engine::plan::{Applied, Outcome, Step};
use cosmolet::engine::types::Vip;
use cosmolet::frr::{Frr as Edge, FrrHandle, Options};
use cosmolet_tests::frr::{self, Frr};
use cosmolet_tests::{Lab, Netns};
use tokio::sync::mpsc;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);
const DYNAMIC: &str = "frr defaults datacenter\nhostname node\nrouter bgp 65001\n bgp router-id 10.255.0.1\n";

/// FRR in a namespace of its own.
struct Node {
    frr: Frr,
    netns: Netns,
    _lab: Lab,
}

impl Node {
    fn start(config: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let netns = lab.netns("node")?;
        let frr = Frr::start(&lab, &netns, config, &frr::Options::default())?;
        Ok(Self { frr, netns, _lab: lab })
    }

    fn watch(&self) -> Watched {
        Watched::new(options(self.frr.directory()))
    }

    fn running_config(&self) -> Result<String> {
        self.frr.bgpd()?.expect_success("show running-config")
    }

    fn networks(&self) -> Result<Vec<String>> {
        let config = self.running_config()?;
        let lines = config.lines().map(str::trim).filter(|line| line.starts_with("network "));
        Ok(lines.map(str::to_owned).collect())
    }

    fn add_loopback(&self, vip: Vip) -> Result<()> {
        self.netns.add_address("lo", vip.prefix())
    }
}

fn options(directory: &Path) -> Options {
    Options { patience: Duration::from_millis(500), ..Options::new(directory) }
}

/// The edge and what it reports.
struct Watched {
    handle: FrrHandle,
    events: mpsc::Receiver<Event>,
    /// The last state, while no wait has taken it.
    state: Option<BgpState>,
}

impl Watched {
    fn new(options: Options) -> Self {
        let (sender, events) = mpsc::channel(64);
        Self { handle: Edge::spawn(options, sender), events, state: None }
    }

    async fn event<T>(&mut self, what: &str, mut pick: impl FnMut(Event) -> Option<T>) -> Result<T> {
        let mut seen = Vec::new();
        let found = timeout(LIMIT, async {
            while let Some(event) = self.events.recv().await {
                seen.push(format!("{event:?}"));
                if let Event::Bgp(state) = &event {
                    self.state = Some(state.clone());
                }
                if let Some(picked) = pick(event) {
                    return Some(picked);
                }
            }
            None
        });
        match found.await {
            Ok(Some(picked)) => Ok(picked),
            Ok(None) => bail!("the edge ended while waiting for {what}; it said {seen:#?}"),
            Err(_) => bail!("{what}: not within {LIMIT:?}; the edge said {seen:#?}"),
        }
    }

    /// Waits until a session with some peer is up.
    async fn session(&mut self) -> Result<BgpView> {
        self.view("a session", |view| view.peers.iter().any(|peer| peer.established)).await
    }

    async fn up(&mut self) -> Result<BgpView> {
        self.view("FRR usable", |_| true).await
    }

    async fn view(&mut self, what: &str, wanted: impl Fn(&BgpView) -> bool) -> Result<BgpView> {
        if let Some(BgpState::Up(view)) = self.state.take()
            && wanted(&view)
        {
            return Ok(view);
        }
        let pick = |event| match event {
            Event::Bgp(BgpState::Up(view)) if wanted(&view) => Some(view),
            _ => None,
        };
        self.event(what, pick).await
    }

    async fn fault(&mut self, reason: &str) -> Result<BgpFault> {
        let pick = |event| match event {
            Event::Bgp(BgpState::Down(fault)) if fault.as_str() == reason => Some(fault),
            _ => None,
        };
        self.event(reason, pick).await
    }

    /// Waits until the RIB's state of each VIP is as `wanted`, which may come in one report or several.
    async fn rib(&mut self, vips: &[Vip], wanted: impl Fn(&RibState) -> bool) -> Result<RibState> {
        let mut missing: BTreeSet<Vip> = vips.iter().copied().collect();
        let pick = |event| match event {
            Event::Rib(reports) => {
                let fits = reports.iter().filter(|report| wanted(&report.rib));
                let last = fits.filter(|report| missing.remove(&report.vip)).last()?.rib.clone();
                missing.is_empty().then_some(last)
            }
            _ => None,
        };
        self.event(&format!("the RIB's state of {vips:?}"), pick).await
    }
}

fn vip(text: &str) -> Vip {
    Vip::new(text.parse().expect("an address"))
}

/// `count` VIPs of both families, by turns.
fn vips(count: u16) -> Vec<Vip> {
    let address = |number: u16| -> IpAddr {
        let [high, low] = number.to_be_bytes();
        if number.is_multiple_of(2) {
            Ipv4Addr::new(10, 77, high, low).into()
        } else {
            Ipv6Addr::new(0x2001, 0xdb8, 77, 0, 0, 0, 0, number).into()
        }
    };
    (0..count).map(|number| Vip::new(address(number))).collect()
}

fn all(vips: &[Vip], step: fn(Vip) -> Step) -> Vec<Step> {
    vips.iter().copied().map(step).collect()
}

fn ensure_done(applied: &[Applied]) -> Result<()> {
    let failed: Vec<_> = applied.iter().filter(|applied| applied.outcome != Outcome::Done).take(3).collect();
    ensure!(failed.is_empty(), "not done: {failed:?}");
    Ok(())
}

fn ensure_retried(applied: &[Applied]) -> Result<()> {
    ensure!(applied.iter().all(|applied| matches!(applied.outcome, Outcome::Retry(..))), "{applied:?}");
    Ok(())
}
