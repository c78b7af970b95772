//! Packets as they come: the parser that the eBPF programs use, on slices of any length.
#![no_main]

use cosmolet_common::packet::{Family, Parsed};
use cosmolet_common::parse::{Start, full};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&how, packet)) = data.split_first() else { return };
    let family = if how & 1 == 0 { Family::V4 } else { Family::V6 };
    let parsed = full(packet, family, how & 2 != 0);
    if let Some(plain) = Start::read(packet, family).and_then(|start| start.packet(packet, how & 2 != 0)) {
        assert_eq!(parsed, Parsed::Packet(plain), "the fast parser read something else");
    }
    let header = if how & 1 == 0 { 20 } else { 40 };
    if packet.len() < header {
        assert_eq!(parsed, Parsed::TruncatedHeader, "{} bytes were read as a packet", packet.len());
    }
});
