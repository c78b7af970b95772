//! What is wrong with a daemon, from its status: each sentence says what and where. Pure.

use super::status::{PeerRow, Status, VipRow};

/// How long a step between decision and effect may take before it is trouble, in seconds.
const PATIENCE: f64 = 5.0;
/// How old a decision must be before FRR's RIB is held against it, in seconds: the RIB is read every ten at the most.
const RIB_PATIENCE: f64 = 15.0;
/// Sentences of one kind at the most; the rest is counted.
const EACH: usize = 5;

/// Everything that an operator should know of at once, the daemon's parts first. Empty: all is as decided.
#[must_use]
pub fn troubles(status: &Status) -> Vec<String> {
    let mut troubles = source(status);
    troubles.extend(bgp(status));
    // It takes a moment to load the programs.
    if status.traffic.mode != "off" && status.uptime_seconds > PATIENCE {
        let alone = status.traffic.control_plane_alone.iter();
        troubles.extend(alone.map(|reason| format!("traffic: not counted, the control plane decides alone: {reason}")));
    }
    let failing_functions = status.kubernetes.iter().filter_map(|one| Some((one, one.error.as_ref()?)));
    troubles.extend(
        failing_functions.map(|(one, error)| format!("kubernetes.{}: {error}; all else goes on", one.function)),
    );
    if status.traffic.control_plane_alone.is_none() && status.uptime_seconds > PATIENCE {
        let unprobed = status.traffic.no_probes.iter();
        troubles.extend(unprobed.map(|reason| format!("probes: none are sent, no VIP waits for one: {reason}")));
    }
    let files = status.manifest_problems.iter();
    troubles.extend(capped(files.map(|bad| format!("manifests: {}: {}", bad.file, bad.problem)), "files"));
    let addresses = status.unusable_addresses.iter();
    let address = addresses.map(|bad| format!("Service {}: address {:?}: {}", bad.service, bad.address, bad.reason));
    troubles.extend(capped(address, "addresses"));
    let ignored = status.annotation_notices.iter().filter(|notice| notice.kind == "ignored");
    troubles.extend(capped(ignored.map(|bad| format!("Service {}: {}", bad.service, bad.notice)), "annotations"));
    if status.traffic.node_suspect {
        troubles.push("traffic: the handshakes of most VIPs fail: look at this node, not at one Service".to_owned());
    }
    for kind in [unfinished, invisible, failing, without_attributes, held_back, suspected] {
        troubles.extend(capped(status.vips.iter().filter_map(|vip| kind(vip, status)), "VIPs"));
    }
    troubles
}

/// The first sentences, and how many more there are.
fn capped(all: impl Iterator<Item = String>, what: &str) -> Vec<String> {
    let mut sentences: Vec<String> = all.collect();
    if sentences.len() > EACH {
        let more = sentences.len() - EACH;
        sentences.truncate(EACH);
        sentences.push(format!("and {more} more {what} like the last one"));
    }
    sentences
}

fn source(status: &Status) -> Vec<String> {
    let source = &status.source;
    let stands = if source.delivered { "the last good state stands" } else { "nothing is decided yet" };
    match &source.error {
        Some(error) => vec![format!("Services: {} cannot be read: {error}; {stands}", source.kind)],
        None if !source.delivered && status.uptime_seconds > PATIENCE => {
            vec![format!("Services: {} has not delivered everything yet; {stands}", source.kind)]
        }
        None => Vec::new(),
    }
}

fn bgp(status: &Status) -> Vec<String> {
    let bgp = &status.bgp;
    if let Some(error) = &bgp.error {
        return vec![format!("FRR: {error}; trying on")];
    }
    if bgp.state == "up" && bgp.peers.is_empty() {
        return vec!["FRR: it has no BGP peer; nobody hears of the VIPs".to_owned()];
    }
    let down = bgp.peers.iter().filter(|peer| !peer.established);
    let sentence = |peer: &PeerRow| {
        let bfd = if peer.bfd.as_deref() == Some("down") { ", and BFD does not find it" } else { "" };
        format!("FRR: the BGP session with {} is down{bfd}", peer.name)
    };
    capped(down.map(sentence), "sessions")
}

/// The traffic verdict would withdraw it, and the guard does not let it.
fn held_back(vip: &VipRow, _: &Status) -> Option<String> {
    let refused = vip.ejection_refused.as_ref()?;
    Some(format!("VIP {}: not withdrawn for its traffic: {} ({})", vip.vip, refused.explanation, refused.reason))
}

/// Decided, but not done.
fn unfinished(vip: &VipRow, status: &Status) -> Option<String> {
    let waits = vip.since_seconds > PATIENCE
        && vip.drain_left_seconds.is_none()
        && matches!(vip.state.as_str(), "pending" | "withdrawing");
    waits.then(|| format!("VIP {}: {} for {:.0} s: {}", vip.vip, vip.state, vip.since_seconds, missing(vip, status)))
}

