//! The API server's audit log: who asked what of it, and whether rules of RBAC cover that. Pure but for reading the file.

use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::Value;

/// The daemon's user and nobody else, without bodies.
pub(super) const POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    users: ['system:serviceaccount:cosmolet-system:cosmolet']
  - level: None
";

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// Such as `list`.
    pub verb: String,
    /// Empty for the core group.
    pub group: String,
    /// With its subresource, as `nodes/status`; empty where it is no resource at all.
    pub resource: String,
    /// Empty for all.
    pub namespace: String,
    /// Empty where none is named.
    pub name: String,
    /// The query's `fieldSelector`, decoded as far as `=` goes.
    pub fields: String,
    /// The path and the query.
    pub uri: String,
    /// The answer's status.
    pub code: u64,
}

impl Request {
    fn parse(line: &str) -> Result<Self> {
        let entry: Value = serde_json::from_str(line).with_context(|| format!("audit log: {line}"))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &entry["objectRef"];
        let resource = match object["subresource"].as_str() {
            Some(sub) => format!("{}/{sub}", text(&object["resource"])),
            None => text(&object["resource"]),
        };
        let uri = text(&entry["requestURI"]);
        let query = uri.split_once('?').map_or("", |(_, query)| query);
        let fields = query.split('&').find_map(|part| part.strip_prefix("fieldSelector=")).unwrap_or_default();
        Ok(Self {
            verb: text(&entry["verb"]),
            group: text(&object["apiGroup"]),
            resource,
            namespace: text(&object["namespace"]),
            name: text(&object["name"]),
            fields: fields.replace("%3D", "="),
            code: entry["responseStatus"]["code"].as_u64().unwrap_or_default(),
            uri,
        })
    }

    fn covered_by(&self, rule: &PolicyRule) -> bool {
        let names = |list: &Option<Vec<String>>, wanted: &str| list.iter().flatten().any(|name| name == wanted);
        let named = rule.resource_names.as_ref().is_none_or(|names| names.is_empty() || names.contains(&self.name));
        names(&rule.api_groups, &self.group)
            && names(&rule.resources, &self.resource)
            && rule.verbs.contains(&self.verb)
            && named
    }
}

/// The requests that neither these rules, nor those for one namespace, give a right to.
#[must_use]
pub fn uncovered(requests: &[Request], anywhere: &[PolicyRule], namespace: &str, there: &[PolicyRule]) -> Vec<Request> {
    let covered = |request: &Request| {
        anywhere.iter().any(|rule| request.covered_by(rule))
            || (request.namespace == namespace && there.iter().any(|rule| request.covered_by(rule)))
    };
    requests.iter().filter(|request| !covered(request)).cloned().collect()
}

pub(super) fn read(log: &Path) -> Result<Vec<Request>> {
    let text = std::fs::read_to_string(log).with_context(|| log.display().to_string())?;
    // The last line may be half written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(Request::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(group: &str, resource: &str, verbs: &[&str], names: &[&str]) -> PolicyRule {
        let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        PolicyRule {
            api_groups: Some(strings(&[group])),
            resources: Some(strings(&[resource])),
            resource_names: (!names.is_empty()).then(|| strings(names)),
            verbs: strings(verbs),
            ..PolicyRule::default()
        }
    }

    #[test]
    fn a_request_is_held_against_rules() {
        let line = r#"{"verb":"list","requestURI":"/api/v1/pods?limit=100&fieldSelector=spec.nodeName%3Dnode1",
            "objectRef":{"resource":"pods","apiVersion":"v1"},"responseStatus":{"code":200}}"#;
        let request = Request::parse(&line.replace('\n', "")).unwrap();
        assert_eq!((request.fields.as_str(), request.code), ("spec.nodeName=node1", 200));
        let all = [request];
        let left = |anywhere: &[PolicyRule], there: &[PolicyRule]| uncovered(&all, anywhere, "x", there).len();
        assert_eq!(left(&[rule("", "pods", &["list"], &[])], &[]), 0);
        assert_eq!(left(&[], &[rule("", "pods", &["list"], &[])]), 1);
        for wrong in [
            rule("apps", "pods", &["list"], &[]),
            rule("", "pods", &["watch"], &[]),
            rule("", "pods", &["list"], &["a"]),
        ] {
            assert_eq!(left(&[wrong], &[]), 1);
        }
    }
}
