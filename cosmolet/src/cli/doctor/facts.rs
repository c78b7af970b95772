//! What the checks look at, asked of FRR, the kernel and the daemon. Changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;

use super::bgp::Frr;
use super::node::Node;
use crate::config::Config;
use crate::ebpf::error::effective_capabilities;
use crate::engine::observed::PeerView;
use crate::engine::types::Vrf;
use crate::frr::observe::RunningConfig;
use crate::frr::vty::{Line, Session};
use crate::netlink::uplinks;

const PATIENCE: Duration = Duration::from_secs(2);
pub(in crate::cli) const RUNNING: Line = Line::fixed("show running-config");
/// Where FRR keeps what `write memory` saves; the second is of setups with a file for each daemon.
const SAVED: [&str; 2] = ["/etc/frr/frr.conf", "/etc/frr/bgpd.conf"];
/// linux/timex.h: nothing keeps the clock right.
const STA_UNSYNC: i32 = 0x40;

/// Asks bgpd. The error is a sentence.
pub(super) fn frr(sockets: &Path, vrf: &Vrf) -> Result<Frr, String> {
    let [running, summary] = ask(sockets, [RUNNING, Line::summary(vrf)]).map_err(|error| error.to_string())?;
    Ok(Frr { running, summary, saved: None })
}

/// bgpd's answers to these lines.
pub(in crate::cli) fn ask<const N: usize>(sockets: &Path, lines: [Line; N]) -> Result<[String; N]> {
    let path = sockets.join("bgpd.vty");
    let mut replies = runtime()?
        .block_on(async {
            let mut session = Session::open(&path, PATIENCE).await?;
            session.ask_all(&lines).await
        })?
        .into_iter();
    Ok(lines.map(|_| replies.next().map(|reply| reply.text).unwrap_or_default()))
}

/// FRR's files, where this user may read them.
pub(super) fn saved() -> Option<String> {
    let texts: Vec<String> = SAVED.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    (!texts.is_empty()).then(|| texts.join("\n"))
}

/// Asks the kernel.
pub(super) fn node(config: Option<&Config>, frr: Option<&Frr>) -> Result<Node> {
    let vrf = config.map(|config| config.bgp.vrf.clone()).unwrap_or_default();
    let peers = frr.map(|frr| peers(&frr.running, &vrf)).unwrap_or_default();
    let overrides = config.map(|config| config.traffic.interfaces.clone()).unwrap_or_default();
    let uplinks = runtime()?.block_on(async {
        let found = uplinks::watch(overrides, watch::channel(peers).1).await.context("the uplinks")?;
        let names = found.borrow().iter().map(|uplink| uplink.name.clone()).collect::<Vec<_>>();
        anyhow::Ok(names)
    })?;
    let mut names = vec!["net.ipv4.ip_forward".to_owned(), "net.ipv6.conf.all.forwarding".to_owned()];
    for interface in uplinks.iter().map(String::as_str).chain(["all"]) {
        names.extend(["rp_filter", "arp_ignore"].map(|what| format!("net.ipv4.conf.{interface}.{what}")));
    }
    Ok(Node {
        sysctls: names.into_iter().filter_map(|name| sysctl(&name).map(|value| (name, value))).collect(),
        uplinks,
        capabilities: effective_capabilities(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        clock_kept: clock_kept(),
    })
}

/// FRR's peers as the uplinks are found by them.
fn peers(running: &str, vrf: &Vrf) -> Vec<PeerView> {
    let peers: BTreeMap<_, _> = RunningConfig::parse(running, vrf).peers;
    peers.into_iter().map(|(name, address)| PeerView { name, address, ..PeerView::default() }).collect()
}

/// An interface's name may have dots, which are then no slashes: the value is what stands last.
fn sysctl(name: &str) -> Option<String> {
    let path = match name.strip_prefix("net.ipv4.conf.").and_then(|rest| rest.rsplit_once('.')) {
        Some((interface, what)) => format!("/proc/sys/net/ipv4/conf/{interface}/{what}"),
        None => format!("/proc/sys/{}", name.replace('.', "/")),
    };
    fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
}

/// Whether anything has told the kernel lately that its clock is right (adjtimex(2)).
fn clock_kept() -> bool {
    #![expect(unsafe_code, reason = "adjtimex(2) has no wrapper")]
    // SAFETY: all zeros is a valid `timex`, whose `modes` of 0 only reads.
    let mut time: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure outlives the call.
    let state = unsafe { libc::adjtimex(&raw mut time) };
    state >= 0 && time.status & STA_UNSYNC == 0
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")
}