/// What an unfinished VIP waits for.
fn missing(vip: &VipRow, status: &Status) -> String {
    if let Some(error) = &vip.last_error {
        return error.clone();
    }
    let missing = match (vip.state.as_str(), vip.loopback.as_deref(), vip.network.as_deref()) {
        _ if status.bgp.state == "down" => "FRR is down",
        ("withdrawing", _, Some("ours")) => "FRR still has its network statement",
        ("withdrawing", _, _) => "its address is still on the loopback",
        (_, None, _) => "its address is not on the loopback",
        (_, Some(_), None) => "FRR has no network statement for it",
        (_, Some(_), Some(_)) => "not confirmed yet",
    };
    missing.to_owned()
}

fn is_advertised(vip: &VipRow) -> bool {
    matches!(vip.state.as_str(), "advertised" | "depreferred")
}

/// Done on this node, but not seen beyond it.
fn invisible(vip: &VipRow, status: &Status) -> Option<String> {
    let rib = vip.rib.as_ref().filter(|_| is_advertised(vip) && vip.since_seconds > RIB_PATIENCE)?;
    let heard = status.bgp.peers.iter().any(|peer| peer.established);
    if !rib.valid {
        Some(format!("VIP {}: advertised, but FRR's RIB has no valid path of this node", vip.vip))
    } else if rib.advertised_to == 0 && heard {
        let prepended = vip.attributes.as_ref().is_some_and(|attributes| attributes.wanted.contains("prepend "));
        let why = if prepended {
            "its AS path is prepended, which an outbound as-path filter of ^$ does not let through"
        } else {
            "does an outbound route-map or prefix-list drop it, or is another path better?"
        };
        Some(format!("VIP {}: in FRR's RIB, but advertised to no peer: {why}", vip.vip))
    } else {
        None
    }
}

/// It has attributes that this mode cannot set.
fn without_attributes(vip: &VipRow, _: &Status) -> Option<String> {
    let attributes = vip.attributes.as_ref().filter(|attributes| !attributes.set)?;
    let connected = vip.state == "advertised" && vip.mode.as_deref() == Some("connected");
    connected.then(|| {
        format!(
            "VIP {}: advertised without its attributes ({}): in Connected mode only a route-map on FRR's `redistribute \
             connected` can set any",
            vip.vip, attributes.wanted
        )
    })
}

/// The last step failed, whatever it was for.
fn failing(vip: &VipRow, status: &Status) -> Option<String> {
    let told = unfinished(vip, status).is_some();
    vip.last_error.as_ref().filter(|_| !told).map(|error| format!("VIP {}: {error}", vip.vip))
}

