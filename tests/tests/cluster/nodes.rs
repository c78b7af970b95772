//! What a Node object says about its node, on a real cluster.

use std::net::IpAddr;

use anyhow::Result;
use cosmolet_tests::cluster::alone;
use serde_json::json;

use super::rig::{BOTH, Case};

const LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const TAINT: [&str; 2] = ["example.com/drain=now:NoSchedule", "example.com/drain-"];

#[test]
fn labels_conditions_taints_and_cordons() -> Result<()> {
    let cluster = alone()?;
    let (case, [vip, _]) = (Case::begin(&cluster, "nodes")?, cluster.new_vips());
    for node in BOTH {
        case.deploy(&format!("web-{node}"), node, |pod| pod["tolerations"] = json!([{"operator": "Exists"}]))?;
    }
    case.service("web", &[vip], |_| {})?;
    case.nodes(vip, &BOTH)?;
    let label = [format!("{LABEL}="), format!("{LABEL}-")];
    turn(&case, vip, label.each_ref().map(|label| ["label", "node", BOTH[0], label.as_str()]), Some("NodeExcluded"))?;
    turn(&case, vip, TAINT.map(|taint| ["taint", "node", BOTH[0], taint]), None)?;
    turn(&case, vip, ["cordon", "uncordon"].map(|verb| [verb, BOTH[0]]), None)?;
    unavailable_network(&case, vip)?;
    let strict = json!({"config": {"services": {"drain_taints": ["example.com/drain"], "cordon": "withdraw"}}});
    cluster.install(&strict)?;
    case.nodes(vip, &BOTH)?;
    turn(&case, vip, TAINT.map(|taint| ["taint", "node", BOTH[0], taint]), Some("NodeTainted"))?;
    turn(&case, vip, ["cordon", "uncordon"].map(|verb| [verb, BOTH[0]]), Some("NodeCordoned"))?;
    cluster.install(&json!({}))
}

/// As a network plugin or a cloud's route controller says it.
fn unavailable_network(case: &Case<'_>, vip: IpAddr) -> Result<()> {
    let patch = |status: &str| {
        let condition = json!({"type": "NetworkUnavailable", "status": status, "reason": "Test", "message": "a test"});
        format!("-p={}", json!({"status": {"conditions": [condition]}}))
    };
    let patches = [patch("True"), patch("False")];
    let commands = patches.each_ref().map(|patch| ["patch", "node", BOTH[0], "--subresource=status", patch.as_str()]);
    turn(case, vip, commands, Some("NodeNetworkUnavailable"))
}

/// Does something to the first node and undoes it; it withdraws for the reason, or nothing moves.
fn turn<const N: usize>(
    case: &Case<'_>,
    vip: IpAddr,
    [done, undone]: [[&str; N]; 2],
    reason: Option<&str>,
) -> Result<()> {
    case.cluster.kubectl(&done)?;
    match reason {
        Some(reason) => {
            case.nodes(vip, &BOTH[1..])?;
            case.reason(BOTH[0], vip, reason)?;
            case.answered(vip, 80, &BOTH[1..])?;
        }
        None => case.stays(vip, &BOTH)?,
    }
    case.cluster.kubectl(&undone)?;
    case.nodes(vip, &BOTH)
}
