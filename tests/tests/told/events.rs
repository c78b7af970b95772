//! Events on Services: who did what, why, and never too many.

use std::time::Duration;

use anyhow::{Result, ensure};
use cosmolet_tests::fabric::{vip4, vip6};
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::wait;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;

use crate::{LIMIT, NODE, World, uid};

/// Services that come at once: far more than the burst of 30.
const MANY: u16 = 150;
/// As whom the daemon reports.
const CONTROLLER: &str = "cosmolet.io/cosmolet";

#[test]
fn services_are_told_what_becomes_of_their_vips() -> Result<()> {
    let mut world = World::raise("")?;
    world.start()?;
    advertised(&world)?;
    withdrawn(&world)?;
    refused(&world)?;
    adopted(&mut world)?;
    flapping(&world)
}

#[test]
fn many_at_once_are_limited_and_counted() -> Result<()> {
    let mut world = World::raise("")?;
    let vips = (0..MANY).map(|n| vip4(1000 + n));
    let (services, slices): (Vec<_>, Vec<_>) = vips
        .enumerate()
        .map(|(n, vip)| {
            let name = format!("many-{n}");
            let endpoint = objects::endpoint(world.fabric.nodes[0].backend_address(vip).ip(), NODE, State::Ready);
            let slice = objects::slice(&format!("{name}-v4"), &name, 8080, vec![endpoint]);
            (objects::service(&name, &[vip], &[80]), slice)
        })
        .unzip();
    world.api.apply_all(&slices)?;
    world.api.apply_all(&services)?;
    world.start()?;
    // web has two VIPs.
    let all = u64::from(MANY) + 2;
    wait::until_true("every Event is sent or counted", LIMIT, || {
        let (sent, dropped, failed) = (world.sent("sent")?, world.sent("dropped")?, world.sent("failed")?);
        ensure!(sent + dropped + failed == all, "{sent} sent, {dropped} dropped, {failed} failed of {all}");
        ensure!((30..60).contains(&sent) && failed == 0, "{sent} sent, {failed} failed");
        Ok(true)
    })?;
    ensure!(world.list::<Event>()?.len() < 60, "the API server has {} Events", world.list::<Event>()?.len());
    // The next one says what was left out.
    std::thread::sleep(Duration::from_secs(3));
    world.service("late", &[vip4(2)], State::Ready)?;
    let event = wait_event(&world, "late", "Advertised", 1)?.remove(0);
    let note = event.note.unwrap_or_default();
    ensure!(note.contains(" earlier Events of this node were left out"), "{note}");
    // A daemon that adopts all of them says nothing.
    world.restart()?;
    world.daemon.wait_ready(LIMIT)?;
    world.wait_row(vip4(1000), "adopted", |row| row["state"] == "advertised")?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(world.sent("sent")? + world.sent("dropped")? + world.sent("failed")? == 0, "adopted VIPs were told");
    Ok(())
}

#[test]
fn nothing_is_told_where_that_is_switched_off() -> Result<()> {
    let mut world = World::raise("kubernetes: {events: false}\n")?;
    world.start()?;
    world.endpoints("web", State::NotReady)?;
    world.routed(vip4(1), false)?;
    std::thread::sleep(Duration::from_secs(1));
    // The API server itself tells of cluster addresses now and then.
    let mut events = world.list::<Event>()?;
    events.retain(|event| event.reporting_controller.as_deref() == Some(CONTROLLER));
    ensure!(events.is_empty(), "{events:?}");
    let requests = world.api.audit()?;
    ensure!(requests.iter().all(|request| request.resource != "events"), "{requests:?}");
    ensure!(world.daemon.status()?["kubernetes"].as_array().is_some_and(Vec::is_empty), "a function is on");
    Ok(())
}

