//! The annotations of a Service.
//!
//! A value that is not allowed leaves the Service with the default, and is reported once per change.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Selection;
use crate::engine::attributes::{self, Attributes};
use crate::engine::check::{self, Check};
use crate::engine::proof::Prove;
use crate::engine::service::Terminating;
use crate::engine::traffic::{OnFault, SecondKey, TrafficPolicy};
use crate::engine::types::Port;

/// `"true"` selects a Service, `"false"` excludes it, whatever the configuration says.
pub const ADVERTISE: &str = "cosmolet.io/advertise";
/// The name that the Go project gave to [`ADVERTISE`]; read where that one is absent.
pub const ADVERTISE_ALIAS: &str = "cosmolet.platformbuilds.io/announce";
/// `serving` or `ready`: how terminating endpoints count.
pub const TERMINATING: &str = "cosmolet.io/terminating";
/// `wait`, `required` or `never`: whether its VIPs wait for a probe of their data plane before they are advertised.
pub const PROVE: &str = "cosmolet.io/prove";
/// What probes ask of one of its ports beyond a handshake, as [`Check::parse`] reads it.
pub const PROBE: &str = "cosmolet.io/probe";

/// `withdraw` or `ignore`: what a conviction by the traffic leads to.
pub const ON_TRAFFIC_FAULT: &str = "cosmolet.io/on-traffic-fault";
/// `probe` or `passive`: what must join a suspicion by failing handshakes before it convicts.
pub const ON_TRAFFIC_EVIDENCE: &str = "cosmolet.io/on-traffic-evidence";

/// Standard communities, with blanks or commas between them. This one and the following name the BGP attributes that the
/// Service's VIPs are advertised with; each stands in the place of `bgp.attributes.…` of the configuration.
pub const COMMUNITIES: &str = "cosmolet.io/communities";
/// Large communities.
pub const LARGE_COMMUNITIES: &str = "cosmolet.io/large-communities";
/// Extended communities.
pub const EXTENDED_COMMUNITIES: &str = "cosmolet.io/extended-communities";
/// MED.
pub const MED: &str = "cosmolet.io/med";
/// How often the own AS number is prepended.
pub const PREPEND: &str = "cosmolet.io/prepend";
/// Local preference.
pub const LOCAL_PREFERENCE: &str = "cosmolet.io/local-preference";
/// `igp`, `egp` or `incomplete`.
pub const ORIGIN: &str = "cosmolet.io/origin";
/// `none` or `endpoints`: link bandwidth by the number of usable endpoints on the node.
pub const WEIGHT: &str = "cosmolet.io/weight";

/// Something about a Service's annotations that its owner should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The value is not allowed; the default stands.
    BadValue {
        /// The annotation.
        key: &'static str,
        /// Its value, cut and without control characters.
        value: Box<str>,
        /// What is allowed.
        rule: &'static str,
    },
    /// The Service uses [`ADVERTISE_ALIAS`].
    Deprecated,
    /// `bgp.attributes.from_services` is `false`, and the Service asks for some.
    AttributesNotAllowed(&'static str),
}

/// What a Service's annotations say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    /// [`ADVERTISE`], or its alias.
    pub(super) advertise: Option<bool>,
    /// [`TERMINATING`].
    pub(super) terminating: Terminating,
    /// [`PROVE`].
    pub(super) prove: Prove,
    /// [`ON_TRAFFIC_FAULT`] and [`ON_TRAFFIC_EVIDENCE`].
    pub(super) policy: TrafficPolicy,
    /// [`PROBE`], of a declared port.
    pub(super) check: Option<Arc<Check>>,
    /// [`COMMUNITIES`] to [`WEIGHT`], over what the configuration has.
    pub(super) attributes: Attributes,
    /// What is wrong with them.
    pub(super) notices: Vec<Notice>,
}

