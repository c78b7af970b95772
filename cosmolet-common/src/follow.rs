//! Follows single TCP handshakes, to tell what became of each.
//!
//! A SYN takes the one place in a table that a keyed hash of its addresses and ports names, and keeps it until user
//! space has read what became of it. Nothing is ever evicted: a SYN whose place is taken is not followed, and counted
//! as such, so that being lost is decided before anybody can know how the handshake ends. The programs only move
//! states; what a state means after some time is [`Entry::outcome`]'s, in user space.
//!
//! Two CPUs may write one place at once, which the kernel's programs cannot lock cheaply: an entry torn that way has a
//! [`seal`](Entry::sealed) that does not fit and is not counted.

/// The most places that a table can have.
pub const MOST_PLACES: u32 = 1 << 20;
/// A handshake whose SYN nothing answered for so long has timed out, in nanoseconds.
pub const PATIENCE: u64 = 3_000_000_000;
/// What would show that an answer was seen after all comes within this time, in nanoseconds.
const SETTLED: u64 = 1_000_000_000;
/// How far behind the SYN's the sequence number of a client's first ACK or RST may be: data of TCP Fast Open (RFC 7413).
const FIRST_DATA: u32 = 1 << 16;

/// Where a handshake is. The values cross the kernel's boundary.
pub mod state {
    /// A SYN came.
    pub const ASKED: u32 = 1;
    /// A SYN-ACK went.
    pub const ANSWERED: u32 = 2;
    /// The client acknowledged what nobody here saw: the SYN-ACK takes another way.
    pub const ACKNOWLEDGED: u32 = 3;
    /// The client acknowledged the SYN-ACK.
    pub const COMPLETED: u32 = 4;
    /// RST or ICMP unreachable from behind this host.
    pub const REFUSED_BACKEND: u32 = 5;
    /// RST or ICMP unreachable made by this host.
    pub const REFUSED_HOST: u32 = 6;
    /// The client reset it before it was complete.
    pub const GIVEN_UP: u32 = 7;
}

/// The keyed hash of a connection, the same for both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow(u64);

impl Flow {
    /// Hashes a connection; the ports go with the addresses. Who does not know the seed cannot choose a place.
    #[inline(always)]
    #[must_use]
    pub const fn new(seed: u64, vip: [u32; 4], vip_port: u16, client: [u32; 4], client_port: u16) -> Self {
        const K1: u64 = 0x9e37_79b9_7f4a_7c15;
        const K2: u64 = 0xc2b2_ae3d_27d4_eb4f;
        let low = client[3] as u64 | (client[2] as u64) << 32;
        let high = client[1] as u64 | (client[0] as u64) << 32;
        let ports = (vip_port as u64) << 16 | client_port as u64;
        let vip = vip[3] as u64 ^ (vip[2] as u64) << 16;
        let mixed = (low ^ vip << 17 ^ seed).wrapping_add(high.rotate_left(29)).wrapping_add(ports << 24);
        let mixed = mixed.wrapping_mul(K1);
        let mixed = (mixed ^ mixed >> 32 ^ ports).wrapping_mul(K2);
        Self(mixed)
    }

    /// Its slot among the acknowledgements of [`handshake`](crate::handshake).
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        (self.0 >> 48) as u32
    }

    /// Its place in a table that has `mask` + 1 of them, a power of two up to [`MOST_PLACES`].
    #[inline(always)]
    #[must_use]
    pub const fn place(self, mask: u32) -> u32 {
        (self.0 >> 32) as u32 & mask & (MOST_PLACES - 1)
    }

    /// Whether it is the one in `mask + 1` that is followed; all its packets say the same.
    #[inline(always)]
    #[must_use]
    pub const fn chosen(self, mask: u32) -> bool {
        (self.0 >> 20) as u32 & mask & 0xfff == 0
    }

    /// What an entry is recognised by; never 0.
    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u64 {
        if self.0 == 0 { 1 } else { self.0 }
    }
}

/// One followed handshake, or a free place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Whose the place is; 0 if nobody's.
    pub tag: u64,
    /// When its first SYN came, in nanoseconds of CLOCK_MONOTONIC.
    pub born: u64,
    /// In one word, as they must fit together: of [`state`] the lowest eight bits, the number of the client's prefix
    /// the next six, the seal the upper half.
    status: u64,
    /// The index of its port's counters.
    pub id: u32,
    /// The sequence number of the SYN.
    asked: u32,
    /// The acknowledgement number that completes it; the one that came while no answer was seen.
    acknowledgement: u32,
    /// From SYN to SYN-ACK, in microseconds.
    latency: u32,
}

