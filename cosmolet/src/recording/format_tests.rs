//! Every kind of record, written and read again; lines that nobody should have written.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::format::{Bgp, Decided, FORMAT, Header, Line, Record, Recorded, What, nanos};
use super::reader::{Error, Reader};
use crate::engine::Settings;
use crate::engine::check::{Check, Complaint};
use crate::engine::ejections::Guard;
use crate::engine::event::{Event, Handshakes, ProbeOutcome, ProbeReport, SourceState, TrafficCounts, TrafficSample};
use crate::engine::guard::{Permissions, Refused};
use crate::engine::intent::{Decision, WithdrawReason};
use crate::engine::observed::{BgpFault, BgpState, BgpView, KernelEvent, ProberState, ProgramsState};
use crate::engine::proof::Prove;
use crate::engine::service::{
    EndpointCondition, EndpointCounts, EndpointScope, Endpoints, LocalEndpoint, NodeView, PodView, Refusal,
    ServiceView, Terminating, VipClaim, VipKind,
};
use crate::engine::traffic::{OnFault, SecondKey, TrafficMode, TrafficPolicy, TrafficRules};
use crate::engine::types::{Mode, ObjectKey, PerFamily, Port, Protocol, Timestamp, Vip};

fn header() -> Header {
    Header {
        cosmolet_recording: FORMAT,
        version: "0.1.0".to_owned(),
        node: "node1".to_owned(),
        clock: 1_790_000_000.25,
        at: 5_000,
        settings: Recorded::of(&Settings::default()),
        bgp: Bgp::Down,
    }
}

fn first() -> String {
    serde_json::to_string(&header()).unwrap() + "\n"
}

/// What a line in a live recording means.
fn read(line: &str) -> Result<What, Error> {
    let text = format!("{}{{\"at\":5000,\"record\":\"live\"}}\n{line}", first());
    let mut reader = Reader::open(text.as_bytes())?;
    assert_eq!(reader.read()?.unwrap().what, What::Live);
    reader.read().map(|moment| moment.unwrap().what)
}

fn again(event: &Event) -> What {
    let line = Line { at: 5_001, record: Record::of(event).unwrap() };
    read(&line.text().unwrap()).unwrap()
}

#[test]
fn settings_are_read_as_they_were() {
    let rules = TrafficRules { threshold: 20.5, cap: 40.0, hold: Duration::from_secs(3), ..TrafficRules::default() };
    let settings = Settings {
        traffic_mode: TrafficMode::Enforce,
        traffic: rules,
        guard: Guard::Register,
        prove: Some(Duration::from_secs(10)),
        check: Some(Duration::from_secs(5)),
        seed: u64::MAX,
        ..Settings::default()
    };
    let recorded = Recorded::of(&settings);
    let text = serde_json::to_string(&recorded).unwrap();
    let again: Recorded = serde_json::from_str(&text).unwrap();
    assert_eq!(again, recorded);
    let read = again.settings().unwrap();
    assert_eq!((read.traffic, read.traffic_mode, read.guard), (rules, TrafficMode::Enforce, Guard::Register));
    assert_eq!((read.prove, read.probe_round, read.check, read.seed), (settings.prove, None, settings.check, u64::MAX));
    // A key that this version has not had yet keeps its default.
    let mut older: serde_json::Value = serde_json::from_str(&text).unwrap();
    older["rule"].as_object_mut().unwrap().remove("cap");
    let older: Recorded = serde_json::from_value(older).unwrap();
    assert!((older.settings().unwrap().traffic.cap - TrafficRules::default().cap).abs() < f64::EPSILON);
}

