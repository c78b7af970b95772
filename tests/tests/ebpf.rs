//! A packet in, counters out: the programs by `BPF_PROG_TEST_RUN`. Needs root, and fails without it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use cosmolet::ebpf::{Apart, Error, Options, ProgramLog, Programs};
use cosmolet::engine::event::TrafficCounts;
use cosmolet::engine::types::{Port, Protocol, Vip};
use cosmolet_common::Oddities;
use cosmolet_tests::packet::{self, flag, protocol};

const TCP: Port = Port { protocol: Protocol::Tcp, number: 80 };
const UDP: Port = Port { protocol: Protocol::Udp, number: 53 };
const SCTP: Port = Port { protocol: Protocol::Sctp, number: 3868 };
/// An interface other than this host's stack.
const BACKEND: u32 = 7;
const HOST: u32 = 0;

/// The two addresses of a test, of one family.
#[derive(Clone, Copy)]
struct Peers {
    vip: IpAddr,
    client: IpAddr,
}

fn families() -> [Peers; 2] {
    [("192.0.2.10", "198.51.100.7"), ("2001:db8::10", "2001:db8:9::7")]
        .map(|(vip, client)| Peers { vip: vip.parse().unwrap(), client: client.parse().unwrap() })
}

/// The loaded programs with one VIP, and what they counted at the last look.
struct Bench {
    programs: Programs,
    suffix: &'static str,
    peers: Peers,
    oddities: Oddities,
}

impl Bench {
    fn new(peers: Peers, log: ProgramLog) -> Self {
        let options = Options { max_ports: 64, log, ..Options::default() };
        let mut programs = Programs::load(&options).expect("this test needs root, and a kernel with BPF");
        programs.track(Vip::new(peers.vip), &[TCP, UDP, SCTP]).unwrap();
        let suffix = if log == ProgramLog::Off { "" } else { "_log" };
        Self { programs, suffix, peers, oddities: Oddities::default() }
    }

    /// Both families, by the fast programs and by the logging ones, which read every packet the slow way.
    fn each(body: impl Fn(&mut Self)) {
        for peers in families() {
            for log in [ProgramLog::Off, ProgramLog::Trace] {
                body(&mut Self::new(peers, log));
            }
        }
    }

    /// A packet from the client to the VIP.
    fn client_packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        packet::ip(self.peers.client, self.peers.vip, protocol, payload)
    }

    /// A packet from the VIP to the client.
    fn answer_packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        packet::ip(self.peers.vip, self.peers.client, protocol, payload)
    }

    fn ingress(&mut self, packet: &[u8]) {
        self.run("in", packet, BACKEND, 0);
    }

    fn egress(&mut self, packet: &[u8], made_by: u32) {
        self.run("out", packet, made_by, 0);
    }

    /// Runs a program on an IP packet, behind an Ethernet header.
    fn run(&mut self, direction: &str, packet: &[u8], ingress_ifindex: u32, gso_segs: u32) {
        let name = format!("cosmolet_{direction}{}", self.suffix);
        let program: &mut SchedClassifier = self.programs.object().program_mut(&name).unwrap().try_into().unwrap();
        let context = context(ingress_ifindex, gso_segs);
        let frame = packet::ethernet(packet);
        let options = TestRunOptions { data_in: Some(&frame), ctx_in: Some(&context), ..TestRunOptions::new() };
        let result = program.test_run(options).unwrap();
        assert_eq!(result.return_value.cast_signed(), -1, "the next program must have its say");
    }

    /// What was counted for a port since the last look.
    #[track_caller]
    fn expect(&mut self, port: Port, expected: TrafficCounts) {
        let samples = self.programs.sample(Duration::from_secs(1)).unwrap();
        assert_eq!(samples.len(), 1, "{samples:?}");
        assert_eq!((samples[0].vip, samples[0].port), (Vip::new(self.peers.vip), port));
        assert_eq!(samples[0].counts, expected, "{}{}", self.peers.vip, self.suffix);
    }

    /// Nothing was counted for any port since the last look.
    #[track_caller]
    fn expect_nothing(&mut self) {
        assert_eq!(self.programs.sample(Duration::from_secs(1)).unwrap(), []);
    }

    fn apart(&mut self) -> Apart {
        self.expect_nothing();
        self.programs.apart().next().unwrap().1
    }

    /// The oddities since the last look.
    fn odd(&mut self) -> Oddities {
        let now = self.programs.oddities().unwrap();
        let since = now.since(&self.oddities);
        self.oddities = now;
        since
    }
}

