//! Real clients, a node that translates, a pod: what becomes of their connections, on real interfaces.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use cosmolet::ebpf::{Hook, Options, Programs, Uplink};
use cosmolet::engine::event::{Handshakes, TrafficCounts, TrafficSample};
use cosmolet::engine::types::Vip;
use cosmolet_tests::netns::{End, veth};
use cosmolet_tests::nft::{Mapping, Proxy};
use cosmolet_tests::{Lab, Netns};

use crate::PORT;

const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
const PODS: [&str; 2] = ["10.9.0.2", "fd00:9::2"];
/// More than the time after which silence is a failure.
const PATIENCE: Duration = Duration::from_millis(3200);

/// `client eth1 — eth1 node pod0 — eth0 pod`, with VIPs on the node's loopback and DNAT to the pod.
struct Wire {
    client: Netns,
    node: Arc<Netns>,
    pod: Netns,
    proxy: Proxy,
    _lab: Lab,
}

impl Wire {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let netns = |name| lab.netns(name).unwrap();
        let (client, node, pod) = (netns("client"), Arc::new(netns("node")), netns("pod"));
        let proxy = Proxy::new(Arc::clone(&node));
        let mut wire = Self { client, node, pod, proxy, _lab: lab };
        for netns in [&wire.client, &wire.node, &wire.pod] {
            for key in ["all", "default"] {
                netns.sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "0").unwrap();
            }
        }
        wire.node.forward().unwrap();
        for vip in VIPS {
            wire.node.add_address("lo", vip.parse::<IpAddr>().unwrap().into()).unwrap();
        }
        veth(End { netns: &wire.client, interface: "eth1" }, End { netns: &wire.node, interface: "eth1" }).unwrap();
        veth(End { netns: &wire.node, interface: "pod0" }, End { netns: &wire.pod, interface: "eth0" }).unwrap();
        wire.net("eth1", 1);
        for (netns, interface, host) in [(&*wire.node, "pod0", 1), (&wire.pod, "eth0", 2)] {
            netns.add_address(interface, format!("10.9.0.{host}/24").parse().unwrap()).unwrap();
            netns.add_address(interface, format!("fd00:9::{host}/64").parse().unwrap()).unwrap();
        }
        wire.pod.add_route("0.0.0.0/0".parse().unwrap(), "10.9.0.1".parse().unwrap()).unwrap();
        wire.pod.add_route("::/0".parse().unwrap(), "fd00:9::1".parse().unwrap()).unwrap();
        wire.serve_by_pods();
        wire
    }

    /// Addresses on both ends of a link between client and node, and the client's way to the VIPs.
    fn net(&self, interface: &str, net: u8) {
        for (netns, host) in [(&self.client, 1), (&*self.node, 2)] {
            netns.add_address(interface, format!("10.0.{net}.{host}/24").parse().unwrap()).unwrap();
            netns.add_address(interface, format!("fd00:{net}::{host}/64").parse().unwrap()).unwrap();
        }
        for (vip, via) in VIPS.into_iter().zip([format!("10.0.{net}.2"), format!("fd00:{net}::2")]) {
            let vip: IpAddr = vip.parse().unwrap();
            self.client.add_route(vip.into(), via.parse().unwrap()).unwrap();
        }
    }

    fn serve_by_pods(&mut self) {
        let mapping = |(vip, pod): (&str, &str)| {
            Mapping::tcp(vip.parse().unwrap(), 80, SocketAddr::new(pod.parse().unwrap(), 8080))
        };
        self.proxy.set(VIPS.into_iter().zip(PODS).map(mapping).collect()).unwrap();
    }

    fn attach(&self, names: &[&str], hook: Hook) -> Programs {
        let mut programs = Programs::load(&Options { hook, ..Options::default() }).unwrap();
        for vip in VIPS {
            programs.track(Vip::new(vip.parse().unwrap()), &[PORT]).unwrap();
        }
        let uplinks: Vec<_> = names.iter().map(|name| self.uplink(name)).collect();
        let results = self.node.run(|| programs.attach(&uplinks)).unwrap();
        results.into_iter().for_each(|(uplink, result)| result.unwrap_or_else(|error| panic!("{uplink:?}: {error}")));
        programs
    }

    fn uplink(&self, name: &str) -> Uplink {
        let text = self.node.ip(&["-o", "link", "show", "dev", name]).unwrap();
        Uplink { ifindex: text.split(':').next().unwrap().parse().unwrap(), name: name.to_owned() }
    }

    /// Connects `count` times, one after the other, and tells the kinds of the errors.
    fn connect(&self, vip: &str, count: usize, limit: Duration) -> Vec<ErrorKind> {
        let to = SocketAddr::new(vip.parse().unwrap(), 80);
        let try_once = || TcpStream::connect_timeout(&to, limit).err().map(|error| error.kind());
        self.client.run(|| (0..count).filter_map(|_| try_once()).collect()).unwrap()
    }

    /// Connects to what serves, and every connection must come about.
    #[track_caller]
    fn connected(&self, vip: &str, count: usize) {
        assert_eq!(self.connect(vip, count, Duration::from_secs(5)), []);
    }

    #[track_caller]
    fn refused(&self, vip: &str, count: usize) {
        assert_eq!(self.connect(vip, count, Duration::from_secs(5)), vec![ErrorKind::ConnectionRefused; count]);
    }
}

