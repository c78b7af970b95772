//! Forwards what the programs log to the daemon's log.

use ::log::{Level, Log, Metadata, Record};
use aya::Ebpf;
use aya_log::EbpfLogger;

use super::Error;

pub(super) struct Forwarder(EbpfLogger<Tracing>);

impl Forwarder {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, Error> {
        EbpfLogger::init_with_logger(ebpf, Tracing)
            .map(Self)
            .map_err(|error| Error::Missing(format!("log of the programs: {error}")))
    }

    pub(super) fn flush(&mut self) {
        self.0.flush();
    }
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Forwarder")
    }
}

/// Hands a record to `tracing` at its level.
struct Tracing;

impl Log for Tracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        match record.level() {
            Level::Trace => tracing::trace!(target: "cosmolet::ebpf::program", "{}", record.args()),
            Level::Error | Level::Warn | Level::Info | Level::Debug => {
                tracing::debug!(target: "cosmolet::ebpf::program", "{}", record.args());
            }
        }
    }

    fn flush(&self) {}
}
