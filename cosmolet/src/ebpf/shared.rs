//! A map whose memory this process shares with the kernel: read and written without system calls.

#![expect(unsafe_code, reason = "memory that the kernel's programs write meanwhile is only reached by pointers")]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr::NonNull;

use aya::Ebpf;
use aya::maps::{Map, MapData};

use super::Error;

/// The elements of an array map with `BPF_F_MMAPABLE`. An element is read and written as a whole as far as this side
/// goes; the programs may be writing it.
pub(super) struct Shared<T: Copy> {
    memory: NonNull<T>,
    len: usize,
    /// The mapping keeps the memory, and this the map.
    _map: MapData,
}

// SAFETY: the mapping belongs to this value alone, as far as this process goes.
unsafe impl<T: Copy + Send> Send for Shared<T> {}

impl<T: Copy> Shared<T> {
    /// The element's size must be a multiple of 8, as the kernel keeps them.
    pub(super) fn new(ebpf: &mut Ebpf, name: &'static str, len: u32) -> Result<Self, Error> {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8) };
        let Some(Map::Array(map)) = ebpf.take_map(name) else {
            return Err(Error::Missing(format!("map {name}")));
        };
        let len = len as usize;
        // SAFETY: a new mapping, at an address that nobody has; the kernel refuses one that is longer than the map.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len * size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        match NonNull::new(memory.cast::<T>()) {
            Some(memory) if memory.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { memory, len, _map: map }),
            _ => Err(Error::Read(io::Error::last_os_error())),
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// A pointer to one element, to read or write a part of it.
    pub(super) fn element(&self, index: usize) -> Option<NonNull<T>> {
        // SAFETY: within the mapping.
        (index < self.len).then(|| unsafe { self.memory.add(index) })
    }

    pub(super) fn get(&self, index: usize) -> Option<T> {
        // SAFETY: an element of the mapping; `T` is plain data.
        self.element(index).map(|element| unsafe { element.read_volatile() })
    }

    pub(super) fn set(&self, index: usize, value: T) {
        if let Some(element) = self.element(index) {
            // SAFETY: an element of the mapping.
            unsafe { element.write_volatile(value) };
        }
    }
}

impl<T: Copy> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nobody uses after this.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}
