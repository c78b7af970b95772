//! The maps. Their sizes here are for loaders that set none; the daemon sets its own.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_map;
use cosmolet_common::follow::{Entry, Flow, Table};
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

/// Not 0 for each index of `COUNTERS` that was added to since user space set it to 0, in its own memory: most VIPs of a
/// node have no traffic in a given second, and on a large machine their counters are long.
#[btf_map]
static TOUCHED: Array<u64, 4096, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
static ODDITIES: PerCpuArray<Oddities, 1> = PerCpuArray::new();

/// The acknowledgements that handshakes wait for; see `cosmolet_common::handshake`.
#[btf_map]
static PENDING: Array<u64, { SLOTS as usize }> = Array::new();

/// The handshakes that are followed; user space reads and frees them in its own memory.
#[btf_map]
static FOLLOWED: Array<Entry, 32_768, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The places of `FOLLOWED` less 1, set at load.
#[unsafe(no_mangle)]
static FOLLOWED_MASK: Global<u32> = Global::new(32_767);

/// One SYN in so many is followed, less 1; by the index of the port's counters. User space writes it in its own memory.
#[btf_map]
static FOLLOW_MASKS: Array<u64, 4096, { BPF_F_MMAPABLE as usize }> = Array::new();

/// The key of the hash of connections, set at load.
#[unsafe(no_mangle)]
static FLOW_SEED: Global<u64> = Global::new(0);

/// The followed handshakes, for `cosmolet_common::follow`.
pub(crate) struct Followed;

impl Table for Followed {
    #[inline(always)]
    fn place(&mut self, flow: Flow) -> Option<&mut Entry> {
        let entry = FOLLOWED.get_ptr_mut(flow.place(FOLLOWED_MASK.load()))?;
        // SAFETY: an element of a map; other CPUs may write it as well, and an entry that is torn by that is
        // recognised by its seal.
        Some(unsafe { &mut *entry })
    }

    #[inline(always)]
    fn now(&mut self) -> u64 {
        // SAFETY: the helper has no arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn mask(&mut self, id: u32) -> u32 {
        FOLLOW_MASKS.get(id).copied().unwrap_or(0) as u32
    }
}

/// The connection of a packet from a client.
#[inline(always)]
pub(crate) fn flow(vip: [u32; 4], vip_port: u16, client: [u32; 4], client_port: u16) -> Flow {
    Flow::new(FLOW_SEED.load(), vip, vip_port, client, client_port)
}

/// Whether a key may be declared: wrong now and then if it says yes.
#[inline(always)]
pub(crate) fn maybe_declared(key: &VipPortKey) -> bool {
    let (word, bit) = key.filter_bit();
    VIP_FILTER.get(word).is_some_and(|bits| bits & bit != 0)
}

/// The counters of a key, if it is declared.
#[inline(always)]
pub(crate) fn counters(key: &VipPortKey) -> Option<&'static mut Counters> {
    Some(declared(key)?.0)
}

/// The counters of a key and their index, if it is declared.
#[inline(always)]
pub(crate) fn declared(key: &VipPortKey) -> Option<(&'static mut Counters, u32)> {
    let [first, second] = key.front();
    let id = match in_front(key, first).or_else(|| in_front(key, second)) {
        Some(id) => id,
        // SAFETY: the id is copied out at once; a reused one is harmless, the daemon rests ids before it reuses them.
        None => *unsafe { VIP_PORTS.get(key) }?,
    };
    if let Some(touched) = TOUCHED.get_ptr_mut(id) {
        // SAFETY: an element of a map, which others write as well. It is mostly read, so that CPUs can share it.
        unsafe {
            if touched.read_volatile() == 0 {
                touched.write_volatile(1);
            }
        }
    }
    let counters = COUNTERS.get_ptr_mut(id)?;
    // SAFETY: a slot of this CPU, and programs of this type run with softirqs off: nobody else writes it now.
    Some((unsafe { &mut *counters }, id))
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

/// What waits in a slot, for an acknowledgement or for anything.
///
/// Other CPUs may use a slot as well: accesses are volatile, and a lost race loses one count.
#[inline(always)]
pub(crate) fn waiting(slot: u32) -> u64 {
    // SAFETY: an element of a map.
    PENDING.get_ptr_mut(slot).map_or(0, |pending| unsafe { pending.read_volatile() })
}

/// Leaves in a slot what `change` makes of what waits there.
#[inline(always)]
pub(crate) fn wait(slot: u32, change: impl FnOnce(u64) -> u64) {
    if let Some(pending) = PENDING.get_ptr_mut(slot) {
        // SAFETY: an element of a map.
        unsafe { pending.write_volatile(change(pending.read_volatile())) };
    }
}
