//! The FRR edge on real daemons: what it reads, what it changes, what it leaves alone, and how it gets through failures.
#![allow(clippy::expect_used, reason = "the helpers of tests fail like tests")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a wait passes over every event but those it is for")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cosmolet::engine::event::Event;
use cosmolet::engine::observed::{BgpFault, BgpState, BgpView, Owner, RibState};
use cosmolet::engine::plan::{Applied, Outcome, Step};
use cosmolet::engine::types::{Family, Mode, PerFamily, Vip};
use cosmolet::frr::{Frr as Edge, FrrHandle, Options};
use cosmolet_tests::frr::{self, Daemon, Frr};
use cosmolet_tests::netns::{End, veth};
use cosmolet_tests::{Lab, Netns};
use tokio::sync::mpsc;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);
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
    async fn rib(&mut self, vips: &[Vip], wanted: impl Fn(RibState) -> bool) -> Result<RibState> {
        let mut missing: BTreeSet<Vip> = vips.iter().copied().collect();
        let pick = |event| match event {
            Event::Rib(reports) => {
                let fits = reports.iter().filter(|report| wanted(report.rib));
                let last = fits.filter(|report| missing.remove(&report.vip)).last()?.rib;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_unnumbered_configuration_is_understood() -> Result<()> {
    let config = "frr defaults datacenter
hostname node1
router bgp 4200000011
 bgp router-id 10.0.0.11
 bgp bestpath as-path multipath-relax
 no bgp default ipv4-unicast
 bgp graceful-restart
 neighbor FABRIC peer-group
 neighbor FABRIC remote-as external
 neighbor FABRIC description to the ToRs
 neighbor eth0 interface peer-group FABRIC
 neighbor eth1 interface peer-group FABRIC
 address-family ipv4 unicast
  network 10.0.0.11/32
  network 10.20.0.0/16
  network 10.0.0.12/32 route-map COSMOLET-ADVERTISE
  redistribute connected route-map LOOPBACKS
  neighbor FABRIC activate
  maximum-paths 64
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8::11/128
  network 2001:db8::12/128 route-map COSMOLET-ADVERTISE
  neighbor FABRIC activate
 exit-address-family
exit
route-map LOOPBACKS permit 10
exit
";
    let node = Node::start(config)?;
    let mut watched = node.watch();
    let view = watched.up().await?;
    assert_eq!((view.asn, view.generation), (4_200_000_011, 1));
    assert_eq!(view.modes, PerFamily { v4: Mode::Connected, v6: Mode::Dynamic });
    let networks = [
        ("10.0.0.11", Owner::Foreign),
        ("10.0.0.12", Owner::Ours),
        ("2001:db8::11", Owner::Foreign),
        ("2001:db8::12", Owner::Ours),
    ];
    assert_eq!(view.networks, networks.map(|(text, owner)| (vip(text), owner)).into());
    let peers: Vec<_> = view.peers.iter().map(|peer| (peer.name.as_str(), peer.established)).collect();
    assert_eq!(peers, [("eth0", false), ("eth1", false)]);

    let overridden = Options { mode: Some(Mode::Dynamic), ..options(node.frr.directory()) };
    let view = Watched::new(overridden).up().await?;
    assert_eq!(view.modes, PerFamily { v4: Mode::Dynamic, v6: Mode::Dynamic });
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mode_follows_the_configuration() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let quick = Options { period: Duration::from_millis(200), ..options(node.frr.directory()) };
    let mut watched = Watched::new(quick);
    let view = watched.up().await?;
    assert_eq!(view.modes, PerFamily { v4: Mode::Dynamic, v6: Mode::Dynamic });
    let family = ["router bgp", "address-family ipv6 unicast"];
    node.frr.configure(&[&family[..], &["redistribute connected"]].concat())?;
    let view = watched.view("connected", |view| view.modes.v6 == Mode::Connected).await?;
    assert_eq!((view.modes.v4, view.generation), (Mode::Dynamic, 1));
    node.frr.configure(&[&family[..], &["no redistribute connected"]].concat())?;
    watched.view("dynamic", |view| view.modes.v6 == Mode::Dynamic).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn vips_are_advertised_and_withdrawn_in_both_families() -> Result<()> {
    let lab = Lab::new()?;
    let (node, tor) = (lab.netns("node")?, lab.netns("tor")?);
    veth(End { netns: &node, interface: "up" }, End { netns: &tor, interface: "down" })?;
    node.add_address("up", "10.1.0.1/30".parse()?)?;
    tor.add_address("down", "10.1.0.2/30".parse()?)?;
    let config = |asn: u32, peer: &str| {
        format!(
            "frr defaults datacenter\nrouter bgp {asn}\n neighbor {peer} remote-as external\n neighbor {peer} timers connect 1\n \
             address-family ipv6 unicast\n  neighbor {peer} activate\n exit-address-family\n"
        )
    };
    let frr = Frr::start(&lab, &node, &config(65001, "10.1.0.2"), &frr::Options::default())?;
    let _tor = Frr::start(&lab, &tor, &config(65002, "10.1.0.1"), &frr::Options::default())?;
    let mut watched = Watched::new(Options { period: Duration::from_millis(200), ..options(frr.directory()) });
    let is_established = |view: &BgpView| view.peers.iter().any(|peer| peer.established);
    watched.view("a session", is_established).await?;

    let pair = [vip("10.7.0.1"), vip("2001:db8::7:1")];
    for vip in pair {
        node.add_address("lo", vip.prefix())?;
    }
    ensure_done(&watched.handle.apply(all(&pair, Step::Advertise)).await)?;
    watched.rib(&pair, |rib| rib == RibState { valid: true, best: true, advertised_to: 1 }).await?;
    watched.view("our networks", |view| pair.iter().all(|vip| view.networks.get(vip) == Some(&Owner::Ours))).await?;
    // Again, and an UPDATE must not follow: FRR takes it for what it has.
    ensure_done(&watched.handle.apply(all(&pair, Step::Advertise)).await)?;

    ensure_done(&watched.handle.apply(all(&pair, Step::Withdraw)).await)?;
    watched.rib(&pair, |rib| rib == RibState::default()).await?;
    watched.view("no networks", |view| view.networks.is_empty()).await?;
    ensure_done(&watched.handle.apply(all(&pair, Step::Withdraw)).await).context("what is absent is withdrawn")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vip_that_is_not_on_the_loopback_is_not_valid() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let mut watched = node.watch();
    watched.up().await?;
    let vip = vip("10.7.0.1");
    ensure_done(&watched.handle.apply(vec![Step::Advertise(vip)]).await)?;
    assert_eq!(watched.rib(&[vip], |_| true).await?, RibState::default());
    node.add_loopback(vip)?;
    watched.handle.watch_rib(vec![vip], true);
    let state = watched.rib(&[vip], |rib| rib.valid).await?;
    assert_eq!(state, RibState { valid: true, best: true, advertised_to: 0 });
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_redistributed_is_seen_in_the_rib() -> Result<()> {
    let node = Node::start(&format!("{DYNAMIC} address-family ipv4 unicast\n  redistribute connected\n"))?;
    let mut watched = node.watch();
    assert_eq!(watched.up().await?.modes, PerFamily { v4: Mode::Connected, v6: Mode::Dynamic });
    let vip = vip("10.7.0.1");
    node.add_loopback(vip)?;
    watched.handle.watch_rib(vec![vip], true);
    watched.rib(&[vip], |rib| rib.valid && rib.best).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_somebody_else_survives() -> Result<()> {
    let operators = "  network 10.7.0.1/32\n  network 10.7.0.2/32 route-map THEIRS\n";
    let node = Node::start(&format!("{DYNAMIC} address-family ipv4 unicast\n{operators}"))?;
    let mut watched = node.watch();
    watched.up().await?;
    let before = node.running_config()?;
    let theirs = [vip("10.7.0.1"), vip("10.7.0.2")];
    for step in [Step::Withdraw, Step::Advertise] {
        let applied = watched.handle.apply(all(&theirs, step)).await;
        assert!(applied.iter().all(|applied| matches!(applied.outcome, Outcome::GiveUp(_))), "{applied:?}");
    }
    assert_eq!(node.running_config()?, before, "not even a route-map");

    let ours = vip("10.7.0.3");
    ensure_done(&watched.handle.apply(vec![Step::Advertise(ours)]).await)?;
    ensure_done(&watched.handle.apply(vec![Step::Withdraw(ours)]).await)?;
    let map = "route-map COSMOLET-ADVERTISE permit 10\nexit\n!\n";
    let after = node.running_config()?.replace(map, "");
    let essence = |text: &str| text.lines().filter(|line| *line != "!").collect::<Vec<_>>().join("\n");
    assert_eq!(essence(&after), essence(&before), "only our route-map was added");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn frr_down_at_start_is_retried() -> Result<()> {
    let lab = Lab::new()?;
    let netns = lab.netns("node")?;
    let directory = lab.subdirectory("frr-node")?;
    let mut watched = Watched::new(options(&directory));
    watched.fault("Unreachable").await?;
    ensure_retried(&watched.handle.apply(vec![Step::Advertise(vip("10.7.0.1"))]).await)?;
    let node = Node { frr: Frr::start(&lab, &netns, DYNAMIC, &frr::Options::default())?, netns, _lab: lab };
    let view = watched.up().await?;
    assert!(view.networks.is_empty());
    ensure_done(&watched.handle.apply(vec![Step::Advertise(vip("10.7.0.1"))]).await)?;
    assert_eq!(node.networks()?, ["network 10.7.0.1/32 route-map COSMOLET-ADVERTISE"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_bgpd_is_noticed_and_its_replay_asked_for() -> Result<()> {
    let mut node = Node::start(DYNAMIC)?;
    let mut watched = node.watch();
    watched.up().await?;
    let steps = all(&vips(20), Step::Advertise);
    ensure_done(&watched.handle.apply(steps.clone()).await)?;

    let killed = node.frr.kill(Daemon::Bgpd)?;
    watched.fault("Unreachable").await?;
    let noticed = killed.elapsed();
    ensure_retried(&watched.handle.apply(steps.clone()).await)?;

    node.frr.launch(Daemon::Bgpd)?;
    let socket = node.frr.socket(Daemon::Bgpd);
    let answering = std::thread::spawn(move || {
        while raw_client(&socket, &[]).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Instant::now()
    });
    let view = watched.up().await?;
    let back = Instant::now();
    assert_eq!(view.generation, 2, "a new connection");
    assert!(view.networks.is_empty(), "runtime networks are lost");
    ensure_done(&watched.handle.apply(steps).await)?;
    let replayed = Instant::now();
    assert_eq!(node.networks()?.len(), 20);
    let answering = answering.join().expect("the polling thread");
    let (after, replay) = (back.saturating_duration_since(answering), replayed.saturating_duration_since(answering));
    println!(
        "bgpd's death noticed after {noticed:?}; after its first answer: view {after:?}, 20 VIPs replayed {replay:?}"
    );
    assert!(noticed < Duration::from_millis(500), "{noticed:?}");
    assert!(replay < Duration::from_millis(500), "{replay:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_router_bgp_nothing_is_created() -> Result<()> {
    let node = Node::start("frr defaults datacenter\nhostname node\n")?;
    let mut watched = node.watch();
    assert_eq!(watched.fault("NoInstance").await?, BgpFault::NoInstance);
    let before = node.running_config()?;
    ensure_retried(&watched.handle.apply(vec![Step::Advertise(vip("10.7.0.1"))]).await)?;
    assert_eq!(node.running_config()?, before);
    node.frr.configure(&["router bgp 65001"])?;
    let view = watched.up().await?;
    assert_eq!((view.asn, view.generation), (65001, 1));
    ensure_done(&watched.handle.apply(vec![Step::Advertise(vip("10.7.0.1"))]).await)?;

    // The instance goes away between two readings: bare `router bgp` must not bring it back.
    node.frr.configure(&["no router bgp 65001"])?;
    ensure_retried(&watched.handle.apply(vec![Step::Advertise(vip("10.7.0.2"))]).await)?;
    watched.fault("NoInstance").await?;
    assert!(!node.running_config()?.contains("router bgp"));
    Ok(())
}

/// vtysh loads an integrated configuration into a bgpd that answers already, line by line.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_still_being_loaded_is_followed() -> Result<()> {
    let node = Node::start("frr defaults datacenter\n")?;
    let mut watched = node.watch();
    watched.fault("NoInstance").await?;
    let start = Instant::now();
    node.frr.configure(&["router bgp 65001"])?;
    let view = watched.up().await?;
    assert_eq!(view.modes.v4, Mode::Dynamic);
    let found = start.elapsed();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    node.frr.configure(&["router bgp", "address-family ipv4 unicast", "redistribute connected"])?;
    watched.view("connected", |view| view.modes.v4 == Mode::Connected).await?;
    let followed = start.elapsed();
    println!("instance found after {found:?}, `redistribute connected` after {followed:?}");
    assert!(found < Duration::from_secs(1) && followed < Duration::from_secs(2), "{found:?}, {followed:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_instances_are_a_fault_until_one_is_left() -> Result<()> {
    let node = Node::start(&format!("{DYNAMIC}router bgp 65002 vrf red\n bgp router-id 10.255.0.2\n"))?;
    let mut watched = node.watch();
    let fault = watched.fault("SeveralInstances").await?;
    assert_eq!(fault, BgpFault::SeveralInstances(vec!["default".to_owned(), "vrf red".to_owned()]));
    let before = node.running_config()?;
    ensure_retried(&watched.handle.apply(vec![Step::Advertise(vip("10.7.0.1"))]).await)?;
    assert_eq!(node.running_config()?, before);
    node.frr.configure(&["no router bgp 65002 vrf red"])?;
    watched.up().await?;

    // A second one appears between two readings: FRR refuses the bare form, and nothing changes.
    node.frr.configure(&["router bgp 65003 view lab"])?;
    ensure_retried(&watched.handle.apply(vec![Step::Advertise(vip("10.7.0.1"))]).await)?;
    watched.fault("SeveralInstances").await?;
    assert_eq!(node.networks()?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_as_number_is_a_fault() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let mut watched = Watched::new(Options { asn: Some(65099), ..options(node.frr.directory()) });
    let fault = watched.fault("AsnMismatch").await?;
    assert_eq!(fault, BgpFault::AsnMismatch { configured: 65099, found: 65001 });
    ensure_retried(&watched.handle.apply(vec![Step::Advertise(vip("10.7.0.1"))]).await)?;
    assert_eq!(node.networks()?, Vec::<String>::new());
    let mut watched = Watched::new(Options { asn: Some(65001), ..options(node.frr.directory()) });
    watched.up().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_bgpd_is_silent_and_recovers_by_itself() -> Result<()> {
    let mut node = Node::start(DYNAMIC)?;
    let quick = Options { patience: Duration::from_millis(50), ..Options::new(node.frr.directory()) };
    let mut watched = Watched::new(quick);
    watched.up().await?;
    let (before, meanwhile) = (vip("10.7.0.1"), vip("10.7.0.2"));
    ensure_done(&watched.handle.apply(vec![Step::Advertise(before)]).await)?;
    node.frr.process(Daemon::Bgpd)?.pause()?;
    ensure_retried(&watched.handle.apply(vec![Step::Advertise(meanwhile)]).await)?;
    watched.fault("Silent").await?;
    // Long enough to fill the backlog of the socket.
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.frr.process(Daemon::Bgpd)?.resume()?;
    let view = watched.view("a new connection", |view| view.generation > 1).await?;
    assert_eq!(view.networks.get(&before), Some(&Owner::Ours), "it was not restarted");
    // Whether the step that timed out ran nobody knows: both ways are right, and to repeat it is safe.
    ensure_done(&watched.handle.apply(vec![Step::Advertise(meanwhile)]).await)?;
    assert_eq!(node.networks()?.len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_route_map_is_put_back() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let quick = Options { period: Duration::from_millis(100), ..options(node.frr.directory()) };
    let mut watched = Watched::new(quick);
    watched.up().await?;
    ensure_done(&watched.handle.apply(vec![Step::Advertise(vip("10.7.0.1"))]).await)?;
    node.frr.configure(&["no route-map COSMOLET-ADVERTISE"])?;
    cosmolet_tests::wait::until_true("the route-map is back", LIMIT, || {
        Ok(node.running_config()?.contains("route-map COSMOLET-ADVERTISE permit 10"))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_other_edges_are_not_taken() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let mut watched = node.watch();
    watched.up().await?;
    let applied = watched.handle.apply(vec![Step::AddAddress(vip("10.7.0.1"), None)]).await;
    assert!(matches!(applied[0].outcome, Outcome::GiveUp(_)));
    assert_eq!(node.networks()?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_vips_go_in_and_out() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let mut watched = node.watch();
    watched.up().await?;
    let vips = vips(1000);
    let start = Instant::now();
    let applied = watched.handle.apply(all(&vips, Step::Advertise)).await;
    let added = start.elapsed();
    ensure_done(&applied)?;
    let named: BTreeSet<_> = applied.iter().map(|applied| applied.step.vip()).collect();
    assert_eq!(named, vips.iter().copied().collect());
    let networks: BTreeSet<String> = node.networks()?.into_iter().collect();
    let expected = vips.iter().map(|vip| format!("network {} route-map COSMOLET-ADVERTISE", vip.prefix()));
    assert_eq!(networks, expected.collect());
    let start = Instant::now();
    ensure_done(&watched.handle.apply(all(&vips, Step::Withdraw)).await)?;
    println!("1000 VIPs: advertised in {added:?}, withdrawn in {:?}", start.elapsed());
    assert_eq!(node.networks()?, Vec::<String>::new());
    Ok(())
}

/// Sends `lines` to bgpd in one write and reads until every one was answered without a word: the least that any client does.
fn raw_client(socket: &Path, lines: &[String]) -> Result<Duration> {
    use std::io::{Read, Write};
    let mut request = Vec::new();
    for line in lines {
        request.extend_from_slice(line.as_bytes());
        request.push(0);
    }
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"enable\0")?;
    stream.read_exact(&mut [0; 4])?;
    let start = Instant::now();
    let writing = if request.len() < 65536 {
        stream.write_all(&request)?;
        None
    } else {
        let mut writer = stream.try_clone()?;
        Some(std::thread::spawn(move || writer.write_all(&request)))
    };
    let (mut chunk, mut count) = (vec![0; 65536], 0);
    while count < 4 * lines.len() {
        let read = stream.read(&mut chunk)?;
        ensure!(read > 0 && chunk[..read].iter().all(|byte| *byte == 0), "bgpd refused something");
        count += read;
    }
    let elapsed = start.elapsed();
    if let Some(writing) = writing {
        writing.join().expect("the writing thread")?;
    }
    Ok(elapsed)
}

fn raw_lines(vips: &[Vip], command: impl Fn(Vip) -> String) -> Vec<String> {
    let mut lines = vec!["configure terminal".to_owned(), "router bgp".to_owned()];
    for family in Family::ALL {
        lines.push(format!("address-family {family} unicast"));
        lines.extend(vips.iter().filter(|vip| vip.family() == family).map(|vip| command(*vip)));
        lines.push("exit-address-family".to_owned());
    }
    lines.push("end".to_owned());
    lines
}

/// The edge beside the raw client, on the same bgpd, by turns; the medians of some rounds. Batches, framing and reading the
/// replies one by one may cost a share, not a multiple.
#[tokio::test(flavor = "multi_thread")]
async fn pipelining_keeps_up_with_a_raw_client() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let mut watched = node.watch();
    watched.up().await?;
    let socket = node.frr.socket(Daemon::Bgpd);
    for count in [1, 1000] {
        let vips = vips(count);
        let add = raw_lines(&vips, |vip| format!("network {} route-map COSMOLET-ADVERTISE", vip.prefix()));
        let remove = raw_lines(&vips, |vip| format!("no network {}", vip.prefix()));
        let mut times: [Vec<Duration>; 4] = Default::default();
        for _ in 0..5 {
            times[0].push(raw_client(&socket, &add)?);
            times[1].push(raw_client(&socket, &remove)?);
            for (slot, step) in [(2, Step::Advertise as fn(Vip) -> Step), (3, Step::Withdraw)] {
                let steps = all(&vips, step);
                let start = Instant::now();
                let applied = watched.handle.apply(steps).await;
                times[slot].push(start.elapsed());
                ensure_done(&applied)?;
            }
        }
        let [raw_add, raw_remove, add, remove] = times.map(|mut times| {
            times.sort_unstable();
            times[times.len() / 2]
        });
        let ratio = |ours: Duration, raw: Duration| ours.as_secs_f64() / raw.as_secs_f64();
        let ratios = (ratio(add, raw_add), ratio(remove, raw_remove));
        println!(
            "{count} VIPs: advertise {add:?} (raw {raw_add:?}), withdraw {remove:?} (raw {raw_remove:?}), {ratios:.2?}"
        );
        assert!(count == 1 || (ratios.0 < 3.0 && ratios.1 < 3.0), "{ratios:?}");
    }
    Ok(())
}

/// A vty server that is not FRR: `answer` gives the bytes of a reply to each command, or `None` to hang up.
fn server(directory: &Path, answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Result<()> {
    use std::io::{Read, Write};
    let listener = UnixListener::bind(directory.join("bgpd.vty"))?;
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                let mut chunk = [0; 512];
                while let Ok(count @ 1..) = stream.read(&mut chunk) {
                    for line in chunk[..count].split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
                        let reply = answer(std::str::from_utf8(line).expect("commands are text").trim_end());
                        if reply.is_none_or(|reply| stream.write_all(&reply).is_err()) {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok(())
}

/// Answers as an FRR with one instance that takes every command.
fn willing(line: &str) -> Option<Vec<u8>> {
    let text: &[u8] = match line {
        "show running-config" => b"router bgp 65001\nexit\n",
        line if line.starts_with("show bgp") => b"{}",
        _ => b"",
    };
    Some([text, &[0; 4]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_on_the_socket_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let directory = lab.subdirectory("frr-node")?;
    let (sender, batches) = std::sync::mpsc::channel();
    server(&directory, move |line| {
        if line == "configure terminal" {
            sender.send(Instant::now()).ok()?;
        }
        willing(line)
    })?;
    let mut watched = Watched::new(options(&directory));
    watched.up().await?;
    let mut times = Vec::new();
    for round in 0..500 {
        let step = if round % 2 == 0 { Step::Advertise } else { Step::Withdraw };
        let start = Instant::now();
        ensure_done(&watched.handle.apply(vec![step(vip("10.7.0.1"))]).await)?;
        // The first one carries the route-map before it.
        let arrived = batches.try_iter().last().context("a batch")?;
        times.push(arrived.saturating_duration_since(start));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort_unstable();
    let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("from apply to another thread's read: median {median:?}, p99 {p99:?}");
    assert!(median < Duration::from_millis(1), "{median:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn impostors_are_faults_and_give_way() -> Result<()> {
    type Answer = fn(&str) -> Option<Vec<u8>>;
    let cases: [(&str, Answer); 8] = [
        ("Unreachable", |_| None),
        ("Unreachable", |line| if line == "enable" { willing(line) } else { None }),
        ("BadReply", |_| Some(b"a\0bcdef".to_vec())),
        ("BadReply", |_| Some(b"% Unknown command\n\0\0\0\x02".to_vec())),
        ("BadReply", |_| Some(vec![0; 8])),
        ("BadReply", |line| if line.contains("json") { Some(b"% nonsense\0\0\0\0".to_vec()) } else { willing(line) }),
        ("Silent", |_| Some(Vec::new())),
        ("Silent", |_| Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
    ];
    for (number, (reason, answer)) in cases.into_iter().enumerate() {
        let lab = Lab::new()?;
        let netns = lab.netns("node")?;
        let directory = lab.subdirectory("frr-node")?;
        server(&directory, answer)?;
        let quick = Options { patience: Duration::from_millis(50), ..Options::new(&directory) };
        let mut watched = Watched::new(quick);
        watched.fault(reason).await.with_context(|| format!("case {number}"))?;
        ensure_retried(&watched.handle.apply(vec![Step::Advertise(vip("10.7.0.1"))]).await)?;
        std::fs::remove_file(directory.join("bgpd.vty"))?;
        let _frr = Frr::start(&lab, &netns, DYNAMIC, &frr::Options::default())?;
        watched.up().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_half_way_leaves_the_rest_unknown() -> Result<()> {
    let lab = Lab::new()?;
    let directory = lab.subdirectory("frr-node")?;
    let left = AtomicUsize::new(60);
    server(&directory, move |line| {
        if line.starts_with("network") && left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
            left.store(1000, Relaxed);
            return None;
        }
        willing(line)
    })?;
    let mut watched = Watched::new(options(&directory));
    watched.up().await?;
    let steps = all(&vips(100), Step::Advertise);
    let applied = watched.handle.apply(steps.clone()).await;
    let (done, others): (Vec<_>, Vec<_>) = applied.iter().partition(|applied| applied.outcome == Outcome::Done);
    assert_eq!((done.len(), others.len()), (60, 40));
    assert!(others.iter().all(|applied| matches!(applied.outcome, Outcome::Retry(..))), "{others:?}");
    ensure_done(&watched.handle.apply(steps).await).context("by a new connection")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_that_was_given_up_does_not_confuse_the_next() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let mut watched = node.watch();
    watched.up().await?;
    let vips = vips(1000);
    let given_up = timeout(Duration::from_millis(3), watched.handle.apply(all(&vips, Step::Advertise))).await;
    assert!(given_up.is_err(), "1000 VIPs take longer");
    let applied = watched.handle.apply(vec![Step::Withdraw(vip("10.99.0.1")), Step::Advertise(vip("10.99.0.2"))]).await;
    ensure_done(&applied)?;
    assert!(node.networks()?.iter().any(|line| line.contains("10.99.0.2/32")));
    Ok(())
}

/// The crash that parked sessions cause (facts: `no router bgp` under an open address-family node aborts bgpd): no batch of ours
/// may leave a gap for another user between its commands.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_who_removes_the_instance_meanwhile_does_no_harm() -> Result<()> {
    let mut node = Node::start(DYNAMIC)?;
    let quick = Options { period: Duration::from_millis(20), ..options(node.frr.directory()) };
    let mut watched = Watched::new(quick);
    watched.up().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let operator = {
        let (stop, mut vty) = (Arc::clone(&stop), node.frr.bgpd()?);
        std::thread::spawn(move || -> Result<u32> {
            let mut rounds = 0;
            while !stop.load(Relaxed) {
                vty.configure_ok(&["no router bgp 65001"])?;
                vty.configure_ok(&["router bgp 65001"])?;
                rounds += 1;
            }
            Ok(rounds)
        })
    };
    let vips = vips(200);
    let (mut done, mut other) = (0, 0);
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        for step in [Step::Advertise, Step::Withdraw] {
            for applied in watched.handle.apply(all(&vips, step)).await {
                *(if applied.outcome == Outcome::Done { &mut done } else { &mut other }) += 1;
            }
            while watched.events.try_recv().is_ok() {}
        }
    }
    stop.store(true, Relaxed);
    let rounds = operator.join().expect("the operator")?;
    node.frr.process(Daemon::Bgpd)?.ensure_running()?;
    println!("{rounds} instances removed and made, {done} steps done, {other} not");
    ensure!(rounds > 10 && done > 100, "too little happened");
    Ok(())
}

/// Gives up the calling thread's root for good, its group too.
#[expect(unsafe_code, reason = "std changes the user of the whole process only")]
fn become_nobody() -> Result<()> {
    // SAFETY: the calls touch no memory; as raw system calls they change this thread alone.
    let failed = unsafe {
        libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) != 0
            || libc::syscall(libc::SYS_setresgid, 65534, 65534, 65534) != 0
            || libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) != 0
    };
    ensure!(!failed, "becoming nobody: {}", std::io::Error::last_os_error());
    Ok(())
}

#[test]
fn another_user_is_refused_and_told_so() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let options = options(node.frr.directory());
    let nobody = std::thread::spawn(move || -> Result<BgpFault> {
        become_nobody()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { Watched::new(options).fault("PermissionDenied").await })
    });
    let fault = nobody.join().expect("the thread")?;
    assert!(matches!(&fault, BgpFault::PermissionDenied(text) if text.contains("frrvty")), "{fault:?}");
    Ok(())
}
