//! BGP attributes of a Service, from its annotations to the ToR.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cosmolet_tests::fabric::{BACKEND_PORT, Mode, NodeSpec, host, vip4, vip6};
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::stage::{Options, PORT, Stage};
use cosmolet_tests::wait;
use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use crate::{LIMIT, NODE, ensure_unmoved, metric, one_node, wait_vip};

pub(crate) fn web(annotations: &[(&str, &str)]) -> Service {
    let mut service = objects::local(objects::service("web", &[vip4(1), vip6(1)], &[PORT]));
    let pairs = annotations.iter().map(|(key, value)| (format!("cosmolet.io/{key}"), (*value).to_owned()));
    service.metadata.annotations = Some(pairs.collect());
    service
}

/// The paths that the ToR has for a VIP.
pub(crate) fn paths(stage: &Stage, vip: IpAddr) -> Result<Vec<Value>> {
    let family = if vip.is_ipv4() { "ipv4" } else { "ipv6" };
    let shown = stage.fabric.tor_frr.show(&format!("show bgp {family} unicast {}", host(vip)))?;
    Ok(shown["paths"].as_array().cloned().unwrap_or_default())
}

fn wait_paths(stage: &Stage, what: &str, fits: impl Fn(&Value) -> bool) -> Result<()> {
    for vip in [vip4(1), vip6(1)] {
        wait::until_true(&format!("{vip}: {what}"), LIMIT, || {
            let paths = paths(stage, vip)?;
            ensure!(!paths.is_empty() && paths.iter().all(&fits), "the ToR has {paths:#?}");
            Ok(true)
        })?;
    }
    Ok(())
}

#[test]
fn a_services_attributes_reach_the_tor_and_change_without_a_gap() -> Result<()> {
    let stage = one_node(Mode::Dynamic, Options::default())?;
    let since = Instant::now();
    let write = |annotations: &[(&str, &str)]| stage.manifests[0].write("web", &web(annotations));
    write(&[("communities", "65000:100, graceful-shutdown"), ("med", "50")])?;
    wait_paths(&stage, "MED and communities", |path| {
        path["metric"] == 50 && path["community"]["string"] == "65000:100 graceful-shutdown"
    })?;
    let row = stage.wait_status(0, vip4(1), "its attributes are set", |row| row["attributes"]["set"] == true)?;
    assert_eq!(row["attributes"]["wanted"], "community 65000:100 graceful-shutdown, med 50");
    let name = row["attributes"]["route_map"].as_str().context("a route-map")?.to_owned();

    // One value is bad: the Service keeps the others, and says so.
    write(&[("med", "60"), ("communities", "65000:100\r\nno router bgp")])?;
    wait_paths(&stage, "another MED and no community", |path| path["metric"] == 60 && path["community"].is_null())?;
    wait::until_true("a notice", LIMIT, || Ok(metric(&stage, "cosmolet_annotation_notices{kind=\"ignored\"}")? == 1))?;
    // The change never took a VIP away, and the map that nothing uses any more goes.
    ensure_unmoved(&stage, since)?;
    let config = || stage.fabric.nodes[0].frr.config();
    wait::until_true("the old route-map is gone", crate::REREAD, || Ok(!config()?.contains(&name)))?;

    write(&[])?;
    ensure_unmoved(&stage, since)?;
    filtered(&stage)?;
    write(&[])?;
    wait_paths(&stage, "no attributes", |path| path["metric"].as_u64().unwrap_or_default() == 0)?;
    stage.wait_status(0, vip4(1), "nothing is asked for", |row| row["attributes"].is_null()).map(drop)
}

/// The node's outbound `as-path ^$` drops what is prepended: the status says what to look at.
fn filtered(stage: &Stage) -> Result<()> {
    stage.manifests[0].write("web", &web(&[("prepend", "1")]))?;
    wait_vip(stage, vip4(1), &[])?;
    wait::until_true("the trouble is told", crate::REREAD, || {
        let told = String::from_utf8(stage.daemons[0].ask_status(&[])?.stdout)?;
        Ok(told.contains("10.100.0.1: in FRR's RIB, but advertised to no peer: its AS path is prepended"))
    })
}

/// Three pods on one node and one on the other: the ToR's kernel shares the VIP's connections out as 3 : 1.
#[test]
fn a_vip_is_weighted_by_the_endpoints_of_each_node() -> Result<()> {
    let specs = [NodeSpec::new(NODE, Mode::Dynamic), NodeSpec::new("node2", Mode::Dynamic)];
    let mut stage = Stage::raise(&specs, Options { traffic: "off", ..Options::default() })?;
    let vip = vip4(1);
    let service = web(&[("weight", "endpoints")]);
    stage.manifests.iter().try_for_each(|manifests| manifests.write("web", &service))?;
    let write = |stage: &Stage, counts: [u8; 2]| {
        let endpoints = counts.into_iter().zip(&stage.fabric.nodes).enumerate().flat_map(|(node, (count, held))| {
            (1..=count).map(move |n| objects::endpoint([10, 200, node as u8, n].into(), held.name(), State::Ready))
        });
        let slice = objects::slice("web-v4", "web", BACKEND_PORT, endpoints.collect());
        stage.manifests.iter().try_for_each(|manifests| manifests.write("web-endpoints", &slice))
    };
    write(&stage, [1, 3])?;
    stage.start()?;
    wait_vip(&stage, vip, &[NODE, "node2"])?;
    let wait_weights = |stage: &Stage, wanted: f64| {
        wait::until_true(&format!("weights of 1 : {wanted}"), LIMIT, || {
            let route: Value =
                serde_json::from_str(&stage.fabric.tor.ip(&["-j", "route", "show", &vip.to_string()])?)?;
            let hops = route[0]["nexthops"].as_array().cloned().unwrap_or_default();
            let weights: Vec<f64> = hops.iter().filter_map(|hop| hop["weight"].as_f64()).collect();
            ensure!(weights.len() == 2, "{route}");
            let (low, high) = (weights[0].min(weights[1]), weights[0].max(weights[1]));
            Ok((high / low - wanted).abs() < 0.2)
        })
    };
    wait_weights(&stage, 3.0)?;
    let since = Instant::now();
    write(&stage, [2, 2])?;
    wait_weights(&stage, 1.0)?;
    let gone = stage.fabric.routes().moves(host(vip), since);
    ensure!(gone.is_empty(), "a change of weight took the VIP away: {gone:?}");
    Ok(())
}

#[test]
fn in_connected_mode_the_daemon_says_that_attributes_are_not_set() -> Result<()> {
    let stage = one_node(Mode::Connected, Options::default())?;
    let since = Instant::now();
    stage.manifests[0].write("web", &web(&[("med", "50")]))?;
    let row = stage.wait_status(0, vip4(1), "wanted", |row| row["attributes"]["wanted"] == "med 50")?;
    assert_eq!((&row["attributes"]["set"], &row["mode"]), (&false.into(), &"connected".into()));
    let explained = stage.daemons[0].cli(&["explain", &vip4(1).to_string()])?;
    let explained = String::from_utf8(explained.stdout)?;
    ensure!(explained.contains("attributes: med 50 (NOT set: in Connected mode"), "{explained}");
    ensure_unmoved(&stage, since)
}
