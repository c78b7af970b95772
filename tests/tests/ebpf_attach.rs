//! The programs on real interfaces, in namespaces, with real traffic. Needs root, and fails without it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TcAttachType};
use cosmolet::ebpf::{Error, Hook, Options, ProgramLog, Programs, Uplink};
use cosmolet::engine::event::TrafficCounts;
use cosmolet::engine::types::{Port, Protocol, Vip};
use cosmolet_tests::netns::{End, output, veth};
use cosmolet_tests::packet::{self, flag, protocol};
use cosmolet_tests::{Lab, Netns};

mod kernel;

const TCP: Port = Port { protocol: Protocol::Tcp, number: 80 };
const UDP: Port = Port { protocol: Protocol::Udp, number: 53 };
const VIP4: &str = "192.0.2.10";
const VIP6: &str = "2001:db8::10";

/// A client and a node, joined by `eth1`; the node has both VIPs on its loopback.
struct Wire {
    client: Netns,
    node: Netns,
    _lab: Lab,
}

impl Wire {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let (client, node) = (lab.netns("client").unwrap(), lab.netns("node").unwrap());
        let wire = Self { client, node, _lab: lab };
        for vip in [VIP4, VIP6] {
            wire.node.add_address("lo", vip.parse::<IpAddr>().unwrap().into()).unwrap();
        }
        wire.join("eth1", 1);
        wire
    }

    /// Joins both by one more veth pair; the client reaches the VIPs through the last one.
    fn join(&self, interface: &str, net: u8) {
        veth(End { netns: &self.client, interface }, End { netns: &self.node, interface }).unwrap();
        for (netns, host) in [(&self.client, 1), (&self.node, 2)] {
            netns.add_address(interface, format!("10.0.{net}.{host}/24").parse().unwrap()).unwrap();
            netns.add_address(interface, format!("fd00:{net}::{host}/64").parse().unwrap()).unwrap();
        }
        let via = |text: String| text.parse::<IpAddr>().unwrap();
        self.client.add_route(format!("{VIP4}/32").parse().unwrap(), via(format!("10.0.{net}.2"))).unwrap();
        self.client.add_route(format!("{VIP6}/128").parse().unwrap(), via(format!("fd00:{net}::2"))).unwrap();
    }

    fn uplink(&self, name: &str) -> Uplink {
        let text = self.node.ip(&["-o", "link", "show", "dev", name]).unwrap();
        Uplink { ifindex: text.split(':').next().unwrap().parse().unwrap(), name: name.to_owned() }
    }

    /// Runs `body` on a thread in the node.
    fn on_node<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.node.run(body).unwrap()
    }

    fn attach(&self, programs: &mut Programs, names: &[&str]) {
        let uplinks: Vec<_> = names.iter().map(|name| self.uplink(name)).collect();
        for (uplink, result) in self.on_node(|| programs.attach(&uplinks)) {
            result.unwrap_or_else(|error| panic!("{uplink:?}: {error}"));
        }
    }

    /// Tries `count` connections to a port that nobody serves; the host refuses each.
    fn refused(&self, vip: &str, count: u32) {
        let to = SocketAddr::new(vip.parse().unwrap(), 80);
        self.client
            .run(|| {
                for _ in 0..count {
                    let error = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap_err();
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
                }
            })
            .unwrap();
    }

    /// Lets the client send an Ethernet frame through its end of `eth1`.
    fn send_frame(&self, frame: &[u8]) {
        self.client.run(|| kernel::send_frame("eth1", frame)).unwrap().unwrap();
    }
}

fn load(options: &Options) -> Programs {
    let mut programs = Programs::load(options).expect("this test needs root, and a kernel with BPF");
    for vip in [VIP4, VIP6] {
        programs.track(vip_of(vip), &[TCP, UDP]).unwrap();
    }
    programs
}

fn vip_of(text: &str) -> Vip {
    Vip::new(text.parse().unwrap())
}

fn sum(programs: &mut Programs, vip: &str, port: Port) -> TrafficCounts {
    programs.sample(Duration::ZERO).unwrap();
    programs.sum(vip_of(vip), port).unwrap()
}

