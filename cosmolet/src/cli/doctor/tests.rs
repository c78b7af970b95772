use super::bgp::{self, Frr};
use super::finding::{CHECKS, Finding, Findings, Verdict, markdown};
use super::node::{self, Node};
use super::text;
use crate::config::Config;

/// A node as docs/frr.md wants it: two uplinks, one Connected and one Dynamic family.
const GOOD: &str = "\
frr defaults datacenter
bgp as-path access-list OWN seq 5 permit ^$
router bgp 65001
 bgp router-id 10.0.0.11
 coalesce-time 0
 no bgp ebgp-requires-policy
 bgp graceful-restart
 neighbor FABRIC peer-group
 neighbor FABRIC remote-as external
 neighbor FABRIC bfd
 neighbor eth0 interface peer-group FABRIC
 neighbor eth1 interface peer-group FABRIC
 !
 address-family ipv4 unicast
  redistribute connected route-map VIPS
  neighbor FABRIC activate
  neighbor FABRIC filter-list OWN out
 exit-address-family
 !
 address-family ipv6 unicast
  neighbor FABRIC activate
  neighbor FABRIC filter-list OWN out
 exit-address-family
exit
!
route-map VIPS permit 10
 match ip address prefix-list VIPS
 set origin igp
exit
!
";

