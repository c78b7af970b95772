//! What is put on the loopback and taken off it, and what the kernel or the user forbids.

use std::process::{Command, Stdio};
use std::time::Duration;

use cosmolet::engine::plan::{Hold, Outcome, Step};
use cosmolet::engine::types::Vip;
use cosmolet::netlink::REQUESTS_PER_WRITE;
use cosmolet::netlink::apply::Addresses;

use crate::{LEASE, add, add_tagged, addresses_of, apply, in_namespace, ip, remove, tags, v4, vip};

#[test]
fn a_batch_that_is_stopped_leaves_the_rest_alone() {
    in_namespace(async || {
        let steps: Vec<Step> =
            (1..=3 * REQUESTS_PER_WRITE).map(|index| Step::add_address(Vip::new(v4(index)), LEASE)).collect();
        let mut addresses = Addresses::new("lo", Vec::new());
        let applied = addresses.apply(&steps, &|| true).await;
        let begun = applied.iter().take_while(|one| one.outcome == Outcome::Done).count();
        assert!((1..=REQUESTS_PER_WRITE).contains(&begun), "{begun} begun");
        assert!(applied[begun..].iter().all(|one| one.outcome == Outcome::Deferred), "{applied:?}");
        assert_eq!(tags().await.len(), begun, "what was deferred is not there");
        let applied = addresses.apply(&steps, &|| false).await;
        assert!(applied.iter().all(|one| one.outcome == Outcome::Done), "{applied:?}");
    });
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
            assert!(info.get("noprefixroute").is_none(), "it was not asked for: {info}");
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

/// Linux removes the prefix route of a permanent address only; FRR 10.3 would take it for the address.
#[test]
fn no_prefix_route_outlives_an_ipv6_address() {
    in_namespace(async || {
        let hold = |text, prefix_route| Step::AddAddress(vip(text), Hold { lease: LEASE, prefix_route, anew: false });
        let routes = || ip("-6 route show dev lo proto kernel");
        let flag = |name| addresses_of("lo")[name].get("noprefixroute").is_some();
        // What an address left that came and went before us, and a route of somebody else.
        ip("-6 route add 2001:db8::2/128 dev lo proto kernel metric 256");
        ip("-6 route add 2001:db8::1/128 dev lo proto static metric 1024");
        let outcome = apply(&[hold("2001:db8::1", true), hold("2001:db8::2", false)]).await;
        assert_eq!(outcome, vec![Outcome::Done; 2]);
        assert!(routes().contains("2001:db8::1 ") && !routes().contains("2001:db8::2 "), "{}", routes());
        assert_eq!([flag("2001:db8::1/128"), flag("2001:db8::2/128")], [false, true]);
        // The other way round, as when FRR's configuration changes its mode.
        let outcome = apply(&[hold("2001:db8::1", false), hold("2001:db8::2", true)]).await;
        assert_eq!(outcome, vec![Outcome::Done; 2]);
        assert!(!routes().contains("2001:db8::1 ") && routes().contains("2001:db8::2 "), "{}", routes());
        assert_eq!([flag("2001:db8::1/128"), flag("2001:db8::2/128")], [true, false]);
        assert_eq!(apply(&[remove("2001:db8::1"), remove("2001:db8::2")]).await, vec![Outcome::Done; 2]);
        assert!(routes().is_empty(), "{}", routes());
        assert!(ip("-6 route show dev lo proto static").contains("2001:db8::1 "), "somebody else's is gone");
    });
}

/// For an FRR that has missed it: the kernel tells everybody that it went and came.
#[test]
fn an_address_is_put_on_anew() {
    in_namespace(async || {
        let names = ["192.0.2.1", "2001:db8::1", "2001:db8::2"];
        let hold =
            |name, anew| Step::AddAddress(vip(name), Hold { lease: LEASE, prefix_route: name == names[1], anew });
        let steps = |anew| names.map(|name| hold(name, anew));
        ip("address add 192.0.2.9/32 dev lo");
        let foreign = hold("192.0.2.9", true);
        assert_eq!(apply(&steps(false)).await, vec![Outcome::Done; 3]);
        let mut monitor = Command::new("ip").args(["monitor", "address"]).stdout(Stdio::piped()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(apply(&steps(true)).await, vec![Outcome::Done; 3]);
        assert!(matches!(apply(&[foreign]).await[..], [Outcome::GiveUp(_)]));
        tokio::time::sleep(Duration::from_millis(300)).await;
        monitor.kill().unwrap();
        let told = String::from_utf8(monitor.wait_with_output().unwrap().stdout).unwrap();
        for name in names {
            let lines: Vec<_> = told.lines().filter(|line| line.contains(name)).collect();
            assert!(
                matches!(lines[..], [gone, come] if gone.starts_with("Deleted") && !come.starts_with("Deleted")),
                "{told}"
            );
        }
        assert!(!told.contains("192.0.2.9"), "somebody else's was touched: {told}");
        let routes = ip("-6 route show dev lo proto kernel");
        assert!(routes.contains("2001:db8::1 ") && !routes.contains("2001:db8::2 "), "{routes}");
        // Where none is, it is put there.
        assert_eq!(apply(&[remove(names[0]), hold(names[0], true)]).await, vec![Outcome::Done; 2]);
        assert_eq!(addresses_of("lo")["192.0.2.1/32"]["preferred_life_time"], 0);
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
