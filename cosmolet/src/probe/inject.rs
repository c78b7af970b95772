//! Makes the kernel receive a frame: `BPF_PROG_TEST_RUN` of an XDP program that passes everything on, with live frames.
//!
//! Nothing is attached to a device. See `Documentation/bpf/bpf_prog_run.rst` of the kernel.
#![expect(unsafe_code, reason = "bpf(2) has no wrapper that loads a program without an ELF object")]

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use super::Error;
use super::frame::Frame;

/// Of `enum bpf_cmd`, `bpf_prog_type` and the flags (linux/bpf.h).
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
/// `r0 = XDP_PASS; exit`, as `struct bpf_insn` on a little-endian machine.
const PROGRAM: [u64; 2] = [0xb7 | 2 << 32, 0x95];

/// The loaded program.
#[derive(Debug)]
pub(super) struct Injector(OwnedFd);

/// The part for loading of `union bpf_attr`, as far as it is needed.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

/// The part `test` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Test {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

impl Injector {
    pub(super) fn load() -> Result<Self, Error> {
        let license = c"Apache-2.0";
        let mut load = Load {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: 2,
            insns: PROGRAM.as_ptr().expose_provenance() as u64,
            license: license.as_ptr().expose_provenance() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
        };
        // SAFETY: the attributes are those of this command, and what they point to outlives the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut load, size_of::<Load>()) };
        let descriptor = i32::try_from(result).map_err(|error| Error::Kernel(io::Error::other(error)))?;
        if descriptor < 0 {
            return Err(named(io::Error::last_os_error()));
        }
        // SAFETY: a descriptor that was just opened and that nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Lets the frame arrive at an interface. When this returns, the kernel has carried it as far as one CPU can.
    pub(super) fn run(&self, ifindex: u32, frame: &Frame) -> Result<(), Error> {
        let bytes = frame.bytes();
        let length = u32::try_from(bytes.len()).map_err(|error| Error::Kernel(io::Error::other(error)))?;
        let mut context = Context { data_end: length, ingress_ifindex: ifindex, ..Context::default() };
        let mut test = Test {
            prog_fd: self.0.as_raw_fd().cast_unsigned(),
            data_size_in: length,
            data_in: bytes.as_ptr().expose_provenance() as u64,
            repeat: 1,
            ctx_size_in: size_of::<Context>() as u32,
            ctx_in: (&raw mut context).expose_provenance() as u64,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            batch_size: 1,
            ..Test::default()
        };
        // SAFETY: as above; the kernel reads the frame and the context, and writes within the attributes.
        let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut test, size_of::<Test>()) };
        if result == 0 { Ok(()) } else { Err(named(io::Error::last_os_error())) }
    }
}

fn named(error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Error::NotPermitted(error),
        // What an older kernel says to the flag.
        Some(libc::EINVAL | libc::E2BIG) => Error::NoLiveFrames,
        _ => Error::Kernel(error),
    }
}
