//! cosmolet decides, on every node and for every Service VIP, whether this node can serve it now, and makes the
//! loopback and FRR say so.

pub mod engine;
pub mod kubernetes;
pub mod manifests;