/// The `struct __sk_buff` of a test run (linux/bpf.h); what is not set must be 0.
fn context(ingress_ifindex: u32, gso_segs: u32) -> [u8; 192] {
    let mut context = [0; 192];
    context[36..40].copy_from_slice(&ingress_ifindex.to_ne_bytes());
    context[164..168].copy_from_slice(&gso_segs.to_ne_bytes());
    context
}

/// One packet from the client of as many bytes as `packet`.
fn one_in(packet: &[u8]) -> TrafficCounts {
    TrafficCounts { packets_in: 1, bytes_in: packet.len() as u64, ..TrafficCounts::default() }
}

/// One packet to the client.
fn one_out(packet: &[u8]) -> TrafficCounts {
    TrafficCounts { packets_out: 1, bytes_out: packet.len() as u64, ..TrafficCounts::default() }
}

fn segment(flags: u8) -> Vec<u8> {
    packet::tcp(40000, 80, 1000, 2000, flags)
}

fn answer(flags: u8) -> Vec<u8> {
    packet::tcp(80, 40000, 5000, 1001, flags)
}

#[test]
fn client_flags_are_counted() {
    Bench::each(|bench| {
        for (flags, kind) in [
            (flag::ACK | flag::PSH, TrafficCounts::default()),
            (flag::SYN, TrafficCounts { syn: 1, ..TrafficCounts::default() }),
            (flag::FIN | flag::ACK, TrafficCounts { fin: 1, ..TrafficCounts::default() }),
            (flag::RST, TrafficCounts { rst_client: 1, rst_after_data_client: 1, ..TrafficCounts::default() }),
            (
                flag::RST | flag::ACK,
                TrafficCounts { rst_client: 1, rst_after_data_client: 1, ..TrafficCounts::default() },
            ),
            // A client that answers SYN-ACK to a VIP opens nothing.
            (flag::SYN | flag::ACK, TrafficCounts::default()),
        ] {
            let packet = bench.client_packet(protocol::TCP, &segment(flags));
            bench.ingress(&packet);
            bench.expect(TCP, one_in(&packet).plus(kind));
        }
    });
}

#[test]
fn answers_are_told_apart_by_their_maker() {
    Bench::each(|bench| {
        for (flags, made_by, kind) in [
            (flag::ACK, BACKEND, TrafficCounts::default()),
            (flag::SYN | flag::ACK, BACKEND, TrafficCounts { syn_ack: 1, ..TrafficCounts::default() }),
            (flag::SYN | flag::ACK, HOST, TrafficCounts { syn_ack_host: 1, ..TrafficCounts::default() }),
            (
                flag::RST | flag::ACK,
                BACKEND,
                TrafficCounts { rst_backend: 1, rst_after_data_backend: 1, ..TrafficCounts::default() },
            ),
            (flag::RST | flag::ACK, HOST, TrafficCounts { rst_host: 1, ..TrafficCounts::default() }),
            (flag::FIN | flag::ACK, BACKEND, TrafficCounts { fin: 1, ..TrafficCounts::default() }),
            // From the VIP a SYN opens nothing of the VIP's.
            (flag::SYN, HOST, TrafficCounts::default()),
        ] {
            let packet = bench.answer_packet(protocol::TCP, &answer(flags));
            bench.egress(&packet, made_by);
            bench.expect(TCP, one_out(&packet).plus(kind));
        }
    });
}

