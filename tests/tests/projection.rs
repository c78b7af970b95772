//! What the projection of many Services takes: alone in its process, because it reads that process' memory.

#![allow(missing_docs, reason = "a suite")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet::engine::event::Event;
use cosmolet::engine::types::ServiceKey;
use cosmolet::kubernetes::project::{Projector, Selection};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn object<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).context("an object of Kubernetes")
}

/// A slice of Service `number` with ten endpoints, the first one on this node.
fn wide_slice(number: usize, ready: bool) -> Result<EndpointSlice> {
    let endpoint = |index: usize| {
        json!({"addresses": [format!("10.0.{}.{index}", number % 256)], "nodeName": format!("n{}", index + 1),
               "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": format!("backend-{number}-{index}")}})
    };
    object(json!({"metadata": {"name": format!("service-{number}-x7k2p"), "namespace": format!("team-{}", number % 50),
                               "labels": {"kubernetes.io/service-name": format!("service-{number}")}},
                  "addressType": "IPv4", "endpoints": (0..10).map(endpoint).collect::<Vec<_>>()}))
}

fn wide_service(number: usize) -> Result<Service> {
    let vip = format!("192.0.{}.{}", number / 250, number % 250);
    object(json!({"metadata": {"name": format!("service-{number}"), "namespace": format!("team-{}", number % 50)},
                  "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
                  "status": {"loadBalancer": {"ingress": [{"ip": vip}]}}}))
}

/// Resident memory of this process, in KiB.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// 10 000 Services with 100 000 endpoints must leave room for everything else in 64 MiB, and one slice must not cost
/// more among them than among a hundred.
#[test]
fn quick_ten_thousand_services_are_small_and_one_slice_is_cheap() -> Result<()> {
    let filled = |count: usize| -> Result<Projector> {
        let mut projector = Projector::new(Selection::new("n1"));
        for number in 0..count {
            projector.apply_service(&wide_service(number)?);
            projector.apply_slice(&wide_slice(number, true)?);
        }
        Ok(projector)
    };
    let cost = |projector: &mut Projector| -> Result<Duration> {
        let slices = [wide_slice(77, true)?, wide_slice(77, false)?];
        let mut times = Vec::new();
        for round in 0..2001 {
            let begun = Instant::now();
            let events = projector.apply_slice(&slices[(round + 1) % 2]);
            times.push(begun.elapsed());
            ensure!(matches!(&events[..], [Event::Service(_)]), "{events:?}");
        }
        times.sort_unstable();
        Ok(times[200])
    };
    let mut small = filled(100)?;
    let before = resident()?;
    let mut large = filled(10_000)?;
    let grown = resident()?.saturating_sub(before);
    let (small_cost, large_cost) = (cost(&mut small)?, cost(&mut large)?);
    println!("10 000 Services: {grown} KiB; one slice: {large_cost:?}, among 100: {small_cost:?}");
    ensure!(large.views().count() == 10_000, "{} views", large.views().count());
    ensure!(large.view(&ServiceKey::new("team-27", "service-77")).is_some(), "a view is missing");
    ensure!(grown < 32 << 10, "{grown} KiB");
    ensure!(large_cost < small_cost * 4, "{large_cost:?} among 10 000, {small_cost:?} among 100");
    Ok(())
}
