//! Puts VIPs on the loopback interface, renews their leases and takes them away.
//!
//! Owns the one rule that an operator must be able to trust: only addresses that bear our tag are ever changed or
//! removed. Never decides which VIPs belong there.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use super::Error;
use super::client::{Client, Reply, Request};
use super::wire::{self, Address, Link};
use crate::engine::observed::Owner;
use crate::engine::plan::{Applied, Outcome, Step};
use crate::engine::types::{Family, Vip};

/// After trouble that passes by itself.
const RETRY_SOON: Duration = Duration::from_millis(100);
/// After trouble that somebody may be mending.
const RETRY_LATER: Duration = Duration::from_secs(2);

/// The VIPs on one interface.
pub struct Addresses {
    interface: String,
    excluded: Vec<IpNet>,
    client: Option<Client>,
}

impl Addresses {
    /// Takes the interface's name (`loopback.interface`) and the prefixes in which nothing is ever touched
    /// (`loopback.excluded`). Nothing is opened before the first [`Self::apply`], which then uses the network namespace
    /// of its thread.
    #[must_use]
    pub fn new(interface: impl Into<String>, excluded: Vec<IpNet>) -> Self {
        Self { interface: interface.into(), excluded, client: None }
    }

    /// Carries out the `AddAddress` and `RemoveAddress` steps, pipelined and in their order, and says what became of
    /// each; other steps are left out of the answer.
    ///
    /// What is on the interface is read first, each time: so a lease is renewed and an address removed only if it is
    /// ours now, whoever was at it since the last observation. Once `stop` says so, what has not been begun is
    /// [deferred](Outcome::Deferred); the first [`REQUESTS_PER_WRITE`](super::REQUESTS_PER_WRITE) always are begun.
    pub async fn apply(&mut self, steps: &[Step], stop: &(dyn Fn() -> bool + Sync)) -> Vec<Applied> {
        let steps: Vec<&Step> =
            steps.iter().filter(|step| matches!(step, Step::AddAddress(..) | Step::RemoveAddress(_))).collect();
        if steps.is_empty() {
            return Vec::new();
        }
        let outcomes = match self.outcomes(&steps, stop).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                self.client = None;
                steps.iter().map(|step| unread(step, &error)).collect()
            }
        };
        steps.into_iter().zip(outcomes).map(|(step, outcome)| Applied { step: step.clone(), outcome }).collect()
    }

    async fn outcomes(&mut self, steps: &[&Step], stop: &(dyn Fn() -> bool + Sync)) -> Result<Vec<Outcome>, Error> {
        let client = match &mut self.client {
            Some(client) => client,
            empty => empty.insert(Client::open()?),
        };
        let link = find_link(client, &self.interface).await?;
        let mut holders = read_holders(client, link, steps).await?;
        let decisions: Vec<Decision> =
            steps.iter().map(|step| decide(step, link, &self.interface, &self.excluded, &mut holders)).collect();
        let (mut requests, mut places) = (Vec::new(), Vec::new());
        for decision in decisions {
            places.push(match decision {
                Decision::Ask { clear, request } => {
                    requests.extend(clear.into_iter().flatten());
                    requests.push(request);
                    Ok(requests.len() - 1)
                }
                Decision::Answer(outcome) => Err(outcome),
            });
        }
        let replies = client.batch(&requests, stop).await;
        let outcomes = steps.iter().zip(places).map(|(step, place)| match place {
            Ok(last) => outcome(step, replies.get(last).copied().unwrap_or(Reply::Lost), &self.interface),
            Err(outcome) => outcome,
        });
        Ok(outcomes.collect())
    }
}

/// What to do about a step.
enum Decision {
    Ask {
        /// Come before, and clear a prefix route or the address away. It may not be there: what is answered does not matter.
        clear: [Option<Request>; 2],
        request: Request,
    },
    Answer(Outcome),
}

/// Whose an address is, and whether the kernel made a route of its prefix.
#[derive(Clone, Copy)]
struct Holder {
    owner: Owner,
    prefix_route: bool,
}

type Holders = BTreeMap<Vip, Holder>;

fn decide(step: &Step, link: u32, interface: &str, excluded: &[IpNet], holders: &mut Holders) -> Decision {
    let vip = step.vip();
    if let Some(prefix) = excluded.iter().find(|prefix| prefix.contains(&vip.address())) {
        return Decision::Answer(Outcome::GiveUp(format!("{vip} is inside loopback.excluded ({prefix})")));
    }
    let holder = holders.get(&vip).copied();
    let clear = |there: bool| there.then(|| wire::remove_prefix_route(link, vip));
    let anew = |there: bool| there.then(|| wire::remove(link, vip));
    if let Step::AddAddress(_, hold) = step {
        if holder.is_some_and(|holder| holder.owner == Owner::Foreign) {
            let error = format!("{vip} is on {interface} already, put there by somebody else");
            return Decision::Answer(Outcome::GiveUp(error));
        }
        holders.insert(vip, Holder { owner: Owner::Ours, prefix_route: hold.prefix_route });
        // The route outlives the address: also one that came and went before us.
        let left = vip.family() == Family::V6 && holder.is_none_or(|holder| holder.prefix_route);
        let renews = holder.is_some() && !hold.anew;
        let clear = [anew(hold.anew && holder.is_some()), clear(left && (hold.anew || !hold.prefix_route))];
        return Decision::Ask { clear, request: wire::add(link, vip, *hold, renews) };
    }
    if let Some(Holder { owner: Owner::Ours, prefix_route }) = holder {
        holders.remove(&vip);
        Decision::Ask { clear: [clear(prefix_route), None], request: wire::remove(link, vip) }
    } else {
        // Not there, or not ours: either way nothing of ours is left.
        Decision::Answer(Outcome::Done)
    }
}

