//! The programs as a pod's container has them: another user, no new privileges, few capabilities. Needs root, and
//! fails without it.
//!
//! A binary of its own with one test: aya looks once in a process at what the kernel can do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use cosmolet::ebpf::{Error, Hook, Options, ProgramLog, Programs, Uplink};
use cosmolet::engine::event::TrafficCounts;
use cosmolet::engine::types::{Port, Protocol, Vip};
use cosmolet_tests::netns::{End, veth};
use cosmolet_tests::{Lab, Netns};

/// linux/capability.h
const NET_ADMIN: u32 = 12;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

#[test]
fn capabilities_decide() {
    let sysctl = std::fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled").unwrap();
    assert_ne!(sysctl.trim(), "0", "unprivileged BPF is enabled here; this test cannot tell");
    let lab = Lab::new().unwrap();
    let (client, node) = (lab.netns("client").unwrap(), lab.netns("node").unwrap());
    veth(End { netns: &client, interface: "eth1" }, End { netns: &node, interface: "eth1" }).unwrap();
    client.add_address("eth1", "192.0.2.1/24".parse().unwrap()).unwrap();
    node.add_address("eth1", "192.0.2.10/24".parse().unwrap()).unwrap();
    for (hook, log) in [
        (Hook::Tcx, ProgramLog::Off),
        (Hook::Clsact, ProgramLog::Off),
        // Where the logging programs are refused, the others are taken.
        (Hook::Tcx, ProgramLog::Trace),
    ] {
        let options = Options { hook, log, ..Options::default() };
        // Without PERFMON first: what aya found then stands for the rest of this process.
        for capabilities in [&[BPF, NET_ADMIN][..], &[BPF, NET_ADMIN, PERFMON]] {
            // The second time the filters of a killed daemon are in the way of clsact.
            for killed in [true, false] {
                let counts = attempt(&client, &node, capabilities, options, killed)
                    .unwrap_or_else(|error| panic!("{hook:?} {capabilities:?}: {error:?}"));
                assert_eq!((counts.syn, counts.rst_host), (2, 2), "{hook:?} {capabilities:?}");
            }
        }
    }
    for (capabilities, missing) in
        [(&[][..], "CAP_BPF and CAP_NET_ADMIN"), (&[NET_ADMIN], "CAP_BPF is"), (&[BPF], "CAP_NET_ADMIN is")]
    {
        let error = attempt(&client, &node, capabilities, Options::default(), false).unwrap_err();
        assert!(matches!(error, Error::NotPermitted { .. }), "{capabilities:?}: {error}");
        assert!(error.to_string().contains(missing), "{capabilities:?}: {error}");
    }
}

/// Loads, attaches and counts two refused connections, on a thread with few rights.
fn attempt(
    client: &Netns,
    node: &Netns,
    capabilities: &[u32],
    options: Options,
    killed: bool,
) -> Result<TrafficCounts, Error> {
    let (vip, port) = (Vip::new([192, 0, 2, 10].into()), Port { protocol: Protocol::Tcp, number: 80 });
    let text = node.ip(&["-o", "link", "show", "dev", "eth1"]).unwrap();
    let uplink = Uplink { ifindex: text.split(':').next().unwrap().parse().unwrap(), name: "eth1".to_owned() };
    let unprivileged = || drop_to(65534, capabilities).unwrap();
    let mut programs = node
        .run(|| {
            unprivileged();
            let mut programs = Programs::load(&options)?;
            programs.track(vip, &[port])?;
            programs.attach(std::slice::from_ref(&uplink)).remove(0).1?;
            Ok::<_, Error>(programs)
        })
        .unwrap()?;
    let to = SocketAddr::new(vip.address(), 80);
    for _ in 0..2 {
        client.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap_err()).unwrap();
    }
    node.run(|| {
        unprivileged();
        programs.sample(Duration::ZERO)?;
        let counts = programs.sum(vip, port).unwrap();
        if killed {
            std::mem::forget(programs);
        }
        Ok(counts)
    })
    .unwrap()
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes this thread alone another user, with these capabilities and no way to more.
#[expect(unsafe_code, reason = "std changes neither a thread's user nor its capabilities")]
fn drop_to(uid: u32, capabilities: &[u32]) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    // SAFETY: integers only; the system calls and not libc's functions, which would change every thread.
    unsafe {
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0).into())?;
        check(libc::syscall(libc::SYS_setresgid, uid, uid, uid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
    }
    let bits = capabilities.iter().fold(0_u64, |bits, capability| bits | 1 << capability);
    let (low, high) = (bits as u32, (bits >> 32) as u32);
    let header = [VERSION_3, 0];
    let data = [low, low, 0, high, high, 0];
    // SAFETY: both are as long as version 3 wants them.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) })
}