/// Both VIPs, with everything that kubectl shows and looks for.
fn advertised(world: &World) -> Result<()> {
    let events = wait_event(world, "web", "Advertised", 2)?;
    let uid = uid(world.api.get::<Service>("web")?)?;
    for vip in [vip4(1), vip6(1)] {
        let note = format!("{NODE} advertises VIP {vip}");
        ensure!(events.iter().any(|event| event.note.as_deref() == Some(&note)), "no {note:?} in {events:#?}");
    }
    for event in &events {
        let regarding = event.regarding.clone().unwrap_or_default();
        ensure!(regarding.kind.as_deref() == Some("Service") && regarding.uid.as_deref() == Some(&uid), "{event:#?}");
        ensure!(event.type_.as_deref() == Some("Normal") && event.action.as_deref() == Some("Advertise"), "{event:#?}");
        ensure!(event.reporting_controller.as_deref() == Some(CONTROLLER), "{event:#?}");
        ensure!(event.reporting_instance.as_deref() == Some(NODE), "{event:#?}");
    }
    Ok(())
}

fn withdrawn(world: &World) -> Result<()> {
    world.endpoints("web", State::NotReady)?;
    world.routed(vip4(1), false)?;
    let events = wait_event(world, "web", "NoLocalEndpoint", 2)?;
    let vip = format!("{NODE} withdraws VIP {}: its traffic policy is Local", vip4(1));
    ensure!(events.iter().any(|event| event.note.as_ref().is_some_and(|note| note.starts_with(&vip))), "{events:#?}");
    ensure!(events.iter().all(|event| event.type_.as_deref() == Some("Warning")), "{events:#?}");
    world.endpoints("web", State::Ready)?;
    world.routed(vip4(1), true)
}

/// The node's own address as a VIP.
fn refused(world: &World) -> Result<()> {
    world.service("thief", &[world.fabric.nodes[0].plan.link4(2).into()], State::Ready)?;
    let event = wait_event(world, "thief", "OwnAddress", 1)?.remove(0);
    ensure!(event.action.as_deref() == Some("Refuse"), "{event:#?}");
    world.api.delete::<Service>("thief")
}

/// A daemon that finds its VIPs in place says nothing.
fn adopted(world: &mut World) -> Result<()> {
    world.restart()?;
    world.daemon.wait_ready(LIMIT)?;
    world.wait_row(vip4(1), "adopted", |row| row["state"] == "advertised")?;
    std::thread::sleep(Duration::from_secs(1));
    for outcome in ["sent", "dropped", "failed"] {
        ensure!(world.sent(outcome)? == 0, "{outcome}: {}", world.sent(outcome)?);
    }
    Ok(())
}

/// A Service that flaps is told of a few times, and costs the others nothing.
fn flapping(world: &World) -> Result<()> {
    let before = events_of(world, "web")?.len();
    for _ in 0..8 {
        for (state, there) in [(State::NotReady, false), (State::Ready, true)] {
            world.endpoints("web", state)?;
            world.routed(vip4(1), there)?;
        }
    }
    world.service("calm", &[vip4(2)], State::Ready)?;
    let note = wait_event(world, "calm", "Advertised", 1)?.remove(0).note.unwrap_or_default();
    ensure!(note.contains(" earlier Events of this node were left out"), "{note}");
    let told = events_of(world, "web")?.len() - before;
    ensure!((6..=8).contains(&told), "{told} Events of 32 changes");
    ensure!(world.sent("dropped")? >= 20, "{} dropped", world.sent("dropped")?);
    Ok(())
}

fn events_of(world: &World, service: &str) -> Result<Vec<Event>> {
    let of = |event: &Event| event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some(service));
    Ok(world.list::<Event>()?.into_iter().filter(of).collect())
}

/// Waits for so many Events of a Service with this reason, and no more.
fn wait_event(world: &World, service: &str, reason: &str, count: usize) -> Result<Vec<Event>> {
    wait::until(&format!("{count} × {reason} of {service}"), LIMIT, || {
        let mut events = events_of(world, service)?;
        events.retain(|event| event.reason.as_deref() == Some(reason));
        ensure!(events.len() == count, "{events:#?}");
        Ok(Some(events))
    })
}
