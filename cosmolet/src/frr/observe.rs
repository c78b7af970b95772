//! What bgpd says of itself, to the engine's types. Pure.
//!
//! Owns the reading of the running configuration (no JSON shows `redistribute`) and of the few JSON answers. Never asks
//! anything itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Deserialize;

use super::maps::FrrMap;
use super::render::Door;
use super::withdrawn::{LIST, List};
use crate::engine::attributes::MAP_PREFIX;
use crate::engine::observed::{BgpFault, BgpView, Network, PeerView, RibState, UnixSeconds};
use crate::engine::types::{Family, Mode, PerFamily, Vip, Vrf};

/// What matters of a running configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunningConfig {
    /// FRR's version: `8.4.4`.
    pub version: String,
    /// The VRF of the instance that the rest is about.
    pub vrf: Vrf,
    /// Its BGP instances, in their order.
    pub instances: Vec<Instance>,
    /// The instance has `redistribute connected`, by family.
    pub connected: PerFamily<bool>,
    /// The host prefixes among its `network` statements.
    pub networks: BTreeMap<Vip, Network>,
    /// Its peers by name; with their address, where the name is one.
    pub peers: BTreeMap<String, Option<IpAddr>>,
    /// It has `no bgp network import-check`: a `network` statement needs no address.
    pub unchecked: bool,
    /// BFD watches some peer.
    pub bfd: bool,
    /// The route-maps of ours that are defined.
    pub maps: BTreeSet<FrrMap>,
    /// Those among them that some line uses.
    pub used_maps: BTreeSet<FrrMap>,
    /// Those that the `network` statements name, be they defined or not.
    pub named_maps: BTreeSet<FrrMap>,
    /// The prefix-list of withdrawn VIPs, by family.
    pub withdrawn: PerFamily<List>,
}

/// A `router bgp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The AS number.
    pub asn: u32,
    /// `vrf NAME` or `view NAME`; `None` is the default VRF.
    pub name: Option<String>,
}

impl Instance {
    fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| "default".to_owned())
    }

    fn is_of(&self, vrf: &Vrf) -> bool {
        self.name == vrf.name().map(|name| format!("vrf {name}"))
    }
}

impl RunningConfig {
    /// Reads the text of `show running-config` for the instance of a VRF. Lines that mean nothing to cosmolet are passed over.
    #[must_use]
    pub fn parse(text: &str, vrf: &Vrf) -> Self {
        let mut config = Self { vrf: vrf.clone(), ..Self::default() };
        for line in lines(text, vrf) {
            match (line.heads, line.words.as_slice()) {
                (true, ["router", "bgp", asn, rest @ ..]) => config.instances.extend(instance(asn, rest)),
                (true, ["frr", "version", version, ..]) => config.version = (*version).to_owned(),
                (true, ["route-map", name, ..]) => config.maps.extend(FrrMap::parse(name)),
                (true, ["ip", "prefix-list", LIST, entry @ ..]) => config.withdrawn.v4.entry(Family::V4, entry),
                (true, ["ipv6", "prefix-list", LIST, entry @ ..]) => config.withdrawn.v6.entry(Family::V6, entry),
                (true, _) => {}
                (false, words) => {
                    config.used_maps.extend(words.iter().filter_map(|word| FrrMap::parse(word)));
                    config.line(line.place, words);
                }
            }
        }
        // Route-maps stand below the statements that use them.
        let removed: BTreeSet<_> = config.removed_maps().map(|map| map.content).collect();
        for network in config.networks.values_mut() {
            if matches!(network, Network::Ours(Some(map)) if removed.contains(map)) {
                *network = Network::Ours(None);
            }
        }
        config
    }

    /// The route-maps of ours that nothing uses; the plain one stays.
    #[must_use]
    pub fn unused_maps(&self) -> Vec<FrrMap> {
        self.maps.difference(&self.used_maps).copied().filter(|map| *map != FrrMap::PLAIN).collect()
    }

    /// The route-maps that `network` statements of ours name and that are not defined: somebody removed them.
    pub fn removed_maps(&self) -> impl Iterator<Item = FrrMap> {
        self.named_maps.difference(&self.maps).copied()
    }

