//! What is counted.

use aya_log_ebpf_macros::{debug, trace};
use cosmolet_common::follow::{self, Asked, Flow};
use cosmolet_common::handshake::UNANSWERED;
use cosmolet_common::packet::{flag, protocol};
use cosmolet_common::parse::{self, Start};
use cosmolet_common::{Addresses, Counters, Family, Packet, Parsed, VipPortKey, handshake};

use crate::maps::{Followed, counters, declared, flow, maybe_declared, oddities, wait, waiting};
use crate::skb::{Direct, Relative, Skb};

/// Adds 1 to a counter at an offset that is in the instruction. Written in Rust, LLVM would merge the ends of the
/// branches that count different things into one addition at a chosen offset, which the verifier refuses without
/// CAP_PERFMON.
macro_rules! count_one {
    ($counters:expr, $field:ident) => {{
        let counters: &mut Counters = $counters;
        // SAFETY: reads and writes the one field of what is borrowed mutably.
        unsafe {
            core::arch::asm!(
                "{sum} = *(u64 *)({counters} + {offset})",
                "{sum} += 1",
                "*(u64 *)({counters} + {offset}) = {sum}",
                counters = in(reg) counters,
                offset = const core::mem::offset_of!(Counters, $field),
                sum = out(reg) _,
            );
        }
    }};
}

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
    let Some((counters, id)) = declared(&key) else { return Some(()) };
    let segments = skb.gso_segs();
    let packet = start.packet(direct, segments > 1)?;
    count::<DIRECTION>(skb, counters, id, &packet, segments, LINK);
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
            if let Some((counters, id)) = declared(&key::<DIRECTION>(&packet)) {
                count::<DIRECTION>(skb, counters, id, &packet, segments, LINK);
            }
        }
        Parsed::Unreachable(quoted) => {
            if DIRECTION == OUT {
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
fn count<const DIRECTION: bool>(skb: Skb, counters: &mut Counters, id: u32, packet: &Packet, segments: u32, link: u32) {
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
        count_one!(counters, fin);
    }
    if DIRECTION == IN {
        count_tcp_in(counters, id, packet);
    } else {
        count_tcp_out(counters, packet, skb.ingress_ifindex() == 0);
    }
}

#[inline(always)]
fn count_tcp_in(counters: &mut Counters, id: u32, packet: &Packet) {
    let flow = from_client(packet);
    if packet.has(flag::RST) {
        count_one!(counters, rst_client);
        if !given_up(flow, packet.sequence) {
            count_one!(counters, rst_after_data_client);
        }
    } else if packet.has(flag::SYN) {
        if !packet.has(flag::ACK) {
            count_one!(counters, syn);
            // Nothing answers a SYN with FIN.
            if !packet.has(flag::FIN)
                && follow::is_chosen(&mut Followed, flow, id)
                && ask(flow, id, follow::prefix(packet.addresses.source), packet.sequence)
            {
                count_one!(counters, syn_retransmitted);
            }
        }
    } else if packet.has(flag::ACK) {
        let waits = waiting(flow.slot());
        if waits != 0 && acknowledge(flow, waits, packet.sequence, packet.acknowledgement) {
            count_one!(counters, completed);
        }
    }
}

/// True if the SYN repeats one. A function of its own, for the same reason as `examine_apart`; so are the next ones.
#[inline(never)]
fn ask(flow: Flow, id: u32, prefix: u32, sequence: u32) -> bool {
    match follow::syn(&mut Followed, flow, id, prefix, sequence) {
        Asked::Followed => {
            wait(flow.slot(), |waits| waits | UNANSWERED);
            false
        }
        Asked::Passed => false,
        Asked::Repeated => true,
        Asked::Full => {
            add(Oddity::Unfollowed);
            false
        }
    }
}

/// True if the ACK completes a handshake whose answer was seen; something waits in its slot.
#[inline(never)]
fn acknowledge(flow: Flow, waits: u64, sequence: u32, acknowledgement: u32) -> bool {
    let completes = waits as u32 == handshake::marker(acknowledgement);
    if !completes && waits & UNANSWERED == 0 {
        return false;
    }
    let moved = follow::ack(&mut Followed, flow, sequence, acknowledgement);
    if completes {
        wait(flow.slot(), |waits| waits & UNANSWERED);
    } else if moved {
        wait(flow.slot(), |waits| waits & !UNANSWERED);
    }
    completes
}

/// True if the client resets what was not complete yet.
#[inline(never)]
fn given_up(flow: Flow, sequence: u32) -> bool {
    follow::given_up(&mut Followed, flow, sequence) || waiting(flow.slot()) as u32 != 0
}

#[inline(always)]
fn count_tcp_out(counters: &mut Counters, packet: &Packet, host: bool) {
    if packet.has(flag::RST) {
        refuse(to_client(packet), host);
        if host {
            count_one!(counters, rst_host);
        } else {
            count_one!(counters, rst_backend);
            // One that answers a SYN has no number of its own (RFC 9293, 3.10.7.1).
            if packet.sequence != 0 || !packet.has(flag::ACK) {
                count_one!(counters, rst_after_data_backend);
            }
        }
    } else if packet.has(flag::SYN | flag::ACK) {
        if host {
            count_one!(counters, syn_ack_host);
        } else {
            count_one!(counters, syn_ack);
        }
        let flow = to_client(packet);
        let answers = follow::is_followed(&mut Followed, flow) && answer(flow, packet.sequence);
        // What else waits in the slot goes on waiting.
        let others = if answers { 0 } else { UNANSWERED };
        wait(flow.slot(), |waits| u64::from(handshake::expected(packet.sequence)) | waits & others);
    }
}

/// True if it is the first answer to a followed SYN.
#[inline(never)]
fn answer(flow: Flow, sequence: u32) -> bool {
    follow::syn_ack(&mut Followed, flow, sequence)
}

#[inline(never)]
fn refuse(flow: Flow, host: bool) {
    follow::refusal(&mut Followed, flow, host);
}

/// The quoted packet is the client's: its destination is the VIP.
#[inline(always)]
fn count_unreachable<const LOG: bool>(skb: Skb, quoted: &Packet) {
    let key = key::<IN>(quoted);
    let Some(counters) = counters(&key) else { return };
    let host = skb.ingress_ifindex() == 0;
    if quoted.protocol == protocol::TCP {
        refuse(from_client(quoted), host);
    }
    if !host {
        count_one!(counters, unreachable_backend);
        return;
    }
    count_one!(counters, unreachable_host);
    if LOG {
        debug!(&skb, "this host says unreachable for {:i} port {}", octets(quoted.addresses.destination), key.port());
    }
}

#[inline(always)]
fn from_client(packet: &Packet) -> Flow {
    let Addresses { source, destination } = packet.addresses;
    flow(destination, packet.destination_port, source, packet.source_port)
}

#[inline(always)]
fn to_client(packet: &Packet) -> Flow {
    let Addresses { source, destination } = packet.addresses;
    flow(source, packet.source_port, destination, packet.destination_port)
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
    Unfollowed,
}

#[inline(always)]
fn add(oddity: Oddity) {
    let Some(oddities) = oddities() else { return };
    match oddity {
        Oddity::Truncated => oddities.truncated += 1,
        Oddity::Unparsable => oddities.unparsable += 1,
        Oddity::Fragment => oddities.fragments += 1,
        Oddity::Unfollowed => oddities.unfollowed += 1,
    }
}

#[inline(always)]
fn octets(address: [u32; 4]) -> [u8; 16] {
    // SAFETY: the same sixteen bytes.
    unsafe { core::mem::transmute(address) }
}
