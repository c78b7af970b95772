//! Recognises a completed TCP handshake without a table of flows.
//!
//! A SYN-ACK that leaves stores the acknowledgement it waits for in one slot of an array, chosen by a hash of its
//! addresses and ports ([`Flow`](crate::follow::Flow)). An ACK that arrives and finds its own number in its slot
//! completes that handshake. Two handshakes in one slot at the same time lose one count; nothing is ever counted that
//! did not happen, but with a chance of 2⁻³².
//!
//! The slot also spares a connection's packets the table of [`follow`](crate::follow): only an ACK that finds itself
//! awaited here, or finds [`UNANSWERED`], is looked for there.

/// The number of slots.
pub const SLOTS: u32 = 1 << 16;

/// Beside the acknowledgement in a slot: a SYN is followed that nothing has answered yet. Its answer may take another
/// way, and then nobody tells which acknowledgement to wait for.
pub const UNANSWERED: u64 = 1 << 32;

/// What a slot holds for an acknowledgement number; never 0, which is an empty slot.
#[inline(always)]
#[must_use]
pub const fn marker(acknowledgement: u32) -> u32 {
    if acknowledgement == 0 { u32::MAX } else { acknowledgement }
}

/// What a SYN-ACK with this sequence number leaves in its slot.
#[inline(always)]
#[must_use]
pub const fn expected(sequence: u32) -> u32 {
    marker(sequence.wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_never_stored() {
        assert_eq!(marker(0), u32::MAX);
        assert_eq!(marker(7), 7);
    }
}