    fn line(&mut self, place: Place, words: &[&str]) {
        if place == Place::Outside {
            return;
        }
        match words {
            ["neighbor", _, "prefix-list", LIST, "out"] => {
                if let Some(family) = place.unicast() {
                    self.withdrawn.get_mut(family).applied = true;
                }
            }
            ["neighbor", name, rest @ ..] if place == Place::Router => self.neighbor(name, rest),
            ["no", "bgp", "network", "import-check"] => self.unchecked = true,
            ["network", prefix, rest @ ..] => self.network(place, prefix, rest),
            ["redistribute", "connected", ..] => {
                if let Some(family) = place.unicast() {
                    *self.connected.get_mut(family) = true;
                }
            }
            _ => {}
        }
    }

    /// Takes the statements that make a peer: `neighbor ADDRESS …`, `neighbor IFNAME interface …`. A peer group is none.
    fn neighbor(&mut self, name: &str, rest: &[&str]) {
        self.bfd |= rest.first() == Some(&"bfd");
        let address = name.parse().ok();
        if address.is_some() || rest.first() == Some(&"interface") {
            self.peers.insert(name.to_owned(), address);
        }
    }

    /// `network PREFIX [label-index N] [route-map NAME | backdoor]`, in old releases `network ADDRESS [mask MASK]`.
    fn network(&mut self, place: Place, prefix: &str, rest: &[&str]) {
        let Some(family) = place.unicast() else { return };
        let Some(vip) = host_prefix(prefix, rest).filter(|vip| vip.family() == family) else { return };
        let map = rest.iter().skip_while(|word| **word != "route-map").nth(1);
        let network = match map {
            Some(name) if name.starts_with(MAP_PREFIX) => {
                let map = FrrMap::parse(name);
                self.named_maps.extend(map);
                Network::Ours(map.map(|map| map.content))
            }
            Some(_) | None => Network::Foreign,
        };
        self.networks.insert(vip, network);
    }

    /// Finds the VRF's instance.
    ///
    /// # Errors
    /// The fault, when there is none, or one of another AS number than `configured`.
    pub fn instance(&self, configured: Option<u32>) -> Result<&Instance, BgpFault> {
        let Some(instance) = self.instances.iter().find(|instance| instance.is_of(&self.vrf)) else {
            let others = self.instances.iter().map(Instance::label).collect();
            return Err(BgpFault::NoInstance { vrf: self.vrf.clone(), others });
        };
        match configured {
            Some(asn) if asn != instance.asn => Err(BgpFault::AsnMismatch { configured: asn, found: instance.asn }),
            _ => Ok(instance),
        }
    }

    /// How to get into the instance of this AS number. FRR takes the bare form for the default VRF's, and only while there is
    /// no other, be it a VRF's or a view's.
    #[must_use]
    pub fn door(&self, asn: u32) -> Door {
        match self.instances.as_slice() {
            [Instance { name: None, .. }] => Door::Only,
            _ => Door::Named { asn, vrf: self.vrf.clone() },
        }
    }

    /// Puts the view together.
    ///
    /// # Errors
    /// As [`RunningConfig::instance`].
    pub fn view(
        &self,
        generation: u64,
        configured: Option<u32>,
        mode: Option<Mode>,
        sessions: &Sessions,
    ) -> Result<BgpView, BgpFault> {
        let asn = self.instance(configured)?.asn;
        let detected = |connected| if connected { Mode::Connected } else { Mode::Dynamic };
        let mode_of = |connected| mode.unwrap_or_else(|| detected(connected));
        let dynamic = sessions.peers.keys().filter(|name| !self.peers.contains_key(*name));
        let dynamic = dynamic.map(|name| (name, name.parse().ok()));
        let configured = self.peers.iter().map(|(name, address)| (name, *address));
        let peers = configured.chain(dynamic).map(|(name, address)| PeerView {
            name: name.clone(),
            address,
            established: sessions.since(name).is_some(),
            since: sessions.since(name).and_then(UnixSeconds::new),
            bfd: sessions.bfd.get(name).copied(),
        });
        Ok(BgpView {
            generation,
            asn,
            modes: PerFamily { v4: mode_of(self.connected.v4), v6: mode_of(self.connected.v6) },
            networks: self.networks.clone(),
            peers: peers.collect(),
        })
    }
}

