//! What became of single handshakes: packets in, outcomes out, by `BPF_PROG_TEST_RUN`; and, in `wire`, real clients.
//! Needs root, and fails without it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers too"
)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use cosmolet::ebpf::{Options, ProgramLog, Programs};
use cosmolet::engine::event::{Handshakes, TrafficSample};
use cosmolet::engine::types::{PerFamily, Port, Protocol, Vip};
use cosmolet_tests::packet::{self, flag, protocol};

mod wire;

const PORT: Port = Port { protocol: Protocol::Tcp, number: 80 };
/// An interface other than this host's stack.
const BACKEND: u32 = 7;
const HOST: u32 = 0;

struct Bench {
    programs: Programs,
    suffix: &'static str,
    vip: IpAddr,
    client: IpAddr,
}

impl Bench {
    /// Both families, by the fast programs and by the logging ones, which read every packet the slow way.
    fn each(body: impl Fn(&mut Self)) {
        for (vip, client) in [("192.0.2.10", "198.51.100.7"), ("2001:db8::10", "2001:db8:9::7")] {
            for (log, suffix) in [(ProgramLog::Off, ""), (ProgramLog::Trace, "_log")] {
                let options = Options { max_ports: 64, handshakes: 4096, log, ..Options::default() };
                let mut bench = Self::new(&options, vip, client);
                bench.suffix = suffix;
                body(&mut bench);
            }
        }
    }

    fn new(options: &Options, vip: &str, client: &str) -> Self {
        let mut programs = Programs::load(options).expect("this test needs root, and a kernel with BPF");
        let vip: IpAddr = vip.parse().unwrap();
        programs.track(Vip::new(vip), &[PORT]).unwrap();
        Self { programs, suffix: "", vip, client: client.parse().unwrap() }
    }

    fn run(&mut self, direction: &str, packet: &[u8], made_by: u32) {
        assert_eq!(self.verdict(direction, packet, made_by), -1, "the next program must have its say");
    }

    fn verdict(&mut self, direction: &str, packet: &[u8], made_by: u32) -> i32 {
        let name = format!("cosmolet_{direction}{}", self.suffix);
        let program: &mut SchedClassifier = self.programs.object().program_mut(&name).unwrap().try_into().unwrap();
        let mut context = [0; 192];
        context[36..40].copy_from_slice(&made_by.to_ne_bytes());
        let frame = packet::ethernet(packet);
        let options = TestRunOptions { data_in: Some(&frame), ctx_in: Some(&context), ..TestRunOptions::new() };
        program.test_run(options).unwrap().return_value.cast_signed()
    }

    fn ingress(&mut self, port: u16, sequence: u32, acknowledgement: u32, flags: u8) {
        let (from, to) = (SocketAddr::new(self.client, port), SocketAddr::new(self.vip, 80));
        self.run("in", &packet::tcp_packet(from, to, sequence, acknowledgement, flags), BACKEND);
    }

    /// The same behind headers that nobody needs: IPv4 options, or two IPv6 extension headers.
    fn ingress_behind_headers(&mut self, port: u16, sequence: u32, acknowledgement: u32, flags: u8) {
        const NO_OPERATION: [u8; 8] = [1; 8];
        const HOP_BY_HOP: u8 = 0;
        const DESTINATION_OPTIONS: u8 = 60;
        let (client, vip) = (self.client, self.vip);
        let segment = packet::tcp(port, 80, sequence, acknowledgement, flags);
        let packet = if vip.is_ipv4() {
            packet::ipv4(client, vip, protocol::TCP, 0, &NO_OPERATION, &segment)
        } else {
            let options = packet::extension(protocol::TCP, 2, &segment);
            packet::ipv6(client, vip, HOP_BY_HOP, &packet::extension(DESTINATION_OPTIONS, 1, &options))
        };
        self.run("in", &packet, BACKEND);
    }