fn summary(state: &str) -> String {
    let peer = format!(r#"{{"state":"Established","peerState":"{state}","remoteAs":65100,"localAs":65001}}"#);
    let peers = format!(r#"{{"peers":{{"eth0":{peer},"eth1":{peer}}}}}"#);
    format!(r#"{{"ipv4Unicast":{peers},"ipv6Unicast":{peers}}}"#)
}

fn config(text: &str) -> Config {
    Config::parse(text, |_| None, "node1").unwrap()
}

fn frr(running: &str, summary: &str, config: Option<&Config>) -> Vec<Finding> {
    let mut findings = Findings::default();
    let frr = Frr { running: running.to_owned(), summary: summary.to_owned(), saved: Some(String::new()) };
    bgp::examine(&frr, config, &mut findings);
    findings.sorted()
}

fn worse(found: &[Finding]) -> Vec<(&'static str, Verdict)> {
    let worse = found.iter().filter(|finding| finding.verdict != Verdict::Ok);
    worse.map(|finding| (finding.check, finding.verdict)).collect()
}

#[test]
fn a_good_node_is_well() {
    let found = frr(GOOD, &summary("OK"), Some(&config("")));
    assert_eq!(worse(&found), [], "{found:#?}");
    assert!(found.iter().any(|finding| finding.seen == "AS 65001, ipv4 connected, ipv6 dynamic"), "{found:#?}");
}

#[test]
fn each_mistake_is_found_by_its_check_alone() {
    use Verdict::{Advice, Wrong};
    for (old, new, check, verdict) in [
        (" coalesce-time 0\n", "", "frr-coalesce", Advice),
        (" bgp graceful-restart\n", "", "frr-graceful-restart", Advice),
        (" bgp router-id 10.0.0.11\n", "", "frr-router-id", Advice),
        (" neighbor FABRIC bfd\n", "", "frr-bfd", Advice),
        (" set origin igp\n", "", "frr-origin", Advice),
        (" route-map VIPS\n", "\n", "frr-redistribute", Wrong),
        ("  neighbor FABRIC filter-list OWN out\n exit", " exit", "frr-transit", Wrong),
        (" coalesce-time 0\n", " coalesce-time 0\n no bgp network import-check\n", "frr-import-check", Wrong),
        (" coalesce-time 0\n", " coalesce-time 0\n bgp suppress-fib-pending\n", "frr-suppress-fib", Advice),
        (
            " coalesce-time 0\n",
            " coalesce-time 0\n neighbor FABRIC advertisement-interval 5\n",
            "frr-advertisement-interval",
            Advice,
        ),
        ("router bgp 65001\n", "bgp route-map delay-timer 0\nrouter bgp 65001\n", "frr-delay-timer", Wrong),
    ] {
        let running = GOOD.replacen(old, new, 1);
        assert_ne!(running, GOOD, "{check}");
        let found = frr(&running, &summary("OK"), Some(&config("")));
        assert_eq!(worse(&found), [(check, verdict)], "{found:#?}");
        let finding = found.iter().find(|finding| finding.check == check).unwrap();
        assert!(!finding.why.is_empty() && !finding.fix.is_empty(), "{finding:?}");
    }
}

const PERMIT: &str = "ipv6 prefix-list COSMOLET-WITHDRAWN seq 4294967295 permit any\n";
const APPLIED: &str = "  neighbor FABRIC prefix-list COSMOLET-WITHDRAWN out\n";

/// GOOD with a line in the IPv6 family, and another in front of everything.
fn lending(line: &str, before: &str) -> String {
    format!(
        "{before}{}",
        GOOD.replacen(" address-family ipv6 unicast\n", &format!(" address-family ipv6 unicast\n{line}"), 1)
    )
}

#[test]
fn a_list_that_is_lent_is_looked_at() {
    use Verdict::{Advice, Wrong};
    let low = PERMIT.replace("4294967295", "5");
    for (line, before, wanted) in [
        (APPLIED, PERMIT, vec![]),
        (APPLIED, "", vec![("frr-withdrawn", Wrong)]),
        (APPLIED, low.as_str(), vec![("frr-withdrawn", Advice)]),
        ("", PERMIT, vec![("frr-withdrawn", Advice)]),
    ] {
        let found = frr(&lending(line, before), &summary("OK"), Some(&config("")));
        assert_eq!(worse(&found), wanted, "{line:?} {before:?}");
    }
    // It lets all pass: it is no filter against transit.
    let unfiltered = lending(APPLIED, PERMIT).replace("  neighbor FABRIC filter-list OWN out\n", "");
    assert_eq!(worse(&frr(&unfiltered, &summary("OK"), None)), [("frr-transit", Wrong)]);
}

#[test]
fn a_vrf_and_vips_without_addresses_have_their_own_needs() {
    let of_vrf = GOOD.replace("router bgp 65001\n", "router bgp 65001 vrf red\n");
    let several = format!("router bgp 65009\nexit\n{of_vrf}");
    let in_red = config("{bgp: {vrf: red}, loopback: {interface: red}}");
    assert_eq!(worse(&frr(&several, &summary("OK"), Some(&in_red))), []);
    let on_lo = config("bgp: {vrf: red}");
    assert_eq!(worse(&frr(&several, &summary("OK"), Some(&on_lo))), [("frr-vrf", Verdict::Advice)]);
    assert_eq!(worse(&frr(&of_vrf, &summary("OK"), None)), [("frr-instance", Verdict::Wrong)]);
    let bare = config("loopback: {enabled: false}");
    assert_eq!(worse(&frr(GOOD, &summary("OK"), Some(&bare))), [("frr-import-check", Verdict::Wrong)]);
    let unchecked = GOOD.replacen(" coalesce-time 0\n", " coalesce-time 0\n no bgp network import-check\n", 1);
    assert_eq!(worse(&frr(&unchecked, &summary("OK"), Some(&bare))), []);
}

/// What stands in other families has no say, and hides nothing of those behind it.
#[test]
fn other_families_hide_nothing() {
    let vpn = " address-family ipv4 vpn\n  neighbor FABRIC activate\n exit-address-family\n !\n address-family ipv6 unicast\n";
    let running = GOOD.replacen(" address-family ipv6 unicast\n", vpn, 1);
    assert_eq!(worse(&frr(&running, &summary("OK"), Some(&config("")))), []);
}

#[test]
fn sessions_families_and_policies_are_judged_by_the_summary() {
    use Verdict::{Advice, Wrong};
    let policy = frr(GOOD, &summary("Policy"), None);
    assert_eq!(worse(&policy), [("frr-policy", Wrong)]);
    let idle = summary("OK").replace("Established", "Active");
    assert_eq!(worse(&frr(GOOD, &idle, None)), [("frr-sessions", Wrong)]);
    let one = summary("OK").replacen("Established", "Idle", 1).replacen("Established", "Up", 0);
    assert!(!worse(&frr(GOOD, &one, None)).contains(&("frr-sessions", Wrong)));
    let v4_only = summary("OK").split_once(r#","ipv6"#).unwrap().0.to_owned() + "}";
    assert_eq!(worse(&frr(GOOD, &v4_only, None)), [("frr-families", Advice)]);
    assert_eq!(worse(&frr("", "{}", None)), [("frr-instance", Wrong)]);
    let asn = config("bgp: {asn: 65009}");
    assert_eq!(worse(&frr(GOOD, &summary("OK"), Some(&asn))), [("frr-instance", Wrong)]);
}

#[test]
fn attributes_in_connected_mode_name_the_lines() {
    let wanted = config("bgp: {attributes: {communities: ['65000:1']}}");
    let found = frr(GOOD, &summary("OK"), Some(&wanted));
    assert_eq!(worse(&found), [("frr-attributes", Verdict::Advice)]);
    let finding = found.iter().find(|finding| finding.check == "frr-attributes").unwrap();
    assert_eq!(finding.seen, "ipv4: bgp.attributes wants community 65000:1; route-map VIPS has set origin igp");
}

#[test]
fn a_saved_vip_is_found() {
    let mut findings = Findings::default();
    let saved = "router bgp 65001\n network 10.0.0.1/32 route-map COSMOLET-ADVERTISE\n network 10.0.0.2/32\n";
    let frr = Frr { running: GOOD.to_owned(), summary: summary("OK"), saved: Some(saved.to_owned()) };
    bgp::examine(&frr, None, &mut findings);
    let found = findings.sorted();
    assert_eq!(worse(&found), [("frr-saved", Verdict::Wrong)]);
}

#[test]
fn the_kernel_is_judged() {
    let sysctls = |text: &str| {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let good = Node {
        sysctls: sysctls(
            "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.eth0.rp_filter=1 \
             net.ipv4.conf.all.arp_ignore=1",
        ),
        uplinks: vec!["eth0".to_owned(), "eth1".to_owned()],
        capabilities: Some(u64::MAX),
        btf: true,
        clock_kept: true,
    };
    let judged = |node: &Node, counting| {
        let mut findings = Findings::default();
        node::examine(node, counting, &mut findings);
        findings.sorted()
    };
    assert_eq!(worse(&judged(&good, None)), []);
    let bad = Node {
        sysctls: sysctls("net.ipv4.ip_forward=0 net.ipv4.conf.eth0.rp_filter=1 net.ipv4.conf.all.arp_ignore=0"),
        capabilities: Some(1 << 12),
        btf: false,
        clock_kept: false,
        ..good.clone()
    };
    use Verdict::{Advice, Wrong};
    let found = judged(&bad, None);
    let wanted = [
        ("node-forwarding", Wrong),
        ("node-rp-filter", Wrong),
        ("node-arp", Advice),
        ("ebpf-rights", Advice),
        ("ebpf-btf", Wrong),
        ("clock", Advice),
    ];
    assert_eq!(worse(&found), wanted);
    assert!(text(&found).contains("this user lacks CAP_BPF, CAP_PERFMON"), "{}", text(&found));
    // What counts is the daemon's right, where there is a daemon.
    assert_eq!(worse(&judged(&Node { capabilities: Some(0), ..good }, Some(Ok(())))), []);
}

#[test]
fn every_check_that_is_named_is_one() {
    let source = [include_str!("bgp.rs"), include_str!("node.rs"), include_str!("mod.rs")].concat();
    for check in CHECKS {
        assert!(source.contains(&format!("\"{}\"", check.name)), "nobody runs {}", check.name);
    }
    let mut findings = Findings::default();
    findings.wrong("frr-vty", "x", "y");
    assert!(findings.sorted().iter().all(|finding| CHECKS.iter().any(|check| check.name == finding.check)));
}

#[test]
fn the_docs_have_the_table() {
    let page = include_str!("../../../../docs/doctor.md");
    assert!(page.contains(&markdown()), "docs/doctor.md is not current: cargo xtask docs");
}
