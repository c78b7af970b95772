//! What is counted.

use aya_log_ebpf_macros::{debug, trace};
use cosmolet_common::packet::{flag, protocol};
use cosmolet_common::parse::{self, Start};
use cosmolet_common::{Addresses, Counters, Family, Packet, Parsed, VipPortKey, handshake};

use crate::maps::{counters, expect_ack, maybe_declared, oddities, take_ack};
use crate::skb::{Direct, Relative, Skb};

/// From clients.
pub(crate) const IN: bool = false;
/// To clients.
pub(crate) const OUT: bool = true;

/// Counts a packet of a device whose link header has `LINK` bytes: at fixed offsets if it is plain, else by
/// [`examine_apart`].
#[inline(always)]
pub(crate) fn classify<const DIRECTION: bool, const LINK: u32>(skb: Skb) {
    let Some(family) = skb.family() else { return };
    let done = match (Direct::new(skb), family) {
        (Some(direct), Family::V4) => classify_plain::<DIRECTION, LINK>(skb, &direct, Family::V4),
        (Some(direct), Family::V6) => classify_plain::<DIRECTION, LINK>(skb, &direct, Family::V6),
        (None, _) => None,
    };
    if done.is_none() {
        examine_apart::<DIRECTION, LINK>(skb);
    }
}

/// Does it for one family, known when compiled. `None` if the packet is not plain.
#[inline(always)]
fn classify_plain<const DIRECTION: bool, const LINK: u32>(
    skb: Skb,
    direct: &Direct<LINK>,
    family: Family,
) -> Option<()> {
    let start = Start::read(direct, family)?;
    let key = if DIRECTION == IN { start.destination() } else { start.source() };
    if !maybe_declared(&key) {
        return Some(());
    }
    let Some(counters) = counters(&key) else { return Some(()) };
    let segments = skb.gso_segs();
    let packet = start.packet(direct, segments > 1)?;
    count::<DIRECTION>(skb, counters, &packet, segments, LINK);
    Some(())
}

/// A function of its own, so that what is rare does not slow what is not.
#[inline(never)]
fn examine_apart<const DIRECTION: bool, const LINK: u32>(skb: Skb) {
    examine::<DIRECTION, LINK, false>(skb);
}

/// Counts any packet; `LOG` tells of what is found.
#[inline(always)]
pub(crate) fn examine<const DIRECTION: bool, const LINK: u32, const LOG: bool>(skb: Skb) {
    let Some(family) = skb.family() else { return };
    let segments = skb.gso_segs();
    match parse::full(&Relative(skb), family, segments > 1) {
        Parsed::Packet(packet) => {
            if LOG {
                log_packet::<DIRECTION>(skb, &packet);
            }
            if let Some(counters) = counters(&key::<DIRECTION>(&packet)) {
                count::<DIRECTION>(skb, counters, &packet, segments, LINK);
            }
        }
        Parsed::Unreachable(quoted) => {
            if DIRECTION == OUT && skb.ingress_ifindex() == 0 {
                count_unreachable::<LOG>(skb, &quoted);
            }
        }
        Parsed::Fragment(addresses) => match counters(&whole::<DIRECTION>(&addresses)) {
            Some(counters) => counters.fragments += 1,
            None => add(Oddity::Fragment),
        },
        Parsed::Truncated(addresses) => {
            if LOG {
                debug!(&skb, "truncated before its ports");
            }
            match counters(&whole::<DIRECTION>(&addresses)) {
                Some(counters) => counters.truncated += 1,
                None => add(Oddity::Truncated),
            }
        }
        Parsed::TruncatedHeader => {
            if LOG {
                debug!(&skb, "truncated inside its IP header");
            }
            add(Oddity::Truncated);
        }
        Parsed::Unparsable => {
            if LOG {
                debug!(&skb, "headers make no sense");
            }
            add(Oddity::Unparsable);
        }
        Parsed::Other => {}
    }
}

