//! The runtime that the logging macros of `aya-log-ebpf-macros` call.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::RingBuf;
use aya_ebpf::macros::btf_map;
pub(crate) use aya_log_common::{
    Argument, DefaultFormatter, DisplayHint, Field, Header, IpFormatter, Level, LogValueLength,
};

/// The records, read by `aya_log::EbpfLogger`.
#[btf_map]
pub(crate) static AYA_LOGS: RingBuf<[u8; 0], { 1 << 17 }> = RingBuf::new();

/// The level, set at load; the verifier removes what it rules out.
#[unsafe(no_mangle)]
pub(crate) static AYA_LOG_LEVEL: Global<u8> = Global::new(0);

/// Tells whether records of this level are wanted.
#[inline(always)]
pub(crate) fn level_enabled(level: Level) -> bool {
    level as u8 <= AYA_LOG_LEVEL.load()
}
