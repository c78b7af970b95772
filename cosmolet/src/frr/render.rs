//! Steps to batches of commands, and replies back to outcomes. Pure.
//!
//! Owns every configuration command that cosmolet ever sends, but for those of the prefix-list in `withdrawn`. Names an
//! instance only where FRR has several (bare `router bgp` cannot create one), and never leaves bgpd in a configuration
//! node: a session parked in an address family while another runs `no router bgp` aborts bgpd (measured on 8.4.4 and
//! 10.3).

use std::time::Duration;

use super::maps::{FrrMap, Names};
use super::vty::{Reply, Status, push_line};
use crate::engine::attributes::{ExtendedKind, Route};
use crate::engine::plan::{Outcome, Step};
use crate::engine::types::{Family, Vip, Vrf};

/// The size of a batch in bytes: what vtysh_read reads at a time (`VTY_READ_BUFSIZ`), so that a batch is carried out in
/// one callback and no other user of the vty can come in between.
pub const BATCH_BYTES: usize = 512;

const LEAVE: &str = "end";
/// Asks which instances there are.
pub(super) const INSTANCES: &str = "show bgp vrfs json";

/// Tried again after this time when FRR refused a configuration command.
const REFUSED_RETRY: Duration = Duration::from_secs(1);
/// Tried again after this time when FRR was away or nobody knows what became of a command.
pub(super) const LOST_RETRY: Duration = Duration::from_millis(100);

/// A batch of commands, [`BATCH_BYTES`] long, from `configure terminal` to `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    roles: Vec<Role>,
    leave: &'static [(Role, &'static str)],
}

/// How a batch gets into the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// `router bgp`: FRR has no other, and this never makes one.
    Only,
    /// `router bgp ASN [vrf NAME]`, as FRR demands where it has several. This makes the instance if it is gone; so the answer
    /// to `show bgp vrfs json`, with which each batch ends, is waited for before the next one is sent.
    Named {
        /// The AS number.
        asn: u32,
        /// The VRF.
        vrf: Vrf,
    },
}

impl Door {
    fn command(&self) -> String {
        match self {
            Self::Only => "router bgp".to_owned(),
            Self::Named { asn, vrf } => match vrf.name() {
                None => format!("router bgp {asn}"),
                Some(name) => format!("router bgp {asn} vrf {name}"),
            },
        }
    }

    /// The lines with which a batch ends.
    const fn leave(&self) -> &'static [(Role, &'static str)] {
        match self {
            Self::Only => &[(Role::Leave, LEAVE)],
            Self::Named { .. } => &[(Role::Leave, LEAVE), (Role::Instances, INSTANCES)],
        }
    }
}

/// What a reply of a batch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A command that opens the node the following ones need.
    Enter,
    /// The step with this index.
    Step(usize),
    /// A line of a route-map, or one that stands for itself.
    Setting,
    /// The command that leaves configuration.
    Leave,
    /// Whether the instance is there for the next batch.
    Instances,
}

impl Batch {
    /// The commands as they go to the socket.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The meaning of each reply, in order.
    #[must_use]
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// The batches that make a route's map, or make it over. A `network` with a missing route-map is accepted and
    /// originates nothing. `asn` is what is prepended.
    #[must_use]
    pub fn route_map(map: FrrMap, route: &Route, asn: u32) -> Vec<Self> {
        Self::packed(Some(&format!("route-map {map} permit 10")), &settings(route, asn))
    }

    /// The batches that remove route-maps of ours that nothing uses.
    #[must_use]
    pub fn no_route_maps(names: &[FrrMap]) -> Vec<Self> {
        Self::lines(&names.iter().map(|name| format!("no route-map {name}")).collect::<Vec<_>>())
    }

    /// The batches of lines that stand for themselves; none of none.
    #[must_use]
    pub fn lines(lines: &[String]) -> Vec<Self> {
        if lines.is_empty() { Vec::new() } else { Self::packed(None, lines) }
    }

    /// As many batches as the lines need, each of which enters a node first, if there is one.
    fn packed(node: Option<&str>, lines: &[String]) -> Vec<Self> {
        let open = || Self::open(&Door::Only, node);
        let (mut batches, mut batch) = (Vec::new(), open());
        for line in lines {
            if !batch.push(Role::Setting, line) {
                batches.push(std::mem::replace(&mut batch, open()).close());
                batch.push(Role::Setting, line);
            }
        }
        batches.push(batch.close());
        batches
    }

