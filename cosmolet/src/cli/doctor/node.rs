//! The node's kernel against what VIPs need. Pure.

use std::collections::BTreeMap;

use super::finding::Findings;
use crate::ebpf::error::{BPF, NET_ADMIN, PERFMON};

/// What the kernel told.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// `net.…`, with dots, and its value.
    pub(super) sysctls: BTreeMap<String, String>,
    /// The interfaces by which clients' packets come.
    pub(super) uplinks: Vec<String>,
    /// This process's effective capabilities.
    pub(super) capabilities: Option<u64>,
    /// `/sys/kernel/btf/vmlinux` is there.
    pub(super) btf: bool,
    /// Something keeps the clock right.
    pub(super) clock_kept: bool,
}

const WANTED: [(&str, u64); 3] = [("CAP_BPF", BPF), ("CAP_PERFMON", PERFMON), ("CAP_NET_ADMIN", NET_ADMIN)];

/// Runs every check of the node. `counting` is what a running daemon says of its programs: it, not this process, needs
/// the capabilities.
pub(super) fn examine(node: &Node, counting: Option<Result<(), String>>, findings: &mut Findings) {
    forwarding(node, findings);
    reverse_path(node, findings);
    arp(node, findings);
    rights(node, counting, findings);
    if node.btf {
        findings.ok("ebpf-btf", "the kernel has it");
    } else {
        findings.wrong(
            "ebpf-btf",
            "/sys/kernel/btf/vmlinux is missing",
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions have it",
        );
    }
    if node.clock_kept {
        findings.ok("clock", "kept right");
    } else {
        findings.advice(
            "clock",
            "the kernel says that nothing keeps it right (STA_UNSYNC)",
            "run chrony or systemd-timesyncd",
        );
    }
}

impl Node {
    fn sysctl(&self, name: &str) -> Option<&str> {
        self.sysctls.get(name).map(String::as_str)
    }

    /// The larger of an interface's value and that of `all`, which is what the kernel goes by.
    fn effective(&self, what: &str, interface: &str) -> u8 {
        let value = |of: &str| self.sysctl(&format!("net.ipv4.conf.{of}.{what}")).and_then(|text| text.parse().ok());
        value("all").unwrap_or(0).max(value(interface).unwrap_or(0))
    }
}

fn forwarding(node: &Node, findings: &mut Findings) {
    let off: Vec<&str> = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
        .into_iter()
        .filter(|name| node.sysctl(name) == Some("0"))
        .collect();
    if off.is_empty() {
        return findings.ok("node-forwarding", "on");
    }
    let fix = off.iter().map(|name| format!("sysctl -w {name}=1")).collect::<Vec<_>>().join("; ");
    findings.wrong("node-forwarding", format!("{} is 0", off.join(", ")), format!("{fix}; and in /etc/sysctl.d"));
}

fn reverse_path(node: &Node, findings: &mut Findings) {
    let strict: Vec<&str> =
        node.uplinks.iter().map(String::as_str).filter(|uplink| node.effective("rp_filter", uplink) == 1).collect();
    match strict.as_slice() {
        [] => findings.ok("node-rp-filter", "not strict"),
        [one] if node.uplinks.len() == 1 => {
            findings.ok("node-rp-filter", format!("strict, but {one} is the only uplink"))
        }
        strict => {
            let fix = strict.iter().map(|uplink| format!("sysctl -w net.ipv4.conf.{uplink}.rp_filter=2"));
            let fix = fix.chain(["sysctl -w net.ipv4.conf.all.rp_filter=2".to_owned()]).collect::<Vec<_>>().join("; ");
            findings.wrong("node-rp-filter", format!("strict on {}", strict.join(", ")), fix);
        }
    }
}

fn arp(node: &Node, findings: &mut Findings) {
    let eager: Vec<&str> =
        node.uplinks.iter().map(String::as_str).filter(|uplink| node.effective("arp_ignore", uplink) == 0).collect();
    if eager.is_empty() {
        return findings.ok("node-arp", "uplinks answer for their own addresses only");
    }
    let fix = eager
        .iter()
        .map(|uplink| format!("sysctl -w net.ipv4.conf.{uplink}.arp_ignore=1"))
        .collect::<Vec<_>>()
        .join("; ");
    let seen = format!("arp_ignore is 0 on {}", eager.join(", "));
    findings.advice("node-arp", seen, format!("{fix}; needless on a link that only the ToR shares"));
}

fn rights(node: &Node, counting: Option<Result<(), String>>, findings: &mut Findings) {
    match (counting, node.capabilities) {
        (Some(Ok(())), _) => findings.ok("ebpf-rights", "the daemon counts traffic"),
        (Some(Err(why)), _) => {
            findings.advice("ebpf-rights", format!("the daemon does not count traffic: {why}"), SETCAP)
        }
        (None, Some(held)) => {
            let missing: Vec<&str> =
                WANTED.into_iter().filter(|(_, bit)| held & bit == 0).map(|(name, _)| name).collect();
            match missing.as_slice() {
                [] => findings.ok("ebpf-rights", "this user has them"),
                missing => findings.advice("ebpf-rights", format!("this user lacks {}", missing.join(", ")), SETCAP),
            }
        }
        (None, None) => findings.unknown("ebpf-rights", "this process's capabilities cannot be read", SETCAP),
    }
}

const SETCAP: &str = "setcap cap_bpf,cap_perfmon,cap_net_admin+ep cosmolet, or the chart's securityContext; traffic.mode: off says that it is meant so";