impl Notice {
    /// The label used in metrics and JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::BadValue { .. } | Self::AttributesNotAllowed(_) => "ignored",
            Self::Deprecated => "deprecated",
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadValue { key, value, rule } => write!(f, "{key}: {value:?} is ignored: it {rule}"),
            Self::AttributesNotAllowed(key) => write!(f, "{key} is ignored: bgp.attributes.from_services is false"),
            Self::Deprecated => write!(f, "{ADVERTISE_ALIAS} is deprecated: use {ADVERTISE}"),
        }
    }
}

/// Takes a value over into the attributes; or leaves them as they are, and says which rule the value breaks.
type Setter = fn(&mut Attributes, &str) -> Result<(), &'static str>;

const ATTRIBUTES: [(&str, Setter); 8] = [
    (COMMUNITIES, |to, text| attributes::communities(words(text)).map(|read| to.communities = read)),
    (LARGE_COMMUNITIES, |to, text| attributes::large_communities(words(text)).map(|read| to.large_communities = read)),
    (EXTENDED_COMMUNITIES, |to, text| {
        attributes::extended_communities(words(text)).map(|read| to.extended_communities = read)
    }),
    (MED, |to, text| attributes::number(text).map(|read| to.med = Some(read))),
    (PREPEND, |to, text| attributes::prepend(text).map(|read| to.prepend = read)),
    (LOCAL_PREFERENCE, |to, text| attributes::number(text).map(|read| to.local_preference = Some(read))),
    (ORIGIN, |to, text| attributes::origin(text).map(|read| to.origin = Some(read))),
    (WEIGHT, |to, text| attributes::weight(text).map(|read| to.by_endpoints = read)),
];

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ']).filter(|word| !word.is_empty())
}

impl Annotations {
    /// Reads the annotations of a Service that declares these ports.
    pub(super) fn read(annotations: Option<&BTreeMap<String, String>>, ports: &[Port], selection: &Selection) -> Self {
        let mut read = Self { attributes: selection.attributes.clone(), ..Self::default() };
        let Some(annotations) = annotations else { return read };
        let get = |key| annotations.get(key).map(String::as_str);
        let advertise = get(ADVERTISE).map(|value| (ADVERTISE, value)).or_else(|| {
            get(ADVERTISE_ALIAS).map(|value| {
                read.notices.push(Notice::Deprecated);
                (ADVERTISE_ALIAS, value)
            })
        });
        if let Some((key, value)) = advertise {
            read.advertise = read.allowed(key, value, check_advertise(value));
        }
        if let Some(value) = get(TERMINATING) {
            read.terminating = read.allowed(TERMINATING, value, check_terminating(value)).unwrap_or_default();
        }
        if let Some(value) = get(PROVE) {
            read.prove = read.allowed(PROVE, value, check_prove(value)).unwrap_or_default();
        }
        if let Some(value) = get(PROBE) {
            let declared = |check: Check| if ports.contains(&check.port) { Ok(check) } else { Err(check::RULE) };
            read.check = read.allowed(PROBE, value, Check::parse(value).and_then(declared)).map(Arc::new);
        }
        if let Some(value) = get(ON_TRAFFIC_FAULT) {
            read.policy.fault = read.allowed(ON_TRAFFIC_FAULT, value, check_fault(value)).unwrap_or_default();
        }
        if let Some(value) = get(ON_TRAFFIC_EVIDENCE) {
            read.policy.evidence = read.allowed(ON_TRAFFIC_EVIDENCE, value, check_evidence(value)).unwrap_or_default();
        }
        for (key, set) in ATTRIBUTES {
            match get(key) {
                Some(_) if !selection.attributes_from_services => read.notices.push(Notice::AttributesNotAllowed(key)),
                Some(value) => {
                    let mut attributes = std::mem::take(&mut read.attributes);
                    let checked = set(&mut attributes, value);
                    read.attributes = attributes;
                    read.allowed(key, value, checked);
                }
                None => {}
            }
        }
        read
    }