#[test]
fn refusals_and_handshakes_of_real_clients_are_counted() {
    let wire = Wire::new();
    let mut programs = load(&Options::default());
    wire.attach(&mut programs, &["eth1"]);
    for vip in [VIP4, VIP6] {
        wire.refused(vip, 5);
        let counts = sum(&mut programs, vip, TCP);
        assert_eq!((counts.syn, counts.rst_host, counts.completed), (5, 5, 0), "{vip} {counts:?}");
        assert_eq!((counts.packets_in, counts.packets_out), (5, 5), "{vip}");

        // Served by this host's own stack, as a hostNetwork backend is: 1 MiB, in buffers of many segments.
        let listener = wire.on_node(|| TcpListener::bind(SocketAddr::new(vip.parse().unwrap(), 80))).unwrap();
        let server = thread::spawn(move || {
            let mut received = 0;
            for _ in 0..3 {
                received += listener.accept().unwrap().0.read_to_end(&mut Vec::new()).unwrap();
            }
            received
        });
        let to = SocketAddr::new(vip.parse().unwrap(), 80);
        wire.client
            .run(|| {
                for _ in 0..3 {
                    TcpStream::connect(to).unwrap().write_all(&vec![7; 1 << 20]).unwrap();
                }
            })
            .unwrap();
        assert_eq!(server.join().unwrap(), 3 << 20);
        let counts = sum(&mut programs, vip, TCP);
        assert_eq!((counts.syn_ack_host, counts.syn_ack, counts.completed), (3, 0, 3), "{vip} {counts:?}");
        assert!(counts.bytes_in > 3 << 20, "{vip} {counts:?}");
        // A packet carries no more than the MTU of 1500 lets it.
        assert!(counts.packets_in > (3 << 20) / 1460, "{vip} {counts:?}");
        assert!(counts.bytes_in / counts.packets_in <= 1500, "{vip} {counts:?}");
    }
}

#[test]
fn an_unserved_udp_port_is_unreachable() {
    let wire = Wire::new();
    let mut programs = load(&Options::default());
    wire.attach(&mut programs, &["eth1"]);
    for vip in [VIP4, VIP6] {
        let to = SocketAddr::new(vip.parse().unwrap(), 53);
        wire.client
            .run(|| {
                let local = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(local).unwrap();
                socket.connect(to).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                socket.send(b"anybody?").unwrap();
                let error = socket.recv(&mut [0; 16]).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
            })
            .unwrap();
        let counts = sum(&mut programs, vip, UDP);
        assert_eq!((counts.packets_in, counts.packets_out, counts.unreachable_host), (1, 0, 1), "{vip}");
        assert_eq!(counts.bytes_in, if to.is_ipv4() { 36 } else { 56 });
    }
}

#[test]
fn answers_of_a_backend_are_not_the_hosts() {
    let wire = Wire::new();
    let lab = Lab::new().unwrap();
    let pod = lab.netns("pod").unwrap();
    veth(End { netns: &wire.node, interface: "pod0" }, End { netns: &pod, interface: "eth0" }).unwrap();
    wire.node.add_address("pod0", "10.9.0.1/24".parse().unwrap()).unwrap();
    pod.add_address("eth0", "10.9.0.2/24".parse().unwrap()).unwrap();
    pod.ip(&["route", "add", "default", "via", "10.9.0.1"]).unwrap();
    wire.node.forward().unwrap();
    let nat = "table ip nat { chain pre { type nat hook prerouting priority dstnat; \
               ip daddr 192.0.2.10 tcp dport 80 dnat to 10.9.0.2:8080; }; }\n";
    wire.node.exec_with_input("nft", &["-f", "-"], nat).unwrap();
    let mut programs = load(&Options::default());
    wire.attach(&mut programs, &["eth1"]);
    wire.refused(VIP4, 2);
    let counts = sum(&mut programs, VIP4, TCP);
    assert_eq!((counts.syn, counts.rst_backend, counts.rst_host), (2, 2, 0), "{counts:?}");

    let listener = pod.run(|| TcpListener::bind("10.9.0.2:8080")).unwrap().unwrap();
    let server = thread::spawn(move || {
        for _ in 0..3 {
            let mut stream = listener.accept().unwrap().0;
            stream.write_all(b"hello").unwrap();
        }
    });
    wire.client
        .run(|| {
            for _ in 0..3 {
                let mut answer = String::new();
                TcpStream::connect((VIP4, 80)).unwrap().read_to_string(&mut answer).unwrap();
                assert_eq!(answer, "hello");
            }
        })
        .unwrap();
    server.join().unwrap();
    let counts = sum(&mut programs, VIP4, TCP);
    assert_eq!((counts.syn_ack, counts.syn_ack_host, counts.completed), (3, 0, 3), "{counts:?}");
}

#[test]
fn another_program_that_ends_the_chain_starves_nobody() {
    let wire = Wire::new();
    let _theirs = wire.on_node(|| kernel::attach_accepting_tcx(wire.uplink("eth1").ifindex)).unwrap();
    let mut programs = load(&Options::default());
    wire.attach(&mut programs, &["eth1"]);
    wire.refused(VIP4, 3);
    let counts = sum(&mut programs, VIP4, TCP);
    assert_eq!((counts.syn, counts.rst_host), (3, 3));
}

