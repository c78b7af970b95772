//! cosmolet decides, on every node and for every Service VIP, whether this node can serve it now, and makes the
//! loopback and FRR say so.

pub mod book;
pub mod config;
pub mod engine;
pub mod metrics;
pub mod telemetry;
pub mod frr;
pub mod kubernetes;
pub mod netlink;