    fn allowed<T>(&mut self, key: &'static str, value: &str, checked: Result<T, &'static str>) -> Option<T> {
        checked
            .map_err(|rule| {
                let value = super::objects::sanitised(value).into();
                self.notices.push(Notice::BadValue { key, value, rule });
            })
            .ok()
    }
}

/// Parses a value of [`ADVERTISE`].
///
/// # Errors
/// The rule that the value breaks.
pub fn check_advertise(value: &str) -> Result<bool, &'static str> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("must be \"true\" or \"false\""),
    }
}

/// Parses a value of [`TERMINATING`].
///
/// # Errors
/// The rule that the value breaks.
pub fn check_terminating(value: &str) -> Result<Terminating, &'static str> {
    match value {
        "serving" => Ok(Terminating::Serving),
        "ready" => Ok(Terminating::Ready),
        _ => Err("must be \"serving\" or \"ready\""),
    }
}

/// Parses a value of [`PROVE`].
///
/// # Errors
/// The rule that the value breaks.
pub fn check_prove(value: &str) -> Result<Prove, &'static str> {
    match value {
        "wait" => Ok(Prove::Wait),
        "required" => Ok(Prove::Required),
        "never" => Ok(Prove::Never),
        _ => Err("must be \"wait\", \"required\" or \"never\""),
    }
}

/// Parses a value of [`ON_TRAFFIC_FAULT`].
///
/// # Errors
/// The rule that the value breaks.
pub fn check_fault(value: &str) -> Result<OnFault, &'static str> {
    match value {
        "withdraw" => Ok(OnFault::Withdraw),
        "depreference" => Ok(OnFault::Depreference),
        "ignore" => Ok(OnFault::Ignore),
        _ => Err("must be \"withdraw\", \"depreference\" or \"ignore\""),
    }
}