#[test]
fn interfaces_come_go_and_come_back() {
    let wire = Wire::new();
    let mut programs = load(&Options::default());
    wire.join("eth2", 2);
    wire.attach(&mut programs, &["eth1", "eth2"]);
    // Attached to both; asked again, they are not attached twice.
    wire.attach(&mut programs, &["eth1", "eth2"]);
    assert_eq!(programs.attached().count(), 2);
    wire.refused(VIP4, 1);
    wire.join("eth3", 3);
    wire.refused(VIP4, 4);
    assert_eq!(sum(&mut programs, VIP4, TCP).syn, 1, "eth3 is no uplink");

    // Recreated under its old name: another index, and the programs again.
    let old = wire.uplink("eth3");
    wire.attach(&mut programs, &["eth3"]);
    assert_eq!(programs.attached().collect::<Vec<_>>(), [&old], "the others are no uplinks now");
    wire.node.ip(&["link", "del", "eth3"]).unwrap();
    let gone = wire.on_node(|| programs.attach(&[])).len();
    assert_eq!((gone, programs.attached().count()), (0, 0));
    wire.join("eth3", 3);
    let result = wire.on_node(|| programs.attach(std::slice::from_ref(&old))).remove(0).1;
    assert!(matches!(result, Err(Error::NoInterface(_))), "{result:?}");
    wire.attach(&mut programs, &["eth3"]);
    assert_ne!(wire.uplink("eth3").ifindex, old.ifindex);
    wire.refused(VIP4, 2);
    assert_eq!(sum(&mut programs, VIP4, TCP).syn, 3);
}

#[test]
fn dropping_the_programs_detaches_them() {
    for hook in [Hook::Tcx, Hook::Clsact] {
        let wire = Wire::new();
        let mut programs = load(&Options { hook, ..Options::default() });
        wire.attach(&mut programs, &["eth1"]);
        let filters = || {
            let tc = |hook| wire.node.exec("tc", &["filter", "show", "dev", "eth1", hook]).unwrap();
            let tcx = |hook| wire.on_node(|| SchedClassifier::query_tcx("eth1", hook)).unwrap().1.len();
            let clsact =
                tc("ingress").matches("handle 0xc05e0001").count() + tc("egress").matches("handle 0xc05e0001").count();
            (tcx(TcAttachType::Ingress) + tcx(TcAttachType::Egress), clsact)
        };
        assert_eq!(filters(), if hook == Hook::Tcx { (2, 0) } else { (0, 2) });
        wire.on_node(|| drop(programs));
        assert_eq!(filters(), (0, 0));
    }
}

#[test]
fn clsact_counts_and_replaces_the_filters_of_a_killed_daemon() {
    let wire = Wire::new();
    let options = Options { hook: Hook::Clsact, ..Options::default() };
    let mut killed = load(&options);
    wire.attach(&mut killed, &["eth1"]);
    // What SIGKILL leaves: nobody detaches.
    std::mem::forget(killed);
    // A filter of somebody else stays.
    wire.node
        .exec(
            "tc",
            &["filter", "add", "dev", "eth1", "ingress", "prio", "9", "bpf", "bytecode", "1,6 0 0 0", "flowid", "1:9"],
        )
        .unwrap();
    let mut programs = load(&options);
    wire.attach(&mut programs, &["eth1"]);
    for direction in ["ingress", "egress"] {
        let filters = wire.node.exec("tc", &["filter", "show", "dev", "eth1", direction]).unwrap();
        assert_eq!(filters.matches("handle 0xc05e0001").count(), 1, "{filters}");
        assert_eq!(filters.contains("flowid 1:9"), direction == "ingress", "{filters}");
    }
    wire.refused(VIP6, 3);
    let counts = sum(&mut programs, VIP6, TCP);
    assert_eq!((counts.syn, counts.rst_host), (3, 3));
}