/// A line of a running configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigLine<'text> {
    /// Where it stands.
    pub place: Place,
    /// It is not indented: it opens a node, or stands for itself.
    pub heads: bool,
    /// Its words; there is one at least.
    pub words: Vec<&'text str>,
    /// Its text without the blanks around it.
    pub text: &'text str,
}

/// The lines of a running configuration that say something, each with its place as the instance of a VRF sees it.
pub fn lines<'text>(text: &'text str, vrf: &Vrf) -> impl Iterator<Item = ConfigLine<'text>> {
    let mut place = Place::Outside;
    text.lines().filter_map(move |line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if matches!(words[..], [] | ["!", ..]) {
            return None;
        }
        let heads = !line.starts_with(' ');
        let at = if heads { Place::Outside } else { place };
        place = at.after(heads, &words, vrf);
        Some(ConfigLine { place: at, heads, words, text: line.trim() })
    })
}

/// Where in a configuration a line stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Anywhere but in the instance.
    Outside,
    /// In the instance, outside its address families: IPv4 unicast, for the statements that are of a family.
    Router,
    /// In a unicast family.
    Unicast(Family),
    /// In another family.
    OtherFamily,
}

impl Place {
    /// The place of the line that follows one.
    fn after(self, heads: bool, words: &[&str], vrf: &Vrf) -> Self {
        match (heads, words) {
            (true, ["router", "bgp", asn, rest @ ..]) if instance(asn, rest).is_some_and(|it| it.is_of(vrf)) => {
                Self::Router
            }
            (true, _) => Self::Outside,
            (false, _) if self == Self::Outside => self,
            (false, ["address-family", family, rest @ ..]) => Self::family(family, rest),
            (false, ["exit-address-family", ..]) => Self::Router,
            (false, _) => self,
        }
    }

    /// `address-family ipv4|ipv6 [unicast]`
    const fn family(family: &str, rest: &[&str]) -> Self {
        match (family.as_bytes(), rest) {
            (b"ipv4", []) => Self::Unicast(Family::V4),
            (b"ipv6", []) => Self::Unicast(Family::V6),
            (b"ipv4", [safi, ..]) if is_unicast(safi) => Self::Unicast(Family::V4),
            (b"ipv6", [safi, ..]) if is_unicast(safi) => Self::Unicast(Family::V6),
            _ => Self::OtherFamily,
        }
    }

    const fn unicast(self) -> Option<Family> {
        match self {
            Self::Router => Some(Family::V4),
            Self::Unicast(family) => Some(family),
            Self::Outside | Self::OtherFamily => None,
        }
    }
}

const fn is_unicast(safi: &str) -> bool {
    matches!(safi.as_bytes(), b"unicast")
}

/// `router bgp ASN [vrf|view NAME] [as-notation ...]`
fn instance(asn: &str, rest: &[&str]) -> Option<Instance> {
    let name = match rest {
        [kind @ ("vrf" | "view"), name, ..] => Some(format!("{kind} {name}")),
        _ => None,
    };
    Some(Instance { asn: parse_asn(asn)?, name })
}

/// `65001`, or `1.10` with `as-notation dot`.
fn parse_asn(text: &str) -> Option<u32> {
    match text.split_once('.') {
        None => text.parse().ok(),
        Some((high, low)) => Some((u32::from(high.parse::<u16>().ok()?) << 16) | u32::from(low.parse::<u16>().ok()?)),
    }
}

/// The address of a prefix of full length. An IPv4 network without a length is a classful one, hence none.
pub(super) fn host_prefix(prefix: &str, rest: &[&str]) -> Option<Vip> {
    if let ["mask", mask, ..] = rest {
        return (*mask == "255.255.255.255").then(|| prefix.parse().ok().map(Vip::new)).flatten();
    }
    let prefix: IpNet = prefix.parse().ok()?;
    (prefix.prefix_len() == prefix.max_prefix_len()).then(|| Vip::new(prefix.addr()))
}

/// The sessions of the unicast families: `show bgp summary json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// By peer, since when its session is Established, in seconds since 1970 (0: nobody says); `None` while it is not.
    pub peers: BTreeMap<String, Option<u32>>,
    /// By peer that BFD watches, whether it finds it up.
    pub bfd: BTreeMap<String, bool>,
}

