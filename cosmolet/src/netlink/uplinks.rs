//! Finds the uplinks: the interfaces by which clients' packets reach this node.
//!
//! Owns one task and its answer. Never attaches anything to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;

use super::Error;
use super::client::{Client, Listener, Message};
use super::wire::{self, Link};
use crate::engine::observed::PeerView;
use crate::engine::types::{Family, Uplink};

const GROUPS: [u32; 3] = [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_ROUTE, libc::RTNLGRP_IPV6_ROUTE];
/// Changes gather for this long before they are looked at together.
const GATHER: Duration = Duration::from_millis(100);
/// The kernel drops IPv4 routes without a word in some cases (an interface goes down, a source address goes).
const RESYNC: Duration = Duration::from_secs(30);
/// Small, as nothing is lost by an overrun: it is just another reason to look.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// Finds the uplinks now and keeps the answer up to date, in ascending order, until the receiver is dropped.
///
/// They are the interfaces named in `overrides` (`traffic.interfaces`) as far as they exist; where it is empty, those
/// that lead to a BGP peer and those of the main table's default routes, multipath next hops included, loopback
/// interfaces never. An empty answer means that none is there yet. An interface that is made anew has another index
/// and so is another uplink.
///
/// A peer that FRR names by an interface (unnumbered) is behind that interface; any other is behind the next hops of
/// the kernel's route to its address. Routes that hold nothing but a next-hop object's id
/// (`net.ipv4.nexthop_compat_mode=0`) are not resolved: name the interfaces then.
///
/// # Errors
/// [`Error::Socket`] if there is no netlink socket to be had, [`Error::Refused`] if the kernel will not tell.
pub async fn watch(
    overrides: Vec<String>,
    peers: watch::Receiver<Vec<PeerView>>,
) -> Result<watch::Receiver<Vec<Uplink>>, Error> {
    let listener = Listener::open(&GROUPS, RECEIVE_BUFFER)?;
    let wanted = peers.borrow().clone();
    let found = find(&overrides, &wanted).await?;
    let (sender, receiver) = watch::channel(found);
    tokio::spawn(keep(listener, overrides, peers, sender));
    Ok(receiver)
}

async fn keep(
    mut listener: Listener,
    overrides: Vec<String>,
    mut peers: watch::Receiver<Vec<PeerView>>,
    uplinks: watch::Sender<Vec<Uplink>>,
) {
    loop {
        tokio::select! {
            () = uplinks.closed() => return,
            () = changed(&mut listener) => {}
            Ok(()) = peers.changed() => {}
            () = tokio::time::sleep(RESYNC) => {}
        }
        tokio::time::sleep(GATHER).await;
        let wanted = peers.borrow_and_update().clone();
        match find(&overrides, &wanted).await {
            Ok(found) => {
                uplinks.send_if_modified(|known| std::mem::replace(known, found) != *known);
            }
            Err(error) => tracing::warn!(%error, "the uplinks cannot be found, keeping those known"),
        }
    }
}

/// Waits until an interface or a route has changed, the local addresses' own routes apart.
async fn changed(listener: &mut Listener) {
    let mut relevant = false;
    while !relevant {
        let heard = listener.listen(|message| relevant |= is_relevant(message)).await;
        if let Err(error) = heard {
            tracing::debug!(%error, "route changes were missed");
            return;
        }
    }
}

fn is_relevant(message: &Message<'_>) -> bool {
    match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => true,
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => !wire::is_local_route(message.payload),
        _ => false,
    }
}

async fn find(overrides: &[String], peers: &[PeerView]) -> Result<Vec<Uplink>, Error> {
    loop {
        match read(overrides, peers).await {
            Err(Error::Interrupted | Error::Overrun) => tokio::time::sleep(GATHER).await,
            found => return found,
        }
    }
}

async fn read(overrides: &[String], peers: &[PeerView]) -> Result<Vec<Uplink>, Error> {
    let mut client = Client::open()?;
    let mut links = BTreeMap::new();
    let hear = |message: &Message<'_>| {
        if let Some(link) = Link::parse(message.payload) {
            links.insert(link.index, link);
        }
    };
    client.dump(wire::links(), hear).await?;
    let chosen = if overrides.is_empty() {
        routed(&mut client, &links, peers).await?
    } else {
        by_name(&links, |name| overrides.iter().any(|wanted| wanted == name))
    };
    let chosen = chosen.into_iter().filter_map(|index| links.get(&index)).filter(|link| !link.loopback);
    Ok(chosen.map(|link| Uplink { ifindex: link.index, name: link.name.clone() }).collect())
}

async fn routed(client: &mut Client, links: &BTreeMap<u32, Link>, peers: &[PeerView]) -> Result<BTreeSet<u32>, Error> {
    let mut chosen = by_name(links, |name| peers.iter().any(|peer| peer.name == name));
    for family in Family::ALL {
        let hear = |message: &Message<'_>| {
            if wire::is_default_route(message.payload) {
                chosen.extend(wire::route_links(message.payload));
            }
        };
        client.dump(wire::main_routes(family), hear).await?;
    }
    let addresses: BTreeSet<IpAddr> = peers.iter().filter_map(|peer| routable(peer, links)).collect();
    for address in addresses {
        match client.get(wire::route_to(address), |message| Some(wire::route_links(message.payload))).await {
            Ok(found) => chosen.extend(found.unwrap_or_default()),
            // No route: the peer is out of reach.
            Err(Error::Refused(error)) => tracing::debug!(%address, %error, "no route to a peer"),
            Err(error) => return Err(error),
        }
    }
    Ok(chosen)
}

/// The address to look a route up for; a link-local one says nothing without its interface.
fn routable(peer: &PeerView, links: &BTreeMap<u32, Link>) -> Option<IpAddr> {
    if links.values().any(|link| link.name == peer.name) {
        return None;
    }
    let address = peer.address.or_else(|| peer.name.parse().ok())?;
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    (!link_local).then_some(address)
}

fn by_name(links: &BTreeMap<u32, Link>, wanted: impl Fn(&str) -> bool) -> BTreeSet<u32> {
    links.values().filter(|link| wanted(&link.name)).map(|link| link.index).collect()
}
