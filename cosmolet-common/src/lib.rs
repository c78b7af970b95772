//! What the eBPF programs and the daemon share.
#![no_std]