/// The table and what the kernel knows: maps and helpers there, a vector in a test.
pub trait Table {
    /// The place of a flow.
    fn place(&mut self, flow: Flow) -> Option<&mut Entry>;
    /// CLOCK_MONOTONIC in nanoseconds; expensive.
    fn now(&mut self) -> u64;
    /// The port `id` follows one SYN in this many, plus 1; a power of two.
    fn mask(&mut self, id: u32) -> u32;
}

/// What came of a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It has a place now.
    Followed,
    /// It came when its answer had gone.
    Passed,
    /// It repeats one that was not answered.
    Repeated,
    /// Its place is another's.
    Full,
}

/// Whether a client's SYN to the port `id` is one that is followed: asked first, as it spares most SYN of a flood the
/// table.
#[inline(always)]
pub fn is_chosen<T: Table>(table: &mut T, flow: Flow, id: u32) -> bool {
    flow.chosen(table.mask(id))
}

/// Whether a handshake of this flow is followed.
#[inline(always)]
pub fn is_followed<T: Table>(table: &mut T, flow: Flow) -> bool {
    find(table, flow).is_some()
}

/// A client's SYN with this sequence number to the port `id`, if it [is chosen](is_chosen); the client's [`prefix`] goes
/// with it.
#[inline(always)]
pub fn syn<T: Table>(table: &mut T, flow: Flow, id: u32, prefix: u32, sequence: u32) -> Asked {
    let tag = flow.tag();
    let Some(entry) = table.place(flow) else { return Asked::Passed };
    if entry.tag == tag {
        let same = entry.is(state::ASKED) && entry.asked == sequence && entry.id == id;
        return if same { Asked::Repeated } else { Asked::Passed };
    }
    if entry.tag != 0 {
        return Asked::Full;
    }
    let born = table.now();
    let Some(entry) = table.place(flow) else { return Asked::Passed };
    entry.born = born;
    entry.status = (seal(tag, born, id) as u64) << 32 | (prefix as u64) << 8 | state::ASKED as u64;
    entry.id = id;
    entry.asked = sequence;
    entry.acknowledgement = 0;
    entry.latency = 0;
    entry.tag = tag;
    Asked::Followed
}

/// A SYN-ACK to a client, with its sequence number. True if it is the first answer to a followed SYN.
#[inline(always)]
pub fn syn_ack<T: Table>(table: &mut T, flow: Flow, sequence: u32) -> bool {
    let Some(entry) = find(table, flow) else { return false };
    if !entry.is(state::ASKED) && !entry.is(state::ACKNOWLEDGED) {
        return false;
    }
    let now = table.now();
    let expected = sequence.wrapping_add(1);
    let Some(entry) = find(table, flow) else { return false };
    let micros = now.wrapping_sub(entry.born) / 1000;
    entry.latency = if micros > u32::MAX as u64 { u32::MAX } else { micros as u32 };
    let early = entry.is(state::ACKNOWLEDGED) && entry.acknowledgement == expected;
    entry.acknowledgement = expected;
    entry.become_(if early { state::COMPLETED } else { state::ANSWERED });
    true
}

/// An ACK of a client without SYN or RST, of a handshake or of what follows it, with both its numbers. True if it moved one.
#[inline(always)]
pub fn ack<T: Table>(table: &mut T, flow: Flow, sequence: u32, acknowledgement: u32) -> bool {
    let Some(entry) = find(table, flow) else { return false };
    if entry.is(state::ANSWERED) && entry.acknowledgement == acknowledgement {
        entry.become_(state::COMPLETED);
        return true;
    }
    if entry.is(state::ASKED) && entry.follows(sequence) {
        entry.acknowledgement = acknowledgement;
        entry.become_(state::ACKNOWLEDGED);
        return true;
    }
    false
}

/// An RST or ICMP unreachable to a client. True if it answers a SYN.
#[inline(always)]
pub fn refusal<T: Table>(table: &mut T, flow: Flow, host: bool) -> bool {
    let Some(entry) = find(table, flow) else { return false };
    let pending = entry.is(state::ASKED) || entry.is(state::ACKNOWLEDGED);
    if pending {
        entry.become_(if host { state::REFUSED_HOST } else { state::REFUSED_BACKEND });
    }
    pending
}

