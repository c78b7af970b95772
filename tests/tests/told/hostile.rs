//! Objects that mean harm: whatever they hold, nothing of it reaches FRR or the kernel but addresses that were parsed and
//! allowed, and each costs only its own Service.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use cosmolet_tests::fabric::{BACKEND_PORT, Mode, NodeSpec, host, vip4};
use cosmolet_tests::objects::{self, NAMESPACE, State};
use cosmolet_tests::running_config::RunningConfig;
use cosmolet_tests::stage::{Options, PORT, Stage, prefixes};
use cosmolet_tests::wait;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::{LIMIT, NODE, World};

/// A megabyte, as much as the API server takes in one request and more than it takes in annotations.
const MEGABYTE: usize = 1 << 20;
/// Ways to write 10.100.0.9, or more than that. None is an address.
const NO_ADDRESSES: [&str; 20] = [
    "10.100.0.9\r\nno router bgp",
    "10.100.0.9\nexit\nno router bgp",
    "10.100.0.9\0",
    "\u{0}10.100.0.9",
    "10.100.0.9/32",
    "10.100.0.9 route-map COSMOLET-ADVERTISE",
    "10.100.0.9;reboot",
    "$(reboot)",
    " 10.100.0.9",
    "10.100.0.9\t",
    "010.100.0.9",
    "10.100.00.9",
    "0xa.100.0.9",
    "10.100.9",
    "174325769",
    "１０.１００.０.９",
    "\u{202e}9.0.001.01",
    "1o.1oo.o.9",
    "fe80::1%lo",
    "fd00:100::9%uplink",
];

#[test]
fn addresses_that_are_none_go_nowhere() -> Result<()> {
    let options = Options { vip_ranges: "10.0.0.0/8, 'fd00::/8', 'fe80::/10'".to_owned(), ..Options::default() };
    let mut stage = Stage::raise(&[NodeSpec::new(NODE, Mode::Dynamic)], options)?;
    stage.start()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    let effects = || -> Result<_> {
        let node = &stage.fabric.nodes[0];
        let mut addresses = node.loopback_addresses()?;
        addresses.sort();
        Ok((addresses, RunningConfig::read(&node.frr)?))
    };
    let (since, before) = (Instant::now(), effects()?);
    let long = "9".repeat(MEGABYTE);
    for (number, text) in NO_ADDRESSES.iter().copied().chain([long.as_str()]).enumerate() {
        write(&stage, &format!("hostile-{number}"), text)?;
    }
    // Numbered, because two of them read alike once they are printable.
    for number in 0..=NO_ADDRESSES.len() {
        let service = format!("default/hostile-{number}");
        wait::until_true(&format!("{service} is refused"), LIMIT, || {
            let status = stage.daemons[0].status()?;
            let rows = status["unusable_addresses"].as_array().context("no list")?;
            Ok(rows.iter().any(|row| row["service"] == service.as_str() && row["reason"] == "NotAnAddress"))
        })?;
    }
    ensure!(effects()? == before, "{:?} was {before:?}", effects()?);
    for prefix in prefixes() {
        let moves = stage.fabric.routes().moves(prefix, since);
        ensure!(moves.is_empty(), "the ToR saw {moves:?}");
    }
    told_in_print(&stage)?;
    // An IPv4 address in IPv6's clothes is that IPv4 address: one VIP, one /32, and nothing of the text.
    write(&stage, "mapped", "::ffff:10.100.0.9")?;
    stage.fabric.routes().wait_nodes(host(vip4(9)), Instant::now(), LIMIT, &[NODE])?;
    let (addresses, config) = effects()?;
    ensure!(addresses.contains(&host(vip4(9))) && config.ours.contains(&host(vip4(9))), "{addresses:?} {config:?}");
    ensure!(
        addresses.len() == before.0.len() + 1 && config.operators == before.1.operators,
        "{addresses:?} {config:?}"
    );
    Ok(())
}

/// What cannot be used is shown, but so that no terminal, log reader or scraper takes harm.
fn told_in_print(stage: &Stage) -> Result<()> {
    let (log, metrics) = (stage.daemons[0].log()?, stage.daemons[0].metrics()?);
    let printed = stage.daemons[0].ask_status(&[])?.stdout;
    let table = String::from_utf8_lossy(&printed).into_owned();
    for (what, text) in [("log", &log), ("metrics", &metrics), ("status", &table)] {
        let bad = text.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
        ensure!(bad.is_none(), "{what} holds {bad:?}");
        let longest = text.lines().map(str::len).max().unwrap_or_default();
        ensure!(longest < 4096, "{what} has a line of {longest} bytes");
    }
    Ok(())
}

/// A Service with this text for its address, and an endpoint that is ready.
fn write(stage: &Stage, name: &str, text: &str) -> Result<()> {
    let mut service: Service = objects::local(objects::service(name, &[vip4(9)], &[PORT]));
    let status = service.status.as_mut().and_then(|status| status.load_balancer.as_mut()).context("no status")?;
    status.ingress.as_mut().context("no ingress")?[0].ip = Some(text.to_owned());
    let node = &stage.fabric.nodes[0];
    let endpoint = objects::endpoint(node.backend_address(vip4(9)).ip(), NODE, State::Ready);
    let slice = objects::slice(&format!("{name}-v4"), name, BACKEND_PORT, vec![endpoint]);
    stage.manifests[0].write(&format!("{name}-slice"), &slice)?;
    stage.manifests[0].write(name, &service)
}

