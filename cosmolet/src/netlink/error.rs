//! What can go wrong between us and the kernel, one variant for each thing that is done about it.

use std::io;

/// Why something could not be read or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Messages were lost because nobody read them in time: read everything again, now.
    #[error("netlink messages were lost: the receive buffer overran")]
    Overrun,
    /// What was being read changed meanwhile (`NLM_F_DUMP_INTR`): read it again, shortly.
    #[error("the kernel's tables changed while they were read")]
    Interrupted,
    /// The interface does not exist; it may come.
    #[error("there is no interface {0}")]
    NoInterface(String),
    /// The kernel said no to one request; the socket is good for others.
    #[error("the kernel refused the request: {0}")]
    Refused(#[source] io::Error),
    /// The socket cannot be had or used: open another.
    #[error("netlink socket: {0}")]
    Socket(#[source] io::Error),
}

impl Error {
    /// Takes an error of the socket itself.
    pub(super) fn socket(error: io::Error) -> Self {
        if error.raw_os_error() == Some(libc::ENOBUFS) { Self::Overrun } else { Self::Socket(error) }
    }
}