impl Sessions {
    /// Reads the answer. Without an instance FRR answers `{}`.
    ///
    /// # Errors
    /// When it is not the JSON it should be.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let families: BTreeMap<String, serde_json::Value> = serde_json::from_str(text)?;
        let mut peers = BTreeMap::new();
        for (_, family) in families.into_iter().filter(|(name, _)| name.ends_with("Unicast")) {
            let family: FamilySummary = serde_json::from_value(family)?;
            for (name, peer) in family.peers {
                let since = (peer.state == "Established").then_some(peer.since);
                let known: &mut Option<u32> = peers.entry(name).or_default();
                *known = known.or(since);
            }
        }
        Ok(Self { peers, bfd: BTreeMap::new() })
    }

    fn since(&self, peer: &str) -> Option<u32> {
        self.peers.get(peer).copied().flatten()
    }
}

/// Reads `show bgp vrfs json`: whether a VRF has an instance.
#[must_use]
pub fn has_instance(text: &str, vrf: &Vrf) -> bool {
    let told: Instances = serde_json::from_str(text).unwrap_or_default();
    match vrf.name() {
        Some(name) => told.vrfs.contains_key(name),
        // zebra may give the default one another name.
        None => told.vrfs.values().any(|of| of.kind == "DFLT"),
    }
}

#[derive(Default, Deserialize)]
struct Instances {
    #[serde(default)]
    vrfs: BTreeMap<String, InstanceOf>,
}

#[derive(Deserialize)]
struct InstanceOf {
    #[serde(default, rename = "type")]
    kind: String,
}

/// Reads `show bgp neighbors json`: of each peer that BFD watches, whether it finds it up.
///
/// # Errors
/// When it is not the JSON it should be.
pub fn bfd(text: &str) -> Result<BTreeMap<String, bool>, serde_json::Error> {
    let neighbors: BTreeMap<String, serde_json::Value> = serde_json::from_str(text)?;
    let up = |neighbor: &serde_json::Value| Some(neighbor.get("peerBfdInfo")?.get("status")?.as_str()? == "Up");
    Ok(neighbors.iter().filter_map(|(name, neighbor)| Some((name.clone(), up(neighbor)?))).collect())
}

#[derive(Deserialize)]
struct FamilySummary {
    #[serde(default)]
    peers: BTreeMap<String, PeerSummary>,
}

#[derive(Deserialize)]
struct PeerSummary {
    #[serde(default)]
    state: String,
    #[serde(default, rename = "peerUptimeEstablishedEpoch")]
    since: u32,
}

/// Reads `show bgp ipv4|ipv6 unicast PREFIX json`: what the RIB holds for one prefix. `{}` when there is none.
///
/// # Errors
/// When it is not the JSON it should be.
pub fn rib(text: &str) -> Result<RibState, serde_json::Error> {
    let entry: RibEntry = serde_json::from_str(text)?;
    // Of several, as by `network` and by `redistribute`, the best one: FRR lists them in any order.
    let local = entry.paths.iter().filter(|path| path.sourced && path.valid).max_by_key(|path| path.bestpath.overall);
    Ok(RibState {
        valid: local.is_some(),
        best: local.is_some_and(|path| path.bestpath.overall),
        since: local.and_then(|path| UnixSeconds::new(path.last_update.epoch)),
        advertised_to: Arc::new(entry.advertised_to.into_keys().collect()),
    })
}

