//! What can go wrong between cosmolet and bgpd's vty socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::observed::BgpFault;
use crate::engine::types::Vrf;

/// An error of the edge; one variant for each thing the caller does differently.
#[derive(Debug, thiserror::Error)]
pub enum FrrError {
    /// There is no socket, or nobody listens on it.
    #[error("cannot connect to {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What `connect` said.
        source: io::Error,
    },
    /// The socket refuses this user.
    #[error("not permitted to connect to {} (it wants the group frrvty)", path.display())]
    PermissionDenied {
        /// The socket.
        path: PathBuf,
    },
    /// bgpd closed the connection: it ended, or the socket was replaced.
    #[error("bgpd closed the connection")]
    Closed,
    /// bgpd gave no reply in time. What was sent may have been carried out, or still will be.
    #[error("bgpd gave no reply within {0:?}")]
    Timeout(Duration),
    /// The VRF's instance was there when the configuration was read, and is not any more.
    #[error("FRR has no `router bgp` in the VRF {0} any more")]
    InstanceGone(Vrf),
    /// bgpd answered something that no vty server sends.
    #[error("bgpd's reply cannot be understood: {0}")]
    Garbled(String),
}

impl FrrError {
    /// Sorts the error of a `connect`.
    #[must_use]
    pub fn from_connect(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::PermissionDenied {
            Self::PermissionDenied { path }
        } else if source.kind() == io::ErrorKind::WouldBlock {
            // A full backlog: somebody owns the socket but does not accept.
            Self::Timeout(Duration::ZERO)
        } else {
            Self::Unreachable { path, source }
        }
    }

    /// The state that the engine is told.
    #[must_use]
    pub fn fault(&self) -> BgpFault {
        match self {
            Self::Unreachable { .. } | Self::Closed => BgpFault::Unreachable(self.to_string()),
            Self::PermissionDenied { .. } => BgpFault::PermissionDenied(self.to_string()),
            Self::Timeout(_) => BgpFault::Silent,
            Self::InstanceGone(vrf) => BgpFault::NoInstance { vrf: vrf.clone(), others: Vec::new() },
            Self::Garbled(what) => BgpFault::BadReply(what.clone()),
        }
    }
}

impl From<io::Error> for FrrError {
    /// An error on an open connection: whatever the kernel calls it, the connection is of no use any more.
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}
