//! `kubernetes.*`: what the daemon tells in Kubernetes' own words.

use std::net::SocketAddr;

use super::parse::{ConfigError, rule};
use super::raw::RawKubernetes;
use super::{Kubernetes, Source};

/// The keys mean nothing while the Services come from files, and statistics need daemons that can ask each other.
pub(super) fn validate(raw: &RawKubernetes, source: &Source, http: SocketAddr) -> Result<Kubernetes, ConfigError> {
    let from_files = matches!(source, Source::Manifests(_));
    let asked = [
        ("kubernetes.events", raw.events == Some(true)),
        ("kubernetes.node_condition", raw.node_condition),
        ("kubernetes.statistics", raw.statistics),
    ];
    if let Some((key, _)) = asked.iter().find(|(_, asked)| *asked && from_files) {
        return Err(rule(key, true, "contradicts services.manifests: files have no API server; remove one of them"));
    }
    if raw.statistics && http.ip().is_loopback() {
        return Err(rule(
            "kubernetes.statistics",
            true,
            format!(
                "the other nodes cannot ask this one at http.listen {http}; listen on 0.0.0.0, [::] or the node's address"
            ),
        ));
    }
    if let Some(name) = raw.namespace.as_deref().filter(|name| !is_label(name)) {
        return Err(rule(
            "kubernetes.namespace",
            name,
            "must be a namespace's name: lower-case letters, digits and -, at most 63",
        ));
    }
    Ok(Kubernetes {
        events: raw.events.unwrap_or(!from_files),
        node_condition: raw.node_condition,
        statistics: raw.statistics,
        namespace: raw.namespace.clone(),
    })
}

/// A DNS label (RFC 1123), which is what names a namespace.
#[must_use]
pub fn is_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
