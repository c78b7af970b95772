//! What can go wrong between the daemon and the programs.

use std::io;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

/// Why the programs cannot do their work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses this process: the daemon runs on the control plane alone.
    #[error("{what} is not permitted: {missing}")]
    NotPermitted {
        /// What was tried.
        what: &'static str,
        /// The missing capability, or the other reasons that are left.
        missing: String,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel cannot take the type information of the programs' maps.
    #[error("this kernel has no BTF (CONFIG_DEBUG_INFO_BTF): {0}")]
    NoBtf(#[source] EbpfError),
    /// The programs cannot be loaded for another reason; the kernel is too old, or this is our mistake.
    #[error("cannot load the programs: {0}")]
    Load(#[source] EbpfError),
    /// The object lacks a program or a map: it belongs to another version.
    #[error("the eBPF object has no {0}")]
    Missing(String),
    /// The interface is gone. Nothing to do until it is back.
    #[error("interface {0} does not exist")]
    NoInterface(String),
    /// The programs cannot be attached for another reason.
    #[error("cannot attach to {interface}: {source}")]
    Attach {
        /// The interface's name.
        interface: String,
        /// What the kernel said.
        #[source]
        source: ProgramError,
    },
    /// The maps have no room for these ports; a second later there may be, where others were removed.
    #[error("no room for {wanted} more ports: {free} of {capacity} are free (traffic.max_ports)")]
    Full {
        /// The entries that were asked for.
        wanted: usize,
        /// The entries that are free now.
        free: usize,
        /// The size of the maps.
        capacity: u32,
    },
    /// A map cannot be read or written.
    #[error("cannot use the programs' maps: {0}")]
    Map(#[from] MapError),
    /// The counters cannot be read.
    #[error("cannot read the programs' counters: {0}")]
    Read(#[source] io::Error),
}

impl Error {
    pub(super) fn from_load(error: EbpfError) -> Self {
        if refused(&error) {
            return Self::not_permitted("loading eBPF programs", error);
        }
        match error {
            EbpfError::BtfError(_) | EbpfError::NoBTF => Self::NoBtf(error),
            EbpfError::FileError { .. }
            | EbpfError::UnexpectedPinningType { .. }
            | EbpfError::ParseError(_)
            | EbpfError::RelocationError(_)
            | EbpfError::BtfRelocationError(_)
            | EbpfError::MapError(_)
            | EbpfError::ProgramError(_) => Self::Load(error),
        }
    }

    pub(super) fn from_attach(interface: &str, source: ProgramError) -> Self {
        match errno(&source) {
            Some(libc::EPERM | libc::EACCES) => Self::not_permitted("attaching eBPF programs", source),
            Some(libc::ENODEV | libc::ENXIO) => Self::NoInterface(interface.to_owned()),
            _ => Self::Attach { interface: interface.to_owned(), source },
        }
    }

    fn not_permitted(what: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::NotPermitted { what, missing: missing_capability(effective_capabilities()), source: source.into() }
    }
}

/// The error number at the bottom of an error's chain.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(code);
        }
        next = error.source();
    }
    None
}

/// EACCES is also the verifier's word for a program that it finds wrong, which a process with every capability sees.
fn refused(error: &EbpfError) -> bool {
    match errno(error) {
        Some(libc::EPERM) => true,
        Some(libc::EACCES) => effective_capabilities().is_some_and(|held| held & PERFMON == 0),
        _ => false,
    }
}

/// From linux/capability.h.
pub(crate) const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;
pub(crate) const PERFMON: u64 = 1 << 38;
pub(crate) const BPF: u64 = 1 << 39;

fn missing_capability(held: Option<u64>) -> String {
    let Some(held) = held else { return "the effective capabilities cannot be read".to_owned() };
    // SYS_ADMIN contains BPF and PERFMON.
    let held = if held & SYS_ADMIN == 0 { held } else { held | BPF | PERFMON };
    let missing: Vec<_> = [(BPF, "CAP_BPF"), (NET_ADMIN, "CAP_NET_ADMIN")]
        .iter()
        .filter(|(bit, _)| held & bit == 0)
        .map(|(_, name)| *name)
        .collect();
    match (missing.is_empty(), held & PERFMON == 0) {
        (false, _) => format!("{} is missing", missing.join(" and ")),
        (true, true) => "CAP_PERFMON is missing".to_owned(),
        (true, false) => "no capability is missing; a security module or lockdown refuses".to_owned(),
    }
}

/// This thread's effective capabilities (proc_pid_status(5), CapEff).
pub(crate) fn effective_capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_missing() {
        assert_eq!(missing_capability(Some(0)), "CAP_BPF and CAP_NET_ADMIN is missing");
        assert_eq!(missing_capability(Some(BPF)), "CAP_NET_ADMIN is missing");
        assert_eq!(missing_capability(Some(SYS_ADMIN)), "CAP_NET_ADMIN is missing");
        assert_eq!(missing_capability(Some(BPF | NET_ADMIN)), "CAP_PERFMON is missing");
        assert!(missing_capability(Some(u64::MAX)).starts_with("no capability is missing"));
    }

    #[test]
    fn own_capabilities_are_readable() {
        assert!(effective_capabilities().is_some());
    }
}
