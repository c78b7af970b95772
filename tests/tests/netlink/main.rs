//! The netlink edge against the real kernel, each test in a network namespace of its own.
#![allow(unsafe_code, reason = "unshare(2) has no safe form")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test suite fails by a panic and prints what it measures; helpers are part of it"
)]

mod addresses;
mod foreign;
mod observing;
mod pace;
mod uplinks;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use cosmolet::engine::event::Event;
use cosmolet::engine::observed::{KernelEvent, KernelState, Owner};
use cosmolet::engine::plan::{Applied, Outcome, Step};
use cosmolet::engine::types::Vip;
use cosmolet::netlink::apply::Addresses;
use cosmolet::netlink::observe::Observer;
use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use serde_json::Value;
use tokio::sync::mpsc;

const LEASE: Option<Duration> = Some(Duration::from_secs(120));

/// Runs a test in a nameless network namespace that goes with the thread, and so needs no cleaning up.
fn in_namespace<T: Send>(test: impl AsyncFnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: takes no pointer; only this thread moves to the new namespace.
            let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(moved, 0, "unshare: {}: run as root", std::io::Error::last_os_error());
            ip("link set lo up");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn ip_batch(lines: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, lines.as_bytes()).unwrap();
    let output = Command::new("ip").args(["-force", "-batch"]).arg(file.path()).output().unwrap();
    assert!(output.stderr.is_empty(), "ip -batch: {}", String::from_utf8_lossy(&output.stderr));
}

/// A client of another make than ours: `ip` speaks of IFA_PROTO only since iproute2 6.3.
fn rtnetlink() -> rtnetlink::Handle {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle
}

async fn lo_index(handle: &rtnetlink::Handle) -> u32 {
    let mut links = handle.link().get().match_name("lo".to_owned()).execute();
    links.try_next().await.unwrap().unwrap().header.index
}

/// The IFA_PROTO of each address of `lo` that has one, by address and prefix length.
async fn tags() -> BTreeMap<String, u8> {
    let handle = rtnetlink();
    let lo = lo_index(&handle).await;
    let messages: Vec<_> = handle.address().get().set_link_index_filter(lo).execute().try_collect().await.unwrap();
    let mut tags = BTreeMap::new();
    for message in messages {
        let find =
            |attribute: &AddressAttribute| if let AddressAttribute::Address(ip) = attribute { Some(*ip) } else { None };
        let ip = message.attributes.iter().find_map(find).unwrap();
        for attribute in &message.attributes {
            if let AddressAttribute::Protocol(protocol) = attribute {
                tags.insert(format!("{ip}/{}", message.header.prefix_len), u8::from(*protocol));
            }
        }
    }
    tags.retain(|name, _| name != "127.0.0.1/8" && name != "::1/128");
    tags
}

/// Adds an address to `lo` as somebody else who tags.
async fn add_tagged(net: &str, tag: u8) {
    let net: ipnet::IpNet = net.parse().unwrap();
    let handle = rtnetlink();
    let lo = lo_index(&handle).await;
    let mut request = handle.address().add(lo, net.addr(), net.prefix_len());
    request.message_mut().attributes.push(AddressAttribute::Protocol(tag.into()));
    request.execute().await.unwrap();
}

/// The addresses of an interface as `ip` tells them, by address and prefix length.
fn addresses_of(interface: &str) -> BTreeMap<String, Value> {
    let json: Value = serde_json::from_str(&ip(&format!("-j -d addr show dev {interface}"))).unwrap();
    let infos = json[0]["addr_info"].as_array().cloned().unwrap_or_default();
    let name = |info: &Value| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]);
    infos.into_iter().map(|info| (name(&info), info)).collect()
}

/// Addresses without what time alone changes: lifetimes become hundreds of seconds, rounded up.
fn without_time(mut addresses: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    for info in addresses.values_mut() {
        for key in ["valid_life_time", "preferred_life_time"] {
            info[key] = Value::from(info[key].as_u64().unwrap().div_ceil(100));
        }
        info.as_object_mut().unwrap().remove("tentative");
    }
    addresses
}

fn vip(text: &str) -> Vip {
    Vip::new(text.parse().unwrap())
}

fn add(text: &str, lease: Option<Duration>) -> Step {
    Step::add_address(vip(text), lease)
}

fn remove(text: &str) -> Step {
    Step::RemoveAddress(vip(text))
}

/// Applies steps on `lo` and gives the outcomes.
async fn apply(steps: &[Step]) -> Vec<Outcome> {
    outcomes(&mut Addresses::new("lo", Vec::new()), steps).await
}

async fn outcomes(addresses: &mut Addresses, steps: &[Step]) -> Vec<Outcome> {
    let applied = addresses.apply(steps, &|| false).await;
    assert_eq!(applied.iter().map(|applied| &applied.step).collect::<Vec<_>>(), steps.iter().collect::<Vec<_>>());
    applied.into_iter().map(|Applied { outcome, .. }| outcome).collect()
}

fn v4(index: usize) -> IpAddr {
    IpAddr::from([100, 64, u8::try_from(index / 256).unwrap(), u8::try_from(index % 256).unwrap()])
}

fn v6(index: usize) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::try_from(index).unwrap()])
}

/// What the events so far add up to, and how many there were.
struct Seen {
    events: mpsc::Receiver<Event>,
    state: KernelState,
    count: usize,
    dumps: usize,
}

impl Seen {
    fn new(observer: Observer) -> Self {
        let (sender, events) = mpsc::channel(1024);
        observer.spawn(sender).unwrap();
        Self { events, state: KernelState::default(), count: 0, dumps: 0 }
    }

    /// Takes events until the state is as wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&KernelState) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.dumps == 0 || !wanted(&self.state) {
            let event = tokio::time::timeout_at(deadline, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| {
                panic!("never seen: {what}; {} on the loopback, own {:?}", self.state.loopback.len(), self.state.own)
            });
            self.take(event.expect("the observer ended"));
        }
    }

    /// Takes what comes within a span.
    async fn during(&mut self, span: Duration) {
        let deadline = tokio::time::Instant::now() + span;
        while let Ok(event) = tokio::time::timeout_at(deadline, self.events.recv()).await {
            self.take(event.expect("the observer ended"));
        }
    }

    fn take(&mut self, event: Event) {
        self.count += 1;
        let Event::Kernel(event) = event else { panic!("not of the kernel: {event:?}") };
        match event {
            KernelEvent::Dump(state) => {
                self.state = state;
                self.dumps += 1;
            }
            KernelEvent::Loopback(vip, address) => drop(self.state.loopback.insert(vip, address)),
            KernelEvent::LoopbackGone(vip) => drop(self.state.loopback.remove(&vip)),
            KernelEvent::Own(own) => self.state.own = own,
        }
    }

    fn owner(&self, text: &str) -> Option<Owner> {
        self.state.loopback.get(&vip(text)).map(|address| address.owner)
    }

    fn valid_for(&self, text: &str) -> Option<Duration> {
        self.state.loopback.get(&vip(text)).and_then(|address| address.valid_for)
    }
}
