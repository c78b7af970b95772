//! The lab: everything a suite, the demo and the benches need to see cosmolet work on real parts.
//!
//! Owns network namespaces, supervised processes (FRR, etcd, kube-apiserver, cosmolet) and observers. Everything made here
//! goes away when its owner is dropped, also in a panic; what a killed run left behind is removed by the next one. It never
//! touches an interface, a route or a process outside its own namespaces.
//!
//! Every part needs root and says so; nothing is skipped in silence.

pub mod api_server;
pub mod backend;
pub mod bench;
pub mod bgp;
pub mod browser;
pub mod client;
pub mod clos;
pub mod cluster;
pub mod daemon;
pub mod fabric;
mod fabric_config;
pub mod forward;
pub mod frr;
pub mod http;
pub mod interrupt;
pub mod keeper;
pub mod lab;
pub mod manifests;
pub mod markdown;
pub mod netns;
pub mod nft;
pub mod objects;
pub mod openmetrics;
pub mod packaging;
pub mod packet;
pub mod process;
pub mod prometheus;
pub mod raw;
pub mod report;
pub mod route_monitor;
pub mod routes;
pub mod running_config;
pub mod runtime;
pub mod stage;
pub mod vty;
pub mod wait;
pub mod wire;

pub use lab::Lab;
pub use netns::Netns;