#[inline(always)]
fn count<const DIRECTION: bool>(skb: Skb, counters: &mut Counters, packet: &Packet, segments: u32, link: u32) {
    let segments = u64::from(if segments == 0 { 1 } else { segments });
    let bytes = u64::from(skb.len() - link);
    if DIRECTION == IN {
        counters.packets_in += segments;
        counters.bytes_in += bytes;
    } else {
        counters.packets_out += segments;
        counters.bytes_out += bytes;
    }
    if packet.protocol != protocol::TCP {
        return;
    }
    if packet.has(flag::FIN) {
        counters.fin += 1;
    }
    if DIRECTION == IN {
        count_tcp_in(counters, packet);
    } else {
        count_tcp_out(counters, packet, skb.ingress_ifindex() == 0);
    }
}

#[inline(always)]
fn count_tcp_in(counters: &mut Counters, packet: &Packet) {
    if packet.has(flag::RST) {
        counters.rst_client += 1;
    } else if packet.has(flag::SYN) {
        if !packet.has(flag::ACK) {
            counters.syn += 1;
        }
    } else if packet.has(flag::ACK) {
        let Addresses { source, destination } = packet.addresses;
        let slot = handshake::slot(destination, packet.destination_port, source, packet.source_port);
        if take_ack(slot, handshake::marker(packet.acknowledgement)) {
            counters.completed += 1;
        }
    }
}

#[inline(always)]
fn count_tcp_out(counters: &mut Counters, packet: &Packet, host: bool) {
    if packet.has(flag::RST) {
        if host {
            counters.rst_host += 1;
        } else {
            counters.rst_backend += 1;
        }
    } else if packet.has(flag::SYN | flag::ACK) {
        if host {
            counters.syn_ack_host += 1;
        } else {
            counters.syn_ack += 1;
        }
        let Addresses { source, destination } = packet.addresses;
        let slot = handshake::slot(source, packet.source_port, destination, packet.destination_port);
        expect_ack(slot, handshake::expected(packet));
    }
}

/// The quoted packet is the client's: its destination is the VIP.
#[inline(always)]
fn count_unreachable<const LOG: bool>(skb: Skb, quoted: &Packet) {
    let key = key::<IN>(quoted);
    let Some(counters) = counters(&key) else { return };
    counters.unreachable_host += 1;
    if LOG {
        debug!(&skb, "this host says unreachable for {:i} port {}", octets(quoted.addresses.destination), key.port());
    }
}

#[inline(always)]
fn log_packet<const DIRECTION: bool>(skb: Skb, packet: &Packet) {
    if counters(&key::<DIRECTION>(packet)).is_none() {
        return;
    }
    if DIRECTION == OUT && packet.has(flag::RST) && skb.ingress_ifindex() == 0 {
        debug!(&skb, "this host refuses {:i} port {}", octets(packet.addresses.source), packet.source_port);
    }
    trace!(
        &skb,
        "protocol {} from {:i} port {} to {:i} port {}, flags {}, arrived on {}",
        packet.protocol,
        octets(packet.addresses.source),
        packet.source_port,
        octets(packet.addresses.destination),
        packet.destination_port,
        packet.flags,
        skb.ingress_ifindex()
    );
}

#[inline(always)]
fn key<const DIRECTION: bool>(packet: &Packet) -> VipPortKey {
    if DIRECTION == IN {
        VipPortKey::new(packet.addresses.destination, packet.protocol, packet.destination_port)
    } else {
        VipPortKey::new(packet.addresses.source, packet.protocol, packet.source_port)
    }
}

#[inline(always)]
fn whole<const DIRECTION: bool>(addresses: &Addresses) -> VipPortKey {
    VipPortKey::whole(if DIRECTION == IN { addresses.destination } else { addresses.source })
}

enum Oddity {
    Truncated,
    Unparsable,
    Fragment,
}

#[inline(always)]
fn add(oddity: Oddity) {
    let Some(oddities) = oddities() else { return };
    match oddity {
        Oddity::Truncated => oddities.truncated += 1,
        Oddity::Unparsable => oddities.unparsable += 1,
        Oddity::Fragment => oddities.fragments += 1,
    }
}

#[inline(always)]
fn octets(address: [u32; 4]) -> [u8; 16] {
    // SAFETY: the same sixteen bytes.
    unsafe { core::mem::transmute(address) }
}