/// An RST of a client, with its sequence number, which who forges one does not know. True if it ends a handshake that was
/// not complete.
#[inline(always)]
pub fn given_up<T: Table>(table: &mut T, flow: Flow, sequence: u32) -> bool {
    let Some(entry) = find(table, flow) else { return false };
    let pending = entry.is(state::ASKED) || entry.is(state::ANSWERED) || entry.is(state::ACKNOWLEDGED);
    let ends = pending && entry.follows(sequence);
    if ends {
        entry.become_(state::GIVEN_UP);
    }
    ends
}

#[inline(always)]
fn find<T: Table>(table: &mut T, flow: Flow) -> Option<&mut Entry> {
    let entry = table.place(flow)?;
    if entry.tag == flow.tag() { Some(entry) } else { None }
}

/// What became of a followed handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client acknowledged; `seen` tells whether the SYN-ACK left by this node's uplinks.
    Completed {
        /// A SYN-ACK was seen.
        seen: bool,
    },
    /// Refused from behind this host.
    RefusedBackend,
    /// Refused by this host.
    RefusedHost,
    /// Nothing answered the SYN.
    TimedOut,
    /// It says nothing of this node: the client reset it, or never acknowledged what it was answered.
    Client,
}

impl Entry {
    /// What became of it; `None` while that is open.
    #[must_use]
    pub const fn outcome(&self, now: u64) -> Option<Outcome> {
        let age = now.saturating_sub(self.born);
        match self.state() {
            state::COMPLETED => Some(Outcome::Completed { seen: true }),
            state::REFUSED_BACKEND => Some(Outcome::RefusedBackend),
            state::REFUSED_HOST => Some(Outcome::RefusedHost),
            state::GIVEN_UP => Some(Outcome::Client),
            state::ACKNOWLEDGED if age >= SETTLED => Some(Outcome::Completed { seen: false }),
            state::ASKED if age >= PATIENCE => Some(Outcome::TimedOut),
            state::ANSWERED if age >= PATIENCE => Some(Outcome::Client),
            state::ACKNOWLEDGED | state::ASKED | state::ANSWERED => None,
            _ => Some(Outcome::Client),
        }
    }

    /// The time from SYN to SYN-ACK in microseconds, if a SYN-ACK was seen.
    #[must_use]
    pub const fn answered_after(&self) -> Option<u32> {
        match self.state() {
            state::ANSWERED | state::COMPLETED => Some(self.latency),
            _ => None,
        }
    }

    /// The client prefix's bit of 64.
    #[must_use]
    pub const fn prefix_bit(&self) -> u64 {
        1 << (self.status >> 8 & 63)
    }

    /// It was written as a whole.
    #[must_use]
    pub const fn sealed(&self) -> bool {
        (self.status >> 32) as u32 == seal(self.tag, self.born, self.id)
    }

    const fn state(&self) -> u32 {
        self.status as u32 & 0xff
    }

    #[inline(always)]
    const fn is(&self, state: u32) -> bool {
        self.status as u32 & 0xff == state
    }

    /// The sequence number may come right behind the SYN's.
    #[inline(always)]
    const fn follows(&self, sequence: u32) -> bool {
        sequence.wrapping_sub(self.asked).wrapping_sub(1) < FIRST_DATA
    }

    #[inline(always)]
    const fn become_(&mut self, state: u32) {
        self.status = self.status & !0xff | state as u64;
    }
}

#[inline(always)]
const fn seal(tag: u64, born: u64, id: u32) -> u32 {
    tag as u32 ^ id.rotate_left(16) ^ (born as u32).rotate_left(7)
}

/// The number of a client's prefix, /24 or /56, among 64.
#[inline(always)]
#[must_use]
pub const fn prefix(client: [u32; 4]) -> u32 {
    let mapped = client[0] == 0 && client[1] == 0 && client[2] == u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    let (high, low) = if mapped { (0, client[3]) } else { (client[0], client[1]) };
    let low = u32::from_be(low) & 0xffff_ff00;
    ((high as u64) << 32 | low as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_shr(58) as u32
}

#[cfg(test)]
mod tests;
