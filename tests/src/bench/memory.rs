//! What the daemon holds: its resident memory with very many Services, beside the same daemon with one.
//!
//! `VmRSS` of `/proc/PID/status`, in MiB, once everything is advertised and the daemon is at rest, less the eBPF maps that the
//! daemon has in its address space, which are the kernel's.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};

use super::figure::{Figure, Measure, Summary};
use super::world::{OWN, World, list, node, service};
use crate::api_server::{ApiServer, Place, User};
use crate::fabric::{BACKEND_PORT, MANAGEMENT, Mode};
use crate::objects::{self, NAMESPACE, State};

const SERVICES: u16 = 10_000;
const ENDPOINTS_EACH: u8 = 10;
/// Services of one file, and of one request to the API server's runtime.
const PORTION: u16 = 100;
/// Requests to the API server at a time.
const AT_ONCE: usize = 32;
/// Until what starting took is given back: the daemon does so every 30 s.
const REST: Duration = Duration::from_secs(40);
const BETWEEN: Duration = Duration::from_secs(1);
const TARGET: f64 = 64.0;

/// Where the Services come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A directory with 100 Services and their slices in each file.
    Manifests,
    /// A real kube-apiserver.
    Kubernetes,
}

/// Measures; `rounds` readings a second apart. Every Service has one of its endpoints on the daemon's node.
pub fn measure(from: From, rounds: usize) -> Result<Vec<Figure>> {
    let mut world = World::raise(Mode::Dynamic)?;
    let api = match from {
        From::Manifests => None,
        From::Kubernetes => {
            let api = ApiServer::start(&world.lab, Place::Inside(&world.fabric.management, MANAGEMENT))?;
            api.apply(&node(false))?;
            world.follow(&api.kubeconfig(User::Admin))?;
            Some(api)
        }
    };
    put(&world, api.as_ref(), 1, 1)?;
    world.start()?;
    world.wait_state("advertised", 1)?;
    let few = read(&mut world, rounds)?;
    world.daemon.stop(Duration::from_secs(10))?;
    for first in (1..=SERVICES).step_by(PORTION.into()) {
        put(&world, api.as_ref(), first, PORTION.min(SERVICES - first + 1))?;
    }
    world.start()?;
    world.wait_state("advertised", SERVICES.into())?;
    let many = read(&mut world, rounds)?;
    let source = match from {
        From::Manifests => "manifests",
        From::Kubernetes => "Kubernetes",
    };
    let row = |name: &str, of: fn(&Reading) -> f64, target| Figure {
        name: format!(
            "{name}, {SERVICES} Services, {} endpoints ({source})",
            u32::from(SERVICES) * u32::from(ENDPOINTS_EACH)
        ),
        unit: "MiB",
        own: Summary::of(&many.iter().map(of).collect::<Vec<_>>()),
        against: "the same with 1 Service".to_owned(),
        baseline: Some(Summary::of(&few.iter().map(of).collect::<Vec<_>>())),
        measure: Measure::P50,
        target,
    };
    Ok(vec![
        row("resident memory", |reading| reading.resident, Some(TARGET)),
        row("  its peak", |reading| reading.peak, None),
    ])
}

struct Reading {
    resident: f64,
    peak: f64,
}

fn read(world: &mut World, rounds: usize) -> Result<Vec<Reading>> {
    sleep(REST);
    let pid = world.daemon.process()?.pid();
    let mut readings = Vec::new();
    for _ in 0..rounds {
        sleep(BETWEEN);
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let maps = map_mebibytes(&fs::read_to_string(format!("/proc/{pid}/smaps"))?)?;
        readings
            .push(Reading { resident: mebibytes(&text, "VmRSS:")? - maps, peak: mebibytes(&text, "VmHWM:")? - maps });
    }
    Ok(readings)
}

/// A line of `/proc/PID/status`, which is in KiB.
fn mebibytes(status: &str, key: &str) -> Result<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key));
    let kibibytes = value.and_then(|value| value.split_whitespace().next()).with_context(|| format!("no {key}"))?;
    Ok(kibibytes.parse::<f64>()? / 1024.0)
}

/// The resident part of the mapped eBPF maps in `/proc/PID/smaps`.
fn map_mebibytes(smaps: &str) -> Result<f64> {
    let (mut sum, mut within) = (0.0, false);
    for line in smaps.lines() {
        // A mapping begins with its addresses, and its facts follow.
        if line.split('-').next().is_some_and(|word| u64::from_str_radix(word, 16).is_ok()) {
            within = line.contains("bpf-map");
        } else if within && line.starts_with("Rss:") {
            sum += mebibytes(line, "Rss:")?;
        }
    }
    Ok(sum)
}

/// Puts Services where the daemon finds them.
fn put(world: &World, api: Option<&ApiServer>, first: u16, count: u16) -> Result<()> {
    let numbers = first..first + count;
    match api {
        None => {
            let services = numbers.clone().map(|n| serde_json::json!(service(n)));
            let slices = numbers.map(|n| serde_json::json!(slice(n)));
            world.put(&format!("part-{first}.json"), &list(services.chain(slices))?).map(drop)
        }
        Some(api) => {
            let objects: Vec<_> = numbers.map(|n| (cluster_wide(service(n)), slice(n))).collect();
            api.run(async move |client| {
                let requests = objects.into_iter().map(|(service, slice)| create(client.clone(), service, slice));
                stream::iter(requests).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await.map(drop)
            })
        }
    }
}

/// Each `Local` Service would take one of the API server's 2768 node ports, for kube-proxy's health check.
fn cluster_wide(mut service: Service) -> Service {
    if let Some(spec) = &mut service.spec {
        spec.external_traffic_policy = Some("Cluster".to_owned());
    }
    service
}

async fn create(client: Client, service: Service, slice: EndpointSlice) -> Result<()> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let name = service.metadata.name.clone().context("a Service without a name")?;
    if services.get_opt(&name).await?.is_some() {
        return Ok(());
    }
    services.create(&PostParams::default(), &service).await?;
    let status = Patch::Merge(serde_json::json!({ "status": service.status }));
    services.patch_status(&name, &PatchParams::default(), &status).await?;
    Api::<EndpointSlice>::namespaced(client, NAMESPACE).create(&PostParams::default(), &slice).await?;
    Ok(())
}

/// Ten endpoints with pods, the first on the daemon's node.
fn slice(n: u16) -> EndpointSlice {
    let [high, low] = n.to_be_bytes();
    let endpoint = |place: u8| {
        let address = IpAddr::V4(Ipv4Addr::new(10, 128 + place, high, low));
        let node = if place == 0 { OWN.to_owned() } else { format!("node-{place}") };
        objects::of_pod(objects::endpoint(address, &node, State::Ready), &format!("s{n}-7d9c5b6f4-{place:05}"))
    };
    objects::slice(&format!("s{n}-a"), &format!("s{n}"), BACKEND_PORT, (0..ENDPOINTS_EACH).map(endpoint).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maps_alone_are_summed_up() {
        let smaps = "7f00-7f10 rw-s 00000000 00:0f 9 anon_inode:bpf-map\nSize: 64 kB\nRss: 1024 kB\nPss: 9 kB\n\
                     7f20-7f30 rw-p 00000000 00:00 0\nRss: 4096 kB\n\
                     7f40-7f50 rw-s 00000000 00:0f 9 anon_inode:bpf-map\nRss: 512 kB\n";
        assert!((map_mebibytes(smaps).unwrap() - 1.5).abs() < 1e-9);
    }
}
