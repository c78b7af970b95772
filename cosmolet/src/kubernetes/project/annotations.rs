//! The annotations of a Service.
//!
//! A value that is not allowed leaves the Service with the default, and is reported once per change.

use std::collections::BTreeMap;
use std::fmt;

use crate::engine::proof::Prove;
use crate::engine::service::Terminating;
use crate::engine::traffic::{OnFault, SecondKey, TrafficPolicy};

/// `"true"` selects a Service, `"false"` excludes it, whatever the configuration says.
pub const ADVERTISE: &str = "cosmolet.io/advertise";
/// The name that the Go project gave to [`ADVERTISE`]; read where that one is absent.
pub const ADVERTISE_ALIAS: &str = "cosmolet.platformbuilds.io/announce";
/// `serving` or `ready`: how terminating endpoints count.
pub const TERMINATING: &str = "cosmolet.io/terminating";
/// `wait`, `required` or `never`: whether its VIPs wait for a probe of their data plane before they are advertised.
pub const PROVE: &str = "cosmolet.io/prove";

/// `withdraw` or `ignore`: what a conviction by the traffic leads to.
pub const ON_TRAFFIC_FAULT: &str = "cosmolet.io/on-traffic-fault";
/// `probe` or `passive`: what must join a suspicion by failing handshakes before it convicts.
pub const ON_TRAFFIC_EVIDENCE: &str = "cosmolet.io/on-traffic-evidence";

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
    /// What is wrong with them.
    pub(super) notices: Vec<Notice>,
}

impl Notice {
    /// The label used in metrics and JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::BadValue { .. } => "ignored",
            Self::Deprecated => "deprecated",
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadValue { key, value, rule } => write!(f, "{key}: {value:?} is ignored: it {rule}"),
            Self::Deprecated => write!(f, "{ADVERTISE_ALIAS} is deprecated: use {ADVERTISE}"),
        }
    }
}

impl Annotations {
    /// Reads the annotations of a Service.
    pub(super) fn read(annotations: Option<&BTreeMap<String, String>>) -> Self {
        let mut read = Self::default();
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
        if let Some(value) = get(ON_TRAFFIC_FAULT) {
            read.policy.fault = read.allowed(ON_TRAFFIC_FAULT, value, check_fault(value)).unwrap_or_default();
        }
        if let Some(value) = get(ON_TRAFFIC_EVIDENCE) {
            read.policy.evidence = read.allowed(ON_TRAFFIC_EVIDENCE, value, check_evidence(value)).unwrap_or_default();
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
        "ignore" => Ok(OnFault::Ignore),
        _ => Err("must be \"withdraw\" or \"ignore\""),
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

    fn read(pairs: &[(&str, &str)]) -> Annotations {
        let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Annotations::read(Some(&map))
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
        assert_eq!(Annotations::read(None), Annotations::default());
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
    fn the_owners_wishes_for_the_traffic_verdict_are_read() {
        let policy = |fault, evidence| TrafficPolicy { fault, evidence };
        assert_eq!(read(&[]).policy, policy(OnFault::Withdraw, SecondKey::Probe));
        let chosen = read(&[(ON_TRAFFIC_FAULT, "ignore"), (ON_TRAFFIC_EVIDENCE, "passive")]);
        assert_eq!(chosen.policy, policy(OnFault::Ignore, SecondKey::Passive));
        let bad = read(&[(ON_TRAFFIC_FAULT, "depreference"), (ON_TRAFFIC_EVIDENCE, "")]);
        assert_eq!((bad.policy, bad.notices.len()), (TrafficPolicy::default(), 2));
    }
}