    fn open<'line>(door: &Door, lines: impl IntoIterator<Item = &'line str>) -> Self {
        let (bytes, roles) = (Vec::with_capacity(BATCH_BYTES), Vec::with_capacity(24));
        let mut batch = Self { bytes, roles, leave: door.leave() };
        batch.push(Role::Enter, "configure terminal");
        for line in lines {
            batch.push(Role::Enter, line);
        }
        batch
    }

    fn in_instance(door: &Door, family: Family) -> Self {
        // IPv4 unicast is what `network` means right under `router bgp`; each command of the frame costs 20 µs.
        let address_family = (family == Family::V6).then_some("address-family ipv6 unicast");
        Self::open(door, [door.command().as_str()].into_iter().chain(address_family))
    }

    /// Appends a command; false, and nothing appended, if it does not fit.
    fn push(&mut self, role: Role, line: &str) -> bool {
        let leave: usize = self.leave.iter().map(|(_, line)| line.len() + 1).sum();
        let fits = self.bytes.len() + line.len() + 1 + leave <= BATCH_BYTES;
        if fits {
            push_line(&mut self.bytes, line);
            self.roles.push(role);
        }
        fits
    }

    /// Leaves configuration, and pads with blanks, which FRR ignores, so that the next batch starts a read of its own.
    /// Without the padding, an operator's `no router bgp` between two reads makes bgpd abort (8.4.4, 3 of 3).
    fn close(mut self) -> Self {
        for (role, line) in self.leave {
            push_line(&mut self.bytes, line);
            self.roles.push(*role);
        }
        self.bytes.pop();
        self.bytes.resize(BATCH_BYTES - 1, b' ');
        self.bytes.push(0);
        self
    }
}

/// The batches of a plan, made one by one as they are asked for.
///
/// Steps of one family go together, in their order; steps that are none of FRR's are left out.
#[derive(Debug)]
pub struct Batches<'steps> {
    steps: &'steps [Step],
    names: &'steps Names,
    door: &'steps Door,
    family: Option<Family>,
    next: usize,
}

impl<'steps> Batches<'steps> {
    /// The batches of these steps, into the instance behind this door, with their route-maps under these names.
    #[must_use]
    pub const fn new(steps: &'steps [Step], names: &'steps Names, door: &'steps Door) -> Self {
        Self { steps, names, door, family: Some(Family::V4), next: 0 }
    }
}

impl Iterator for Batches<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        loop {
            let family = self.family?;
            let mut batch = None;
            while let Some(step) = self.steps.get(self.next) {
                if let Some(line) = command(step, family, self.names) {
                    let open = batch.get_or_insert_with(|| Batch::in_instance(self.door, family));
                    if !open.push(Role::Step(self.next), &line) {
                        break;
                    }
                }
                self.next += 1;
            }
            if self.next == self.steps.len() {
                self.next = 0;
                self.family = match family {
                    Family::V4 => Some(Family::V6),
                    Family::V6 => None,
                };
            }
            if let Some(batch) = batch {
                return Some(batch.close());
            }
        }
    }
}

/// The command of a step; `None` if it is of another family or none of FRR's.
fn command(step: &Step, family: Family, names: &Names) -> Option<String> {
    let of_family = |vip: &Vip| vip.family() == family;
    match step {
        Step::Advertise(vip, route) if of_family(vip) => {
            Some(format!("network {} route-map {}", vip.prefix(), names.of(route.map)))
        }
        Step::Withdraw(vip) if of_family(vip) => Some(format!("no network {}", vip.prefix())),
        Step::Advertise(..)
        | Step::Withdraw(_)
        | Step::TrackVip(..)
        | Step::AddAddress(..)
        | Step::RemoveAddress(_)
        | Step::UntrackVip(_) => None,
    }
}

