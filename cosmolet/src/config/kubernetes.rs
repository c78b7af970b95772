//! `kubernetes.*`: what the daemon tells in Kubernetes' own words.

use super::parse::{ConfigError, rule};
use super::raw::RawKubernetes;
use super::{Kubernetes, Source};

/// The keys mean nothing while the Services come from files.
pub(super) fn validate(raw: &RawKubernetes, source: &Source) -> Result<Kubernetes, ConfigError> {
    let from_files = matches!(source, Source::Manifests(_));
    if raw.events == Some(true) && from_files {
        let why = "contradicts services.manifests: files have no API server to tell; remove one of them";
        return Err(rule("kubernetes.events", true, why));
    }
    Ok(Kubernetes { events: raw.events.unwrap_or(!from_files) })
}
