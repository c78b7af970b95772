//! The netlink edge against the real kernel, each test in a network namespace of its own.
#![allow(unsafe_code, reason = "unshare(2) has no safe form")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test suite fails by a panic and prints what it measures; helpers are part of it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use cosmolet::engine::event::Event;
use cosmolet::engine::observed::{KernelEvent, KernelState, Owner, PeerView};
use cosmolet::engine::plan::{Applied, Outcome, Step};
use cosmolet::engine::types::{Uplink, Vip};
use cosmolet::netlink::apply::Addresses;
use cosmolet::netlink::observe::{self, Observer};
use cosmolet::netlink::uplinks;
use futures::TryStreamExt;
use proptest::prelude::*;
use rtnetlink::packet_route::address::AddressAttribute;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

const LEASE: Option<Duration> = Some(Duration::from_secs(120));

/// Runs a test in a nameless network namespace that goes with the thread, and so needs no cleaning up.
fn in_namespace<T: Send>(test: impl AsyncFnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: takes no pointer; only this thread moves to the new namespace.
            let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(moved, 0, "unshare: {}: run as root", std::io::Error::last_os_error());
            ip("link set lo up");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn ip_batch(lines: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, lines.as_bytes()).unwrap();
    let output = Command::new("ip").args(["-force", "-batch"]).arg(file.path()).output().unwrap();
    assert!(output.stderr.is_empty(), "ip -batch: {}", String::from_utf8_lossy(&output.stderr));
}

/// A client of another make than ours: `ip` speaks of IFA_PROTO only since iproute2 6.3.
fn rtnetlink() -> rtnetlink::Handle {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle
}

async fn lo_index(handle: &rtnetlink::Handle) -> u32 {
    let mut links = handle.link().get().match_name("lo".to_owned()).execute();
    links.try_next().await.unwrap().unwrap().header.index
}

/// The IFA_PROTO of each address of `lo` that has one, by address and prefix length.
async fn tags() -> BTreeMap<String, u8> {
    let handle = rtnetlink();
    let lo = lo_index(&handle).await;
    let messages: Vec<_> = handle.address().get().set_link_index_filter(lo).execute().try_collect().await.unwrap();
    let mut tags = BTreeMap::new();
    for message in messages {
        let find =
            |attribute: &AddressAttribute| if let AddressAttribute::Address(ip) = attribute { Some(*ip) } else { None };
        let ip = message.attributes.iter().find_map(find).unwrap();
        for attribute in &message.attributes {
            if let AddressAttribute::Protocol(protocol) = attribute {
                tags.insert(format!("{ip}/{}", message.header.prefix_len), u8::from(*protocol));
            }
        }
    }
    tags.retain(|name, _| name != "127.0.0.1/8" && name != "::1/128");
    tags
}

/// Adds an address to `lo` as somebody else who tags.
async fn add_tagged(net: &str, tag: u8) {
    let net: ipnet::IpNet = net.parse().unwrap();
    let handle = rtnetlink();
    let lo = lo_index(&handle).await;
    let mut request = handle.address().add(lo, net.addr(), net.prefix_len());
    request.message_mut().attributes.push(AddressAttribute::Protocol(tag.into()));
    request.execute().await.unwrap();
}

/// The addresses of an interface as `ip` tells them, by address and prefix length.
fn addresses_of(interface: &str) -> BTreeMap<String, Value> {
    let json: Value = serde_json::from_str(&ip(&format!("-j -d addr show dev {interface}"))).unwrap();
    let infos = json[0]["addr_info"].as_array().cloned().unwrap_or_default();
    let name = |info: &Value| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]);
    infos.into_iter().map(|info| (name(&info), info)).collect()
}

/// Addresses without what time alone changes: lifetimes become hundreds of seconds, rounded up.
fn without_time(mut addresses: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    for info in addresses.values_mut() {
        for key in ["valid_life_time", "preferred_life_time"] {
            info[key] = Value::from(info[key].as_u64().unwrap().div_ceil(100));
        }
        info.as_object_mut().unwrap().remove("tentative");
    }
    addresses
}

fn vip(text: &str) -> Vip {
    Vip::new(text.parse().unwrap())
}