/// Accepts whatever comes to `address`, for as long as the test process lives.
fn serve(netns: &Netns, address: SocketAddr) {
    let listener = netns.run(|| TcpListener::bind(address)).unwrap().unwrap();
    thread::spawn(move || listener.incoming().for_each(drop));
}

/// What the next reading tells of a VIP; of another there are at most the last packets of what has completed.
#[track_caller]
fn told(programs: &mut Programs, vip: &str) -> (Handshakes, TrafficCounts) {
    let samples = programs.sample(Duration::from_secs(1)).unwrap();
    let vip = Vip::new(vip.parse().unwrap());
    let (its, others): (Vec<_>, Vec<_>) = samples.iter().partition(|sample| sample.vip == vip);
    assert!(others.iter().all(|sample: &&TrafficSample| sample.handshakes == none()), "{others:?}");
    assert_eq!(its.len(), 1, "{samples:?}");
    looked_at(its[0])
}

/// What depends on the hash's key and on time is looked at here.
#[track_caller]
fn looked_at(sample: &TrafficSample) -> (Handshakes, TrafficCounts) {
    let told = sample.handshakes;
    let failed = told.refused_backend + told.refused_host + told.timed_out;
    assert_eq!(told.failed_prefixes.count_ones(), u32::from(failed > 0), "one client has one prefix: {told:?}");
    let answered = u64::from(told.latency.iter().sum::<u32>());
    assert_eq!(answered, told.completed - told.unseen_answers, "{told:?}");
    (Handshakes { failed_prefixes: 0, latency: [0; 21], latency_micros: 0, ..told }, sample.counts)
}

fn none() -> Handshakes {
    Handshakes { one_in: 1, ..Handshakes::default() }
}

#[test]
fn real_connections_complete_and_are_refused_by_whom_they_are() {
    for hook in [Hook::Tcx, Hook::Clsact] {
        let wire = Wire::new();
        let mut programs = wire.attach(&["eth1"], hook);
        for (vip, pod) in VIPS.into_iter().zip(PODS) {
            wire.refused(vip, 3);
            let (handshakes, counts) = told(&mut programs, vip);
            assert_eq!(handshakes, Handshakes { refused_backend: 3, ..none() }, "{hook:?} {vip}");
            assert_eq!((counts.rst_backend, counts.rst_after_data_backend), (3, 0), "{counts:?}");
            serve(&wire.pod, SocketAddr::new(pod.parse().unwrap(), 8080));
            wire.connected(vip, 20);
            let (handshakes, counts) = told(&mut programs, vip);
            assert_eq!(handshakes, Handshakes { completed: 20, ..none() }, "{hook:?} {vip}");
            assert_eq!((counts.syn, counts.syn_ack, counts.completed, counts.syn_retransmitted), (20, 20, 20, 0));
        }
        wire.proxy.lose().unwrap();
        for vip in VIPS {
            wire.refused(vip, 3);
            assert_eq!(told(&mut programs, vip).0, Handshakes { refused_host: 3, ..none() }, "{hook:?} {vip}");
        }
        assert_eq!(programs.oddities().unwrap().unfollowed, 0);
    }
}

