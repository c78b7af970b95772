//! The words that stand for the engine's small enums, names and ports.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::check::Check;
use crate::engine::ejections::Guard;
use crate::engine::event::ProbeOutcome;
use crate::engine::guard::Refused;
use crate::engine::intent::{Decision, WithdrawReason};
use crate::engine::proof::Prove;
use crate::engine::service::{EndpointCondition, EndpointScope, Terminating, VipKind};
use crate::engine::traffic::{OnFault, SecondKey, TrafficMode};
use crate::engine::types::{Mode, ObjectKey, Port, Protocol};

/// For each enum a module for serde's `with`: a variant that has no word does not compile.
macro_rules! words {
    ($($module:ident: $type:ident { $($variant:ident = $word:literal),+ $(,)? })+) => {$(
        pub(super) mod $module {
            use super::{Deserialize as _, Deserializer, Error as _, Serializer, $type};

            pub(in crate::recording) fn serialize<S: Serializer>(value: &$type, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(match value { $($type::$variant => $word),+ })
            }

            pub(in crate::recording) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                match String::deserialize(from)?.as_str() {
                    $($word => Ok($type::$variant),)+
                    other => Err(D::Error::unknown_variant(other, &[$($word),+])),
                }
            }
        }
    )+};
}

words! {
    condition: EndpointCondition { Ready = "ready", Draining = "draining", Unusable = "unusable" }
    evidence: SecondKey { Probe = "probe", Passive = "passive" }
    fault: OnFault { Withdraw = "withdraw", Depreference = "depreference", Ignore = "ignore" }
    guard: Guard { NotAlone = "not_alone", Register = "register" }
    prove: Prove { Wait = "wait", Required = "required", Never = "never" }
    scope: EndpointScope { Local = "local", Cluster = "cluster" }
    terminating: Terminating { Serving = "serving", Ready = "ready" }
}

/// The same for enums that have labels of their own.
macro_rules! labels {
    ($($module:ident: $type:ident { $($variant:ident),+ $(,)? })+) => {$(
        pub(super) mod $module {
            use super::{Deserialize as _, Deserializer, Error as _, Serializer, $type};

            const LABELS: &[&str] = &[$($type::$variant.as_str()),+];

            pub(in crate::recording) fn serialize<S: Serializer>(value: &$type, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(match value { $($type::$variant)|+ => value.as_str() })
            }

            pub(in crate::recording) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                let label = String::deserialize(from)?;
                let found = [$($type::$variant),+].into_iter().find(|known| known.as_str() == label);
                found.ok_or_else(|| D::Error::unknown_variant(&label, LABELS))
            }
        }
    )+};
}

labels! {
    kind: VipKind { LoadBalancer, ExternalIp, ClusterIp }
    learns: Mode { Connected, Dynamic }
    mode: TrafficMode { Off, Observe, Enforce }
    outcome: ProbeOutcome { Passed, RefusedByBackend, RefusedByHost, Unhealthy, Silent, Lost }
    refused: Refused { LastCandidate, ShareSpent, EveryoneSuspects, Unanswered }
}

/// A type with a text of its own, which is read again as it was written.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident($type:ty): $write:expr, $read:expr;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) struct $name(pub(super) $type);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                let write: fn(&$type) -> String = $write;
                to.serialize_str(&write(&self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let read: fn(&str) -> Result<$type, String> = $read;
                read(&String::deserialize(from)?).map(Self).map_err(D::Error::custom)
            }
        }
    )+};
}

texts! {
    /// `NAMESPACE/NAME`
    Name(ObjectKey): ObjectKey::to_string, read_name;
    /// `80/tcp`
    PortText(Port): Port::to_string, read_port;
    /// As in `cosmolet.io/probe`.
    CheckText(Check): Check::spelled, |text| Check::parse(text).map_err(|rule| format!("`{text}` {rule}"));
}

fn read_name(text: &str) -> Result<ObjectKey, String> {
    let parts = text.split_once('/').ok_or_else(|| format!("`{text}` is not written NAMESPACE/NAME"))?;
    Ok(ObjectKey::new(parts.0, parts.1))
}

fn read_port(text: &str) -> Result<Port, String> {
    let read = || {
        let (number, protocol) = text.split_once('/')?;
        let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let protocol = all.into_iter().find(|known| known.as_str() == protocol)?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|number| digits && *number > 0)?;
        Some(Port { protocol, number })
    };
    read().ok_or_else(|| format!("`{text}` is not written as 80/tcp"))
}

/// Reads a decision from its two words.
///
/// # Errors
/// What is wrong with them.
pub(super) fn decision(to: &str, reason: Option<&str>) -> Result<Decision, String> {
    let named = |word: &str| WithdrawReason::named(word).ok_or_else(|| format!("no reason is called `{word}`"));
    match (to, reason) {
        ("advertise", None) => Ok(Decision::Advertise),
        ("depreference", Some(word)) => named(word).map(Decision::Depreference),
        ("withdraw", Some(word)) => named(word).map(Decision::Withdraw),
        ("advertise", Some(word)) => Err(format!("`advertise` has no reason, and this one has `{word}`")),
        ("depreference" | "withdraw", None) => Err(format!("`{to}` lacks its reason")),
        (other, _) => Err(format!("`{other}` is none of advertise, depreference, withdraw")),
    }
}