/// The lines of a route-map, each shorter than a batch.
fn settings(route: &Route, asn: u32) -> Vec<String> {
    let mut lines: Vec<String> = list("community", &route.communities()).into_iter().collect();
    if let Some(profile) = &route.profile {
        let wanted = profile.attributes();
        lines.extend(list("large-community", &wanted.large_communities));
        for kind in [ExtendedKind::RouteTarget, ExtendedKind::SiteOfOrigin] {
            let of_kind = wanted.extended_communities.iter().filter(|community| community.kind == kind);
            let values: Vec<String> =
                of_kind.map(|community| format!("{}:{}", community.asn, community.number)).collect();
            lines.extend(list(&format!("extcommunity {}", kind.as_str()), &values));
        }
        lines.extend(wanted.med.map(|med| format!("set metric {med}")));
        if wanted.prepend > 0 {
            lines.push(format!("set as-path prepend{}", format!(" {asn}").repeat(wanted.prepend.into())));
        }
        lines.extend(wanted.local_preference.map(|preference| format!("set local-preference {preference}")));
        lines.extend(wanted.origin.map(|origin| format!("set origin {}", origin.as_str())));
    }
    lines.extend(route.bandwidth().map(|bandwidth| format!("set extcommunity bandwidth {bandwidth}")));
    lines
}

fn list<T: std::fmt::Display>(what: &str, values: &[T]) -> Option<String> {
    let values: String = values.iter().map(|value| format!(" {value}")).collect();
    (!values.is_empty()).then(|| format!("set {what}{values}"))
}

/// What became of a step. `refused` is the first refusal among the commands that open its node.
#[must_use]
pub fn outcome(step: &Step, refused: Option<&str>, reply: &Reply) -> Outcome {
    if let Some(refused) = refused {
        return Outcome::Retry(LOST_RETRY, refused.to_owned());
    }
    match reply.status {
        Status::Success => Outcome::Done,
        Status::ConfigFailed if matches!(step, Step::Withdraw(_)) && is_absent(reply) => Outcome::Done,
        Status::NoMatch | Status::Ambiguous | Status::Incomplete => Outcome::GiveUp(reply.summary()),
        Status::Warning | Status::ConfigFailed | Status::Other(_) => Outcome::Retry(REFUSED_RETRY, reply.summary()),
    }
}

