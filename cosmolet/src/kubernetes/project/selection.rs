//! Which Services this daemon cares for: `services.*` of the configuration, in types.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use kube::core::{Expression, Selector, SelectorExt};
use thiserror::Error;

use crate::engine::attributes::Attributes;
use crate::engine::service::VipKind;

/// The configured choice of Services.
///
/// A Service is in scope if its namespace and its labels fit. Of a Service in scope, the addresses of the configured
/// [`types`](Self::types) become VIPs. The annotation `cosmolet.io/advertise` stands above that: `"false"` always
/// excludes a Service; `"true"` takes the addresses of its own type (the load balancer's of a `LoadBalancer`, the
/// cluster addresses of a `ClusterIP` or `NodePort`) wherever it is and whatever its class, but never its external
/// addresses, which the same author may write (CVE-2020-8554).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// This node's name in Kubernetes.
    pub node_name: String,
    /// `services.namespaces`; empty is all of them.
    pub namespaces: BTreeSet<String>,
    /// `services.selector`; the default fits every Service.
    pub selector: LabelSelector,
    /// `services.types`: the fields that VIPs are taken from, by default only the load balancer's.
    pub types: BTreeSet<VipKind>,
    /// `services.load_balancer_classes`: the values of `spec.loadBalancerClass` whose load balancer addresses are
    /// taken; empty is any, and Services without a class.
    pub load_balancer_classes: BTreeSet<String>,
    /// `services.drain_taints`: the keys of the taints that drain this node.
    pub drain_taints: BTreeSet<String>,
    /// `services.cordon` is `withdraw`: a node that takes no new pods takes no traffic either. By default it does,
    /// because its pods still run (kubernetes/kubernetes#65013 was the regression when it did not).
    pub cordon_withdraws: bool,
    /// `bgp.attributes.*`: what VIPs are advertised with where their Service says nothing.
    pub attributes: Attributes,
    /// `bgp.attributes.from_services`: whether it may say anything.
    pub attributes_from_services: bool,
}

impl Selection {
    /// The default selection: the load balancer addresses of all Services.
    #[must_use]
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            namespaces: BTreeSet::new(),
            selector: LabelSelector::default(),
            types: BTreeSet::from([VipKind::LoadBalancer]),
            load_balancer_classes: BTreeSet::new(),
            drain_taints: BTreeSet::new(),
            cordon_withdraws: false,
            attributes: Attributes::default(),
            attributes_from_services: true,
        }
    }
}

/// A label selector as `kubectl -l` takes it: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Selector);

impl LabelSelector {
    /// Whether the labels fit every requirement.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.matches(labels)
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a label selector cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SelectorError {
    /// A requirement is empty, as in `a=b,,c`.
    #[error("a requirement is empty")]
    Empty,
    /// Brackets that do not pair.
    #[error("`{0}`: the values of `in` and `notin` stand in one pair of brackets, as in `in (a,b)`")]
    Brackets(String),
    /// Not a label key.
    #[error("`{0}` is not a label key (letters, digits, `-_.`, at most 63, with an optional DNS prefix and `/`)")]
    Key(String),
    /// Not a label value.
    #[error("`{0}` is not a label value (letters, digits, `-_.`, at most 63)")]
    Value(String),
    /// Neither of the operators.
    #[error("`{0}`: only `=`, `==`, `!=`, `in`, `notin`, `key` and `!key` are known")]
    Operator(String),
}

impl FromStr for LabelSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let expressions = requirements(text)?.into_iter().map(requirement).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(expressions.into_iter().collect()))
    }
}

/// Splits at the commas outside of brackets.
fn requirements(text: &str) -> Result<Vec<&str>, SelectorError> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match (c, inside) {
            ('(', false) => inside = true,
            (')', true) => inside = false,
            ('(', true) | (')', false) => return Err(SelectorError::Brackets(text.to_owned())),
            (',', false) => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(SelectorError::Brackets(text.to_owned()));
    }
    parts.push(text[start..].trim());
    Ok(parts)
}

fn requirement(text: &str) -> Result<Expression, SelectorError> {
    if text.is_empty() {
        return Err(SelectorError::Empty);
    }
    if let Some((head, values)) = text.split_once('(') {
        return set_requirement(text, head, values);
    }
    if let Some((k, v)) = text.split_once("!=") {
        return Ok(Expression::NotEqual(key(k)?, value(v)?));
    }
    if let Some((k, v)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Expression::Equal(key(k)?, value(v)?));
    }
    if let Some(k) = text.strip_prefix('!') {
        return Ok(Expression::DoesNotExist(key(k)?));
    }
    if text.contains(['<', '>']) || text.split_whitespace().count() > 1 {
        return Err(SelectorError::Operator(text.to_owned()));
    }
    Ok(Expression::Exists(key(text)?))
}

