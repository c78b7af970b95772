//! The entry points. Every one of them returns "next": what happens to a packet is not ours to say.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::{IN, OUT, classify, examine};
use crate::skb::{ETHERNET, Skb};

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";

macro_rules! programs {
    ($($(#[$doc:meta])* $name:ident: $body:expr;)*) => {
        $(
            $(#[$doc])*
            #[classifier]
            fn $name(ctx: TcContext) -> i32 {
                const BODY: fn(Skb) = $body;
                BODY(Skb(ctx.skb.skb));
                TC_ACT_UNSPEC
            }
        )*
    };
}

programs! {
    /// From clients, on a device with Ethernet headers.
    ingress: |skb| classify::<IN>(skb);
    /// To clients, on a device with Ethernet headers.
    egress: |skb| classify::<OUT>(skb);
    /// From clients, on a device without link headers.
    ingress_any: |skb| examine::<IN, false>(skb, 0);
    /// To clients, on a device without link headers.
    egress_any: |skb| examine::<OUT, false>(skb, 0);
    /// From clients, on any device, while an engineer listens.
    ingress_log: |skb| examine::<IN, true>(skb, ETHERNET);
    /// To clients, on any device, while an engineer listens.
    egress_log: |skb| examine::<OUT, true>(skb, ETHERNET);
    /// Nothing: what the others' cost is measured against.
    empty: |_| ();
}