/// The traffic says no, and nobody acts on it.
fn suspected(vip: &VipRow, status: &Status) -> Option<String> {
    let (service, why) = vip.services.iter().find_map(|service| Some((service, service.suspicion.as_ref()?)))?;
    let (namespace, name) = (&service.namespace, &service.name);
    let mode = &status.traffic.mode;
    let stays = match mode.as_str() {
        "enforce" => "no second key has turned, or a guard holds it".to_owned(),
        mode => format!("traffic.mode is {mode}"),
    };
    Some(format!("VIP {}: its traffic says {why} for {namespace}/{name}; {stays}, so it stays", vip.vip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples;
    use crate::http::status::{ManifestProblem, RibRow, UnusableAddress};

    /// The troubles of a sample after `change`.
    fn after(change: impl FnOnce(&mut Status)) -> Vec<String> {
        let mut status = samples::healthy();
        change(&mut status);
        troubles(&status)
    }

    #[test]
    fn a_healthy_daemon_has_none() {
        assert!(troubles(&samples::healthy()).is_empty());
    }

    #[test]
    fn the_source_says_whether_anything_is_decided() {
        let stale = |status: &mut Status| {
            status.source.state = "stale".to_owned();
            status.source.error = Some("Service: connection refused".to_owned());
        };
        let sentence = "Services: kubernetes cannot be read: Service: connection refused; the last good state stands";
        assert_eq!(after(stale), [sentence]);
        let never = |status: &mut Status| {
            stale(status);
            status.source.delivered = false;
        };
        assert!(after(never)[0].ends_with("nothing is decided yet"));
        let slow = |status: &mut Status| {
            status.source.state = "syncing".to_owned();
            status.source.delivered = false;
        };
        assert_eq!(after(slow), ["Services: kubernetes has not delivered everything yet; nothing is decided yet"]);
        let young = |status: &mut Status| {
            slow(status);
            status.uptime_seconds = 1.0;
        };
        assert!(after(young).is_empty());
    }

    #[test]
    fn sessions_that_are_down_are_named() {
        let down = |status: &mut Status| status.bgp.peers[1].established = false;
        assert_eq!(after(down), ["FRR: the BGP session with fe80::1 is down"]);
        assert_eq!(after(|status| status.bgp.peers.clear()), ["FRR: it has no BGP peer; nobody hears of the VIPs"]);
        let gone = |status: &mut Status| {
            status.bgp.state = "down".to_owned();
            status.bgp.error = Some("FRR has no `router bgp`".to_owned());
            status.bgp.peers.clear();
        };
        assert_eq!(after(gone), ["FRR: FRR has no `router bgp`; trying on"]);
    }

    #[test]
    fn a_vip_may_be_pending_for_a_few_seconds() {
        let pending = |since: f64| {
            move |status: &mut Status| {
                let vip = &mut status.vips[0];
                (vip.state, vip.since_seconds, vip.loopback) = ("pending".to_owned(), since, None);
            }
        };
        assert!(after(pending(4.0)).is_empty());
        assert_eq!(after(pending(12.4)), ["VIP 10.100.0.1: pending for 12 s: its address is not on the loopback"]);
        let no_network = |status: &mut Status| {
            pending(12.0)(status);
            status.vips[0].loopback = Some("ours".to_owned());
            status.vips[0].network = None;
        };
        assert!(after(no_network)[0].ends_with("FRR has no network statement for it"));
        let told_once = |status: &mut Status| {
            pending(12.0)(status);
            status.vips[0].last_error = Some("no space left".to_owned());
        };
        assert_eq!(after(told_once), ["VIP 10.100.0.1: pending for 12 s: no space left"]);
    }

    #[test]
    fn a_withdrawn_vip_is_no_trouble_but_one_that_stays_is() {
        let still = |status: &mut Status| {
            let vip = &mut status.vips[1];
            (vip.state, vip.network) = ("withdrawing".to_owned(), Some("ours".to_owned()));
        };
        assert_eq!(after(still), ["VIP 10.100.0.2: withdrawing for 7200 s: FRR still has its network statement"]);
    }

    #[test]
    fn what_the_rib_does_not_show_is_told_once_it_should() {
        let rib = |valid, advertised_to, since| {
            move |status: &mut Status| {
                status.vips[0].rib = Some(RibRow { valid, best: valid, since: None, advertised_to, peers: Vec::new() });
                status.vips[0].since_seconds = since;
            }
        };
        assert!(after(rib(false, 0, 5.0)).is_empty());
        assert!(after(rib(false, 0, 60.0))[0].contains("no valid path"));
        assert!(after(rib(true, 0, 60.0))[0].contains("advertised to no peer"));
        let nobody_hears = |status: &mut Status| {
            rib(true, 0, 60.0)(status);
            status.bgp.peers.iter_mut().for_each(|peer| peer.established = false);
        };
        assert!(after(nobody_hears).iter().all(|trouble| trouble.contains("session")));
    }

    #[test]
    fn traffic_files_addresses_and_suspicions_are_told() {
        let all = |status: &mut Status| {
            status.traffic.control_plane_alone = Some("no CAP_BPF".to_owned());
            status.manifest_problems.push(ManifestProblem { file: "a.yaml".to_owned(), problem: "line 3".to_owned() });
            let (service, address) = ("default/web".to_owned(), "x\u{1b}y".to_owned());
            status.unusable_addresses.push(UnusableAddress { service, address, reason: "NotAnAddress".to_owned() });
            status.vips[0].services[0].suspicion = Some("HostRefuses".to_owned());
        };
        assert_eq!(
            after(all),
            [
                "traffic: not counted, the control plane decides alone: no CAP_BPF",
                "manifests: a.yaml: line 3",
                "Service default/web: address \"x\\u{1b}y\": NotAnAddress",
                "VIP 10.100.0.1: its traffic says HostRefuses for default/web; traffic.mode is observe, so it stays",
            ]
        );
        let off = |status: &mut Status| {
            status.traffic.mode = "off".to_owned();
            status.traffic.control_plane_alone = Some("traffic.mode is off".to_owned());
        };
        assert!(after(off).is_empty());
    }

    #[test]
    fn a_thousand_of_a_kind_are_counted() {
        let many = |status: &mut Status| {
            let mut vip = status.vips[0].clone();
            (vip.state, vip.loopback) = ("pending".to_owned(), None);
            status.vips = vec![vip; 1000];
        };
        let troubles = after(many);
        assert_eq!(troubles.len(), EACH + 1);
        assert_eq!(troubles[EACH], "and 995 more VIPs like the last one");
    }
}