/// Parses a value of [`ON_TRAFFIC_EVIDENCE`].
///
/// # Errors
/// The rule that the value breaks.
pub fn check_evidence(value: &str) -> Result<SecondKey, &'static str> {
    match value {
        "probe" => Ok(SecondKey::Probe),
        "passive" => Ok(SecondKey::Passive),
        _ => Err("must be \"probe\" or \"passive\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::types::Protocol;

    fn ports() -> [Port; 1] {
        [Port { protocol: Protocol::Tcp, number: 8080 }]
    }

    fn read(pairs: &[(&str, &str)]) -> Annotations {
        let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Annotations::read(Some(&map), &ports(), &Selection::new("n1"))
    }

    #[test]
    fn the_new_name_wins_over_its_alias() {
        assert_eq!(read(&[(ADVERTISE, "false"), (ADVERTISE_ALIAS, "true")]).advertise, Some(false));
        assert!(read(&[(ADVERTISE, "false"), (ADVERTISE_ALIAS, "true")]).notices.is_empty());
        let alias = read(&[(ADVERTISE_ALIAS, "true")]);
        assert_eq!((alias.advertise, alias.notices), (Some(true), vec![Notice::Deprecated]));
    }

    #[test]
    fn a_bad_value_leaves_the_default_and_a_notice() {
        for (key, value, rule) in [
            (ADVERTISE, "yes", "must be \"true\" or \"false\""),
            (ADVERTISE, "True", "must be \"true\" or \"false\""),
            (ADVERTISE, "", "must be \"true\" or \"false\""),
            (TERMINATING, "never", "must be \"serving\" or \"ready\""),
        ] {
            let read = read(&[(key, value)]);
            assert_eq!((read.advertise, read.terminating), (None, Terminating::Serving), "{value}");
            assert_eq!(read.notices, [Notice::BadValue { key, value: value.into(), rule }]);
        }
        let bad = read(&[(ADVERTISE, &"\u{1b}x".repeat(400))]);
        let [Notice::BadValue { value, .. }] = &bad.notices[..] else { panic!("{bad:?}") };
        assert!(value.chars().count() <= 64 && !value.chars().any(char::is_control));
    }

    #[test]
    fn terminating_is_read() {
        assert_eq!(read(&[(TERMINATING, "ready")]).terminating, Terminating::Ready);
        assert_eq!(read(&[(TERMINATING, "serving")]).terminating, Terminating::Serving);
        assert_eq!(Annotations::read(None, &[], &Selection::new("n1")), Annotations::default());
    }

    #[test]
    fn prove_is_read() {
        for (value, prove) in [("wait", Prove::Wait), ("required", Prove::Required), ("never", Prove::Never)] {
            assert_eq!(read(&[(PROVE, value)]).prove, prove);
        }
        let bad = read(&[(PROVE, "always")]);
        let rule = "must be \"wait\", \"required\" or \"never\"";
        assert_eq!(bad.prove, Prove::Wait);
        assert_eq!(bad.notices, [Notice::BadValue { key: PROVE, value: "always".into(), rule }]);
    }

    #[test]
    fn a_probe_is_of_a_declared_port() {
        let check = read(&[(PROBE, "http://:8080/healthz")]).check.unwrap();
        assert_eq!(check.to_string(), "http://:8080/healthz");
        for value in ["http://:8081/healthz", "udp://:8080/x", "8080", ""] {
            let bad = read(&[(PROBE, value)]);
            let rule = check::RULE;
            assert_eq!(
                (bad.check, bad.notices),
                (None, vec![Notice::BadValue { key: PROBE, value: value.into(), rule }])
            );
        }
    }

    #[test]
    fn the_owners_wishes_for_the_traffic_verdict_are_read() {
        let policy = |fault, evidence| TrafficPolicy { fault, evidence };
        assert_eq!(read(&[]).policy, policy(OnFault::Withdraw, SecondKey::Probe));
        let chosen = read(&[(ON_TRAFFIC_FAULT, "ignore"), (ON_TRAFFIC_EVIDENCE, "passive")]);
        assert_eq!(chosen.policy, policy(OnFault::Ignore, SecondKey::Passive));
        assert_eq!(read(&[(ON_TRAFFIC_FAULT, "depreference")]).policy.fault, OnFault::Depreference);
        let bad = read(&[(ON_TRAFFIC_FAULT, "deprefer"), (ON_TRAFFIC_EVIDENCE, "")]);
        assert_eq!((bad.policy, bad.notices.len()), (TrafficPolicy::default(), 2));
    }

    #[test]
    fn attributes_are_read_over_those_of_the_configuration() {
        let pairs = [(COMMUNITIES, "65000:1, graceful-shutdown"), (MED, "7"), (PREPEND, "11"), (WEIGHT, "endpoints")];
        let map = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let configured = Attributes { med: Some(5), prepend: 2, ..Attributes::default() };
        let mut selection = Selection { attributes: configured.clone(), ..Selection::new("n1") };
        let read = Annotations::read(Some(&map), &ports(), &selection);
        assert_eq!(
            read.attributes.to_string(),
            "community 65000:1 graceful-shutdown, med 7, prepend 2, weight by endpoints"
        );
        let rule = attributes::PREPEND_RULE;
        assert_eq!(read.notices, [Notice::BadValue { key: PREPEND, value: "11".into(), rule }]);

        selection.attributes_from_services = false;
        let read = Annotations::read(Some(&map), &ports(), &selection);
        assert_eq!((read.attributes, read.notices.len()), (configured, 4));
        assert_eq!(read.notices[1].to_string(), "cosmolet.io/med is ignored: bgp.attributes.from_services is false");
    }

    #[test]
    fn an_empty_list_takes_the_configured_one_away() {
        let configured = Attributes { communities: attributes::communities(["1:1"]).unwrap(), ..Attributes::default() };
        let selection = Selection { attributes: configured, ..Selection::new("n1") };
        let map = [(COMMUNITIES.to_owned(), String::new())].into();
        assert!(Annotations::read(Some(&map), &ports(), &selection).attributes.is_empty());
    }
}