fn add(text: &str, lease: Option<Duration>) -> Step {
    Step::AddAddress(vip(text), lease)
}

fn remove(text: &str) -> Step {
    Step::RemoveAddress(vip(text))
}

/// Applies steps on `lo` and gives the outcomes.
async fn apply(steps: &[Step]) -> Vec<Outcome> {
    outcomes(&mut Addresses::new("lo", Vec::new()), steps).await
}

async fn outcomes(addresses: &mut Addresses, steps: &[Step]) -> Vec<Outcome> {
    let applied = addresses.apply(steps).await;
    assert_eq!(applied.iter().map(|applied| &applied.step).collect::<Vec<_>>(), steps.iter().collect::<Vec<_>>());
    applied.into_iter().map(|Applied { outcome, .. }| outcome).collect()
}

fn v4(index: usize) -> IpAddr {
    IpAddr::from([100, 64, u8::try_from(index / 256).unwrap(), u8::try_from(index % 256).unwrap()])
}

fn v6(index: usize) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::try_from(index).unwrap()])
}

/// What the events so far add up to, and how many there were.
struct Seen {
    events: mpsc::Receiver<Event>,
    state: KernelState,
    count: usize,
    dumps: usize,
}

impl Seen {
    fn new(observer: Observer) -> Self {
        let (sender, events) = mpsc::channel(1024);
        observer.spawn(sender).unwrap();
        Self { events, state: KernelState::default(), count: 0, dumps: 0 }
    }

    /// Takes events until the state is as wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&KernelState) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.dumps == 0 || !wanted(&self.state) {
            let event = tokio::time::timeout_at(deadline, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| {
                panic!("never seen: {what}; {} on the loopback, own {:?}", self.state.loopback.len(), self.state.own)
            });
            self.take(event.expect("the observer ended"));
        }
    }

    /// Takes what comes within a span.
    async fn during(&mut self, span: Duration) {
        let deadline = tokio::time::Instant::now() + span;
        while let Ok(event) = tokio::time::timeout_at(deadline, self.events.recv()).await {
            self.take(event.expect("the observer ended"));
        }
    }

    fn take(&mut self, event: Event) {
        self.count += 1;
        let Event::Kernel(event) = event else { panic!("not of the kernel: {event:?}") };
        match event {
            KernelEvent::Dump(state) => {
                self.state = state;
                self.dumps += 1;
            }
            KernelEvent::Loopback(vip, address) => drop(self.state.loopback.insert(vip, address)),
            KernelEvent::LoopbackGone(vip) => drop(self.state.loopback.remove(&vip)),
            KernelEvent::Own(own) => self.state.own = own,
        }
    }

    fn owner(&self, text: &str) -> Option<Owner> {
        self.state.loopback.get(&vip(text)).map(|address| address.owner)
    }

    fn valid_for(&self, text: &str) -> Option<Duration> {
        self.state.loopback.get(&vip(text)).and_then(|address| address.valid_for)
    }
}

#[test]
fn addresses_bear_our_tag_flags_and_lifetimes() {
    in_namespace(async || {
        let steps =
            [add("192.0.2.1", LEASE), add("2001:db8::1", LEASE), add("192.0.2.2", None), add("2001:db8::2", None)];
        assert_eq!(apply(&steps).await, vec![Outcome::Done; 4]);
        let (held, tags) = (addresses_of("lo"), tags().await);
        for name in ["192.0.2.1/32", "2001:db8::1/128", "192.0.2.2/32", "2001:db8::2/128"] {
            let info = &held[name];
            assert_eq!(tags.get(name), Some(&0xC5), "{info}");
            assert_eq!(info["scope"], "global", "{info}");
            assert_eq!(info["deprecated"], true, "{info}");
            assert!(info.get("noprefixroute").is_none(), "FRR 10 makes no connected route then: {info}");
            // Of an IPv4 address without end the kernel tells no lifetimes, only that it is deprecated.
            let preferred = if name == "192.0.2.2/32" { u32::MAX } else { 0 };
            assert_eq!(info["preferred_life_time"], preferred, "{info}");
            assert!(info.get("tentative").is_none(), "{info}");
            let valid = info["valid_life_time"].as_u64().unwrap();
            assert!(
                if name.contains("2/") { valid == u64::from(u32::MAX) } else { (118..=120).contains(&valid) },
                "{info}"
            );
        }
        assert_eq!(held["2001:db8::1/128"]["nodad"], true);
    });
}