#[test]
fn a_handshake_is_completed_once_and_by_its_own_ack() {
    Bench::each(|bench| {
        // The last sequence number makes the acknowledgement 0.
        for sequence in [5000, u32::MAX, u32::MAX - 1] {
            let right = sequence.wrapping_add(1);
            let syn_ack = packet::tcp(80, 40000, sequence, 1001, flag::SYN | flag::ACK);
            bench.egress(&bench.answer_packet(protocol::TCP, &syn_ack), BACKEND);
            let other_client = packet::tcp(40001, 80, 1001, right, flag::ACK);
            for (payload, completed) in [
                (packet::tcp(40000, 80, 1001, right ^ 0x100, flag::ACK), 0),
                (packet::tcp(40000, 80, 1001, right, flag::RST | flag::ACK), 0),
                (other_client, 0),
                (packet::tcp(40000, 80, 1001, right, flag::ACK), 1),
                (packet::tcp(40000, 80, 1001, right, flag::ACK), 0),
            ] {
                bench.programs.sample(Duration::ZERO).unwrap();
                bench.ingress(&bench.client_packet(protocol::TCP, &payload));
                let counts = bench.programs.sample(Duration::ZERO).unwrap()[0].counts;
                assert_eq!(counts.completed, completed, "{sequence} {payload:?}");
            }
        }
    });
}

#[test]
fn udp_and_sctp_have_ports_too() {
    Bench::each(|bench| {
        for (port, number, payload) in
            [(UDP, protocol::UDP, packet::udp(40000, 53, 12)), (SCTP, protocol::SCTP, packet::sctp(40000, 3868))]
        {
            let packet = bench.client_packet(number, &payload);
            bench.ingress(&packet);
            bench.expect(port, one_in(&packet));
        }
        let packet = bench.answer_packet(protocol::UDP, &packet::udp(53, 40000, 0));
        bench.egress(&packet, BACKEND);
        bench.expect(UDP, one_out(&packet));
    });
}

#[test]
fn segments_of_a_gso_buffer_are_packets() {
    Bench::each(|bench| {
        let mut payload = segment(flag::ACK);
        payload.resize(3000, 0);
        let packet = bench.client_packet(protocol::TCP, &payload);
        bench.run("in", &packet, BACKEND, 3);
        bench.expect(TCP, TrafficCounts { packets_in: 3, ..one_in(&packet) });
        let mut payload = answer(flag::ACK);
        payload.resize(3000, 0);
        let packet = bench.answer_packet(protocol::TCP, &payload);
        bench.run("out", &packet, BACKEND, 3);
        bench.expect(TCP, TrafficCounts { packets_out: 3, ..one_out(&packet) });
    });
}

#[test]
fn what_is_not_declared_is_not_counted() {
    Bench::each(|bench| {
        let other_port = packet::tcp(40000, 81, 1, 2, flag::SYN);
        bench.ingress(&bench.client_packet(protocol::TCP, &other_port));
        bench.ingress(&bench.client_packet(protocol::UDP, &packet::udp(40000, 80, 0)));
        bench.ingress(&bench.answer_packet(protocol::TCP, &segment(flag::SYN)));
        bench.egress(&bench.client_packet(protocol::TCP, &answer(flag::RST)), HOST);
        bench.egress(&bench.answer_packet(protocol::TCP, &packet::tcp(81, 40000, 1, 2, flag::RST)), HOST);
        let echo = if bench.peers.vip.is_ipv4() { (protocol::ICMP, 8) } else { (protocol::ICMPV6, 128) };
        bench.ingress(&bench.client_packet(echo.0, &packet::icmp(echo.1, 0, b"hello...")));
        bench.expect_nothing();
        assert_eq!(bench.odd(), Oddities::default());
    });
}

