//! What the eBPF programs and the daemon share: the keys and values of the maps, and the packet parser.
//!
//! Owns every layout that crosses the kernel's boundary. Never holds state, allocates or does IO; compiles for BPF.
#![cfg_attr(not(test), no_std)]

pub mod counters;
pub mod follow;
pub mod handshake;
pub mod key;
pub mod packet;
pub mod parse;
pub mod probe;

pub use counters::{Counters, Oddities};
pub use key::VipPortKey;
pub use packet::{Addresses, Family, Packet, Parsed, Source};

/// Implements [`aya::Pod`] for what user space reads from and writes to the maps.
#[cfg(feature = "user")]
mod user {
    #![expect(unsafe_code, reason = "aya::Pod is the promise that a type is plain data, and only unsafe can make it")]

    use crate::key::Front;
    use crate::probe::Prefix;
    use crate::{Counters, Oddities, VipPortKey};

    // SAFETY: `repr(C)`, made of u32 alone: no padding, every bit pattern is valid.
    unsafe impl aya::Pod for VipPortKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Front {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Prefix {}
    // SAFETY: `repr(C)`, made of u64 alone: no padding, every bit pattern is valid.
    unsafe impl aya::Pod for Counters {}
    // SAFETY: `repr(C)`, made of u64 alone: no padding, every bit pattern is valid.
    unsafe impl aya::Pod for Oddities {}
}