#[test]
fn a_vip_is_never_chosen_as_a_source() {
    in_namespace(async || {
        ip("link add up0 type veth peer name up1");
        for line in [
            "link set up0 up",
            "link set up1 up",
            "addr add 10.0.0.5/24 dev up0",
            "-6 addr add 2001:db8:1::5/64 dev up0 nodad",
        ] {
            ip(line);
        }
        apply(&[add("10.0.0.1", LEASE), add("2001:db8:1::1", LEASE)]).await;
        assert!(ip("route get 10.0.0.9").contains("src 10.0.0.5"));
        assert!(ip("-6 route get 2001:db8:1::9").contains("src 2001:db8:1::5"));
        // On a node whose uplinks are unnumbered, IPv4 takes the first address of the loopback: the node's own.
        ip("addr flush dev lo");
        ip("addr add 10.255.0.5/32 dev lo");
        ip("addr flush dev up0");
        ip("route add default dev up0");
        apply(&[add("10.0.0.1", LEASE)]).await;
        assert!(ip("route get 198.51.100.9").contains("src 10.255.0.5"), "{}", ip("route get 198.51.100.9"));
    });
}

#[test]
fn renewal_keeps_an_address_and_removal_takes_it() {
    in_namespace(async || {
        apply(&[add("192.0.2.1", Some(Duration::from_secs(5))), add("2001:db8::1", Some(Duration::from_secs(5)))])
            .await;
        let renewal = [add("192.0.2.1", LEASE), add("2001:db8::1", LEASE)];
        assert_eq!(apply(&renewal).await, vec![Outcome::Done; 2]);
        for name in ["192.0.2.1/32", "2001:db8::1/128"] {
            let info = &addresses_of("lo")[name];
            assert!(info["valid_life_time"].as_u64().unwrap() >= 118, "{info}");
            assert_eq!(info["preferred_life_time"], 0, "{info}");
            assert_eq!(tags().await.get(name), Some(&0xC5), "{info}");
        }
        assert_eq!(apply(&[add("192.0.2.1", None), add("2001:db8::1", None)]).await, vec![Outcome::Done; 2]);
        assert_eq!(addresses_of("lo")["192.0.2.1/32"]["valid_life_time"], u32::MAX);
        let removal = [remove("192.0.2.1"), remove("2001:db8::1"), remove("192.0.2.77"), remove("2001:db8::77")];
        assert_eq!(apply(&removal).await, vec![Outcome::Done; 4], "removing an absent address is success");
        assert_eq!(addresses_of("lo").keys().collect::<Vec<_>>(), ["127.0.0.1/8", "::1/128"]);
    });
}

#[test]
fn steps_on_the_same_vip_keep_their_order() {
    in_namespace(async || {
        let steps = [add("192.0.2.1", LEASE), remove("192.0.2.1"), add("192.0.2.1", LEASE), add("192.0.2.1", None)];
        assert_eq!(apply(&steps).await, vec![Outcome::Done; 4]);
        assert_eq!(addresses_of("lo")["192.0.2.1/32"]["valid_life_time"], u32::MAX);
    });
}