#[test]
fn options_and_extension_headers_are_passed_over() {
    for log in [ProgramLog::Off, ProgramLog::Trace] {
        let [v4, v6] = families();
        let mut bench = Bench::new(v4, log);
        for (options, syn_retransmitted) in [(4, 0), (40, 1)] {
            let packet = packet::ipv4(v4.client, v4.vip, protocol::TCP, 0, &vec![1; options], &segment(flag::SYN));
            bench.ingress(&packet);
            bench.expect(TCP, TrafficCounts { syn: 1, syn_retransmitted, ..one_in(&packet) });
        }
        let mut bench = Bench::new(v6, log);
        // Hop-by-hop options, routing, destination options; then all six that are followed.
        let three = packet::extension(43, 2, &packet::extension(60, 1, &packet::extension(6, 3, &segment(flag::SYN))));
        let six = (0..5).fold(packet::extension(6, 1, &segment(flag::SYN)), |rest, _| packet::extension(60, 1, &rest));
        for (first, payload, syn_retransmitted) in [(0, three, 0), (60, six.clone(), 1)] {
            let packet = packet::ipv6(v6.client, v6.vip, first, &payload);
            bench.ingress(&packet);
            bench.expect(TCP, TrafficCounts { syn: 1, syn_retransmitted, ..one_in(&packet) });
        }
        bench.ingress(&packet::ipv6(v6.client, v6.vip, 60, &packet::extension(60, 1, &six)));
        bench.expect_nothing();
        assert_eq!(bench.odd(), Oddities { unparsable: 1, ..Oddities::default() });
    }
}

#[test]
fn first_fragments_have_ports_and_the_others_are_counted_apart() {
    Bench::each(|bench| {
        let Peers { vip, client } = bench.peers;
        let fragmented = |offset, payload: &[u8]| match vip {
            IpAddr::V4(_) => packet::ipv4(client, vip, protocol::TCP, 0x2000 | offset, &[], payload),
            IpAddr::V6(_) => packet::ipv6(client, vip, 44, &packet::fragment(protocol::TCP, offset, true, payload)),
        };
        let first = fragmented(0, &segment(flag::SYN));
        bench.ingress(&first);
        bench.expect(TCP, TrafficCounts { syn: 1, ..one_in(&first) });
        // A later fragment whose payload looks like a SYN to the declared port.
        bench.ingress(&fragmented(3, &segment(flag::SYN)));
        assert_eq!(bench.apart(), Apart { fragments: 1, truncated: 0 });
        assert_eq!(bench.odd(), Oddities::default());
        // Of no VIP: the same on its way out, where the client is the source.
        bench.egress(&fragmented(3, &segment(flag::SYN)), BACKEND);
        assert_eq!(bench.apart(), Apart { fragments: 1, truncated: 0 });
        assert_eq!(bench.odd(), Oddities { fragments: 1, ..Oddities::default() });
    });
}

#[test]
fn truncated_packets_are_never_misread() {
    Bench::each(|bench| {
        let whole = bench.client_packet(protocol::TCP, &segment(flag::SYN));
        let header = whole.len() - 20;
        // The kernel takes no test packet that ends inside its IP header: those come over a veth, in ebpf_attach.rs.
        for (apart, length) in (1..).zip(header..whole.len()) {
            bench.ingress(&whole[..length]);
            assert_eq!(bench.apart(), Apart { fragments: 0, truncated: apart }, "{length}");
        }
        let foreign = packet::ip(bench.peers.client, bench.peers.client, protocol::TCP, &segment(flag::SYN));
        bench.ingress(&foreign[..header + 3]);
        assert_eq!(bench.apart(), Apart { fragments: 0, truncated: 20 });
        assert_eq!(bench.odd(), Oddities { truncated: 1, ..Oddities::default() });
        // Padding behind a packet that says it is shorter is not its TCP header.
        let mut padded = whole;
        let claimed = u16::try_from(if bench.peers.vip.is_ipv4() { header + 12 } else { 12 }).unwrap().to_be_bytes();
        let at = if bench.peers.vip.is_ipv4() { 2 } else { 4 };
        padded[at..at + 2].copy_from_slice(&claimed);
        bench.ingress(&padded);
        assert_eq!(bench.apart(), Apart { fragments: 0, truncated: 21 });
    });
}

