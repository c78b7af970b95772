//! The lab itself: does it raise what it promises, and does nothing stay behind?

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cosmolet_tests::api_server::{ApiServer, Place};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::fabric::{Fabric, Mode, NodeSpec, host, vip4, vip6};
use cosmolet_tests::frr::{self, Daemon, Frr};
use cosmolet_tests::netns::{End, veth};
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::{Lab, wait};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn frr_daemons_are_started_killed_and_restarted() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.netns("a")?, lab.netns("b")?);
    veth(End { netns: &a, interface: "b" }, End { netns: &b, interface: "a" })?;
    a.add_address("b", "10.1.0.1/30".parse()?)?;
    b.add_address("a", "10.1.0.2/30".parse()?)?;
    let config = |asn: u32, peer: &str| {
        format!(
            "frr defaults datacenter\nrouter bgp {asn}\n no bgp ebgp-requires-policy\n timers bgp 1 3\n \
             neighbor {peer} remote-as external\n neighbor {peer} timers connect 1\n"
        )
    };
    let a_frr = Frr::start(&lab, &a, &config(65001, "10.1.0.2"), &frr::Options::default())?;
    let mut b_frr = Frr::start(&lab, &b, &config(65002, "10.1.0.1"), &frr::Options::default())?;
    a_frr.wait_established(1, Duration::from_secs(10))?;
    b_frr.kill(Daemon::Bgpd)?;
    wait::until_true("session gone", Duration::from_secs(5), || {
        Ok(frr::established(&a_frr.show("show bgp summary")?).is_empty())
    })?;
    b_frr.restart(Daemon::Bgpd)?;
    a_frr.wait_established(1, Duration::from_secs(10))
}

#[test]
fn the_fabric_spreads_a_vip_over_both_nodes() -> Result<()> {
    let lab = Lab::new()?;
    let specs = [NodeSpec::new("node1", Mode::Dynamic), NodeSpec::new("node2", Mode::Connected).unnumbered()];
    let began = Instant::now();
    let mut fabric = Fabric::raise(&lab, &specs)?;
    eprintln!("fabric up after {:?}", began.elapsed());
    let vips = [SocketAddr::new(vip4(1), 80), SocketAddr::new(vip6(1), 80)];
    for node in &mut fabric.nodes {
        node.serve(&vips)?;
        for vip in vips {
            node.add_vip(vip.ip())?;
        }
    }
    let cause = Instant::now();
    fabric.nodes[0].frr.configure(&["router bgp", "address-family ipv4 unicast", "network 10.100.0.1/32"])?;
    fabric.nodes[0].frr.configure(&["router bgp", "address-family ipv6 unicast", "network fd00:100::1/128"])?;
    for vip in vips {
        let took = fabric.routes().wait_nodes(host(vip.ip()), cause, LIMIT, &["node1", "node2"])?;
        for node in &fabric.nodes {
            let wire = node.wire()?.wait_advertised(host(vip.ip()), began, LIMIT)?;
            eprintln!("{vip}: {took:?}, on {}'s wire {wire:?}", node.name());
        }
    }
    let client = Client::start(&fabric.client, Load::new(vips.to_vec()))?;
    let summary = client.watch(Duration::from_secs(1));
    eprintln!("{summary:?}");
    assert_eq!(summary.failed(), 0, "{summary:?}");
    assert!(summary.ok() > 50 && summary.by_node.len() == 2, "{summary:?}");
    Ok(())
}

#[test]
fn the_api_server_keeps_objects_over_a_restart() -> Result<()> {
    let lab = Lab::new()?;
    let mut api = ApiServer::start(&lab, Place::Loopback)?;
    let vip = vip4(1);
    api.apply(&objects::service("web", &[vip, vip6(1)], &[80]))?;
    let endpoint = objects::endpoint("10.3.1.2".parse()?, "node1", State::Ready);
    api.apply(&objects::slice("web-1", "web", 8080, vec![endpoint]))?;
    api.apply(&objects::node("node1", "10.255.0.1".parse()?))?;
    api.apply(&objects::pod("web-0", "node1", "10.3.1.2".parse()?, true, 3))?;
    api.kill()?;
    assert!(api.get::<Service>("web").is_err(), "a dead server answered");
    api.restart()?;
    let service: Service = api.get("web")?.context("the Service is gone")?;
    let ingress = service.status.and_then(|status| status.load_balancer?.ingress).unwrap_or_default();
    assert_eq!(ingress.iter().filter_map(|i| i.ip.clone()).collect::<Vec<_>>(), ["10.100.0.1", "fd00:100::1"]);
    let slice: EndpointSlice = api.get("web-1")?.context("the slice is gone")?;
    assert_eq!(slice.endpoints.len(), 1);
    let pod: Pod = api.get("web-0")?.context("the pod is gone")?;
    let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
    assert_eq!(statuses[0].restart_count, 3);
    api.delete::<Pod>("web-0")?;
    assert!(api.get::<Pod>("web-0")?.is_none());
    Ok(())
}