#[test]
fn foreign_and_excluded_addresses_survive_everything() {
    in_namespace(async || {
        ip("addr add 192.0.2.1/32 dev lo");
        ip("addr add 192.0.2.2/24 dev lo valid_lft 500 preferred_lft 400");
        add_tagged("192.0.2.3/32", 0xC4).await;
        add_tagged("192.0.2.4/24", 0xC5).await;
        ip("addr add 2001:db8::1/128 dev lo");
        add_tagged("2001:db8::2/64", 0xC5).await;
        add_tagged("203.0.113.1/32", 0xC5).await;
        let before = (without_time(addresses_of("lo")), tags().await);
        let mut addresses = Addresses::new("lo", vec!["203.0.113.0/24".parse().unwrap()]);
        let foreign =
            ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "2001:db8::1", "2001:db8::2", "127.0.0.1", "::1"];
        for _ in 0..2 {
            for text in foreign {
                let outcome = outcomes(&mut addresses, &[add(text, LEASE)]).await;
                assert!(
                    matches!(&outcome[..], [Outcome::GiveUp(error)] if error.contains("somebody else")),
                    "{text}: {outcome:?}"
                );
                assert_eq!(outcomes(&mut addresses, &[remove(text)]).await, [Outcome::Done], "{text}");
            }
            for step in [add("203.0.113.1", LEASE), remove("203.0.113.1"), add("203.0.113.2", LEASE)] {
                let outcome = outcomes(&mut addresses, &[step]).await;
                assert!(
                    matches!(&outcome[..], [Outcome::GiveUp(error)] if error.contains("loopback.excluded")),
                    "{outcome:?}"
                );
            }
            assert_eq!((without_time(addresses_of("lo")), tags().await), before);
        }
    });
}

#[test]
fn ours_beside_a_wider_foreign_prefix_is_still_ours() {
    in_namespace(async || {
        assert_eq!(apply(&[add("192.0.2.1", LEASE)]).await, [Outcome::Done]);
        ip("addr add 192.0.2.1/24 dev lo");
        let mut seen = Seen::new(Observer::new("lo"));
        seen.until("ours", |state| state.loopback.len() == 1).await;
        assert_eq!(seen.owner("192.0.2.1"), Some(Owner::Ours));
        assert_eq!(apply(&[add("192.0.2.1", None), remove("192.0.2.1")]).await, vec![Outcome::Done; 2]);
        seen.until("theirs", |state| state.loopback.values().any(|address| address.owner == Owner::Foreign)).await;
        assert!(addresses_of("lo").contains_key("192.0.2.1/24"));
    });
}

#[test]
fn a_lease_ends_by_itself_and_the_observer_tells() {
    in_namespace(async || {
        let mut seen = Seen::new(Observer::new("lo"));
        seen.until("the start", |_| true).await;
        let short = Some(Duration::from_secs(2));
        apply(&[add("192.0.2.1", short), add("2001:db8::1", short), add("192.0.2.2", short)]).await;
        seen.until("three leases", |state| state.loopback.len() == 3).await;
        assert!(seen.valid_for("192.0.2.1").unwrap() <= Duration::from_secs(2));
        let started = Instant::now();
        apply(&[add("192.0.2.2", LEASE)]).await;
        seen.until("the renewal", |state| state.loopback[&vip("192.0.2.2")].valid_for > Some(Duration::from_secs(100)))
            .await;
        seen.until("both ends", |state| state.loopback.len() == 1).await;
        assert!((1.5..4.5).contains(&started.elapsed().as_secs_f64()), "{:?}", started.elapsed());
        assert_eq!(seen.owner("192.0.2.2"), Some(Owner::Ours));
        assert!(addresses_of("lo").contains_key("192.0.2.2/32"));
    });
}

#[test]
fn a_new_observer_adopts_what_is_there() {
    in_namespace(async || {
        ip("addr add 192.0.2.9/32 dev lo");
        apply(&[add("192.0.2.1", LEASE), add("2001:db8::1", None)]).await;
        let (sender, mut events) = mpsc::channel(8);
        let task = observe::spawn("lo", sender).unwrap();
        let Some(Event::Kernel(KernelEvent::Dump(state))) = events.recv().await else { panic!("no dump") };
        let owners: Vec<_> = state.loopback.iter().map(|(vip, address)| (vip.to_string(), address.owner)).collect();
        let expected = [("192.0.2.1", Owner::Ours), ("192.0.2.9", Owner::Foreign), ("2001:db8::1", Owner::Ours)];
        assert_eq!(owners, expected.map(|(vip, owner)| (vip.to_owned(), owner)));
        assert!(state.loopback[&vip("192.0.2.1")].valid_for.unwrap() > Duration::from_secs(117));
        assert_eq!(state.loopback[&vip("2001:db8::1")].valid_for, None);
        drop(events);
        tokio::time::timeout(Duration::from_secs(2), task).await.expect("the task ends with its receiver").unwrap();
    });
}