    fn egress(&mut self, port: u16, sequence: u32, flags: u8, made_by: u32) {
        let (from, to) = (SocketAddr::new(self.vip, 80), SocketAddr::new(self.client, port));
        self.run("out", &packet::tcp_packet(from, to, sequence, 1001, flags), made_by);
    }

    fn ask(&mut self, port: u16) {
        self.ingress(port, 1000, 0, flag::SYN);
    }

    /// The one sample since the last look.
    #[track_caller]
    fn sample(&mut self) -> TrafficSample {
        let samples = self.programs.sample(Duration::from_secs(1)).unwrap();
        assert_eq!(samples.len(), 1, "{samples:?}");
        samples[0]
    }

    /// The outcomes since the last look, without what depends on the hash's key and on time.
    #[track_caller]
    fn outcomes(&mut self) -> Handshakes {
        let told = self.sample().handshakes;
        let failed = told.refused_backend + told.refused_host + told.timed_out;
        assert_eq!(told.failed_prefixes.count_ones(), u32::from(failed > 0), "{told:?}");
        Handshakes { failed_prefixes: 0, latency_micros: 0, latency: [0; 21], ..told }
    }
}

/// Nothing became of anything, while all are followed.
fn none() -> Handshakes {
    Handshakes { one_in: 1, ..Handshakes::default() }
}

#[test]
fn a_completed_handshake_is_told_once_with_its_latency() {
    Bench::each(|bench| {
        bench.ask(1);
        assert_eq!(bench.outcomes(), none());
        bench.egress(1, 5000, flag::SYN | flag::ACK, BACKEND);
        bench.ingress(1, 1001, 4000, flag::ACK);
        assert_eq!(bench.outcomes(), none(), "another's acknowledgement");
        bench.ingress(1, 1001, 5001, flag::ACK);
        let told = bench.sample().handshakes;
        assert_eq!((told.completed, told.unseen_answers, told.latency.iter().sum::<u32>()), (1, 0, 1));
        bench.ingress(1, 1001, 5001, flag::ACK);
        assert_eq!(bench.outcomes(), none());
    });
}

#[test]
fn refusals_are_told_apart_by_their_maker() {
    Bench::each(|bench| {
        for (made_by, expected) in
            [(HOST, Handshakes { refused_host: 1, ..none() }), (BACKEND, Handshakes { refused_backend: 1, ..none() })]
        {
            bench.ask(1);
            bench.egress(1, 0, flag::RST | flag::ACK, made_by);
            assert_eq!(bench.outcomes(), expected);
            bench.ask(2);
            let (from, to) = (SocketAddr::new(bench.client, 2), SocketAddr::new(bench.vip, 80));
            let quoted = packet::tcp_packet(from, to, 1000, 0, flag::SYN);
            let (number, kind) = if bench.vip.is_ipv4() { (protocol::ICMP, 3) } else { (protocol::ICMPV6, 1) };
            let error = packet::ip(bench.vip, bench.client, number, &packet::icmp(kind, 1, &quoted));
            bench.run("out", &error, made_by);
            let sample = bench.sample();
            let told = sample.handshakes;
            assert_eq!((told.refused_host, told.refused_backend), (expected.refused_host, expected.refused_backend));
            let by_host = u64::from(made_by == HOST);
            assert_eq!((sample.counts.unreachable_host, sample.counts.unreachable_backend), (by_host, 1 - by_host));
        }
    });
}

/// Silence times out; direct server return completes unseen; both need time to tell.
#[test]
fn silence_and_unseen_answers_are_told_apart() {
    Bench::each(|bench| {
        bench.ask(1);
        bench.ask(1);
        bench.ask(2);
        bench.ingress(2, 1001, 5001, flag::ACK);
        let sample = bench.sample();
        assert_eq!((sample.counts.syn, sample.counts.syn_retransmitted), (3, 1));
        assert_eq!(sample.handshakes, none());
        std::thread::sleep(Duration::from_millis(3100));
        // Only the time-out is new: a port without packets has a sample for it.
        assert_eq!(bench.outcomes(), Handshakes { completed: 1, unseen_answers: 1, timed_out: 1, ..none() });
    });
}

