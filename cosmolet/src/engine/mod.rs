//! The pure engine: events in, intent and plans out.
//!
//! Invariant: nothing in here is async, does IO, reads a clock, draws random numbers, depends on the order of a hash
//! table, or can fail. `cargo xtask tidy` and the lints below keep it so.
#![deny(
    clippy::iter_over_hash_type,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the engine is deterministic: same events, same plans"
)]

pub mod event;
pub mod observed;
pub mod plan;
pub mod service;
pub mod types;