#[test]
fn devices_without_link_headers_are_read_as_well() {
    let lab = Lab::new().unwrap();
    let node = lab.netns("node").unwrap();
    for vip in [VIP4, VIP6] {
        node.add_address("lo", vip.parse::<IpAddr>().unwrap().into()).unwrap();
    }
    for log in [ProgramLog::Off, ProgramLog::Debug] {
        let mut programs = load(&Options { log, ..Options::default() });
        node.run(|| {
            let mut tun = kernel::Tun::open("tun0").unwrap();
            node.ip(&["link", "set", "dev", "tun0", "up"]).unwrap();
            node.ip(&["route", "add", "198.51.100.0/24", "dev", "tun0"]).unwrap();
            node.ip(&["-6", "route", "add", "2001:db8:9::/64", "dev", "tun0"]).unwrap();
            let ifindex = tun.ifindex();
            let results = programs.attach(&[Uplink { ifindex, name: "tun0".to_owned() }]);
            results.into_iter().for_each(|(_, result)| result.unwrap());
            for (vip, client) in [(VIP4, "198.51.100.7"), (VIP6, "2001:db8:9::7")] {
                let from = SocketAddr::new(client.parse().unwrap(), 40000);
                let to = SocketAddr::new(vip.parse().unwrap(), 80);
                let syn = packet::tcp_packet(from, to, 1000, 0, flag::SYN);
                tun.write(&syn).unwrap();
                let reset = tun.read_tcp(Duration::from_secs(5)).unwrap();
                let counts = sum(&mut programs, vip, TCP);
                assert_eq!((counts.syn, counts.rst_host), (1, 1), "{vip} {counts:?}");
                assert_eq!((counts.bytes_in, counts.bytes_out), (syn.len() as u64, reset.len() as u64), "{vip}");
            }
            if let IpAddr::V4(vip) = VIP4.parse::<IpAddr>().unwrap() {
                let client = "198.51.100.7".parse().unwrap();
                let syn = packet::tcp(40000, 80, 1000, 0, flag::SYN);
                tun.write(&packet::ipv4(client, vip.into(), protocol::TCP, 0, &[1; 8], &syn)).unwrap();
                assert_eq!(sum(&mut programs, VIP4, TCP).syn, 2, "behind IP options");
            }
            node.ip(&["link", "del", "tun0"]).unwrap();
        })
        .unwrap();
    }
}

#[test]
fn frames_that_end_inside_the_ip_header_are_counted_as_truncated() {
    let wire = Wire::new();
    let mut programs = load(&Options::default());
    wire.attach(&mut programs, &["eth1"]);
    for vip in [VIP4, VIP6] {
        let before = programs.oddities().unwrap().truncated;
        let client: IpAddr = if vip == VIP4 { "10.0.1.1" } else { "fd00:1::1" }.parse().unwrap();
        let whole = packet::ip(client, vip.parse().unwrap(), protocol::TCP, &packet::tcp(1, 80, 0, 0, flag::SYN));
        let header = whole.len() - 20;
        for length in 1..header {
            wire.send_frame(&packet::ethernet(&whole[..length]));
        }
        let expected = u64::try_from(header - 1).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while programs.oddities().unwrap().truncated - before < expected && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(programs.oddities().unwrap().truncated - before, expected, "{vip}");
        assert_eq!(sum(&mut programs, vip, TCP), TrafficCounts::default());
    }
}

/// The kernel takes a single VLAN tag off before the programs see the frame: on a VLAN's parent it is read like any other.
#[test]
fn tagged_frames_are_counted_on_the_parent() {
    const TAG: [u8; 4] = [0x81, 0, 0, 7];
    let wire = Wire::new();
    let mut programs = load(&Options::default());
    wire.attach(&mut programs, &["eth1"]);
    for (vip, client) in [(VIP4, "10.0.1.1"), (VIP6, "fd00:1::1")] {
        let (from, to) = (client.parse().unwrap(), vip.parse().unwrap());
        let syn = packet::ip(from, to, protocol::TCP, &packet::tcp(1, 80, 0, 0, flag::SYN));
        let mut frame = packet::ethernet(&syn);
        frame.splice(12..12, TAG);
        wire.send_frame(&frame);
        let deadline = Instant::now() + Duration::from_secs(5);
        while sum(&mut programs, vip, TCP).syn == 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let counts = sum(&mut programs, vip, TCP);
        assert_eq!((counts.syn, counts.packets_in, counts.bytes_in), (1, 1, syn.len() as u64), "{vip} {counts:?}");
    }
}

#[test]
fn bpftool_loads_the_object() {
    let lab = Lab::new().unwrap();
    let object = lab.directory().join("cosmolet-ebpf.o");
    std::fs::write(&object, cosmolet::ebpf::object()).unwrap();
    let pins = format!("/sys/fs/bpf/{}", lab.prefix());
    let object = object.to_str().unwrap();
    let result = output(Command::new("bpftool").args(["prog", "loadall", object, &pins]));
    let programs = std::fs::read_dir(&pins).map(Iterator::count);
    let refused =
        Command::new("bpftool").args(["--debug", "prog", "loadall", object, &format!("{pins}-debug")]).output();
    for pins in [pins.clone(), format!("{pins}-debug")] {
        std::fs::remove_dir_all(pins).unwrap();
    }
    result.unwrap();
    assert_eq!(programs.unwrap(), 9);
    // BTF is optional to libbpf: it goes on without, and only says so.
    let said = String::from_utf8(refused.unwrap().stderr).unwrap();
    assert!(!said.contains("BTF LOAD LOG"), "{said}");
    let btf = output(Command::new("bpftool").args(["btf", "dump", "file", object])).unwrap();
    assert!(btf.contains("'VipPortKey'") && btf.contains("'Counters'"), "{btf}");
}
