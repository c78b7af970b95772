//! FRR away, restarted, without an instance, with several, or silent: said by name, retried, nothing of it created.

use std::time::{Duration, Instant};

use anyhow::Result;
use cosmolet::engine::observed::{BgpFault, Network};
use cosmolet::engine::plan::Step;
use cosmolet::engine::types::{Mode, Vrf};
use cosmolet::frr::Options;
use cosmolet_tests::Lab;
use cosmolet_tests::frr::{self, Daemon, Frr};
use cosmolet_tests::vty::Vty;

use crate::{DYNAMIC, LIMIT, Node, Watched, all, ensure_done, ensure_retried, options, vip, vips};

#[tokio::test(flavor = "multi_thread")]
async fn frr_down_at_start_is_retried() -> Result<()> {
    let lab = Lab::new()?;
    let netns = lab.netns("node")?;
    let directory = lab.subdirectory("frr-node")?;
    let mut watched = Watched::new(options(&directory));
    watched.fault("Unreachable").await?;
    ensure_retried(&watched.handle.apply(vec![Step::advertise(vip("10.7.0.1"))]).await)?;
    let node = Node { frr: Frr::start(&lab, &netns, DYNAMIC, &frr::Options::default())?, netns, _lab: lab };
    let view = watched.up().await?;
    assert!(view.networks.is_empty());
    ensure_done(&watched.handle.apply(vec![Step::advertise(vip("10.7.0.1"))]).await)?;
    assert_eq!(node.networks()?, ["network 10.7.0.1/32 route-map COSMOLET-ADVERTISE"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_bgpd_is_noticed_and_its_replay_asked_for() -> Result<()> {
    let mut node = Node::start(DYNAMIC)?;
    let mut watched = node.watch();
    watched.up().await?;
    let steps = all(&vips(20), Step::advertise);
    ensure_done(&watched.handle.apply(steps.clone()).await)?;

    let killed = node.frr.kill(Daemon::Bgpd)?;
    watched.fault("Unreachable").await?;
    let noticed = killed.elapsed();
    ensure_retried(&watched.handle.apply(steps.clone()).await)?;

    node.frr.launch(Daemon::Bgpd)?;
    let socket = node.frr.socket(Daemon::Bgpd);
    let answering = std::thread::spawn(move || {
        while Vty::connect(&socket, LIMIT).is_err() {
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
    let none = BgpFault::NoInstance { vrf: Vrf::default(), others: Vec::new() };
    assert_eq!(watched.fault("NoInstance").await?, none);
    let before = node.running_config()?;
    ensure_retried(&watched.handle.apply(vec![Step::advertise(vip("10.7.0.1"))]).await)?;
    assert_eq!(node.running_config()?, before);
    node.frr.configure(&["router bgp 65001"])?;
    let view = watched.up().await?;
    assert_eq!((view.asn, view.generation), (65001, 1));
    ensure_done(&watched.handle.apply(vec![Step::advertise(vip("10.7.0.1"))]).await)?;

    // The instance goes away between two readings: bare `router bgp` must not bring it back.
    node.frr.configure(&["no router bgp 65001"])?;
    ensure_retried(&watched.handle.apply(vec![Step::advertise(vip("10.7.0.2"))]).await)?;
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
async fn another_as_number_is_a_fault() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let mut watched = Watched::new(Options { asn: Some(65099), ..options(node.frr.directory()) });
    let fault = watched.fault("AsnMismatch").await?;
    assert_eq!(fault, BgpFault::AsnMismatch { configured: 65099, found: 65001 });
    ensure_retried(&watched.handle.apply(vec![Step::advertise(vip("10.7.0.1"))]).await)?;
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
    ensure_done(&watched.handle.apply(vec![Step::advertise(before)]).await)?;
    node.frr.process(Daemon::Bgpd)?.pause()?;
    ensure_retried(&watched.handle.apply(vec![Step::advertise(meanwhile)]).await)?;
    watched.fault("Silent").await?;
    // Long enough to fill the backlog of the socket.
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.frr.process(Daemon::Bgpd)?.resume()?;
    let view = watched.view("a new connection", |view| view.generation > 1).await?;
    assert_eq!(view.networks.get(&before), Some(&Network::PLAIN), "it was not restarted");
    // Whether the step that timed out ran nobody knows: both ways are right, and to repeat it is safe.
    ensure_done(&watched.handle.apply(vec![Step::advertise(meanwhile)]).await)?;
    assert_eq!(node.networks()?.len(), 2);
    Ok(())
}