#[derive(Deserialize)]
struct RibEntry {
    #[serde(default)]
    paths: Vec<RibPath>,
    #[serde(default, rename = "advertisedTo")]
    advertised_to: BTreeMap<String, serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct RibPath {
    #[serde(default)]
    valid: bool,
    /// Originated here: by `network` or by `redistribute`.
    #[serde(default)]
    sourced: bool,
    #[serde(default)]
    bestpath: BestPath,
    #[serde(default, rename = "lastUpdate")]
    last_update: LastUpdate,
}

#[derive(Default, Deserialize)]
struct LastUpdate {
    #[serde(default)]
    epoch: u32,
}

#[derive(Default, Deserialize)]
struct BestPath {
    #[serde(default)]
    overall: bool,
}

/// The VIPs whose `network` statement is somebody else's.
#[must_use]
pub fn foreign(networks: &BTreeMap<Vip, Network>) -> BTreeSet<Vip> {
    networks.iter().filter(|(_, network)| **network == Network::Foreign).map(|(vip, _)| *vip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNNUMBERED: &str = include_str!("fixtures/unnumbered.conf");
    const UNNUMBERED_10: &str = include_str!("fixtures/unnumbered-10.3.conf");
    const ESTABLISHED: &str = include_str!("fixtures/established.conf");
    const INSTANCES: &str = include_str!("fixtures/instances.conf");
    const INSTANCES_10: &str = include_str!("fixtures/instances-10.3.conf");

    fn parse(text: &str) -> RunningConfig {
        RunningConfig::parse(text, &Vrf::default())
    }

    fn vip(text: &str) -> Vip {
        Vip::new(text.parse().unwrap())
    }

    #[test]
    fn a_nodes_unnumbered_configuration_is_read() {
        let of_10 = RunningConfig { version: "8.4.4".to_owned(), ..parse(UNNUMBERED_10) };
        assert_eq!(parse(UNNUMBERED), of_10, "8.4 and 10.3 say the same");
        let config = parse(UNNUMBERED);
        assert_eq!(config.instances, [Instance { asn: 4_200_000_011, name: None }]);
        assert_eq!(config.connected, PerFamily { v4: true, v6: false });
        assert!(config.maps.is_empty(), "a route-map that is used but not defined");
        let networks = [
            ("10.0.0.11", Network::Foreign),
            ("10.0.0.12", Network::Ours(None)),
            ("10.0.0.13", Network::Foreign),
            ("10.0.0.14", Network::Foreign),
            ("2001:db8::11", Network::Foreign),
            ("2001:db8::12", Network::Ours(None)),
        ];
        assert_eq!(config.networks, networks.map(|(text, network)| (vip(text), network)).into());
        assert_eq!(foreign(&config.networks).len(), 4);
        let peers = [
            ("10.0.0.99".to_owned(), Some("10.0.0.99".parse().unwrap())),
            ("eth0".to_owned(), None),
            ("eth1".to_owned(), None),
        ];
        assert_eq!(config.peers, peers.into());
    }

    #[test]
    fn a_view_holds_modes_networks_and_sessions() {
        let sessions = Sessions::parse(include_str!("fixtures/established-summary.json")).unwrap();
        let view = parse(ESTABLISHED).view(7, Some(65012), None, &sessions).unwrap();
        assert_eq!((view.generation, view.asn), (7, 65012));
        assert_eq!(view.modes, PerFamily { v4: Mode::Dynamic, v6: Mode::Dynamic });
        assert_eq!(view.networks, BTreeMap::from([(vip("10.9.9.9"), Network::PLAIN)]));
        let address = Some("192.0.2.1".parse().unwrap());
        let peer = |index: usize, name: &str, address| PeerView {
            name: name.to_owned(),
            address,
            established: true,
            since: view.peers[index].since,
            bfd: None,
        };
        assert_eq!(view.peers, [peer(0, "192.0.2.1", address), peer(1, "eth1", None)]);
        assert!(view.peers.iter().all(|peer| peer.since.is_some()));
        assert_eq!(parse(ESTABLISHED).maps, [FrrMap::PLAIN].into());
    }

    #[test]
    fn idle_peers_are_not_established() {
        let sessions = Sessions::parse(include_str!("fixtures/unnumbered-summary.json")).unwrap();
        let view = parse(UNNUMBERED).view(1, None, None, &sessions).unwrap();
        assert_eq!(view.modes, PerFamily { v4: Mode::Connected, v6: Mode::Dynamic });
        assert_eq!(view.peers.len(), 3);
        assert!(view.peers.iter().all(|peer| !peer.established));
    }

    #[test]
    fn an_override_wins_over_what_is_detected() {
        let config = parse(UNNUMBERED);
        for mode in [Mode::Connected, Mode::Dynamic] {
            let view = config.view(1, None, Some(mode), &Sessions::default()).unwrap();
            assert_eq!(view.modes, PerFamily { v4: mode, v6: mode });
        }
    }

    /// One fixture for each version of FRR, and what it means to each VRF.
    #[test]
    fn each_vrf_has_modes_networks_and_peers_of_its_own() {
        for (text, asns) in [(INSTANCES, [65012, 65013]), (INSTANCES_10, [65012, 65013])] {
            let of = |name: &str| RunningConfig::parse(text, &Vrf::parse(name).unwrap());
            let (default, blue) = (of(""), of("blue"));
            assert_eq!(default.instances, blue.instances);
            assert_eq!([&default, &blue].map(|config| config.instance(None).unwrap().asn), asns);
            assert_eq!(default.connected, PerFamily { v4: false, v6: true });
            assert_eq!(blue.connected, PerFamily { v4: true, v6: false });
            assert_eq!(default.networks, BTreeMap::from([(vip("10.9.9.1"), Network::Foreign)]));
            assert_eq!(blue.networks, BTreeMap::from([(vip("10.9.9.2"), Network::Foreign)]));
            assert!(default.peers.contains_key("192.0.2.1") && blue.peers.contains_key("198.51.100.1"));
            assert_eq!((default.peers.len(), blue.peers.len()), (1, 1));
            assert_eq!(default.door(asns[0]), Door::Named { asn: asns[0], vrf: Vrf::default() });
        }
    }

    #[test]
    fn a_vrf_without_an_instance_is_a_fault_that_names_the_others() {
        let lab = Vrf::parse("lab").unwrap();
        let others = ["default", "vrf blue", "view lab"].map(str::to_owned).to_vec();
        assert_eq!(
            RunningConfig::parse(INSTANCES, &lab).instance(None),
            Err(BgpFault::NoInstance { vrf: lab, others }),
            "a view is none"
        );
        let none = BgpFault::NoInstance { vrf: Vrf::default(), others: Vec::new() };
        assert_eq!(parse("frr version 8.4.4\n!\n").instance(None), Err(none));
        let red = parse("router bgp 65001 vrf red\n network 10.0.0.1/32\n");
        assert!(matches!(red.instance(None), Err(BgpFault::NoInstance { others, .. }) if others == ["vrf red"]));
        assert!(red.networks.is_empty());
        assert_eq!(parse("router bgp 65001\n").door(65001), Door::Only);
    }

    #[test]
    fn the_instances_that_frr_tells_of() {
        let [red, blue] = ["red", "blue"].map(|name| Vrf::parse(name).unwrap());
        let told = r#"{"vrfs":{"main":{"type":"DFLT"},"red":{"type":"VRF"}},"totalVrfs":2}"#;
        assert!(has_instance(told, &Vrf::default()) && has_instance(told, &red) && !has_instance(told, &blue));
        for none in ["{\"vrfs\":{}}", "{}", "% no", r#"{"vrfs":{"red":{"type":"VRF"}}}"#] {
            assert!(!has_instance(none, &Vrf::default()), "{none}");
        }
    }

    #[test]
    fn a_list_that_is_lent_is_found_where_it_is_applied() {
        let text = "router bgp 65001\n address-family ipv6 unicast\n  neighbor T prefix-list COSMOLET-WITHDRAWN out\n \
                    exit-address-family\nexit\nip prefix-list COSMOLET-WITHDRAWN seq 4294967295 permit any\n\
                    ipv6 prefix-list COSMOLET-WITHDRAWN seq 7 deny 2001:db8::1/128\n\
                    ipv6 prefix-list COSMOLET-WITHDRAWN seq 4294967295 permit any\n";
        let config = parse(text);
        assert!(config.withdrawn.v6.is_lent() && !config.withdrawn.v4.is_lent());
        assert_eq!(config.withdrawn.v6.denied, BTreeMap::from([(vip("2001:db8::1"), 7)]));
    }

    #[test]
    fn the_as_number_has_to_match() {
        let config = parse(ESTABLISHED);
        let mismatch = BgpFault::AsnMismatch { configured: 65099, found: 65012 };
        assert_eq!(config.instance(Some(65099)), Err(mismatch));
        assert!(config.instance(Some(65012)).is_ok());
    }

    #[test]
    fn as_numbers_with_a_dot() {
        let config = parse("router bgp 1.10 as-notation dot\n");
        assert_eq!(config.instance(None).unwrap().asn, 65546);
        assert!(parse("router bgp 70000.1\n").instances.is_empty());
    }

    #[test]
    fn old_forms_of_network_are_read_right() {
        // Quagga and early FRR: IPv4 statements outside any family, classful ones without a length, masks.
        let old = "router bgp 65001\n network 10.0.0.0\n network 10.0.0.1/32\n network 10.0.0.2 mask 255.255.255.255\n \
                   network 10.0.0.4 mask 255.255.255.252\n network 10.0.0.3/32 backdoor\n redistribute connected metric 5\n \
                   address-family ipv6\n network 2001:db8::1/128 route-map COSMOLET-X\n network 2001:db8::/64\n \
                   exit-address-family\n address-family ipv4 multicast\n network 10.0.0.5/32\n redistribute connected\n \
                   exit-address-family\n network 10.0.0.6/32\nline vty\n network 10.0.0.7/32\n";
        let config = parse(old);
        let networks = [
            ("10.0.0.1", Network::Foreign),
            ("10.0.0.2", Network::Foreign),
            ("10.0.0.3", Network::Foreign),
            ("10.0.0.6", Network::Foreign),
            ("2001:db8::1", Network::Ours(None)),
        ];
        assert_eq!(config.networks, networks.map(|(text, network)| (vip(text), network)).into());
        assert_eq!(config.connected, PerFamily { v4: true, v6: false });
    }

    #[test]
    fn names_that_only_look_like_ours_are_not() {
        let text =
            "router bgp 1\n network 10.0.0.1/32 route-map MY-COSMOLET-X\n network 10.0.0.2/32 route-map cosmolet-x\n";
        assert!(parse(text).networks.values().all(|owner| *owner == Network::Foreign));
    }

    #[test]
    fn the_rib_tells_of_our_own_paths() {
        let advertised = rib(include_str!("fixtures/rib-advertised.json")).unwrap();
        let peers = ["192.0.2.1", "eth1"].map(str::to_owned).to_vec();
        let since = advertised.since;
        assert_eq!(advertised, RibState { valid: true, best: true, since, advertised_to: peers.into() });
        assert!(since.is_some());
        let inaccessible = rib(include_str!("fixtures/rib-inaccessible.json")).unwrap();
        assert_eq!(inaccessible, RibState::default());
        assert_eq!(rib("{\n}\n").unwrap(), RibState::default());
        let learned = r#"{"paths":[{"valid":true,"bestpath":{"overall":true}},{"valid":true,"sourced":true}]}"#;
        assert_eq!(rib(learned).unwrap(), RibState { valid: true, ..RibState::default() });
        let both =
            r#"{"paths":[{"valid":true,"sourced":true},{"valid":true,"sourced":true,"bestpath":{"overall":true}}]}"#;
        assert!(rib(both).unwrap().best);
        assert!(rib("nonsense").is_err());
    }

    #[test]
    fn bfd_tells_of_the_peers_that_it_watches() {
        let text = r#"{"eth1":{"bgpState":"Established","peerBfdInfo":{"type":"single hop","status":"Up"}},
            "eth2":{"peerBfdInfo":{"status":"Down"}},"eth3":{"bgpState":"Idle"},"vrfId":0}"#;
        let told = [("eth1", true), ("eth2", false)].map(|(name, up)| (name.to_owned(), up));
        assert_eq!(bfd(text).unwrap(), told.into());
        assert!(bfd("% No BGP neighbors found").is_err());
    }

    #[test]
    fn a_summary_without_an_instance_is_empty() {
        assert_eq!(Sessions::parse("{}\n").unwrap(), Sessions::default());
        assert!(Sessions::parse("% no").is_err());
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in "([ a-z0-9./:!-]{0,30}\n){0,20}") {
            let _config = parse(&text);
        }

        #[test]
        fn lines_may_be_cut_anywhere(cut in 0..UNNUMBERED.len()) {
            let whole = parse(UNNUMBERED);
            let part = parse(UNNUMBERED.get(..cut).unwrap_or_default());
            prop_assert!(part.networks.len() <= whole.networks.len() + 1);
            prop_assert!(part.instances.len() <= 1);
        }
    }
}
