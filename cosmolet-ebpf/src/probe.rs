//! Wire-true probes: recognises them by their source, which no client has, keeps them out of the counts, and hands what
//! would leave the node to the daemon instead.

use core::hint::black_box;

use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::btf_maps::RingBuf;
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_skb_load_bytes_relative, bpf_skb_pull_data};
use aya_ebpf::macros::btf_map;
use cosmolet_common::probe::{Caught, LONG, Prefix, SHORT};
use cosmolet_common::{Family, Source};

use crate::count::IN;
use crate::skb::{Direct, Relative, Skb};

/// The sources of probes, set at load; without them nothing is a probe.
#[unsafe(no_mangle)]
static PROBE_V4: Global<Prefix> = Global::new(Prefix::NONE);
#[unsafe(no_mangle)]
static PROBE_V6: Global<Prefix> = Global::new(Prefix::NONE);

/// What was caught, read by the daemon.
#[btf_map]
static PROBE_CAUGHT: RingBuf<[u8; 0], { 1 << 18 }> = RingBuf::new();

/// Whether a packet that comes is from a probe's source, or one that goes is to or from it: what was sent to nobody may
/// well be routed back to where it seems to come from.
#[inline(always)]
pub(crate) fn is_ours<const DIRECTION: bool, const LINK: u32>(skb: Skb) -> bool {
    let Some(family) = skb.family() else { return false };
    match Direct::<LINK>::new(skb) {
        Some(direct) => matches::<DIRECTION, _>(&direct, family),
        None => matches::<DIRECTION, _>(&Relative(skb), family),
    }
}

#[inline(always)]
fn matches<const DIRECTION: bool, S: Source>(source: &S, family: Family) -> bool {
    match family {
        Family::V4 => {
            const ADDRESSES: u32 = 12;
            let Some([from, to]) = source.words::<2>(ADDRESSES) else { return false };
            let prefix = PROBE_V4.load();
            prefix.holds(from, 0) || (DIRECTION != IN && prefix.holds(to, 0))
        }
        Family::V6 => {
            const ADDRESSES: u32 = 8;
            let Some([from, from2, _, _, to, to2]) = source.words::<6>(ADDRESSES) else { return false };
            let prefix = PROBE_V6.load();
            prefix.holds(from, from2) || (DIRECTION != IN && prefix.holds(to, to2))
        }
    }
}

/// Leaves the packet to the daemon; where the ring is full, it is lost.
#[inline(never)]
pub(crate) fn report(skb: Skb) {
    let Some(family) = skb.family() else { return };
    // What is loaded relative to a header must lie in the linear part. The packet goes no further, so nobody minds.
    // SAFETY: the context is valid, and no pointer into the packet is held.
    if unsafe { bpf_skb_pull_data(skb.0.cast(), skb.len()) } != 0 {
        return;
    }
    let Some(length) = length(&Relative(skb), family) else { return };
    match length {
        ..=SHORT_LENGTH => leave::<SHORT>(skb, family, length),
        ..=LONG_LENGTH => leave::<LONG>(skb, family, length),
        _ => leave::<SHORT>(skb, family, SHORT_LENGTH),
    }
}

const SHORT_LENGTH: u32 = SHORT as u32;
const LONG_LENGTH: u32 = LONG as u32;

/// By its own header, as a frame may be padded.
#[inline(always)]
fn length(source: &Relative, family: Family) -> Option<u32> {
    const IPV6_HEADER: u32 = 40;
    let [first, second] = source.words::<2>(0)?;
    Some(match family {
        Family::V4 => u32::from_be(first) & 0xffff,
        Family::V6 => (u32::from_be(second) >> 16) + IPV6_HEADER,
    })
}

#[inline(always)]
fn leave<const N: usize>(skb: Skb, family: Family, length: u32) {
    // Where the compiler knows the bounds from another register, the verifier does not: it shall compare this one.
    let length = black_box(length);
    if length == 0 || length > N as u32 {
        return;
    }
    let Some(mut record) = PROBE_CAUGHT.reserve_untyped::<Caught<N>>(0) else { return };
    let caught = record.as_mut_ptr();
    // SAFETY: the reserved record has room for the head and for N bytes, and no more than these are written.
    let loaded = unsafe {
        (&raw mut (*caught).at).write(bpf_ktime_get_ns());
        (&raw mut (*caught).uplink).write(skb.ifindex());
        (&raw mut (*caught).arrived_on).write(skb.ingress_ifindex());
        (&raw mut (*caught).family).write(match family {
            Family::V4 => 4,
            Family::V6 => 6,
        });
        (&raw mut (*caught).length).write(length);
        let bytes = (&raw mut (*caught).bytes).cast();
        bpf_skb_load_bytes_relative(skb.0.cast(), 0, bytes, length, BPF_HDR_START_NET)
    };
    if loaded == 0 {
        record.submit(0);
    } else {
        record.discard(0);
    }
}
