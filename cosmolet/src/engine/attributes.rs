//! The BGP attributes that a VIP is advertised with, in types, and the name of the route-map that sets them.
//!
//! Owns their values and limits and the names. Never renders an FRR command: that is `frr::render`'s.

use std::fmt;
use std::sync::Arc;

/// Route-maps whose names begin so are ours, and so are the `network` statements that carry one.
pub const MAP_PREFIX: &str = "COSMOLET-";
/// What stands after [`MAP_PREFIX`] where a Service sets nothing.
const NOTHING: &str = "ADVERTISE";

/// A standard community (RFC 1997): the AS number in the upper half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

/// A large community (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub [u32; 3]);

/// An extended community (RFC 4360) of two-octet or four-octet AS (RFC 5668).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCommunity {
    /// Its kind.
    pub kind: ExtendedKind,
    /// The AS number.
    pub asn: u32,
    /// The number behind it: 32 bits for a two-octet AS, else 16.
    pub number: u32,
}

/// The kinds of extended communities that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExtendedKind {
    /// Route target.
    RouteTarget,
    /// Site of origin.
    SiteOfOrigin,
}

/// `ORIGIN` (RFC 4271, 5.1.1). A `network` statement has IGP where nothing is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// IGP.
    Igp,
    /// EGP.
    Egp,
    /// Incomplete, as FRR marks what it redistributes.
    Incomplete,
}

/// What a Service, or the configuration, asks for. What is `None` or empty is left as FRR has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    /// In ascending order, without duplicates; at most [`MAX_COMMUNITIES`].
    pub communities: Vec<Community>,
    /// In ascending order, without duplicates; at most [`MAX_LARGE`].
    pub large_communities: Vec<LargeCommunity>,
    /// In ascending order, without duplicates; at most [`MAX_EXTENDED`].
    pub extended_communities: Vec<ExtendedCommunity>,
    /// Multi-exit discriminator.
    pub med: Option<u32>,
    /// How often the own AS number is prepended; at most [`MAX_PREPEND`].
    pub prepend: u8,
    /// Local preference; peers of another AS never see it.
    pub local_preference: Option<u32>,
    /// Origin.
    pub origin: Option<Origin>,
    /// Link bandwidth by the number of usable endpoints on this node.
    pub by_endpoints: bool,
}

/// The most standard communities.
pub const MAX_COMMUNITIES: usize = 16;
/// The most large communities.
pub const MAX_LARGE: usize = 8;
/// The most extended communities.
pub const MAX_EXTENDED: usize = 8;
/// The most prepended AS numbers: FRR takes 10 in one command.
pub const MAX_PREPEND: u8 = 10;

impl Attributes {
    /// True where nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// True where a route-map would have something to set but for the weight.
    fn sets_anything(&self) -> bool {
        !Self { by_endpoints: false, ..self.clone() }.is_empty()
    }
}

/// Attributes with the digest of their text, which names their route-map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Profile {
    attributes: Attributes,
    digest: u64,
}

impl Profile {
    /// Takes the attributes with a digest that no two different ones share: the caller's, of a cryptographic hash, so that
    /// no Service can be given the name of another one's route-map. `None` where nothing is asked for.
    #[must_use]
    pub fn new(attributes: Attributes, digest: impl FnOnce(&str) -> u64) -> Option<Arc<Self>> {
        if attributes.is_empty() {
            return None;
        }
        // The weight is in the name by itself.
        let digest = if attributes.sets_anything() {
            digest(&Attributes { by_endpoints: false, ..attributes.clone() }.to_string()).max(1)
        } else {
            0
        };
        Some(Arc::new(Self { attributes, digest }))
    }

    /// The attributes.
    #[must_use]
    pub const fn attributes(&self) -> &Attributes {
        &self.attributes
    }
}

/// Which route-map: what it sets, in a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapName {
    /// The digest of the attributes; 0 where there are none. In bytes: ten thousand of these are held.
    digest: [u8; 8],
    /// The place of the weight in [`BUCKETS`], from 1; 0 where no link bandwidth is set.
    bucket: u8,
    /// With the community `graceful-shutdown`, whatever else is set.
    depreferred: bool,
}

/// The end of the name of a route-map that de-preferences.
const DEPREFERRED: &str = "-GSHUT";

impl MapName {
    /// Sets nothing.
    pub const PLAIN: Self = Self { digest: [0; 8], bucket: 0, depreferred: false };

    fn new(digest: u64, weight: u16) -> Self {
        let place = BUCKETS.iter().position(|bucket| *bucket == weight).and_then(|place| u8::try_from(place + 1).ok());
        Self { digest: digest.to_be_bytes(), bucket: place.unwrap_or_default(), depreferred: false }
    }

