//! The entry points. Every one of them returns "next": what happens to a packet is not ours to say.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::count::{IN, OUT, classify, examine};
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
                const BODY: fn(Skb) = $body;
                BODY(Skb(ctx.skb.skb));
                TC_ACT_UNSPEC
            }
        )*
    };
}

programs! {
    /// From clients, on a device with Ethernet headers.
    cosmolet_in: classify::<IN, ETHERNET>;
    /// To clients, on a device with Ethernet headers.
    cosmolet_out: classify::<OUT, ETHERNET>;
    /// From clients, on a device without link headers.
    cosmolet_in_l3: classify::<IN, BARE>;
    /// To clients, on a device without link headers.
    cosmolet_out_l3: classify::<OUT, BARE>;
    /// `cosmolet_in` while an engineer listens.
    cosmolet_in_log: examine::<IN, ETHERNET, true>;
    /// `cosmolet_out` while an engineer listens.
    cosmolet_out_log: examine::<OUT, ETHERNET, true>;
    /// `cosmolet_in_l3` while an engineer listens.
    cosmolet_in_l3_log: examine::<IN, BARE, true>;
    /// `cosmolet_out_l3` while an engineer listens.
    cosmolet_out_l3_log: examine::<OUT, BARE, true>;
    /// Nothing: what the others' cost is measured against.
    cosmolet_empty: |_| ();
}
