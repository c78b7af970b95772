//! Recordings: what the engine was told and what it decided, a JSON object a line, and the replay of one.
//!
//! Owns the format, the loop's tap and the comparison of a replay with what had happened. Never says what to decide: the
//! engine does that here as in the daemon. What the kernel and FRR hold is left out, as no verdict depends on it.

mod compare;
pub mod format;
mod reader;
pub mod replay;
mod samples;
pub mod tap;
mod views;
mod words;

pub use compare::{Difference, Found, Row};
pub use format::{Header, What};
pub use reader::{Error, Moment, Reader};
pub use replay::{Outcome, Point};

#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod replay_tests;