#[test]
fn nonsense_is_counted_as_nonsense() {
    Bench::each(|bench| {
        let whole = bench.client_packet(protocol::TCP, &segment(flag::SYN));
        let mut short_data_offset = whole;
        let at = short_data_offset.len() - 8;
        short_data_offset[at] = 0x40;
        bench.ingress(&short_data_offset);
        bench.expect_nothing();
        assert_eq!(bench.odd(), Oddities { unparsable: 1, ..Oddities::default() });
    });
}

#[test]
fn unreachable_counts_for_what_it_quotes() {
    Bench::each(|bench| {
        let (number, kind, unreachable, too_big) = match bench.peers.vip {
            IpAddr::V4(_) => (protocol::ICMP, 3, 1, (3, 4)),
            IpAddr::V6(_) => (protocol::ICMPV6, 1, 4, (2, 0)),
        };
        let quoted = bench.client_packet(protocol::UDP, &packet::udp(40000, 53, 0));
        let message = bench.answer_packet(number, &packet::icmp(kind, unreachable, &quoted));
        bench.egress(&message, HOST);
        bench.expect(UDP, TrafficCounts { unreachable_host: 1, ..TrafficCounts::default() });
        // The first eight bytes of a TCP header are all that a router must quote.
        let quoted = bench.client_packet(protocol::TCP, &segment(flag::SYN));
        let short = &quoted[..quoted.len() - 12];
        bench.egress(&bench.answer_packet(number, &packet::icmp(kind, unreachable, short)), HOST);
        bench.expect(TCP, TrafficCounts { unreachable_host: 1, ..TrafficCounts::default() });
        bench.egress(&message, BACKEND);
        bench.expect(UDP, TrafficCounts { unreachable_backend: 1, ..TrafficCounts::default() });
        // On its way in, about another port, and path MTU discovery: nobody's refusal.
        bench.ingress(&message);
        let undeclared = bench.client_packet(protocol::UDP, &packet::udp(40000, 54, 0));
        bench.egress(&bench.answer_packet(number, &packet::icmp(kind, unreachable, &undeclared)), HOST);
        bench.egress(&bench.answer_packet(number, &packet::icmp(too_big.0, too_big.1, &quoted)), HOST);
        bench.expect_nothing();
        assert_eq!(bench.odd(), Oddities::default());
    });
}

#[test]
fn frames_that_are_not_plain_ethernet_are_left_alone() {
    let [v4, _] = families();
    let mut bench = Bench::new(v4, ProgramLog::Off);
    // ARP, and IPv4 behind a VLAN tag that the device did not strip.
    for ether_type in [[0x08, 0x06], [0x81, 0x00]] {
        let mut frame = packet::ethernet(&bench.client_packet(protocol::TCP, &segment(flag::SYN)));
        frame[12..14].copy_from_slice(&ether_type);
        let program: &mut SchedClassifier =
            bench.programs.object().program_mut("cosmolet_in").unwrap().try_into().unwrap();
        let result = program.test_run(TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() }).unwrap();
        assert_eq!(result.return_value.cast_signed(), -1);
    }
    bench.expect_nothing();
    assert_eq!(bench.odd(), Oddities::default());
}

#[test]
fn tracked_ports_can_change() {
    let [peers, _] = families();
    let mut bench = Bench::new(peers, ProgramLog::Off);
    let vip = Vip::new(peers.vip);
    let packet = bench.client_packet(protocol::TCP, &segment(flag::SYN));
    bench.ingress(&packet);
    bench.expect(TCP, TrafficCounts { syn: 1, ..one_in(&packet) });
    // Ports that stay keep their sums; ports that go are no longer counted.
    bench.programs.track(vip, &[TCP]).unwrap();
    assert_eq!(bench.programs.sum(vip, TCP).unwrap().syn, 1);
    assert_eq!(bench.programs.sum(vip, UDP), None);
    bench.ingress(&bench.client_packet(protocol::UDP, &packet::udp(40000, 53, 0)));
    bench.expect_nothing();
    bench.ingress(&packet);
    bench.expect(TCP, TrafficCounts { syn: 1, syn_retransmitted: 1, ..one_in(&packet) });
    assert_eq!(bench.programs.sums().collect::<Vec<_>>().len(), 1);
    bench.programs.untrack(vip).unwrap();
    bench.programs.untrack(vip).unwrap();
    bench.ingress(&packet);
    bench.expect_nothing();
    assert!(bench.programs.tracked().is_empty());
}

