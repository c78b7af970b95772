//! cosmolet's eBPF programs: they count what a node's uplinks see of its VIPs, and never touch a packet.
//!
//! Owns the programs' entry points. The maps are in `maps`, what is counted in `count`, how a packet is read in
//! `skb`; every layout and the parser are `cosmolet_common`'s.
//!
//! Each direction has three programs and the loader chooses one for a device: the fast one for devices with an
//! Ethernet header, `_any` for those without, and `_log` for both while an engineer listens. They are apart because
//! the verifier, where it lacks CAP_PERFMON, also walks the paths that a constant rules out, and would refuse the
//! logging ones.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(
    unsafe_code,
    reason = "a program meets the kernel through raw pointers; the verifier proves what SAFETY comments say"
)]

#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod probe;
#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
mod skb;

// The macros of aya-log name their runtime by this path; ours differs from aya's in having a BTF map, which libbpf
// and bpftool accept.
#[cfg(target_arch = "bpf")]
extern crate self as aya_log_ebpf;
#[cfg(target_arch = "bpf")]
mod macro_support;

/// Never called: the programs have nothing that can panic, and the verifier would refuse an endless loop.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// On other targets there is nothing here: `cargo xtask build-ebpf` compiles for BPF.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
