//! Who advertises what: the short answer of one daemon, and the sum of many.
//!
//! Pure. Owns the words of `/api/v1/advertised`. Never counts a VIP that this node does not want itself: what other
//! nodes say adds to the counts and to nothing else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::book::Book;
use crate::engine::status::{VipState, VipStatus};
use crate::engine::types::{ServiceKey, Timestamp};

/// The answer of `/api/v1/advertised`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advertised {
    /// The node's name.
    pub node: String,
    /// The VIPs that it advertises now.
    pub vips: Vec<IpAddr>,
}

impl Advertised {
    /// Reads the book.
    #[must_use]
    pub fn of(book: &Book) -> Self {
        let rows = book.rows();
        let statuses = rows.values().filter_map(|row| row.status.as_ref());
        let vips = statuses.filter(|status| status.state.is_advertised()).map(|status| status.vip.address());
        let vips = vips.collect();
        drop(rows);
        Self { node: book.summary().node, vips }
    }
}

/// A VIP that some Service wants and that may be advertised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The Services.
    pub services: Vec<ServiceKey>,
    /// The nodes that advertise it.
    pub nodes: u32,
}

/// The cluster's figures, as the leader has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Every wanted VIP.
    pub vips: BTreeMap<IpAddr, Wanted>,
    /// Nodes that have answered.
    pub answering: u32,
    /// Nodes that have not, with the reason: what they advertise is in no count.
    pub unknown: Vec<(String, String)>,
}

/// Figures that hold until leadership may be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated {
    /// The figures.
    pub statistics: Statistics,
    /// The end of their time.
    pub until: Timestamp,
}

impl Statistics {
    /// What this node wants, with nobody advertising it yet.
    #[must_use]
    pub fn wanted(book: &Book) -> Self {
        let rows = book.rows();
        let wanted = |status: &VipStatus| status.state != VipState::Refused && !status.services.is_empty();
        let statuses = rows.values().filter_map(|row| row.status.as_ref()).filter(|status| wanted(status));
        let vips = statuses.map(|status| {
            let services = status.services.iter().map(|claim| claim.service.clone()).collect();
            (status.vip.address(), Wanted { services, nodes: 0 })
        });
        Self { vips: vips.collect(), ..Self::default() }
    }

    /// Adds what a node has said, or why it has said nothing.
    pub fn add(&mut self, node: &str, answer: Result<Advertised, String>) {
        match answer {
            Ok(answer) if answer.node == node => {
                self.answering += 1;
                let mut vips = answer.vips;
                vips.sort_unstable();
                vips.dedup();
                for vip in vips {
                    if let Some(wanted) = self.vips.get_mut(&vip) {
                        wanted.nodes += 1;
                    }
                }
            }
            Ok(answer) => self.unknown.push((node.to_owned(), format!("another node answers: {:?}", answer.node))),
            Err(why) => self.unknown.push((node.to_owned(), why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wanted_vips_and_answers_of_the_right_node_count() {
        let (vip, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut sum = Statistics::default();
        sum.vips.insert(vip, Wanted::default());
        let answer = |node: &str, vips: &[IpAddr]| Ok(Advertised { node: node.to_owned(), vips: vips.to_vec() });
        sum.add("a", answer("a", &[vip, vip, other]));
        sum.add("b", answer("b", &[]));
        sum.add("c", answer("b", &[vip]));
        sum.add("d", Err("refused".to_owned()));
        assert_eq!((sum.vips[&vip].nodes, sum.vips.len(), sum.answering), (1, 1, 2));
        assert_eq!(sum.unknown.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>(), ["c", "d"]);
    }
}