    /// Link bandwidth in hundreds of megabytes; 0 where none is set.
    fn weight(self) -> u16 {
        let place = usize::from(self.bucket).checked_sub(1);
        place.and_then(|place| BUCKETS.get(place)).copied().unwrap_or_default()
    }

    /// Reads a route-map's name; `None` if it is none that [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(MAP_PREFIX)?;
        let (rest, depreferred) = match rest.strip_suffix(DEPREFERRED) {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let (digest, weight) = match rest.split_once("-W") {
            Some((digest, weight)) => (digest, weight.parse().ok()?),
            None => (rest, 0),
        };
        let digest = if digest == NOTHING { 0 } else { u64::from_str_radix(digest, 16).ok()? };
        let parsed = Self { depreferred, ..Self::new(digest, weight) };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for MapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u64::from_be_bytes(self.digest) {
            0 => write!(f, "{MAP_PREFIX}{NOTHING}")?,
            digest => write!(f, "{MAP_PREFIX}{digest:016X}")?,
        }
        match self.weight() {
            0 => {}
            weight => write!(f, "-W{weight}")?,
        }
        f.write_str(if self.depreferred { DEPREFERRED } else { "" })
    }
}

/// How one VIP is advertised now: the route-map's name, and what it sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The route-map.
    pub map: MapName,
    /// What it sets; `None` is nothing.
    pub profile: Option<Arc<Profile>>,
}

impl Route {
    /// The route of a VIP whose Service has this profile and so many usable endpoints on this node; `None` where those
    /// do not matter, as with `externalTrafficPolicy: Cluster`.
    #[must_use]
    pub fn new(profile: Option<Arc<Profile>>, endpoints: Option<u32>) -> Self {
        let Some(profile) = profile else { return Self::default() };
        let weight = match endpoints {
            Some(count) if profile.attributes.by_endpoints => bucket(count),
            Some(_) | None => 0,
        };
        Self { map: MapName::new(profile.digest, weight), profile: Some(profile) }
    }

    /// The same, de-preferred: with the community `graceful-shutdown` (RFC 8326), upon which peers take any other path.
    #[must_use]
    pub fn depreferred(mut self) -> Self {
        self.map.depreferred = true;
        self
    }

    /// The communities that are set, in ascending order.
    #[must_use]
    pub fn communities(&self) -> Vec<Community> {
        let mut communities =
            self.profile.as_ref().map(|profile| profile.attributes.communities.clone()).unwrap_or_default();
        if let (true, Err(place)) = (self.map.depreferred, communities.binary_search(&GRACEFUL_SHUTDOWN)) {
            communities.insert(place, GRACEFUL_SHUTDOWN);
        }
        communities
    }

    /// The link bandwidth that is set, in megabytes a second, as FRR's `set extcommunity bandwidth` takes it.
    #[must_use]
    pub fn bandwidth(&self) -> Option<u32> {
        match self.map.weight() {
            0 => None,
            weight => Some(u32::from(weight) * 100),
        }
    }
}

impl fmt::Display for Route {
    /// In words, empty where nothing is set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.profile.as_ref().map(|profile| profile.attributes.to_string()).unwrap_or_default();
        f.write_str(&text)?;
        match self.map.weight() {
            0 => Ok(()),
            weight => write!(f, " ({weight} now)"),
        }
    }
}

/// The steps of the weight: coarse, so that a scaling Deployment does not touch its route with every pod.
const BUCKETS: [u16; 16] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];

fn bucket(count: u32) -> u16 {
    let fits = BUCKETS.into_iter().take_while(|bucket| u32::from(*bucket) <= count);
    fits.last().unwrap_or(1)
}

/// The well-known communities by FRR's names that make sense for a VIP.
const WELL_KNOWN: [(&str, u32); 4] = [
    ("graceful-shutdown", 0xffff_0000),
    ("llgr-stale", 0xffff_0006),
    ("no-llgr", 0xffff_0007),
    ("no-peer", 0xffff_ff04),
];
const GRACEFUL_SHUTDOWN: Community = Community(0xffff_0000);
/// `blackhole` (RFC 7999), `no-export`, `no-advertise` and `local-AS`: FRR would not even tell the eBGP peers of this node.
const DARK: [u32; 4] = [0xffff_029a, 0xffff_ff01, 0xffff_ff02, 0xffff_ff03];

/// The rule for [`communities`].
pub const COMMUNITIES_RULE: &str = "must be up to 16 communities as 65000:100, or graceful-shutdown, llgr-stale, no-llgr, \
     no-peer; with blackhole, no-export, no-advertise or local-AS the fabric would not have the VIP";