#[test]
fn what_the_api_server_lets_through_goes_no_further() -> Result<()> {
    let mut world = World::raise("")?;
    world.start()?;
    let (since, before) = (Instant::now(), world.effects()?);
    annotations(&world)?;
    taken_addresses(&world)?;
    strange_addresses(&world)?;
    ensure!(world.effects()? == before, "{:?} was {before:?}", world.effects()?);
    world.expect_unmoved(since)?;
    shared_vip(&world)
}

/// Values of the annotations that cosmolet reads: not understood, they change nothing.
fn annotations(world: &World) -> Result<()> {
    let quarter = "x".repeat(MEGABYTE / 4 - 1000);
    let values = [
        "true\r\nrouter bgp 65000\r\nno neighbor 10.1.1.1",
        "true\u{0}",
        "ｔｒｕｅ",
        "\u{202e}eurt",
        "tru\u{435}",
        " true",
        "false;",
        quarter.as_str(),
    ];
    for value in values {
        for key in ["cosmolet.io/advertise", "cosmolet.io/terminating", "cosmolet.platformbuilds.io/announce"] {
            annotate(world, "web", key, Some(value)).with_context(|| format!("{key}: {value:.40?}"))?;
            annotate(world, "web", key, None)?;
        }
    }
    let whole = "x".repeat(MEGABYTE);
    let refused = annotate(world, "web", "cosmolet.io/advertise", Some(&whole));
    ensure!(refused.is_err(), "the API server takes a megabyte of annotation");
    // All of it has been seen when this has.
    annotate(world, "web", "cosmolet.io/advertise", Some("true"))?;
    ensure!(world.daemon.get("/readyz")?.status == 200, "not ready");
    Ok(())
}

fn annotate(world: &World, service: &str, key: &str, value: Option<&str>) -> Result<()> {
    let (service, patch) = (service.to_owned(), json!({"metadata": {"annotations": {key: value}}}));
    world.api.run(async move |client| {
        let api = Api::<Service>::namespaced(client, NAMESPACE);
        api.patch(&service, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    })
}

/// Addresses that belong to somebody: the node on its uplink and on lo, the ToR.
fn taken_addresses(world: &World) -> Result<()> {
    let plan = world.fabric.nodes[0].plan;
    let taken = [
        ("own", plan.link4(2).into(), "OwnAddress"),
        ("loopback", plan.loopback4().into(), "ForeignAddress"),
        ("tor", plan.link4(1).into(), "PeerAddress"),
        ("tor-v6", plan.link6(1).into(), "PeerAddress"),
    ];
    for (name, vip, reason) in taken {
        world.service(name, &[vip], State::Ready)?;
        world.wait_row(vip, reason, |row| row["state"] == "refused" && row["reason"] == reason)?;
    }
    Ok(())
}

/// Addresses that are none, as far as the API server lets them through: no VIP comes of them.
fn strange_addresses(world: &World) -> Result<()> {
    let mut through = Vec::new();
    for text in ["010.100.0.9", "fe80::1%lo", "10.100.0.9\r\nend", "10.100.0.9\0", "１０.100.0.9", "10.100.0.9/32"] {
        world.service("strange", &[vip4(9)], State::NotReady)?;
        let patch = json!({"status": {"loadBalancer": {"ingress": [{"ip": text}]}}});
        let taken = world.api.run(async move |client| {
            let api = Api::<Service>::namespaced(client, NAMESPACE);
            Ok(api.patch_status("strange", &PatchParams::default(), &Patch::Merge(&patch)).await.is_ok())
        })?;
        if taken {
            through.push(text);
            world.endpoints("strange", State::Ready)?;
            wait::until_true(&format!("{text:?} is refused"), LIMIT, || {
                let status = world.daemon.status()?;
                let rows = status["unusable_addresses"].as_array().context("no list")?;
                Ok(rows.iter().any(|row| row["service"] == "default/strange"))
            })?;
        }
        world.api.delete::<Service>("strange")?;
    }
    eprintln!("the API server takes {through:?} for an ingress address");
    Ok(())
}

/// Two Services on one VIP: it is up while one of them can be served, and the newcomer takes nobody down.
fn shared_vip(world: &World) -> Result<()> {
    let since = Instant::now();
    world.service("second", &[vip4(1)], State::NotReady)?;
    world.wait_row(vip4(1), "shared", |row| row["services"].as_array().is_some_and(|all| all.len() == 2))?;
    world.expect_unmoved(since)?;
    // Ready, it holds the VIP up for itself, and says nothing about the other.
    world.endpoints("second", State::Ready)?;
    world.wait_row(vip4(1), "both up", |row| {
        row["services"].as_array().is_some_and(|all| all.iter().all(|claim| claim["health"] == "up"))
    })?;
    world.endpoints("web", State::NotReady)?;
    world.wait_row(vip4(1), "one down", |row| {
        row["state"] == "advertised"
            && row["services"].as_array().is_some_and(|all| all.iter().any(|claim| claim["health"] == "down"))
    })?;
    world.endpoints("web", State::Ready)?;
    world.wait_row(vip4(1), "both up again", |row| {
        row["services"].as_array().is_some_and(|all| all.iter().all(|claim| claim["health"] == "up"))
    })?;
    world.api.delete::<Service>("second")?;
    world.wait_row(vip4(1), "alone", |row| row["services"].as_array().is_some_and(|all| all.len() == 1))?;
    std::thread::sleep(std::time::Duration::from_millis(400));
    let moves = world.fabric.routes().moves(host(vip4(1)), since);
    ensure!(moves.is_empty(), "the ToR saw {moves:?}");
    Ok(())
}