#[test]
fn a_full_dump_comes_again_and_tells_the_rest_of_leases() {
    in_namespace(async || {
        apply(&[add("192.0.2.1", LEASE), add("192.0.2.2", None)]).await;
        let mut seen = Seen::new(Observer::new("lo").resync(Duration::from_millis(700)));
        seen.during(Duration::from_millis(2400)).await;
        assert_eq!((seen.dumps, seen.count), (4, 4), "one at the start, one each span, and nothing else");
        assert!(seen.valid_for("192.0.2.1") <= Some(Duration::from_secs(118)));
        assert_eq!(seen.valid_for("192.0.2.2"), None);
        assert_eq!(seen.state.own, BTreeSet::new());
    });
}

#[test]
fn leftovers_of_another_loopback_interface_are_not_the_nodes_own() {
    in_namespace(async || {
        apply(&[add("192.0.2.1", LEASE)]).await;
        ip("addr add 192.0.2.2/32 dev lo");
        ip("link add vips0 type bridge");
        let mut seen = Seen::new(Observer::new("vips0"));
        seen.until("the start", |_| true).await;
        let own = ["127.0.0.1", "192.0.2.2", "::1"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(seen.state.own, BTreeSet::from(own));
    });
}

#[test]
fn own_addresses_follow_the_other_interfaces() {
    in_namespace(async || {
        let mut seen = Seen::new(Observer::new("lo"));
        seen.until("nothing", |state| state.own.is_empty() && state.loopback.is_empty()).await;
        ip("link add up0 type veth peer name up1");
        ip("addr add 10.0.0.5/24 dev up0");
        ip("link set up0 up");
        ip("link set up1 up");
        ip("link add kube-ipvs0 type bridge");
        ip("addr add 10.96.0.1/32 dev kube-ipvs0");
        let (own, service): (IpAddr, IpAddr) = ("10.0.0.5".parse().unwrap(), "10.96.0.1".parse().unwrap());
        seen.until("own and link-local", |state| {
            let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            state.own.contains(&own) && state.own.iter().any(link_local)
        })
        .await;
        assert!(!seen.state.own.contains(&service), "{:?}", seen.state.own);
        // A port that leaves its bridge is announced like an interface that goes.
        ip("link set up1 master kube-ipvs0");
        ip("link set up1 nomaster");
        ip("link set kube-ipvs0 name br0");
        seen.until("a bridge of the node", |state| state.own.contains(&service) && state.own.contains(&own)).await;
        ip("link del up0");
        seen.until("gone", |state| !state.own.contains(&own)).await;
        assert!(seen.state.own.contains(&service));
    });
}

#[test]
fn an_overrun_receive_buffer_is_read_again() {
    in_namespace(async || {
        let mut seen = Seen::new(Observer::new("lo").receive_buffer(1).resync(Duration::from_secs(3600)));
        seen.until("the start", |_| true).await;
        // The observer shares this thread, so it hears nothing before the batch ends.
        ip_batch(&(0..2000).map(|index| format!("addr add {}/32 dev lo\n", v4(index))).collect::<String>());
        seen.until("all of them", |state| state.loopback.len() == 2000).await;
        assert!(seen.dumps >= 2, "lost notifications cost a dump");
        ip_batch(&(0..2000).map(|index| format!("addr del {}/32 dev lo\n", v4(index))).collect::<String>());
        seen.until("none", |state| state.loopback.is_empty()).await;
        seen.during(Duration::from_millis(300)).await;
        assert!(seen.state.loopback.is_empty());
    });
}

#[test]
fn a_recreated_interface_is_used_again() {
    in_namespace(async || {
        let mut addresses = Addresses::new("vips0", Vec::new());
        let outcome = outcomes(&mut addresses, &[add("192.0.2.1", LEASE), remove("192.0.2.2")]).await;
        assert!(
            matches!(&outcome[..], [Outcome::Retry(_, error), Outcome::Done] if error.contains("vips0")),
            "{outcome:?}"
        );
        let mut seen = Seen::new(Observer::new("vips0"));
        seen.until("the start", |state| state.loopback.is_empty()).await;
        for _ in 0..2 {
            ip("link add vips0 type bridge");
            ip("link set vips0 up");
            assert_eq!(outcomes(&mut addresses, &[add("192.0.2.1", LEASE)]).await, [Outcome::Done]);
            seen.until("ours", |state| state.loopback.contains_key(&vip("192.0.2.1"))).await;
            assert_eq!(seen.owner("192.0.2.1"), Some(Owner::Ours));
            ip("link del vips0");
            seen.until("gone", |state| state.loopback.is_empty()).await;
        }
    });
}

#[test]
fn ipv6_switched_off_is_said_and_costs_ipv6_alone() {
    in_namespace(async || {
        std::fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1").unwrap();
        let outcome = apply(&[add("192.0.2.1", LEASE), add("2001:db8::1", LEASE), remove("2001:db8::1")]).await;
        assert!(
            matches!(&outcome[..], [Outcome::Done, Outcome::GiveUp(error), Outcome::Done] if error.contains("disable_ipv6")),
            "{outcome:?}"
        );
    });
}

#[test]
fn without_cap_net_admin_it_gives_up_by_name() {
    in_namespace(async || {
        add_tagged("192.0.2.2/32", 0xC5).await;
        drop_cap_net_admin();
        let outcome = apply(&[add("192.0.2.1", LEASE), add("2001:db8::1", LEASE), remove("192.0.2.2")]).await;
        for outcome in outcome {
            assert!(matches!(&outcome, Outcome::GiveUp(error) if error.contains("CAP_NET_ADMIN")), "{outcome:?}");
        }
    });
}

/// Clears CAP_NET_ADMIN (12) in the effective set of this thread.
fn drop_cap_net_admin() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let mut sets = [0_u32; 6];
    // SAFETY: both structures have the layout of capget(2), version 3, and live through the calls.
    let done = unsafe {
        let read = libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr());
        sets[0] &= !(1 << 12);
        read == 0 && libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) == 0
    };
    assert!(done, "capset: {}", std::io::Error::last_os_error());
}

