//! What is not FRR, and users whom FRR refuses.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet::engine::observed::BgpFault;
use cosmolet::engine::plan::{Outcome, Step};
use cosmolet::frr::Options;
use cosmolet_tests::Lab;
use cosmolet_tests::frr::{self, Frr};

use crate::{DYNAMIC, Node, Watched, all, ensure_done, ensure_retried, options, vip, vips};

/// A vty server that is not FRR: `answer` gives the bytes of a reply to each command, or `None` to hang up.
pub(crate) fn server(directory: &Path, answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Result<()> {
    use std::io::{Read, Write};
    let listener = UnixListener::bind(directory.join("bgpd.vty"))?;
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                let mut chunk = [0; 512];
                while let Ok(count @ 1..) = stream.read(&mut chunk) {
                    for line in chunk[..count].split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
                        let reply = answer(std::str::from_utf8(line).expect("commands are text").trim_end());
                        if reply.is_none_or(|reply| stream.write_all(&reply).is_err()) {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok(())
}

/// Answers as an FRR with one instance that takes every command.
pub(crate) fn willing(line: &str) -> Option<Vec<u8>> {
    let text: &[u8] = match line {
        "show running-config" => b"router bgp 65001\nexit\n",
        line if line.starts_with("show bgp") => b"{}",
        _ => b"",
    };
    Some([text, &[0; 4]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_on_the_socket_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let directory = lab.subdirectory("frr-node")?;
    let (sender, batches) = std::sync::mpsc::channel();
    server(&directory, move |line| {
        if line == "configure terminal" {
            sender.send(Instant::now()).ok()?;
        }
        willing(line)
    })?;
    let mut watched = Watched::new(options(&directory));
    watched.up().await?;
    let mut times = Vec::new();
    for round in 0..500 {
        let step = if round % 2 == 0 { Step::advertise } else { Step::Withdraw };
        let start = Instant::now();
        ensure_done(&watched.handle.apply(vec![step(vip("10.7.0.1"))]).await)?;
        // The first one carries the route-map before it.
        let arrived = batches.try_iter().last().context("a batch")?;
        times.push(arrived.saturating_duration_since(start));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort_unstable();
    let (median, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("from apply to another thread's read: median {median:?}, p99 {p99:?}");
    assert!(median < Duration::from_millis(1), "{median:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn impostors_are_faults_and_give_way() -> Result<()> {
    type Answer = fn(&str) -> Option<Vec<u8>>;
    let cases: [(&str, Answer); 8] = [
        ("Unreachable", |_| None),
        ("Unreachable", |line| if line == "enable" { willing(line) } else { None }),
        ("BadReply", |_| Some(b"a\0bcdef".to_vec())),
        ("BadReply", |_| Some(b"% Unknown command\n\0\0\0\x02".to_vec())),
        ("BadReply", |_| Some(vec![0; 8])),
        ("BadReply", |line| if line.contains("json") { Some(b"% nonsense\0\0\0\0".to_vec()) } else { willing(line) }),
        ("Silent", |_| Some(Vec::new())),
        ("Silent", |_| Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
    ];
    for (number, (reason, answer)) in cases.into_iter().enumerate() {
        let lab = Lab::new()?;
        let netns = lab.netns("node")?;
        let directory = lab.subdirectory("frr-node")?;
        server(&directory, answer)?;
        let quick = Options { patience: Duration::from_millis(50), ..Options::new(&directory) };
        let mut watched = Watched::new(quick);
        watched.fault(reason).await.with_context(|| format!("case {number}"))?;
        ensure_retried(&watched.handle.apply(vec![Step::advertise(vip("10.7.0.1"))]).await)?;
        std::fs::remove_file(directory.join("bgpd.vty"))?;
        let _frr = Frr::start(&lab, &netns, DYNAMIC, &frr::Options::default())?;
        watched.up().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_half_way_leaves_the_rest_unknown() -> Result<()> {
    let lab = Lab::new()?;
    let directory = lab.subdirectory("frr-node")?;
    let left = AtomicUsize::new(60);
    server(&directory, move |line| {
        if line.starts_with("network") && left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err() {
            left.store(1000, Relaxed);
            return None;
        }
        willing(line)
    })?;
    let mut watched = Watched::new(options(&directory));
    watched.up().await?;
    let steps = all(&vips(100), Step::advertise);
    let applied = watched.handle.apply(steps.clone()).await;
    let (done, others): (Vec<_>, Vec<_>) = applied.iter().partition(|applied| applied.outcome == Outcome::Done);
    assert_eq!((done.len(), others.len()), (60, 40));
    assert!(others.iter().all(|applied| matches!(applied.outcome, Outcome::Retry(..))), "{others:?}");
    ensure_done(&watched.handle.apply(steps).await).context("by a new connection")
}

/// Gives up the calling thread's root for good, its group too.
#[expect(unsafe_code, reason = "std changes the user of the whole process only")]
fn become_nobody() -> Result<()> {
    // SAFETY: the calls touch no memory; as raw system calls they change this thread alone.
    let failed = unsafe {
        libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) != 0
            || libc::syscall(libc::SYS_setresgid, 65534, 65534, 65534) != 0
            || libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) != 0
    };
    ensure!(!failed, "becoming nobody: {}", std::io::Error::last_os_error());
    Ok(())
}

#[test]
fn another_user_is_refused_and_told_so() -> Result<()> {
    let node = Node::start(DYNAMIC)?;
    let options = options(node.frr.directory());
    let nobody = std::thread::spawn(move || -> Result<BgpFault> {
        become_nobody()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { Watched::new(options).fault("PermissionDenied").await })
    });
    let fault = nobody.join().expect("the thread")?;
    assert!(matches!(&fault, BgpFault::PermissionDenied(text) if text.contains("frrvty")), "{fault:?}");
    Ok(())
}