#[test]
fn how_frr_learns_is_read_as_it_was() {
    let modes = PerFamily { v4: Mode::Dynamic, v6: Mode::Connected };
    let view = BgpView { generation: 1, asn: 65001, modes, networks: BTreeMap::new(), peers: Vec::new() };
    for (state, text) in [
        (BgpState::Disabled, r#""disabled""#),
        (BgpState::Down(BgpFault::Silent), r#""down""#),
        (BgpState::Up(view), r#"{"up":{"ipv4":"dynamic","ipv6":"connected"}}"#),
    ] {
        let bgp = Bgp::of(&state);
        assert_eq!(serde_json::to_string(&bgp).unwrap(), text);
        assert_eq!(serde_json::from_str::<Bgp>(text).unwrap(), bgp);
    }
}

#[test]
fn every_decision_is_read_as_it_was() {
    let refusals = Refusal::ALL.into_iter().map(WithdrawReason::Refused);
    for reason in WithdrawReason::ALL.into_iter().chain(refusals) {
        for decision in [Decision::Advertise, Decision::Withdraw(reason), Decision::Depreference(reason)] {
            let vip = Vip::new([10, 0, 0, 1].into());
            let line = Line { at: 5_001, record: Record::Decision(Decided::of(vip, decision)) };
            assert_eq!(read(&line.text().unwrap()).unwrap(), What::Decision(vip, decision));
        }
    }
}

#[test]
fn small_events_are_read_as_they_were() {
    let key = ObjectKey::new("shop", "web-0");
    for event in [
        Event::ServiceGone(key.clone()),
        Event::PodGone(key.clone()),
        Event::Pod(key, PodView { restarts: 7, crash_loop: true }),
        Event::Node(NodeView { drain_taint: Some("a/b".to_owned()), cordoned: true, ..NodeView::default() }),
        Event::Node(NodeView { excluded: true, network_unavailable: true, ..NodeView::default() }),
        Event::Source(SourceState::Syncing),
        Event::Source(SourceState::Synced),
        Event::Source(SourceState::Stale("gone \"away\"\n".to_owned())),
        Event::Prober(ProberState::Starting),
        Event::Prober(ProberState::Off("no right".to_owned())),
        Event::Prober(ProberState::Running),
        Event::Programs(ProgramsState::Off("no BTF".to_owned())),
        Event::Programs(ProgramsState::Running(vec!["eth0".to_owned()])),
        Event::Drained(true),
        Event::Exit,
    ] {
        assert_eq!(again(&event), What::Event(event));
    }
    for event in [Event::Tick, Event::Bgp(BgpState::Disabled), Event::Kernel(KernelEvent::Own([].into()))] {
        assert!(Record::of(&event).is_none());
    }
}

#[test]
fn what_is_zero_is_left_out() {
    let port = Port { protocol: Protocol::Tcp, number: 80 };
    let sample = TrafficSample {
        vip: Vip::new([10, 0, 0, 1].into()),
        port,
        span: Duration::from_secs(1),
        counts: TrafficCounts { syn: 3, ..TrafficCounts::default() },
        handshakes: Handshakes::default(),
    };
    let line = Line { at: 7, record: Record::of(&Event::Traffic(vec![sample])).unwrap() }.text().unwrap();
    let expected =
        r#"{"at":7,"record":{"traffic":[{"vip":"10.0.0.1","port":"80/tcp","span":1000000000,"counts":{"syn":3}}]}}"#;
    assert_eq!(line.trim_end(), expected);
}

#[test]
fn a_bad_line_is_named_and_says_what_is_wrong() {
    let service = |part: &str| {
        format!(
            r#"{{"at":6000,"record":{{"service":{{"name":"d/web","vips":[],"ports":[],"terminating":"serving","prove":"wait",
            "on_traffic_fault":"withdraw","on_traffic_evidence":"probe"{part}}}}}}}"#
        )
        .replace('\n', "")
    };
    assert!(matches!(read(&(service("") + "\n")), Ok(What::Event(Event::Service(_)))));
    for (line, says) in [
        ("{}".to_owned(), "missing field `at`"),
        ("nonsense".to_owned(), "expected"),
        ("\u{0}".to_owned(), "expected value"),
        (r#"{"at":-1,"record":"exit"}"#.to_owned(), "-1"),
        (r#"{"at":6000,"record":"dance"}"#.to_owned(), "unknown variant `dance`"),
        (r#"{"at":6000,"record":"exit","more":1}"#.to_owned(), "unknown field `more`"),
        (r#"{"at":1,"record":"exit"}"#.to_owned(), "time goes back"),
        (r#"{"at":86400000006000,"record":"exit"}"#.to_owned(), "time leaps by more than 24 hours"),
        (r#"{"at":18446744073709551615,"record":{"missed":1}}"#.to_owned(), "time leaps"),
        (r#"{"at":6000,"record":"live"}"#.to_owned(), "stands once"),
        (r#"{"at":6000,"record":{"standing":{"vip":"10.0.0.1","to":"advertise"}}}"#.to_owned(), "before `live`"),
        (r#"{"at":6000,"record":{"decision":{"vip":"x","to":"advertise"}}}"#.to_owned(), "invalid IP address"),
        (r#"{"at":6000,"record":{"decision":{"vip":"::1","to":"fly"}}}"#.to_owned(), "`fly` is none of advertise"),
        (r#"{"at":6000,"record":{"decision":{"vip":"::1","to":"withdraw"}}}"#.to_owned(), "lacks its reason"),
        (r#"{"at":6000,"record":{"decision":{"vip":"::1","to":"withdraw","reason":"Mood"}}}"#.to_owned(), "`Mood`"),
        (r#"{"at":6000,"record":{"probe":[{"vip":"::1","port":"0/tcp","outcome":"passed"}]}}"#.to_owned(), "80/tcp"),
        (r#"{"at":6000,"record":{"probe":[{"vip":"::1","port":"+1/tcp","outcome":"passed"}]}}"#.to_owned(), "80/tcp"),
        (r#"{"at":6000,"record":{"probe":[{"vip":"::1","port":"1/tcp","outcome":"well"}]}}"#.to_owned(), "`well`"),
        (
            r#"{"at":6000,"record":{"traffic":[{"vip":"::1","port":"1/tcp","span":1,"counts":{"sin":1}}]}}"#.to_owned(),
            "`sin`",
        ),
        (r#"{"at":6000,"record":{"pod_gone":{"name":"web"}}}"#.to_owned(), "NAMESPACE/NAME"),
        (service(r#","probe":"ftp://x""#), "`ftp://x` must be http://"),
        (service(r#","prove":"never""#), "duplicate field `prove`"),
        (service(r#","ipv4":{"local":[{"condition":"fine"}]}"#), "unknown variant `fine`"),
    ] {
        let Err(Error::Line(3, error)) = read(&(line.clone() + "\n")) else { panic!("{line} is read") };
        assert!(error.contains(says), "{line}: {error}");
    }
}

#[test]
fn what_is_no_recording_is_told() {
    let opened = |text: &str| Reader::open(text.as_bytes()).map(drop).unwrap_err().to_string();
    assert!(opened("").contains("it is empty"));
    assert!(opened("{\"at\":1}\n").contains("line 1: it is no header of `cosmolet record`"));
    assert!(opened("\u{1f}\u{8b}\n").contains("line 1"));
    let newer = first().replace(r#""cosmolet_recording":1"#, r#""cosmolet_recording":2,"new":true"#);
    assert!(opened(&newer).contains("its format is 2, and this version reads 1"));
    assert!(opened(&first().replace("\"node\"", "\"knot\"")).contains("unknown field `knot`"));
    let wrong = first().replace(r#""threshold":16.1"#, r#""threshold":0.5"#);
    let reader = Reader::open(wrong.as_bytes()).unwrap();
    let error = reader.header().settings.settings().unwrap_err().to_string();
    assert!(error.contains("traffic.rule.threshold") && error.contains("must be 1 to 1000"), "{error}");
    let text = format!("{}{}", first(), r#"{"at":6000,"record":{"missed":1}}"#) + "\n";
    let error = Reader::open(text.as_bytes()).unwrap().read().unwrap_err().to_string();
    assert!(error.contains("before `live`"), "{error}");
}

#[test]
fn a_last_line_that_is_cut_short_is_only_told() {
    let live = "{\"at\":5000,\"record\":\"live\"}\n";
    let line = "{\"at\":6000,\"record\":{\"drained\":true}}";
    for end in 1..=line.len() {
        let text = format!("{}{live}{}", first(), &line[..end]);
        let mut reader = Reader::open(text.as_bytes()).unwrap();
        reader.read().unwrap();
        let whole = end == line.len();
        assert_eq!((reader.read().unwrap().is_some(), reader.is_cut()), (whole, !whole), "{text}");
    }
}

fn some_vip() -> impl Strategy<Value = Vip> {
    prop_oneof![
        any::<u32>().prop_map(|n| IpAddr::from(Ipv4Addr::from(n))),
        any::<u128>().prop_map(|n| IpAddr::from(Ipv6Addr::from(n)))
    ]
    .prop_map(Vip::new)
}

fn some_port() -> impl Strategy<Value = Port> {
    let protocols = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    (protocols, 1..u16::MAX).prop_map(|(protocol, number)| Port { protocol, number })
}

fn some_key() -> impl Strategy<Value = ObjectKey> {
    ("[^/]{0,8}", ".{0,8}").prop_map(|(namespace, name)| ObjectKey::new(&namespace, &name))
}

fn some_endpoints() -> impl Strategy<Value = Endpoints> {
    let conditions = prop_oneof![
        Just(EndpointCondition::Ready),
        Just(EndpointCondition::Draining),
        Just(EndpointCondition::Unusable)
    ];
    let local =
        (proptest::option::of(some_key()), conditions).prop_map(|(pod, condition)| LocalEndpoint { pod, condition });
    (vec(local, 0..4), any::<[u32; 3]>()).prop_map(|(mut local, [ready, draining, unusable])| {
        local.sort();
        Endpoints { local, remote: EndpointCounts { ready, draining, unusable } }
    })
}

fn some_claim() -> impl Strategy<Value = VipClaim> {
    let kinds = prop_oneof![Just(VipKind::LoadBalancer), Just(VipKind::ExternalIp), Just(VipKind::ClusterIp)];
    let scopes = prop_oneof![Just(EndpointScope::Local), Just(EndpointScope::Cluster)];
    (some_vip(), kinds, scopes).prop_map(|(vip, kind, scope)| VipClaim { vip, kind, scope })
}

fn some_service() -> impl Strategy<Value = ServiceView> {
    let proves = prop_oneof![Just(Prove::Wait), Just(Prove::Required), Just(Prove::Never)];
    let faults = prop_oneof![Just(OnFault::Withdraw), Just(OnFault::Depreference), Just(OnFault::Ignore)];
    let keys = prop_oneof![Just(SecondKey::Probe), Just(SecondKey::Passive)];
    let ends = prop_oneof![Just(Terminating::Serving), Just(Terminating::Ready)];
    let check = proptest::sample::select(vec![
        None,
        Some("http://shop.example/a?b=%20"),
        Some("https://:8443/"),
        Some("tls://db:5432"),
        Some("grpcs://x:1/a.b.C"),
        Some("udp://:53/%00%25ab%ff"),
    ]);
    let parts = (proves, faults, keys, ends, check);
    (some_key(), vec(some_claim(), 0..3), vec(some_port(), 0..4), parts, some_endpoints(), some_endpoints()).prop_map(
        |(key, mut vips, mut ports, (prove, fault, evidence, terminating, check), v4, v6)| {
            vips.sort();
            vips.dedup_by_key(|claim| claim.vip);
            ports.sort();
            ports.dedup();
            ServiceView {
                key,
                vips,
                refused: Vec::new(),
                ports: ports.into(),
                terminating,
                prove,
                policy: TrafficPolicy { fault, evidence },
                check: check.map(|text| Arc::new(Check::parse(text).unwrap())),
                profile: None,
                endpoints: PerFamily { v4, v6 },
            }
        },
    )
}

fn some_sample() -> impl Strategy<Value = TrafficSample> {
    let numbers = any::<[u64; 17]>().prop_map(|n| TrafficCounts {
        packets_in: n[0],
        bytes_in: n[1],
        packets_out: n[2],
        bytes_out: n[3],
        syn: n[4],
        syn_ack: n[5],
        syn_ack_host: n[6],
        completed: n[7],
        fin: n[8],
        rst_client: n[9],
        rst_backend: n[10],
        rst_host: n[11],
        unreachable_host: n[12],
        unreachable_backend: n[13],
        syn_retransmitted: n[14],
        rst_after_data_client: n[15],
        rst_after_data_backend: n[16],
    });
    let handshakes =
        (any::<[u64; 7]>(), any::<u32>(), any::<[u32; 21]>()).prop_map(|(n, one_in, latency)| Handshakes {
            completed: n[0],
            refused_backend: n[1],
            refused_host: n[2],
            timed_out: n[3],
            failed_prefixes: n[4],
            one_in,
            unseen_answers: n[5],
            latency_micros: n[6],
            latency,
        });
    (some_vip(), some_port(), any::<u64>(), numbers, handshakes).prop_map(|(vip, port, span, counts, handshakes)| {
        TrafficSample { vip, port, span: Duration::from_nanos(span), counts, handshakes }
    })
}

fn some_report() -> impl Strategy<Value = ProbeReport> {
    let complaints = prop_oneof![
        Just(None),
        any::<u16>().prop_map(|status| Some(Complaint::Status(status))),
        any::<Option<u16>>().prop_map(|code| Some(Complaint::NotServing(code))),
        Just(Some(Complaint::NoAnswer)),
        Just(Some(Complaint::Closed)),
        Just(Some(Complaint::Garbled)),
    ];
    let outcomes = proptest::sample::select(ProbeOutcome::ALL.to_vec());
    (some_vip(), some_port(), outcomes, complaints, any::<Option<u64>>()).prop_map(
        |(vip, port, outcome, complaint, latency)| {
            let latency = latency.map(Duration::from_nanos);
            ProbeReport { vip, port, outcome, complaint, latency }
        },
    )
}

fn some_permissions() -> impl Strategy<Value = Permissions> {
    let refusals = [Refused::LastCandidate, Refused::ShareSpent, Refused::EveryoneSuspects, Refused::Unanswered];
    let answers = prop_oneof![Just(Ok(())), proptest::sample::select(refusals.to_vec()).prop_map(Err)];
    (proptest::collection::btree_map(some_vip(), answers, 0..4), any::<u64>())
        .prop_map(|(answers, nanos)| Permissions { answers, valid_for: Duration::from_nanos(nanos) })
}

fn some_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        some_service().prop_map(|view| Event::Service(Box::new(view))),
        some_key().prop_map(Event::ServiceGone),
        vec(some_sample(), 0..3).prop_map(Event::Traffic),
        vec(some_report(), 0..3).prop_map(Event::Probe),
        some_permissions().prop_map(Event::Permissions),
        ".{0,8}".prop_map(|error| Event::Source(SourceState::Stale(error))),
        (some_key(), any::<u32>(), any::<bool>())
            .prop_map(|(key, restarts, crash_loop)| Event::Pod(key, PodView { restarts, crash_loop })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_recorded_is_read_as_it_was(event in some_event()) {
        prop_assert_eq!(again(&event), What::Event(event));
    }

    /// A line that was tampered with is an error or a record, and never the end of the program.
    #[test]
    fn a_line_may_be_anything(event in some_event(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut line = Line { at: 5_001, record: Record::of(&event).unwrap() }.text().unwrap().into_bytes();
        let place = place.index(line.len() - 1);
        line[place] = byte;
        let mut text = format!("{}{{\"at\":5000,\"record\":\"live\"}}\n", first()).into_bytes();
        text.extend(line);
        let mut reader = Reader::open(text.as_slice()).unwrap();
        while let Ok(Some(_)) = reader.read() {}
    }

    #[test]
    fn a_file_may_be_anything(text in vec(any::<u8>(), 0..200)) {
        if let Ok(mut reader) = Reader::open(text.as_slice()) {
            while let Ok(Some(_)) = reader.read() {}
        }
    }

    #[test]
    fn a_time_is_read_as_it_was(at in 0..u64::MAX - 1) {
        prop_assert_eq!(nanos(Timestamp::from_start(Duration::from_nanos(at))), at);
    }
}