/// Our steps and somebody else's.
#[derive(Clone, Debug)]
enum Act {
    Add(usize),
    Renew(usize),
    Remove(usize),
    ForeignAdd(usize),
    ForeignRemove(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = (0..5_u8, 0..6_usize).prop_map(|(kind, index)| match kind {
        0 => Act::Add(index),
        1 => Act::Renew(index),
        2 => Act::Remove(index),
        3 => Act::ForeignAdd(index),
        _ => Act::ForeignRemove(index),
    });
    prop::collection::vec(act, 1..40)
}

fn pool(index: usize) -> (IpAddr, String) {
    let address = if index.is_multiple_of(2) { v4(index) } else { v6(index) };
    (address, format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }))
}

/// Runs `acts` and checks after each that every foreign address stands as it was made, and ours as a model has them.
async fn run_acts(acts: &[Act]) {
    let mut addresses = Addresses::new("lo", Vec::new());
    let (mut ours, mut foreign) = (BTreeSet::new(), BTreeMap::new());
    for act in acts {
        match *act {
            Act::Add(index) | Act::Renew(index) => {
                let (address, name) = pool(index);
                let outcome = outcomes(&mut addresses, &[Step::AddAddress(Vip::new(address), LEASE)]).await;
                if foreign.contains_key(&name) {
                    assert!(matches!(&outcome[..], [Outcome::GiveUp(_)]), "{act:?}: {outcome:?}");
                } else {
                    assert_eq!(outcome, [Outcome::Done], "{act:?}");
                    ours.insert(name);
                }
            }
            Act::Remove(index) => {
                let (address, name) = pool(index);
                let outcome = outcomes(&mut addresses, &[Step::RemoveAddress(Vip::new(address))]).await;
                assert_eq!(outcome, [Outcome::Done], "{act:?}");
                ours.remove(&name);
            }
            Act::ForeignAdd(index) => {
                let (_, name) = pool(index);
                if !ours.contains(&name) && !foreign.contains_key(&name) {
                    ip(&format!("addr add {name} dev lo valid_lft 1000 preferred_lft 900"));
                    foreign.insert(name.clone(), without_time(addresses_of("lo"))[&name].clone());
                }
            }
            Act::ForeignRemove(index) => {
                let (_, name) = pool(index);
                if ours.remove(&name) || foreign.remove(&name).is_some() {
                    ip(&format!("addr del {name} dev lo"));
                }
            }
        }
        let mut held = without_time(addresses_of("lo"));
        held.retain(|name, _| !name.starts_with("127.") && name != "::1/128");
        let tags = tags().await;
        held.retain(|name, _| !tags.contains_key(name));
        assert_eq!(tags.into_keys().collect::<BTreeSet<_>>(), ours, "{act:?}");
        assert_eq!(held, foreign, "{act:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn foreign_addresses_survive_any_sequence(acts in acts()) {
        in_namespace(async || run_acts(&acts).await);
    }
}

fn peer(name: &str) -> PeerView {
    PeerView { name: name.to_owned(), address: name.parse().ok(), established: true }
}

/// Makes a veth pair and gives this end an address and a carrier.
fn veth(name: &str, address: &str) {
    ip(&format!("link add {name} type veth peer name {name}p"));
    ip(&format!("addr add {address} dev {name}"));
    ip(&format!("link set {name}p up"));
    ip(&format!("link set {name} up"));
}

async fn until_names(uplinks: &mut watch::Receiver<Vec<Uplink>>, wanted: &[&str]) {
    let is_wanted = |found: &Vec<Uplink>| found.iter().map(|uplink| uplink.name.as_str()).eq(wanted.iter().copied());
    let found = tokio::time::timeout(Duration::from_secs(5), uplinks.wait_for(is_wanted)).await;
    let found = found.map(drop);
    assert!(found.is_ok(), "wanted {wanted:?}, have {:?}", uplinks.borrow());
}

#[test]
fn uplinks_are_behind_default_routes_and_peers() {
    in_namespace(async || {
        let (peers, wanted) = watch::channel(Vec::new());
        let mut found = uplinks::watch(Vec::new(), wanted).await.unwrap();
        assert_eq!(*found.borrow(), []);
        veth("up0", "10.0.0.5/24");
        veth("up1", "10.0.1.5/24");
        veth("up2", "10.0.2.5/24");
        veth("up3", "2001:db8:3::5/64");
        ip("route add default via 10.0.0.1");
        until_names(&mut found, &["up0"]).await;
        ip("route replace default nexthop via 10.0.0.1 nexthop via 10.0.1.1");
        until_names(&mut found, &["up0", "up1"]).await;
        ip("route del default");
        until_names(&mut found, &[]).await;
        ip("-6 route add default via 2001:db8:3::1");
        until_names(&mut found, &["up3"]).await;
        ip("-6 route del default");
        peers.send(vec![peer("10.0.2.1"), peer("10.99.0.1"), peer("10.0.0.5")]).unwrap();
        until_names(&mut found, &["up2"]).await;
        ip("route add 10.99.0.0/24 nexthop via 10.0.0.1 nexthop via 10.0.1.1");
        until_names(&mut found, &["up0", "up1", "up2"]).await;
        peers.send(vec![peer("up3"), peer("fe80::1")]).unwrap();
        until_names(&mut found, &["up3"]).await;
    });
}

#[test]
fn uplinks_are_found_through_next_hop_objects() {
    in_namespace(async || {
        veth("up0", "10.0.0.5/24");
        veth("up1", "10.0.1.5/24");
        for line in ["id 1 via 10.0.0.1 dev up0", "id 2 via 10.0.1.1 dev up1", "id 3 group 1/2"] {
            ip(&format!("nexthop add {line}"));
        }
        ip("route add default nhid 3");
        ip("route add 10.99.0.0/24 nhid 2");
        let (_peers, wanted) = watch::channel(vec![peer("10.99.0.1")]);
        let mut found = uplinks::watch(Vec::new(), wanted).await.unwrap();
        until_names(&mut found, &["up0", "up1"]).await;
        ip("route del default");
        until_names(&mut found, &["up1"]).await;
    });
}

#[test]
fn named_uplinks_override_and_recreated_ones_are_others() {
    in_namespace(async || {
        let (_peers, wanted) = watch::channel(vec![peer("up1")]);
        let mut found = uplinks::watch(vec!["up0".to_owned(), "lo".to_owned()], wanted).await.unwrap();
        veth("up1", "10.0.1.5/24");
        veth("up0", "10.0.0.5/24");
        until_names(&mut found, &["up0"]).await;
        let before = found.borrow().clone();
        ip("link del up0");
        veth("up0", "10.0.0.5/24");
        let other =
            tokio::time::timeout(Duration::from_secs(5), found.wait_for(|found| found.len() == 1 && *found != before));
        assert_eq!(other.await.unwrap().unwrap()[0].name, "up0");
    });
}

/// Adds, renews and removes `count` addresses of one family, beside `ip -batch` doing the same.
fn compare(count: usize, address: fn(usize) -> IpAddr, acts: &[&'static str]) {
    let vips: Vec<Vip> = (1..=count).map(|index| Vip::new(address(index))).collect();
    let family = vips[0].family();
    let nodad = if vips[0].address().is_ipv6() { "nodad" } else { "" };
    let base = in_namespace(async || {
        let timed = acts.iter().map(|act| {
            let rest = if *act == "del" { String::new() } else { format!("valid_lft 120 preferred_lft 0 {nodad}") };
            let lines: String = vips.iter().map(|vip| format!("addr {act} {} dev lo {rest}\n", vip.prefix())).collect();
            let started = Instant::now();
            ip_batch(&lines);
            started.elapsed()
        });
        timed.collect::<Vec<_>>()
    });
    let own = in_namespace(async || {
        let mut addresses = Addresses::new("lo", Vec::new());
        let mut times = Vec::new();
        for act in acts {
            let step =
                |vip: &Vip| if *act == "del" { Step::RemoveAddress(*vip) } else { Step::AddAddress(*vip, LEASE) };
            let steps: Vec<Step> = vips.iter().map(step).collect();
            let started = Instant::now();
            let applied = addresses.apply(&steps).await;
            times.push(started.elapsed());
            assert!(applied.iter().all(|applied| applied.outcome == Outcome::Done));
        }
        times
    });
    for ((act, own), base) in acts.iter().zip(own).zip(base) {
        println!("{count} {family} {act}: {own:.1?}, ip -batch {base:.1?}");
        // Wide, as the machine may be busy with either: a round trip or a dump for each address would cost far more.
        assert!(own < base * 4 + Duration::from_millis(200), "{count} {family} {act}: {own:?}, ip -batch {base:?}");
    }
}

#[test]
fn a_thousand_addresses_cost_about_what_the_kernel_takes() {
    compare(1000, v4, &["add", "change", "del"]);
    compare(1000, v6, &["add", "change", "del"]);
}

#[test]
fn ten_thousand_addresses_cost_about_what_the_kernel_takes() {
    compare(10_000, v4, &["add", "change", "del"]);
    // The kernel walks its whole IPv6 table for each address that goes: a minute for these.
    compare(10_000, v6, &["add", "change"]);
}

#[test]
fn ten_thousand_renewals_do_not_flood_the_engine() {
    in_namespace(async || {
        let count = 10_000;
        let steps = |lease: u64| -> Vec<Step> {
            let lease = Some(Duration::from_secs(lease));
            (1..=count).map(|index| Step::AddAddress(Vip::new(v4(index)), lease)).collect()
        };
        apply(&steps(300)).await;
        let mut seen = Seen::new(Observer::new("lo"));
        seen.until("all", |state| state.loopback.len() == count).await;
        let before = seen.count;
        assert!(apply(&steps(600)).await.iter().all(|outcome| *outcome == Outcome::Done));
        let renewed = |state: &KernelState| {
            state
                .loopback
                .values()
                .all(|held| held.owner == Owner::Ours && held.valid_for > Some(Duration::from_secs(400)))
        };
        seen.until("every renewal", renewed).await;
        assert_eq!(seen.state.loopback.len(), count);
        println!("{count} renewals: {} events", seen.count - before);
        assert!(seen.count - before < count / 20, "{} events", seen.count - before);
    });
}
