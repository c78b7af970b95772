//! The VIPs in brief, as the status page reads them once a second: only those that have changed since.

use axum::extract::{Query, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::{Shared, json, since_1970};
use crate::book::{Book, Row};
use crate::engine::status::VipStatus;
use crate::engine::types::{Timestamp, Vip};

/// The answer of `/api/v1/vips`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vips {
    /// When the daemon was started, in seconds since 1970: another value means that nothing known so far is of any use.
    pub started: f64,
    /// What to ask for with `after` next time.
    pub revision: u64,
    /// All VIPs that there are. Who knows more has missed that one went, and asks for all of them.
    pub count: usize,
    /// Those that have changed since, in the order of their addresses.
    pub vips: Vec<VipBrief>,
}

/// One VIP in brief.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VipBrief {
    /// The address.
    pub vip: String,
    /// As in the status.
    pub state: String,
    /// Why it is not advertised, in a word.
    pub reason: Option<String>,
    /// Since when it is in this state, for this reason, in seconds since 1970.
    pub since: f64,
    /// The Services that claim it.
    pub services: Vec<ServiceBrief>,
    /// Handshakes completed since the daemon's start.
    pub handshakes: u64,
    /// RSTs and ICMP unreachables by backends and by this host since the daemon's start.
    pub refusals: u64,
}

/// A Service in brief.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceBrief {
    /// Namespace and name.
    pub service: String,
    /// What the traffic verdict says.
    pub verdict: String,
}

/// What is asked.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    /// The revision of an earlier answer; 0 is before everything.
    #[serde(default)]
    after: u64,
}

pub(super) async fn list(State(shared): State<Shared>, Query(asked): Query<Asked>) -> Response {
    json(shared, move |book| serde_json::to_vec(&Vips::after(book, asked.after))).await
}

impl Vips {
    /// Reads the book.
    #[must_use]
    pub fn after(book: &Book, revision: u64) -> Self {
        let rows = book.rows();
        let told = || rows.iter().filter_map(|(vip, row)| Some((*vip, row, row.status.as_ref()?)));
        let changed = told().filter(|(_, row, _)| row.revision > revision);
        Self {
            started: since_1970(book, Timestamp::ZERO),
            revision: book.revision(),
            count: told().count(),
            vips: changed.map(|(vip, row, status)| brief(book, vip, row, status)).collect(),
        }
    }
}

fn brief(book: &Book, vip: Vip, row: &Row, status: &VipStatus) -> VipBrief {
    let services = status
        .services
        .iter()
        .map(|claim| ServiceBrief { service: claim.service.to_string(), verdict: claim.verdict.as_str().to_owned() });
    let totals = || row.traffic.values().map(|traffic| &traffic.total);
    VipBrief {
        vip: vip.to_string(),
        state: status.state.as_str().to_owned(),
        reason: status.reason.map(|reason| reason.to_string()),
        since: since_1970(book, row.since),
        services: services.collect(),
        handshakes: totals().map(|total| total.completed).sum(),
        refusals: totals()
            .map(|total| total.rst_backend + total.rst_host + total.unreachable_host + total.unreachable_backend)
            .sum(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::event::{Handshakes, TrafficCounts, TrafficSample};
    use crate::engine::traffic::TrafficMode;
    use crate::engine::types::{Port, Protocol};

    fn vip(last: u8) -> Vip {
        Vip::new([10, 0, 0, last].into())
    }

    #[test]
    fn only_what_has_changed_since_is_told() {
        let book = Book::new("n".to_owned(), "manifests", TrafficMode::Observe);
        let status = |last| Some(crate::book::tests::pending(vip(last)));
        let names = |after| Vips::after(&book, after).vips.into_iter().map(|brief| brief.vip).collect::<Vec<_>>();
        assert!(book.try_write(|| vec![(vip(1), status(1)), (vip(2), status(2))]));
        assert_eq!(names(0), ["10.0.0.1", "10.0.0.2"]);
        let first = Vips::after(&book, 0).revision;
        assert_eq!(names(first), <[String; 0]>::default());
        let counts = TrafficCounts { completed: 3, rst_host: 2, unreachable_backend: 1, ..TrafficCounts::default() };
        let port = Port { protocol: Protocol::Tcp, number: 80 };
        let (handshakes, span) = (Handshakes::default(), Duration::from_secs(1));
        book.add_traffic(&[TrafficSample { vip: vip(2), port, counts, handshakes, span }]);
        let later = Vips::after(&book, first);
        assert_eq!((later.vips[0].vip.as_str(), later.vips[0].handshakes, later.vips[0].refusals), ("10.0.0.2", 3, 3));
        assert!(book.try_write(|| vec![(vip(2), None)]));
        let last = Vips::after(&book, later.revision);
        assert_eq!((last.count, last.vips.len()), (1, 0), "the count tells that one went");
    }
}
