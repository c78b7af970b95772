//! Wire-true probes: recognises them by their source, which no client has, keeps them out of the counts, and hands what
//! would leave the node to the daemon instead.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::RingBuf;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use cosmolet_common::probe::{Caught, HEAD, Prefix};
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
static PROBE_CAUGHT: RingBuf<[u8; 0], { 1 << 17 }> = RingBuf::new();

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

/// Leaves the packet's beginning to the daemon; where the ring is full, the probe is lost.
#[inline(never)]
pub(crate) fn report(skb: Skb) {
    let Some(family) = skb.family() else { return };
    let source = Relative(skb);
    let mut head = [0; HEAD];
    // The longest beginning that there is: an ICMP error of either family, a TCP header behind IPv6, one behind IPv4.
    let words = if fill::<HEAD>(&source, &mut head) {
        HEAD
    } else if fill::<15>(&source, &mut head) {
        15
    } else if fill::<10>(&source, &mut head) {
        10
    } else {
        return;
    };
    let Some(mut record) = PROBE_CAUGHT.reserve_untyped::<Caught>(0) else { return };
    record.write(Caught {
        // SAFETY: the helper has no arguments.
        at: unsafe { bpf_ktime_get_ns() },
        uplink: skb.ifindex(),
        arrived_on: skb.ingress_ifindex(),
        family: match family {
            Family::V4 => 4,
            Family::V6 => 6,
        },
        words: words as u32,
        head,
    });
    record.submit(0);
}

#[inline(always)]
fn fill<const N: usize>(source: &Relative, head: &mut [u32; HEAD]) -> bool {
    let Some(words) = source.words::<N>(0) else { return false };
    let mut at = 0;
    while at < N {
        head[at] = words[at];
        at += 1;
    }
    true
}
