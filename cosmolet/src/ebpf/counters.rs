//! Reads the programs' counters.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use aya::Ebpf;
use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use cosmolet_common::Oddities;
use cosmolet_common::counters::Counters as Values;

use super::Error;
use super::load::take;
use super::shared::Shared;

/// The values of one call to the kernel take at most this much memory, whatever the number of CPUs.
const BUFFER_BYTES: usize = 256 << 10;
/// Reading so many slots that nobody asked for is cheaper than another call.
const WORTH_READING: u32 = 8;

pub(super) struct Counters {
    /// The map's own, for the call that aya does not have.
    descriptor: OwnedFd,
    map: PerCpuArray<MapData, Values>,
    oddities: PerCpuArray<MapData, Oddities>,
    touched: Shared<u64>,
    /// What was touched before the last reading. A program may have found that said already and have counted after the
    /// reading, so it is read once more.
    recent: Vec<u32>,
    cpus: usize,
    keys: Vec<u32>,
    values: Vec<Values>,
}

impl Counters {
    pub(super) fn new(ebpf: &mut Ebpf, max_ports: u32) -> Result<Self, Error> {
        let Some(Map::PerCpuArray(data)) = ebpf.take_map("COUNTERS") else {
            return Err(Error::Missing("map COUNTERS".to_owned()));
        };
        let descriptor = data.fd().as_fd().try_clone_to_owned().map_err(Error::Read)?;
        let map = PerCpuArray::try_from(Map::PerCpuArray(data))?;
        let oddities = take(ebpf, "ODDITIES")?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| Error::Read(error))?;
        let touched = Shared::new(ebpf, "TOUCHED", max_ports)?;
        let (recent, keys, values) = Default::default();
        Ok(Self { descriptor, map, oddities, touched, recent, cpus, keys, values })
    }

    /// Hands the sum over all CPUs of each of the slots `0..count` to `each`, but for those that cannot have changed.
    pub(super) fn read(&mut self, count: u32, mut each: impl FnMut(u32, Values)) -> Result<(), Error> {
        let mut touched = Vec::new();
        for slot in 0..count {
            if self.touched.get(slot as usize).is_some_and(|touched| touched != 0) {
                self.touched.set(slot as usize, 0);
                touched.push(slot);
            }
        }
        let mut slots = [self.recent.as_slice(), touched.as_slice()].concat();
        slots.sort_unstable();
        slots.dedup();
        // Kept before anything can fail: then the next reading has it all.
        self.recent.clone_from(&slots);
        for range in ranges(&slots, WORTH_READING) {
            self.read_range(range, &mut each)?;
        }
        self.recent = touched;
        Ok(())
    }

    fn read_range(&mut self, range: Range<u32>, each: &mut impl FnMut(u32, Values)) -> Result<(), Error> {
        let at_once = (BUFFER_BYTES / (size_of::<Values>() * self.cpus)).max(64);
        // The kernel goes on behind the key that it is given.
        let mut from = range.start.checked_sub(1);
        let mut left = range.len();
        while left > 0 {
            let (read, next) = self.read_batch(from, left.min(at_once)).map_err(Error::Read)?;
            let sums = self
                .values
                .chunks_exact(self.cpus)
                .map(|values| values.iter().fold(Values::default(), |sum, value| sum.plus(value)));
            for (key, sum) in self.keys.iter().zip(sums).take(read) {
                each(*key, sum);
            }
            if read == 0 || next.is_none() {
                break;
            }
            (from, left) = (next, left - read);
        }
        Ok(())
    }

    /// Sets a slot to zero on every CPU.
    pub(super) fn clear(&mut self, slot: u32) -> Result<(), Error> {
        let zeros = PerCpuValues::try_from(vec![Values::default(); self.cpus]).map_err(Error::Read)?;
        Ok(self.map.set(slot, zeros, 0)?)
    }

    pub(super) fn oddities(&self) -> Result<Oddities, Error> {
        let values = self.oddities.get(&0, 0)?;
        Ok(values.iter().fold(Oddities::default(), |sum, value| sum.plus(value)))
    }

    /// Reads up to `count` slots in one call, behind the one that `from` names; returns how many were read, and
    /// where to go on.
    fn read_batch(&mut self, from: Option<u32>, count: usize) -> io::Result<(usize, Option<u32>)> {
        #![expect(unsafe_code, reason = "aya has no batched lookup")]
        /// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd` (linux/bpf.h).
        const LOOKUP_BATCH: libc::c_long = 24;

        self.keys.resize(count, 0);
        self.values.resize(count * self.cpus, Values::default());
        let mut next = 0_u32;
        let mut attributes = BatchAttributes {
            in_batch: from.as_ref().map_or(0, |from| std::ptr::from_ref(from).expose_provenance() as u64),
            out_batch: std::ptr::from_mut(&mut next).expose_provenance() as u64,
            keys: self.keys.as_mut_ptr().expose_provenance() as u64,
            values: self.values.as_mut_ptr().expose_provenance() as u64,
            count: u32::try_from(count).map_err(io::Error::other)?,
            map_fd: self.descriptor.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attributes are those of this command; both buffers have room for `count` entries (a value is
        // as many bytes on each CPU as its size, a multiple of 8), and all of them outlive the call.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut attributes, size_of::<BatchAttributes>()) };
        let read = attributes.count as usize;
        if result == 0 {
            return Ok((read, Some(next)));
        }
        let error = io::Error::last_os_error();
        // This is how the kernel says that the map has no more.
        if error.raw_os_error() == Some(libc::ENOENT) { Ok((read, None)) } else { Err(error) }
    }
}

/// The slots as few ranges: those that are at most `gap` apart are in one.
fn ranges(slots: &[u32], gap: u32) -> Vec<Range<u32>> {
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for slot in slots.iter().copied() {
        match ranges.last_mut() {
            Some(last) if slot - last.end <= gap => last.end = slot + 1,
            _ => ranges.push(slot..slot + 1),
        }
    }
    ranges
}

/// The part `batch` of `union bpf_attr` (linux/bpf.h).
#[repr(C)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_what_is_close() {
        assert_eq!(ranges(&[], 2), []);
        assert_eq!(ranges(&[0, 1, 4, 7, 11, 20], 2), [0..8, 11..12, 20..21]);
    }
}