/// A firewall in the pod that drops, and one in the node that drops the answers: both are silence to the client.
#[test]
fn silence_times_out_whoever_drops() {
    const DROPS: [&str; 2] = [
        "table inet silent { chain in { type filter hook input priority 0; tcp dport 8080 drop; }; }\n",
        "table inet silent { chain out { type filter hook output priority 0; tcp sport 8080 drop; }; }\n",
    ];
    let wire = Wire::new();
    for pod in PODS {
        serve(&wire.pod, SocketAddr::new(pod.parse().unwrap(), 8080));
    }
    let mut programs = wire.attach(&["eth1"], Hook::Tcx);
    for drops in DROPS {
        wire.pod.exec_with_input("nft", &["-f", "-"], drops).unwrap();
        // Long enough for the first repetition, after a second.
        thread::scope(|scope| {
            for vip in VIPS {
                scope.spawn(|| {
                    assert_eq!(wire.connect(vip, 1, Duration::from_millis(1500)), [ErrorKind::TimedOut]);
                });
            }
        });
        let samples = programs.sample(Duration::from_secs(1)).unwrap();
        assert_eq!(samples.len(), 2, "{samples:?}");
        for (handshakes, counts) in samples.iter().map(looked_at) {
            assert_eq!((handshakes, counts.syn, counts.syn_retransmitted), (none(), 2, 1), "{counts:?}");
        }
        thread::sleep(PATIENCE - Duration::from_millis(1500));
        // Nothing came, and yet there is something to tell.
        let samples = programs.sample(Duration::from_secs(1)).unwrap();
        assert_eq!(samples.len(), 2, "{samples:?}");
        for (handshakes, counts) in samples.iter().map(looked_at) {
            assert_eq!(handshakes, Handshakes { timed_out: 1, ..none() });
            assert_eq!(counts, TrafficCounts::default());
        }
        wire.pod.exec("nft", &["delete", "table", "inet", "silent"]).unwrap();
    }
    for vip in VIPS {
        wire.connected(vip, 5);
        assert_eq!(told(&mut programs, vip).0, Handshakes { completed: 5, ..none() });
    }
}

/// Direct server return: the pod has the VIP and answers the client by a link of its own.
#[test]
fn direct_server_return_completes_unseen() {
    let wire = Wire::new();
    wire.proxy.lose().unwrap();
    veth(End { netns: &wire.client, interface: "direct" }, End { netns: &wire.pod, interface: "direct" }).unwrap();
    for (netns, host) in [(&wire.client, 1), (&wire.pod, 2)] {
        netns.add_address("direct", format!("10.8.0.{host}/24").parse().unwrap()).unwrap();
        netns.add_address("direct", format!("fd00:8::{host}/64").parse().unwrap()).unwrap();
    }
    for (vip, (via, back)) in VIPS.into_iter().zip([("10.9.0.2", "10.8.0.1"), ("fd00:9::2", "fd00:8::1")]) {
        let address: IpAddr = vip.parse().unwrap();
        wire.pod.add_address("lo", address.into()).unwrap();
        wire.node.ip(&["addr", "del", vip, "dev", "lo"]).unwrap();
        wire.node.add_route(address.into(), via.parse().unwrap()).unwrap();
        let clients = if address.is_ipv4() { "10.0.1.0/24" } else { "fd00:1::/64" };
        wire.pod.add_route(clients.parse().unwrap(), back.parse().unwrap()).unwrap();
        serve(&wire.pod, SocketAddr::new(address, 80));
    }
    let mut programs = wire.attach(&["eth1"], Hook::Tcx);
    for vip in VIPS {
        wire.connected(vip, 5);
        let (handshakes, counts) = told(&mut programs, vip);
        assert_eq!((handshakes, counts.syn, counts.syn_ack, counts.completed), (none(), 5, 0, 0), "{counts:?}");
        thread::sleep(PATIENCE);
        let samples = programs.sample(Duration::from_secs(1)).unwrap();
        assert_eq!(samples.len(), 1, "{samples:?}");
        assert_eq!(looked_at(&samples[0]).0, Handshakes { completed: 5, unseen_answers: 5, ..none() }, "{vip}");
    }
}

/// What comes by one uplink may be answered by another: seen where both have the programs.
#[test]
fn an_answer_by_another_uplink_is_seen_there() {
    let wire = Wire::new();
    veth(End { netns: &wire.client, interface: "eth2" }, End { netns: &wire.node, interface: "eth2" }).unwrap();
    for (netns, host) in [(&wire.client, 1), (&*wire.node, 2)] {
        netns.add_address("eth2", format!("10.0.2.{host}/24").parse().unwrap()).unwrap();
        netns.add_address("eth2", format!("fd00:2::{host}/64").parse().unwrap()).unwrap();
    }
    wire.node.add_route("10.0.1.1/32".parse().unwrap(), "10.0.2.1".parse().unwrap()).unwrap();
    wire.node.add_route("fd00:1::1/128".parse().unwrap(), "fd00:2::1".parse().unwrap()).unwrap();
    for pod in PODS {
        serve(&wire.pod, SocketAddr::new(pod.parse().unwrap(), 8080));
    }
    let mut programs = wire.attach(&["eth1", "eth2"], Hook::Tcx);
    for vip in VIPS {
        wire.connected(vip, 5);
        assert_eq!(told(&mut programs, vip).0, Handshakes { completed: 5, ..none() }, "{vip}");
    }
}