/// The rule for [`large_communities`].
pub const LARGE_RULE: &str = "must be up to 8 large communities as 65000:1:2, each number at most 4294967295";
/// The rule for [`extended_communities`].
pub const EXTENDED_RULE: &str = "must be up to 8 extended communities as rt:65000:1 or soo:65000:1; the last number at most 65535 behind a four-octet AS";
/// The rule for [`number`].
pub const NUMBER_RULE: &str = "must be a whole number from 0 to 4294967295";
/// The rule for [`prepend`].
pub const PREPEND_RULE: &str = "must be 0 to 10, how often the own AS number is prepended";
/// The rule for [`origin`].
pub const ORIGIN_RULE: &str = "must be \"igp\", \"egp\" or \"incomplete\"";
/// The rule for [`weight`].
pub const WEIGHT_RULE: &str = "must be \"none\" or \"endpoints\"";

/// Reads communities.
///
/// # Errors
/// [`COMMUNITIES_RULE`], where it is broken.
pub fn communities<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<Community>, &'static str> {
    let read = texts.into_iter().map(|text| community(text).filter(|read| !DARK.contains(&read.0)));
    sorted(read, MAX_COMMUNITIES).ok_or(COMMUNITIES_RULE)
}

fn community(text: &str) -> Option<Community> {
    if let Some((_, value)) = WELL_KNOWN.into_iter().find(|(name, _)| *name == text) {
        return Some(Community(value));
    }
    let (asn, number) = text.split_once(':')?;
    Some(Community((u32::from(digits::<u16>(asn)?) << 16) | u32::from(digits::<u16>(number)?)))
}

/// Reads large communities.
///
/// # Errors
/// [`LARGE_RULE`], where it is broken.
pub fn large_communities<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<LargeCommunity>, &'static str> {
    let read = texts.into_iter().map(|text| {
        let mut parts = text.split(':').map(digits::<u32>);
        let large = LargeCommunity([parts.next()??, parts.next()??, parts.next()??]);
        parts.next().is_none().then_some(large)
    });
    sorted(read, MAX_LARGE).ok_or(LARGE_RULE)
}

/// Reads extended communities.
///
/// # Errors
/// [`EXTENDED_RULE`], where it is broken.
pub fn extended_communities<'a>(
    texts: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<ExtendedCommunity>, &'static str> {
    let read = texts.into_iter().map(|text| {
        let (kind, rest) = text.split_once(':')?;
        let kind = match kind {
            "rt" => ExtendedKind::RouteTarget,
            "soo" => ExtendedKind::SiteOfOrigin,
            _ => return None,
        };
        let (asn, number) = rest.split_once(':')?;
        let (asn, number) = (digits::<u32>(asn)?, digits::<u32>(number)?);
        let fits = asn <= u32::from(u16::MAX) || number <= u32::from(u16::MAX);
        fits.then_some(ExtendedCommunity { kind, asn, number })
    });
    sorted(read, MAX_EXTENDED).ok_or(EXTENDED_RULE)
}

/// Reads MED or a local preference.
///
/// # Errors
/// [`NUMBER_RULE`], where it is broken.
pub fn number(text: &str) -> Result<u32, &'static str> {
    digits(text).ok_or(NUMBER_RULE)
}

/// Reads how often to prepend.
///
/// # Errors
/// [`PREPEND_RULE`], where it is broken.
pub fn prepend(text: &str) -> Result<u8, &'static str> {
    digits(text).filter(|count| *count <= MAX_PREPEND).ok_or(PREPEND_RULE)
}

/// Reads an origin.
///
/// # Errors
/// [`ORIGIN_RULE`], where it is broken.
pub fn origin(text: &str) -> Result<Origin, &'static str> {
    match text {
        "igp" => Ok(Origin::Igp),
        "egp" => Ok(Origin::Egp),
        "incomplete" => Ok(Origin::Incomplete),
        _ => Err(ORIGIN_RULE),
    }
}

/// Reads whether the weight goes by the endpoints.
///
/// # Errors
/// [`WEIGHT_RULE`], where it is broken.
pub fn weight(text: &str) -> Result<bool, &'static str> {
    match text {
        "none" => Ok(false),
        "endpoints" => Ok(true),
        _ => Err(WEIGHT_RULE),
    }
}

/// Digits alone: no sign, no blank, as `str::parse` would take.
fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn sorted<T: Ord>(read: impl Iterator<Item = Option<T>>, limit: usize) -> Option<Vec<T>> {
    let mut values: Vec<T> = read.take(limit + 1).collect::<Option<_>>()?;
    values.sort_unstable();
    values.dedup();
    (values.len() <= limit).then_some(values)
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match WELL_KNOWN.into_iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff),
        }
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [global, first, second] = self.0;
        write!(f, "{global}:{first}:{second}")
    }
}

