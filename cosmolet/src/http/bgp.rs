//! What FRR holds, as JSON: its sessions, and each VIP in its RIB.

use serde::{Deserialize, Serialize};

use crate::engine::observed::{BgpState, PeerView, RibState, UnixSeconds};

/// FRR.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BgpStatus {
    /// `up`, `down` or `disabled`.
    pub state: String,
    /// Why it is down, in a word.
    pub reason: Option<String>,
    /// Why it is down, in a sentence.
    pub error: Option<String>,
    /// The local AS number.
    pub asn: Option<u32>,
    /// `connected` or `dynamic`.
    pub ipv4_mode: Option<String>,
    /// `connected` or `dynamic`.
    pub ipv6_mode: Option<String>,
    /// The peers.
    pub peers: Vec<PeerRow>,
}

/// A BGP peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// As FRR names it.
    pub name: String,
    /// The session is Established.
    pub established: bool,
    /// Since when, in seconds since 1970, by FRR's account.
    #[serde(default)]
    pub since: Option<u32>,
    /// `up` or `down`, as BFD finds it; nothing where BFD does not watch it.
    #[serde(default)]
    pub bfd: Option<String>,
}

/// What FRR's RIB holds for a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RibRow {
    /// A valid path of this node is there.
    pub valid: bool,
    /// It is the best one.
    pub best: bool,
    /// Since when that path is as it is, in seconds since 1970, by FRR's account.
    #[serde(default)]
    pub since: Option<u32>,
    /// How many peers it is advertised to.
    pub advertised_to: u32,
    /// Those peers, as FRR names them.
    #[serde(default)]
    pub peers: Vec<String>,
}

pub(super) fn bgp(state: &BgpState) -> BgpStatus {
    let mut status = BgpStatus {
        state: "disabled".to_owned(),
        reason: None,
        error: None,
        asn: None,
        ipv4_mode: None,
        ipv6_mode: None,
        peers: Vec::new(),
    };
    match state {
        BgpState::Disabled => {}
        BgpState::Down(fault) => {
            status.state = "down".to_owned();
            status.reason = Some(fault.as_str().to_owned());
            status.error = Some(fault.to_string());
        }
        BgpState::Up(view) => {
            status.state = "up".to_owned();
            status.asn = Some(view.asn);
            status.ipv4_mode = Some(view.modes.v4.to_string());
            status.ipv6_mode = Some(view.modes.v6.to_string());
            status.peers = view.peers.iter().map(peer).collect();
        }
    }
    status
}

fn peer(view: &PeerView) -> PeerRow {
    PeerRow {
        name: view.name.clone(),
        established: view.established,
        since: view.since.map(UnixSeconds::get),
        bfd: view.bfd.map(|up| if up { "up" } else { "down" }.to_owned()),
    }
}

pub(super) fn rib(state: &RibState) -> RibRow {
    RibRow {
        valid: state.valid,
        best: state.best,
        since: state.since.map(UnixSeconds::get),
        advertised_to: u32::try_from(state.advertised_to.len()).unwrap_or(u32::MAX),
        peers: state.advertised_to.to_vec(),
    }
}