/// What a reply means for a step.
fn outcome(step: &Step, reply: Reply, interface: &str) -> Outcome {
    let errno = match reply {
        Reply::Done => return Outcome::Done,
        Reply::NotAsked => return Outcome::Deferred,
        Reply::Lost => return Outcome::Retry(RETRY_SOON, "the kernel's answer was lost".to_owned()),
        Reply::Refused(errno) => errno,
    };
    let error = format!("{interface}: {}", std::io::Error::from_raw_os_error(errno));
    let removing = matches!(step, Step::RemoveAddress(_));
    match errno {
        libc::EADDRNOTAVAIL | libc::ENODEV | libc::ENXIO if removing => Outcome::Done,
        // It came between our reading and our adding: the next attempt sees whose it is.
        libc::EEXIST | libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => {
            Outcome::Retry(RETRY_SOON, error)
        }
        libc::EPERM => Outcome::GiveUp(format!("{error}: changing addresses wants CAP_NET_ADMIN")),
        libc::EACCES if step.vip().family() == Family::V6 => {
            Outcome::GiveUp(format!("{error}: net.ipv6.conf.{interface}.disable_ipv6 is set"))
        }
        libc::EINVAL | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EACCES => Outcome::GiveUp(error),
        _ => Outcome::Retry(RETRY_LATER, error),
    }
}

/// What it means for a step that the interface could not be read.
fn unread(step: &Step, error: &Error) -> Outcome {
    match (step, error) {
        (Step::RemoveAddress(_), Error::NoInterface(_)) => Outcome::Done,
        (_, Error::Overrun | Error::Interrupted) => Outcome::Retry(RETRY_SOON, error.to_string()),
        (_, Error::NoInterface(_) | Error::Refused(_) | Error::Socket(_)) => {
            Outcome::Retry(RETRY_LATER, error.to_string())
        }
    }
}

async fn find_link(client: &mut Client, name: &str) -> Result<u32, Error> {
    let missing = || Error::NoInterface(name.to_owned());
    match client.get(wire::link(name), |message| Link::parse(message.payload)).await {
        Ok(found) => found.map(|link| link.index).ok_or_else(missing),
        Err(Error::Refused(error)) if error.raw_os_error() == Some(libc::ENODEV) => Err(missing()),
        Err(error) => Err(error),
    }
}

/// Whose each address of the interface is, for the families that `steps` are about. Where a host prefix of ours stands
/// beside a wider foreign prefix of the same address, it is ours: it must be renewed and removed.
async fn read_holders(client: &mut Client, link: u32, steps: &[&Step]) -> Result<Holders, Error> {
    let mut holders = Holders::new();
    for family in Family::ALL {
        if steps.iter().all(|step| step.vip().family() != family) {
            continue;
        }
        let read = |message: &super::client::Message<'_>| {
            let Some(address) = Address::parse(message.payload).filter(|address| address.link == link) else { return };
            let owner = if address.is_ours() { Owner::Ours } else { Owner::Foreign };
            let holder = Holder { owner, prefix_route: address.prefix_route };
            holders
                .entry(Vip::new(address.ip))
                .and_modify(|known| *known = if known.owner <= owner { *known } else { holder })
                .or_insert(holder);
        };
        client.dump(wire::addresses(family, link), read).await?;
    }
    Ok(holders)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(text: &str) -> Vip {
        Vip::new(text.parse().unwrap())
    }

    #[test]
    fn errno_chooses_the_retry_class() {
        let add = Step::add_address(vip("192.0.2.1"), None);
        let remove = Step::RemoveAddress(vip("192.0.2.1"));
        for errno in [libc::ENOBUFS, libc::EBUSY, libc::EINTR, libc::EEXIST, libc::ENODEV] {
            assert!(matches!(outcome(&add, Reply::Refused(errno), "lo"), Outcome::Retry(..)), "{errno}");
        }
        assert!(
            matches!(outcome(&add, Reply::Refused(libc::EPERM), "lo"), Outcome::GiveUp(text) if text.contains("CAP_NET_ADMIN"))
        );
        assert!(matches!(outcome(&add, Reply::Lost, "lo"), Outcome::Retry(..)));
        for errno in [libc::EADDRNOTAVAIL, libc::ENODEV] {
            assert_eq!(outcome(&remove, Reply::Refused(errno), "lo"), Outcome::Done);
        }
        assert_eq!(outcome(&add, Reply::Done, "lo"), Outcome::Done);
    }

    #[test]
    fn a_missing_interface_is_awaited_and_holds_nothing() {
        let missing = Error::NoInterface("lo9".to_owned());
        assert!(matches!(unread(&Step::add_address(vip("192.0.2.1"), None), &missing), Outcome::Retry(..)));
        assert_eq!(unread(&Step::RemoveAddress(vip("192.0.2.1")), &missing), Outcome::Done);
    }
}