impl fmt::Display for ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.kind.as_str(), self.asn, self.number)
    }
}

impl ExtendedKind {
    /// As FRR and the annotations have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RouteTarget => "rt",
            Self::SiteOfOrigin => "soo",
        }
    }
}

impl Origin {
    /// As FRR and the annotations have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Igp => "igp",
            Self::Egp => "egp",
            Self::Incomplete => "incomplete",
        }
    }
}

impl fmt::Display for Attributes {
    /// Complete and canonical: two that differ read differently.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(listed("community", &self.communities));
        parts.extend(listed("large-community", &self.large_communities));
        parts.extend(listed("extended-community", &self.extended_communities));
        parts.extend(self.med.map(|med| format!("med {med}")));
        parts.extend((self.prepend > 0).then(|| format!("prepend {}", self.prepend)));
        parts.extend(self.local_preference.map(|preference| format!("local-preference {preference}")));
        parts.extend(self.origin.map(|origin| format!("origin {}", origin.as_str())));
        parts.extend(self.by_endpoints.then(|| "weight by endpoints".to_owned()));
        f.write_str(&parts.join(", "))
    }
}

fn listed<T: fmt::Display>(name: &str, values: &[T]) -> Option<String> {
    let values: Vec<String> = values.iter().map(T::to_string).collect();
    (!values.is_empty()).then(|| format!("{name} {}", values.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_read_and_refused() {
        let read = communities(["65000:100", "graceful-shutdown", "65000:100", "0:1"]).unwrap();
        let text: Vec<_> = read.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["0:1", "65000:100", "graceful-shutdown"]);
        for bad in ["", "65000", "65536:1", "1:65536", "+1:1", "1:1:1", " 1:1", "no-export", "65535:666", "65535:65281"]
        {
            assert_eq!(communities([bad]), Err(COMMUNITIES_RULE), "{bad:?}");
        }
        let many: Vec<String> = (0..17).map(|n| format!("1:{n}")).collect();
        assert_eq!(communities(many.iter().map(String::as_str)), Err(COMMUNITIES_RULE));
    }

    #[test]
    fn large_and_extended_communities_are_read_and_refused() {
        assert_eq!(large_communities(["4294967295:1:2"]), Ok(vec![LargeCommunity([u32::MAX, 1, 2])]));
        for bad in ["1:2", "1:2:3:4", "4294967296:1:2", "a:1:2", "1::2"] {
            assert_eq!(large_communities([bad]), Err(LARGE_RULE), "{bad:?}");
        }
        let read = extended_communities(["soo:65536:1", "rt:65000:70000"]).unwrap();
        assert_eq!(read.iter().map(ToString::to_string).collect::<Vec<_>>(), ["rt:65000:70000", "soo:65536:1"]);
        for bad in ["65000:1", "rt:65536:65536", "rt:1", "bandwidth:1:1"] {
            assert_eq!(extended_communities([bad]), Err(EXTENDED_RULE), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_read_back_and_nothing_else_is() {
        let profile =
            Profile::new(Attributes { med: Some(5), by_endpoints: true, ..Default::default() }, |_| 0xab).unwrap();
        let route = Route::new(Some(profile), Some(5));
        assert_eq!(route.map.to_string(), "COSMOLET-00000000000000AB-W4");
        assert_eq!((route.bandwidth(), route.to_string().as_str()), (Some(400), "med 5, weight by endpoints (4 now)"));
        for map in [
            route.map,
            MapName::PLAIN,
            MapName::new(0, 256),
            route.depreferred().map,
            Route::default().depreferred().map,
        ] {
            assert_eq!(MapName::parse(&map.to_string()), Some(map));
        }
        for other in ["COSMOLET-", "COSMOLET-ab", "COSMOLET-ADVERTISE-W0", "COSMOLET-ADVERTISE-W04", "COSMOLET-0", "X"]
        {
            assert_eq!(MapName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_asks_for_nothing_has_the_plain_map() {
        assert_eq!(Profile::new(Attributes::default(), |_| 1), None);
        assert_eq!(Route::new(None, Some(3)).map, MapName::PLAIN);
        let weighted = Profile::new(Attributes { by_endpoints: true, ..Default::default() }, |_| 1);
        assert_eq!(Route::new(weighted.clone(), None).map, MapName::PLAIN);
        assert_eq!(Route::new(weighted, Some(1)).map.to_string(), "COSMOLET-ADVERTISE-W1");
    }

    #[test]
    fn buckets_round_down() {
        for (count, wanted) in [(0, 1), (1, 1), (5, 4), (7, 6), (23, 16), (256, 256), (100_000, 256)] {
            assert_eq!(bucket(count), wanted);
        }
    }
}