/// FRR says so when `no network` names a prefix that has none.
fn is_absent(reply: &Reply) -> bool {
    reply.text.contains("Can't find static route specified")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::attributes::{
        Attributes, MAX_COMMUNITIES, MAX_EXTENDED, MAX_LARGE, MAX_PREPEND, Origin, Profile, communities,
        extended_communities, large_communities,
    };
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    fn vip(text: &str) -> Vip {
        Vip::new(text.parse().unwrap())
    }

    fn lines(batch: &Batch) -> Vec<String> {
        let text = std::str::from_utf8(batch.bytes()).unwrap();
        text.split_terminator('\0').map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn one_batch_per_family_from_configure_to_end() {
        let steps = [
            Step::advertise(vip("2001:db8::1")),
            Step::TrackVip(vip("10.0.0.9"), [].into()),
            Step::advertise(vip("10.0.0.1")),
            Step::Withdraw(vip("10.0.0.2")),
        ];
        let batches: Vec<_> = Batches::new(&steps, &Names::default(), &Door::Only).collect();
        assert_eq!(
            lines(&batches[0]),
            [
                "configure terminal",
                "router bgp",
                "network 10.0.0.1/32 route-map COSMOLET-ADVERTISE",
                "no network 10.0.0.2/32",
                "end"
            ]
        );
        assert_eq!(batches[0].roles(), [Role::Enter, Role::Enter, Role::Step(2), Role::Step(3), Role::Leave]);
        assert_eq!(
            lines(&batches[1]),
            [
                "configure terminal",
                "router bgp",
                "address-family ipv6 unicast",
                "network 2001:db8::1/128 route-map COSMOLET-ADVERTISE",
                "end"
            ]
        );
        assert_eq!(batches.len(), 2);
    }

    /// How many frames a thousand VIPs need is what many of them cost beyond their own commands.
    #[test]
    fn a_frame_is_shared_by_several_vips() {
        let commands = |vip: fn(u8, u8) -> Vip| {
            let steps: Vec<_> =
                (0..1000_u16).map(|n| n.to_be_bytes()).map(|[a, b]| Step::advertise(vip(a, b))).collect();
            Batches::new(&steps, &Names::default(), &Door::Only).map(|batch| batch.roles().len()).sum::<usize>()
        };
        assert!(commands(|a, b| Vip::new(Ipv4Addr::new(10, 200, a, b).into())) < 1500);
        assert!(commands(|a, b| Vip::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, a.into(), b.into()).into())) < 1750);
    }

    fn route(attributes: Attributes) -> Route {
        Route::new(Profile::new(attributes, |_| 0x12), Some(3))
    }

    #[test]
    fn the_plain_route_map_sets_nothing_and_bgp_is_not_touched() {
        let batches = Batch::route_map(FrrMap::PLAIN, &Route::default(), 65001);
        assert_eq!(batches.len(), 1);
        assert_eq!(lines(&batches[0]), ["configure terminal", "route-map COSMOLET-ADVERTISE permit 10", "end"]);
        assert_eq!(
            lines(&Batch::no_route_maps(&[FrrMap::PLAIN])[0]),
            ["configure terminal", "no route-map COSMOLET-ADVERTISE", "end"]
        );
    }

    #[test]
    fn every_attribute_has_its_line() {
        let route = route(Attributes {
            communities: communities(["65000:1", "graceful-shutdown"]).unwrap(),
            large_communities: large_communities(["1:2:3"]).unwrap(),
            extended_communities: extended_communities(["rt:1:2", "soo:3:4", "rt:5:6"]).unwrap(),
            med: Some(7),
            prepend: 2,
            local_preference: Some(200),
            origin: Some(Origin::Incomplete),
            by_endpoints: true,
        });
        let named = |route: &Route| FrrMap { content: route.map, again: false };
        let batches = Batch::route_map(named(&route), &route, 65001);
        assert_eq!(
            lines(&batches[0])[1..],
            [
                "route-map COSMOLET-0000000000000012-W3 permit 10",
                "set community 65000:1 graceful-shutdown",
                "set large-community 1:2:3",
                "set extcommunity rt 1:2 5:6",
                "set extcommunity soo 3:4",
                "set metric 7",
                "set as-path prepend 65001 65001",
                "set local-preference 200",
                "set origin incomplete",
                "set extcommunity bandwidth 300",
                "end"
            ]
        );
        let depreferred = Route::default().depreferred();
        let plain = Batch::route_map(named(&depreferred), &depreferred, 65001);
        let wanted = [
            "configure terminal",
            "route-map COSMOLET-ADVERTISE-GSHUT permit 10",
            "set community graceful-shutdown",
            "end",
        ];
        assert_eq!(lines(&plain[0]), wanted);
        let mut names = Names::default();
        let removed = named(&route);
        let step = [Step::Advertise(vip("10.0.0.1"), route)];
        let command = Batches::new(&step, &names, &Door::Only).next().unwrap();
        assert_eq!(lines(&command)[2], "network 10.0.0.1/32 route-map COSMOLET-0000000000000012-W3");
        names.avoid(removed, "8.4.4");
        let command = Batches::new(&step, &names, &Door::Only).next().unwrap();
        assert_eq!(lines(&command)[2], "network 10.0.0.1/32 route-map COSMOLET-0000000000000012-W3-AGAIN");
    }

    /// The longest values that the types let through: no line is lost, and no batch is longer than a read.
    #[test]
    fn the_longest_route_map_takes_several_batches() {
        let large: Vec<String> =
            (0..MAX_LARGE).map(|n| format!("4294967295:4294967295:{}", u32::MAX - n as u32)).collect();
        let standard: Vec<String> = (0..MAX_COMMUNITIES).map(|n| format!("64999:{}", 65_535 - n)).collect();
        let extended: Vec<String> = (0..MAX_EXTENDED).map(|n| format!("rt:65535:{}", u32::MAX - n as u32)).collect();
        let route = route(Attributes {
            communities: communities(standard.iter().map(String::as_str)).unwrap(),
            large_communities: large_communities(large.iter().map(String::as_str)).unwrap(),
            extended_communities: extended_communities(extended.iter().map(String::as_str)).unwrap(),
            prepend: MAX_PREPEND,
            ..Attributes::default()
        });
        let route = route.depreferred();
        let map = FrrMap { content: route.map, again: true };
        let batches = Batch::route_map(map, &route, u32::MAX);
        let set: Vec<String> = batches.iter().flat_map(lines).filter(|line| line.starts_with("set ")).collect();
        assert_eq!(set.len(), 4);
        assert!(batches.len() > 1);
        for batch in &batches {
            assert_eq!(batch.bytes().len(), BATCH_BYTES);
            assert_eq!(lines(batch)[1], "route-map COSMOLET-0000000000000012-GSHUT-AGAIN permit 10");
        }
        let removed: Vec<String> = Batch::no_route_maps(&[map; 20]).iter().flat_map(lines).collect();
        assert_eq!(removed.iter().filter(|line| line.starts_with("no route-map ")).count(), 20);
    }

    /// The name would make the instance if it were gone: the batch asks for the sake of the next one.
    #[test]
    fn among_several_instances_ours_is_named_and_asked_for() {
        let named = |name: &str| Door::Named { asn: 65001, vrf: Vrf::parse(name).unwrap() };
        let steps = [Step::Withdraw(vip("10.0.0.2"))];
        for (door, enters) in [(named(""), "router bgp 65001"), (named("red"), "router bgp 65001 vrf red")] {
            let batch = Batches::new(&steps, &Names::default(), &door).next().unwrap();
            let wanted = ["configure terminal", enters, "no network 10.0.0.2/32", "end", "show bgp vrfs json"];
            assert_eq!(lines(&batch), wanted);
            assert_eq!(batch.roles().last(), Some(&Role::Instances));
        }
    }

    #[test]
    fn an_absent_network_is_withdrawn_already() {
        let reply = Reply { text: "% Can't find static route specified\n".to_owned(), status: Status::ConfigFailed };
        assert_eq!(outcome(&Step::Withdraw(vip("10.0.0.1")), None, &reply), Outcome::Done);
        assert!(matches!(outcome(&Step::advertise(vip("10.0.0.1")), None, &reply), Outcome::Retry(..)));
    }

    #[test]
    fn a_step_in_a_node_that_was_refused_is_tried_again() {
        let reply = Reply { text: "% [BGP] Unknown command: network".to_owned(), status: Status::NoMatch };
        let step = Step::advertise(vip("10.0.0.1"));
        assert_eq!(outcome(&step, Some("No BGP process"), &reply), Outcome::Retry(LOST_RETRY, "No BGP process".into()));
        assert!(matches!(outcome(&step, None, &reply), Outcome::GiveUp(_)));
    }

    fn any_door() -> impl Strategy<Value = Door> {
        let named = |(asn, name): (u32, String)| Door::Named { asn, vrf: Vrf::parse(&name).unwrap_or_default() };
        prop_oneof![Just(Door::Only), (any::<u32>(), "[a-z0-9]{0,35}").prop_map(named)]
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let address = prop_oneof![
            any::<[u8; 4]>().prop_map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
            any::<[u16; 8]>().prop_map(|parts| IpAddr::V6(Ipv6Addr::from(parts))),
        ];
        (address, 0..3).prop_map(|(address, kind)| match kind {
            0 => Step::advertise(Vip::new(address)),
            1 => Step::Withdraw(Vip::new(address)),
            _ => Step::add_address(Vip::new(address), None),
        })
    }

    proptest! {
        #[test]
        fn every_step_once_in_whole_reads(steps in proptest::collection::vec(any_step(), 0..80), door in any_door()) {
            let mut seen = Vec::new();
            for batch in Batches::new(&steps, &Names::default(), &door) {
                prop_assert_eq!(batch.bytes().len(), BATCH_BYTES);
                let lines = lines(&batch);
                prop_assert_eq!(lines.len(), batch.roles().len());
                prop_assert_eq!(lines.first().unwrap(), "configure terminal");
                prop_assert_eq!(lines[1].as_str(), door.command());
                prop_assert_eq!(lines.last().unwrap(), door.leave().last().unwrap().1);
                let with_step = batch.roles().iter().any(|role| matches!(role, Role::Step(_)));
                prop_assert!(with_step);
                for (line, role) in lines.iter().zip(batch.roles()) {
                    if let Role::Step(index) = role {
                        let prefix = steps[*index].vip().prefix().to_string();
                        let named = line.contains(&format!("network {prefix}"));
                        prop_assert!(named);
                        seen.push(*index);
                    }
                }
            }
            seen.sort_unstable();
            let mine = |step: &Step| matches!(step, Step::Advertise(..) | Step::Withdraw(_));
            let wanted: Vec<_> = (0..steps.len()).filter(|index| mine(&steps[*index])).collect();
            prop_assert_eq!(seen, wanted);
        }
    }
}