#[test]
fn what_clients_do_is_no_failure_and_late_resets_are_told() {
    Bench::each(|bench| {
        // A half-open scan; a SYN that no stack answers; an abort before the answer.
        bench.ask(1);
        bench.egress(1, 5000, flag::SYN | flag::ACK, BACKEND);
        bench.ingress(1, 1001, 0, flag::RST);
        bench.ingress(2, 1000, 0, flag::SYN | flag::FIN);
        bench.ask(3);
        bench.ingress(3, 1001, 0, flag::RST);
        let sample = bench.sample();
        assert_eq!((sample.counts.rst_client, sample.counts.rst_after_data_client), (2, 0));
        assert_eq!(Handshakes { latency_micros: 0, latency: [0; 21], ..sample.handshakes }, none());
        // Within a connection.
        bench.ingress(4, 1001, 0, flag::RST);
        bench.egress(5, 6000, flag::RST, BACKEND);
        bench.egress(6, 0, flag::RST | flag::ACK, BACKEND);
        let counts = bench.sample().counts;
        assert_eq!((counts.rst_after_data_client, counts.rst_after_data_backend, counts.rst_backend), (1, 1, 2));
    });
}

#[test]
fn a_full_table_is_counted_and_is_no_failure() {
    let options = Options { max_ports: 64, handshakes: 1, ..Options::default() };
    let mut bench = Bench::new(&options, "192.0.2.10", "198.51.100.7");
    for port in 1..=10 {
        bench.ask(port);
        bench.egress(port, 0, flag::RST | flag::ACK, HOST);
    }
    // Within so long a time that this is no rate at which fewer would be followed.
    let mut sample = || bench.programs.sample(Duration::from_secs(10_000)).unwrap().remove(0).handshakes;
    let told = sample();
    let failed = told.refused_backend + told.refused_host + told.timed_out;
    assert_eq!((told.refused_host, failed, told.completed), (1, 1, 0), "{told:?}");
    assert_eq!(bench.programs.oddities().unwrap().unfollowed, 9);
    // What was told has made room, and the next is followed again.
    bench.ask(11);
    bench.egress(11, 0, flag::RST | flag::ACK, HOST);
    assert_eq!(bench.sample().handshakes.refused_host, 1);
}

#[test]
fn fewer_are_followed_of_a_flood_and_all_of_them_after_it() {
    let options = Options { max_ports: 64, handshakes: 1 << 16, ..Options::default() };
    let mut bench = Bench::new(&options, "192.0.2.10", "198.51.100.7");
    let flood = |bench: &mut Bench| (0..3000).for_each(|port| bench.ask(port));
    flood(&mut bench);
    assert_eq!(bench.sample().handshakes.one_in, 1);
    flood(&mut bench);
    bench.ask(40_000);
    let sample = bench.sample();
    assert_eq!((sample.counts.syn, sample.handshakes.one_in), (3001, 16));
    assert_eq!(sample.handshakes.timed_out, 0);
    for expected in [16, 1] {
        bench.ask(40_001);
        assert_eq!(bench.sample().handshakes.one_in, expected);
    }
}

#[test]
fn headers_in_between_hide_nothing() {
    Bench::each(|bench| {
        bench.ingress_behind_headers(1, 1000, 0, flag::SYN);
        bench.egress(1, 5000, flag::SYN | flag::ACK, BACKEND);
        bench.ingress_behind_headers(1, 1001, 5001, flag::ACK);
        bench.ingress_behind_headers(2, 1000, 0, flag::SYN);
        bench.egress(2, 0, flag::RST | flag::ACK, HOST);
        assert_eq!(bench.outcomes(), Handshakes { completed: 1, refused_host: 1, ..none() });
    });
}