fn set_requirement(text: &str, head: &str, values: &str) -> Result<Expression, SelectorError> {
    let Some((values, "")) = values.split_once(')').map(|(values, rest)| (values, rest.trim())) else {
        return Err(SelectorError::Brackets(text.to_owned()));
    };
    let values = values.split(',').map(value).collect::<Result<BTreeSet<_>, _>>()?;
    match head.split_whitespace().collect::<Vec<_>>()[..] {
        [k, "in"] => Ok(Expression::In(key(k)?, values)),
        [k, "notin"] => Ok(Expression::NotIn(key(k)?, values)),
        _ => Err(SelectorError::Operator(text.to_owned())),
    }
}

/// A label key: an optional DNS prefix and `/`, then a name.
fn key(text: &str) -> Result<String, SelectorError> {
    let text = text.trim();
    let (prefix, name) = text.split_once('/').map_or((None, text), |(p, n)| (Some(p), n));
    let prefix_fits = prefix.is_none_or(|prefix| {
        prefix.len() <= 253
            && prefix
                .split('.')
                .all(|label| is_name(label) && !label.contains(|c: char| c == '_' || c.is_ascii_uppercase()))
    });
    if prefix_fits && is_name(name) { Ok(text.to_owned()) } else { Err(SelectorError::Key(text.to_owned())) }
}

fn value(text: &str) -> Result<String, SelectorError> {
    let text = text.trim();
    if text.is_empty() || is_name(text) { Ok(text.to_owned()) } else { Err(SelectorError::Value(text.to_owned())) }
}

/// The rule that label names and label values share.
fn is_name(text: &str) -> bool {
    let ends_fit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && ends_fit(text.chars().next())
        && ends_fit(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn selectors_mean_what_kubectl_means() {
        for (selector, set, fits) in [
            ("", "", true),
            ("a=b", "a=b", true),
            ("a==b", "a=b", true),
            ("a = b", "a=c", false),
            ("a!=b", "", true),
            ("a!=b", "a=b", false),
            ("a in (b,c)", "a=c", true),
            ("a in (b, c)", "", false),
            ("a notin (b,c)", "", true),
            ("a notin (b,c)", "a=b", false),
            ("a", "a=", true),
            ("a", "", false),
            ("!a", "", true),
            ("! a", "a=b", false),
            ("a=", "a=", true),
            ("a=b,app.kubernetes.io/name in (x,y),!z", "a=b,app.kubernetes.io/name=y", true),
            ("a=b,app.kubernetes.io/name in (x,y),!z", "a=b,app.kubernetes.io/name=y,z=1", false),
        ] {
            let parsed: LabelSelector = selector.parse().unwrap();
            assert_eq!(parsed.matches(&labels(set)), fits, "`{selector}` on `{set}`");
            assert_eq!(parsed.to_string().parse(), Ok(parsed), "`{selector}` written and read again");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let of = |text: &str| text.parse::<LabelSelector>().unwrap_err();
        assert_eq!(of("a=b,,c"), SelectorError::Empty);
        assert_eq!(of("a=b,"), SelectorError::Empty);
        assert_eq!(of("a in (b"), SelectorError::Brackets("a in (b".into()));
        assert_eq!(of("a in b)"), SelectorError::Brackets("a in b)".into()));
        assert_eq!(of("a in (b) c"), SelectorError::Brackets("a in (b) c".into()));
        assert_eq!(of("a within (b)"), SelectorError::Operator("a within (b)".into()));
        assert_eq!(of("a > 1"), SelectorError::Operator("a > 1".into()));
        assert_eq!(of("a b"), SelectorError::Operator("a b".into()));
        assert_eq!(of("-a=b"), SelectorError::Key("-a".into()));
        assert_eq!(of("A_b.example/x"), SelectorError::Key("A_b.example/x".into()));
        assert_eq!(of("=b"), SelectorError::Key(String::new()));
        assert_eq!(of("a=b c"), SelectorError::Value("b c".into()));
        assert_eq!(of(&format!("a={}", "x".repeat(64))), SelectorError::Value("x".repeat(64)));
    }
}
