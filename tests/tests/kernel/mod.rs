//! What only raw system calls can do: another TCX program, raw frames, a TUN device.
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

fn check(result: i64) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap()) }
}

fn owned(result: i64) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just opened it, and nothing else owns it.
    check(result).map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Attaches, at both hooks of an interface, a program that ends the chain with TC_ACT_OK, as some CNIs do.
pub(crate) fn attach_accepting_tcx(ifindex: u32) -> io::Result<[OwnedFd; 2]> {
    const PROG_LOAD: i64 = 5;
    const LINK_CREATE: i64 = 28;
    const SCHED_CLS: u32 = 3;
    const TCX: [u32; 2] = [46, 47];
    // r0 = 0; exit
    let instructions = [0x0000_0000_0000_00b7_u64, 0x0000_0000_0000_0095];
    let license = CString::new("GPL").unwrap();
    // The beginning of union bpf_attr for BPF_PROG_LOAD: type, number of instructions, two pointers.
    let attributes = [
        u64::from(SCHED_CLS) | 2 << 32,
        instructions.as_ptr().expose_provenance() as u64,
        license.as_ptr().expose_provenance() as u64,
        0,
        0,
        0,
    ];
    // SAFETY: the attributes and what they point at outlive the call.
    let program =
        owned(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, attributes.as_ptr(), size_of_val(&attributes)) })?;
    let link = |hook: u32| {
        let attributes = [program.as_raw_fd().cast_unsigned(), ifindex, hook, 0];
        // SAFETY: as above.
        owned(unsafe { libc::syscall(libc::SYS_bpf, LINK_CREATE, attributes.as_ptr(), size_of_val(&attributes)) })
    };
    Ok([link(TCX[0])?, link(TCX[1])?])
}

/// Sends an Ethernet frame as it is.
pub(crate) fn send_frame(interface: &str, frame: &[u8]) -> io::Result<()> {
    let name = CString::new(interface)?;
    // SAFETY: plain integers in, a descriptor out.
    let socket = owned(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) }.into())?;
    // SAFETY: a C structure of integers, for which zero is valid.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    // SAFETY: a string that ends with zero.
    to.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed();
    to.sll_protocol = u16::from_ne_bytes([frame[12], frame[13]]);
    // SAFETY: buffer and address are as long as they are said to be.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of_val(&to) as u32,
        )
    };
    check(sent as i64).map(drop)
}

/// A device without link headers whose other end is this test.
pub(crate) struct Tun {
    file: File,
    name: CString,
}

impl Tun {
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
        let file = File::options().read(true).write(true).open("/dev/net/tun")?;
        let name = CString::new(name)?;
        let mut request = [0_u8; 40];
        request[..name.as_bytes().len()].copy_from_slice(name.as_bytes());
        request[16..18].copy_from_slice(&((libc::IFF_TUN | libc::IFF_NO_PI) as u16).to_ne_bytes());
        // SAFETY: the request is as long as struct ifreq.
        check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) }.into())?;
        Ok(Self { file, name })
    }

    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: a string that ends with zero.
        unsafe { libc::if_nametoindex(self.name.as_ptr()) }
    }

    pub(crate) fn write(&mut self, packet: &[u8]) -> io::Result<()> {
        self.file.write_all(packet)
    }

    /// The next TCP packet that leaves through the device.
    pub(crate) fn read_tcp(&mut self, patience: Duration) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one structure, as is said.
            if check(unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as i32) }.into())? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut packet = vec![0; 2048];
            let length = self.file.read(&mut packet)?;
            packet.truncate(length);
            let protocol = if packet[0] >> 4 == 4 { packet[9] } else { packet[6] };
            if protocol == 6 {
                return Ok(packet);
            }
        }
    }
}
