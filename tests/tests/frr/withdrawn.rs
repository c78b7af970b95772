//! The prefix-list that an operator lends: withdrawals by it, and what is left of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cosmolet::engine::observed::RibState;
use cosmolet::engine::plan::Step;
use cosmolet::engine::types::Vip;
use cosmolet::frr::Options;
use cosmolet_tests::frr::{self, Frr};
use cosmolet_tests::wait::until_true;

use crate::pair::Pair;
use crate::{LIMIT, Watched, all, ensure_done, options, vip};

const LIST: &str = "COSMOLET-WITHDRAWN";

/// A node that lends the list in both families.
fn lending(ends: &Pair) -> Result<Frr> {
    let peer = "10.1.0.2";
    let config = format!(
        "frr defaults datacenter
ip prefix-list {LIST} seq 7 deny 10.9.0.0/16
ip prefix-list {LIST} seq 4294967295 permit any
ipv6 prefix-list {LIST} seq 4294967295 permit any
router bgp 65001
 neighbor {peer} remote-as external
 neighbor {peer} timers connect 1
 address-family ipv4 unicast
  neighbor {peer} prefix-list {LIST} out
 exit-address-family
 address-family ipv6 unicast
  neighbor {peer} activate
  neighbor {peer} prefix-list {LIST} out
 exit-address-family
"
    );
    Frr::start(&ends.lab, &ends.node, &config, &frr::Options::default())
}

fn entries(frr: &Frr) -> Result<Vec<String>> {
    let config = frr.bgpd()?.expect_success("show running-config")?;
    let lines = config.lines().filter(|line| line.contains(&format!("prefix-list {LIST} seq")));
    Ok(lines.map(str::to_owned).collect())
}

fn heard(tor: &Frr, vip: Vip) -> Result<bool> {
    let heard = tor.show(&format!("show bgp {} unicast {}", vip.family(), vip.prefix()))?;
    Ok(heard.get("paths").is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_goes_by_the_list_which_is_empty_again_after_it() -> Result<()> {
    let ends = Pair::raise()?;
    let frr = lending(&ends)?;
    let tor = ends.frr(&ends.tor, 65002, "10.1.0.1", "external")?;
    let before = entries(&frr)?;
    let mut watched = Watched::new(Options { period: Duration::from_millis(100), ..options(frr.directory()) });
    watched.session().await?;
    let (pair, stays) = ([vip("10.7.0.1"), vip("2001:db8::7:1")], vip("10.7.0.2"));
    ends.add(&pair)?;
    ends.add(&[stays])?;
    for round in 0..5 {
        ensure_done(&watched.handle.apply(all(&[pair[0], pair[1], stays], Step::advertise)).await)?;
        until_true("the ToR hears of both", LIMIT, || Ok(heard(&tor, pair[0])? && heard(&tor, pair[1])?))?;
        ensure_done(&watched.handle.apply(all(&pair, Step::Withdraw)).await)?;
        let denied = entries(&frr)?;
        ensure!(denied.len() == before.len() + 2, "{denied:?}");
        ensure!(denied.contains(&format!("ip prefix-list {LIST} seq 1 deny 10.7.0.1/32")), "{denied:?}");
        until_true("the ToR has lost both", LIMIT, || Ok(!heard(&tor, pair[0])? && !heard(&tor, pair[1])?))?;
        ensure!(heard(&tor, stays)?, "the other one is gone too");
        // Half of the rounds it comes back before the list was cleared.
        if round % 2 == 0 {
            watched.rib(&pair, |rib| *rib == RibState::default()).await?;
            until_true("the list is as it was", LIMIT, || Ok(entries(&frr)? == before))?;
            ensure!(!heard(&tor, pair[0])? && !heard(&tor, pair[1])?, "clearing the list brought one back");
        }
    }
    Ok(())
}

/// Nobody knows of an entry from an earlier life: it goes, and its VIP is heard of again.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_life_left_is_cleared_and_the_operators_entries_stay() -> Result<()> {
    let ends = Pair::raise()?;
    let frr = lending(&ends)?;
    let tor = ends.frr(&ends.tor, 65002, "10.1.0.1", "external")?;
    let vip = vip("10.7.0.1");
    ends.add(&[vip])?;
    let before = entries(&frr)?;
    let earlier =
        ["route-map COSMOLET-ADVERTISE permit 10", "router bgp", "network 10.7.0.1/32 route-map COSMOLET-ADVERTISE"];
    frr.configure(&earlier)?;
    frr.configure(&[format!("ip prefix-list {LIST} seq 1 deny 10.7.0.1/32")])?;
    frr.configure(&[format!("ip prefix-list {LIST} seq 70000 deny 10.7.0.9/32")])?;
    let mut watched = Watched::new(Options { period: Duration::from_millis(100), ..options(frr.directory()) });
    watched.session().await?;
    until_true("the ToR hears of it", LIMIT, || heard(&tor, vip))?;
    let after = entries(&frr)?;
    let theirs = after.iter().any(|line| line.contains("seq 70000 deny 10.7.0.9/32"));
    ensure!(theirs && after.len() == before.len() + 1, "{after:?}");
    Ok(())
}

/// bgpd 8.4 has died of what was done to route-maps again and again; a list is changed with every withdrawal.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_changed_again_and_again_does_not_end_bgpd() -> Result<()> {
    let ends = Pair::raise()?;
    let frr = lending(&ends)?;
    let _watched = flap(&ends, &frr).await?;
    until_true("the list is empty", LIMIT, || Ok(entries(&frr)?.len() == 3))
}

/// VIPs come and go faster than bgpd looks at them.
async fn flap(ends: &Pair, frr: &Frr) -> Result<Watched> {
    let _tor = ends.frr(&ends.tor, 65002, "10.1.0.1", "external")?;
    let mut watched = Watched::new(Options { period: Duration::from_millis(20), ..options(frr.directory()) });
    watched.session().await?;
    let vips = crate::vips(12);
    ends.add(&vips)?;
    for round in 0..200 {
        let (gone, _) = vips.split_at(1 + round % vips.len());
        ensure_done(&watched.handle.apply(all(&vips, Step::advertise)).await).context("advertised")?;
        ensure_done(&watched.handle.apply(all(gone, Step::Withdraw)).await).context("withdrawn")?;
    }
    ensure_done(&watched.handle.apply(all(&vips, Step::Withdraw)).await)?;
    Ok(watched)
}
