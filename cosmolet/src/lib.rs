//! cosmolet decides, on every node and for every Service VIP, whether this node can serve it now, and makes the
//! loopback and FRR say so.

pub mod advertised;
pub mod apply;
pub mod args;
pub mod book;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod ebpf;
pub mod engine;
pub mod frr;
pub mod http;
pub mod kubernetes;
pub mod manifests;
pub mod metrics;
pub mod netlink;
pub mod probe;
pub mod probing;
pub mod programs;
pub mod questions;
pub mod recording;
pub mod telemetry;
