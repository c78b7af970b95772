//! The maps. Their sizes here are for loaders that set none; the daemon sets its own.

use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use cosmolet_common::handshake::SLOTS;
use cosmolet_common::key::{FILTER_WORDS, FRONTS, Front};
use cosmolet_common::{Counters, Oddities, VipPortKey};

/// Declared ports to the index of their counters: all of them. Apart from the counters, so that those can be read in
/// one call.
#[btf_map]
static VIP_PORTS: HashMap<VipPortKey, u32, 4096> = HashMap::new();

/// Bits of the declared keys: most packets of a node are for no VIP, and a clear bit spares them the hash.
#[btf_map]
static VIP_FILTER: Array<u32, { FILTER_WORDS as usize }> = Array::new();

/// Most of the declared keys, each at one of two places: a comparison here instead of a call to the hash.
#[btf_map]
static VIP_FRONT: Array<Front, { FRONTS as usize }> = Array::new();

#[btf_map]
static COUNTERS: PerCpuArray<Counters, 4096> = PerCpuArray::new();

#[btf_map]
static ODDITIES: PerCpuArray<Oddities, 1> = PerCpuArray::new();

/// The acknowledgements that handshakes wait for; see `cosmolet_common::handshake`.
#[btf_map]
static PENDING: Array<u32, { SLOTS as usize }> = Array::new();

/// Whether a key may be declared: wrong now and then if it says yes.
#[inline(always)]
pub(crate) fn maybe_declared(key: &VipPortKey) -> bool {
    let (word, bit) = key.filter_bit();
    VIP_FILTER.get(word).is_some_and(|bits| bits & bit != 0)
}

/// The counters of a key, if it is declared.
#[inline(always)]
pub(crate) fn counters(key: &VipPortKey) -> Option<&'static mut Counters> {
    let [first, second] = key.front();
    let id = match in_front(key, first).or_else(|| in_front(key, second)) {
        Some(id) => id,
        // SAFETY: the id is copied out at once; a reused one is harmless, the daemon rests ids before it reuses them.
        None => *unsafe { VIP_PORTS.get(key) }?,
    };
    let counters = COUNTERS.get_ptr_mut(id)?;
    // SAFETY: a slot of this CPU, and programs of this type run with softirqs off: nobody else writes it now.
    Some(unsafe { &mut *counters })
}

/// The index of a key's counters, if the key is at this place.
#[inline(always)]
fn in_front(key: &VipPortKey, place: u32) -> Option<u32> {
    let front = VIP_FRONT.get(place)?;
    // The daemon may be writing the entry: then it is found empty or different, and the hash knows.
    (front.key.same(key) && front.id != 0).then(|| front.id - 1)
}

/// The counters of what belongs to no VIP.
#[inline(always)]
pub(crate) fn oddities() -> Option<&'static mut Oddities> {
    let oddities = ODDITIES.get_ptr_mut(0)?;
    // SAFETY: as in `counters`.
    Some(unsafe { &mut *oddities })
}

/// Leaves the acknowledgement that a SYN-ACK waits for.
#[inline(always)]
pub(crate) fn expect_ack(slot: u32, marker: u32) {
    if let Some(pending) = PENDING.get_ptr_mut(slot) {
        // SAFETY: an element of a map; other CPUs may write it as well, so the access is volatile, and a lost
        // race loses one count.
        unsafe { pending.write_volatile(marker) };
    }
}

/// Takes the acknowledgement out of its slot if it is the one that the slot waits for.
#[inline(always)]
pub(crate) fn take_ack(slot: u32, marker: u32) -> bool {
    let Some(pending) = PENDING.get_ptr_mut(slot) else { return false };
    // SAFETY: as in `expect_ack`.
    let matches = unsafe { pending.read_volatile() } == marker;
    if matches {
        // SAFETY: as in `expect_ack`.
        unsafe { pending.write_volatile(0) };
    }
    matches
}