/// What comes from a probe's source is no client's, and what goes there is caught.
#[test]
fn probes_are_not_followed() {
    const SHOT: i32 = 2;
    let prefix = |text: &str| cosmolet::probe::Sources::new(&[text.parse().unwrap()]).prefixes();
    let probes = PerFamily { v4: prefix("198.18.94.0/24").v4, v6: prefix("2001:2:0:c05e::/64").v6 };
    for (vip, source) in [("192.0.2.10", "198.18.94.3"), ("2001:db8::10", "2001:2:0:c05e::3")] {
        let mut bench = Bench::new(&Options { max_ports: 64, probes, ..Options::default() }, vip, source);
        bench.ask(1);
        let (from, to) = (SocketAddr::new(bench.vip, 80), SocketAddr::new(bench.client, 1));
        for flags in [flag::SYN | flag::ACK, flag::RST | flag::ACK] {
            let verdict = bench.verdict("out", &packet::tcp_packet(from, to, 0, 1001, flags), BACKEND);
            assert_eq!(verdict, SHOT);
        }
        std::thread::sleep(Duration::from_millis(3100));
        assert_eq!(bench.programs.sample(Duration::from_secs(1)).unwrap(), []);
    }
}

/// Every handshake of two CPUs that work at once is told, or counted as not followed.
#[test]
fn two_cpus_at_once_lose_nothing() {
    const EACH: u16 = 2000;
    let mut bench = Bench::new(&Options { max_ports: 64, ..Options::default() }, "192.0.2.10", "198.51.100.7");
    let (vip, client) = (SocketAddr::new(bench.vip, 80), bench.client);
    let object = &*bench.programs.object();
    let program = |name| <&SchedClassifier>::try_from(object.program(name).unwrap()).unwrap();
    let (inward, outward) = (program("cosmolet_in"), program("cosmolet_out"));
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for cpu in 0..2_u16 {
            let barrier = &barrier;
            scope.spawn(move || {
                pin(usize::from(cpu));
                barrier.wait();
                for number in 0..EACH {
                    let from = SocketAddr::new(client, 1000 + 2 * number + cpu);
                    once(inward, &packet::tcp_packet(from, vip, 1000, 0, flag::SYN));
                    once(outward, &packet::tcp_packet(vip, from, 5000, 1001, flag::SYN | flag::ACK));
                    once(inward, &packet::tcp_packet(from, vip, 1001, 5001, flag::ACK));
                }
            });
        }
    });
    let sample = bench.sample();
    let all = u64::from(2 * EACH);
    assert_eq!((sample.counts.syn, sample.counts.syn_ack, sample.counts.packets_in), (all, all, 2 * all));
    let unfollowed = bench.programs.oddities().unwrap().unfollowed;
    let handshakes = sample.handshakes;
    assert_eq!(handshakes.refused_backend + handshakes.refused_host + handshakes.timed_out, 0, "{handshakes:?}");
    assert_eq!(u64::from(handshakes.latency.iter().sum::<u32>()), handshakes.completed, "{handshakes:?}");
    // Two that wait in one slot at one moment may cost one: of so many, less than one in ten runs has one.
    assert!(handshakes.completed + unfollowed >= all - 1, "{handshakes:?}, {unfollowed} not followed");
    // A fifth of the places is taken at the end, so on average one in sixteen finds its place taken.
    assert!(unfollowed < all / 8, "{unfollowed} of {all} not followed");
}

fn once(program: &SchedClassifier, packet: &[u8]) {
    let frame = packet::ethernet(packet);
    let mut context = [0; 192];
    context[36..40].copy_from_slice(&BACKEND.to_ne_bytes());
    let options = TestRunOptions { data_in: Some(&frame), ctx_in: Some(&context), ..TestRunOptions::new() };
    assert_eq!(program.test_run(options).unwrap().return_value, u32::MAX);
}

/// Keeps this thread on one CPU.
#[expect(unsafe_code, reason = "std cannot choose a CPU")]
fn pin(cpu: usize) {
    // SAFETY: a C structure of integers, for which zero is valid; the call reads it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    assert_eq!(result, 0, "CPU {cpu}: {}", std::io::Error::last_os_error());
}
