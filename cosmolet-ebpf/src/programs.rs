//! The entry points. Every one of them returns "next": what happens to a packet is not ours to say, but for the probes
//! that the daemon itself has sent, which never leave the node.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::{IN, OUT, classify, examine};
use crate::probe;
use crate::skb::{BARE, ETHERNET, Skb};

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";

macro_rules! programs {
    ($($(#[$doc:meta])* $name:ident: $body:expr;)*) => {
        $(
            $(#[$doc])*
            #[classifier]
            fn $name(ctx: TcContext) -> i32 {
                const BODY: fn(Skb) -> i32 = $body;
                BODY(Skb(ctx.skb.skb))
            }
        )*
    };
}

/// Hands a packet to `count`, unless it is a probe's: one that comes is no traffic, one that goes is dropped.
#[inline(always)]
fn run<const DIRECTION: bool, const LINK: u32>(skb: Skb, count: impl FnOnce(Skb)) -> i32 {
    if !probe::is_ours::<DIRECTION, LINK>(skb) {
        count(skb);
        TC_ACT_UNSPEC
    } else if DIRECTION == IN {
        TC_ACT_UNSPEC
    } else {
        probe::report(skb);
        TC_ACT_SHOT
    }
}

programs! {
    /// From clients, on a device with Ethernet headers.
    cosmolet_in: |skb| run::<IN, ETHERNET>(skb, classify::<IN, ETHERNET>);
    /// To clients, on a device with Ethernet headers.
    cosmolet_out: |skb| run::<OUT, ETHERNET>(skb, classify::<OUT, ETHERNET>);
    /// From clients, on a device without link headers.
    cosmolet_in_l3: |skb| run::<IN, BARE>(skb, classify::<IN, BARE>);
    /// To clients, on a device without link headers.
    cosmolet_out_l3: |skb| run::<OUT, BARE>(skb, classify::<OUT, BARE>);
    /// `cosmolet_in` while an engineer listens.
    cosmolet_in_log: |skb| run::<IN, ETHERNET>(skb, examine::<IN, ETHERNET, true>);
    /// `cosmolet_out` while an engineer listens.
    cosmolet_out_log: |skb| run::<OUT, ETHERNET>(skb, examine::<OUT, ETHERNET, true>);
    /// `cosmolet_in_l3` while an engineer listens.
    cosmolet_in_l3_log: |skb| run::<IN, BARE>(skb, examine::<IN, BARE, true>);
    /// `cosmolet_out_l3` while an engineer listens.
    cosmolet_out_l3_log: |skb| run::<OUT, BARE>(skb, examine::<OUT, BARE, true>);
    /// Nothing: what the others' cost is measured against.
    cosmolet_empty: |_| TC_ACT_UNSPEC;
}