#[test]
fn a_full_table_is_an_error_and_reused_slots_start_at_zero() {
    let [peers, other] = families();
    let mut bench = Bench::new(peers, ProgramLog::Off);
    let packet = bench.client_packet(protocol::TCP, &segment(flag::SYN));
    bench.ingress(&packet);
    bench.programs.sample(Duration::ZERO).unwrap();
    // Four of 64 entries are taken; this one wants 60 ports and the VIP's own.
    let ports: Vec<_> = (1..=60).map(|number| Port { protocol: Protocol::Tcp, number }).collect();
    let full = bench.programs.track(Vip::new(other.vip), &ports).unwrap_err();
    assert!(matches!(full, Error::Full { wanted: 61, free: 60, capacity: 64 }), "{full}");
    assert_eq!(bench.programs.tracked().len(), 1);
    bench.programs.untrack(Vip::new(peers.vip)).unwrap();
    // The slots of the VIP that left rest first.
    let full = bench.programs.track(Vip::new(other.vip), &ports).unwrap_err();
    assert!(matches!(full, Error::Full { free: 60, .. }), "{full}");
    std::thread::sleep(Duration::from_millis(1100));
    bench.programs.track(Vip::new(other.vip), &ports).unwrap();
    bench.programs.track(Vip::new(peers.vip), &[TCP]).unwrap();
    bench.expect_nothing();
    assert_eq!(bench.programs.sum(Vip::new(peers.vip), TCP), Some(TrafficCounts::default()));
    bench.ingress(&packet);
    bench.expect(TCP, TrafficCounts { syn: 1, ..one_in(&packet) });
}

#[test]
fn ten_thousand_vips_are_read_in_milliseconds() {
    let mut programs = Programs::load(&Options { max_ports: 20_100, ..Options::default() }).unwrap();
    for n in 0..10_000_u16 {
        let [high, low] = n.to_be_bytes();
        programs.track(Vip::new(IpAddr::from([10, 1, high, low])), &[TCP]).unwrap();
    }
    let (vip, client) = (SocketAddr::from(([10, 1, 0x27, 0x0f], 80)), SocketAddr::from(([198, 51, 100, 7], 40000)));
    let frame = packet::ethernet(&packet::tcp_packet(client, vip, 1, 0, flag::SYN));
    let program: &mut SchedClassifier = programs.object().program_mut("cosmolet_in").unwrap().try_into().unwrap();
    program.test_run(TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() }).unwrap();
    let samples = programs.sample(Duration::ZERO).unwrap();
    assert_eq!(samples.len(), 1);
    assert_eq!((samples[0].vip, samples[0].counts.syn), (Vip::new(vip.ip()), 1));
    let fastest = (0..5)
        .map(|_| {
            let start = std::time::Instant::now();
            assert_eq!(programs.sample(Duration::ZERO).unwrap(), []);
            start.elapsed()
        })
        .min()
        .unwrap();
    println!("20 000 entries read in {fastest:?}");
    // Unoptimised and on a busy machine; the bench has the figure.
    assert!(fastest < Duration::from_millis(200), "{fastest:?}");
}

#[test]
fn costs_can_be_measured() {
    let figures = cosmolet_tests::bench::ebpf::measure(5).unwrap();
    assert_eq!(figures.len(), 15);
    for figure in &figures {
        println!("{}: {:.1} of {:.1}", figure.name, figure.value(), figure.own.p50);
        assert!(figure.own.p50 >= figure.value() && figure.value() > 0.0, "{figure:?}");
    }
}
