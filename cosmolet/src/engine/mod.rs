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

pub mod attributes;
pub mod check;
mod control;
mod diff;
mod drain;
mod effects;
pub mod ejections;
#[expect(clippy::module_inception, reason = "the type that gives the module its name, in a file of its own")]
pub mod engine;
pub mod event;
pub mod explain;
pub mod guard;
pub mod intent;
mod lost;
pub mod observed;
pub mod plan;
mod probes;
pub mod proof;
mod recall;
pub mod rules;
pub mod service;
pub mod signals;
pub mod status;
pub mod traffic;
pub mod types;
pub mod verdict;
mod vip;

pub use engine::{Engine, Settings, Transition};

#[cfg(test)]
mod ejections_tests;
#[cfg(test)]
mod probes_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod scenario_tests;
#[cfg(test)]
mod signals_tests;
