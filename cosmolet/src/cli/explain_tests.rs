use super::*;
use crate::cli::samples;
use crate::http::explain::{CheckRow, EndpointsRow, GuardRow, InputRow, ProbeRow};
use crate::http::status::TransitionRow;

fn suspected() -> Explain {
    let input = |name: &str, state: &str, age_seconds| InputRow {
        input: name.to_owned(),
        state: state.to_owned(),
        error: None,
        age_seconds,
    };
    let evidence = EvidenceRow {
        age_seconds: Some(1.0),
        sight: "visible".to_owned(),
        score: 23.0,
        threshold: 16.1,
        failing_samples: 5,
        failing_samples_needed: 3,
        client_prefixes: 7,
        client_prefixes_needed: 3,
        healthy_share: 0.05,
        burstiness: 1.0,
        flood: false,
        suspect: true,
        attempts: 0,
        refused_share: None,
        refused_share_needed: 0.9,
    };
    let probe = ProbeRow { passed_age_seconds: 63.0, failures: 2, failures_needed: 3, failed_age_seconds: Some(1.0) };
    let traffic = VerdictRow {
        verdict: "suspect".to_owned(),
        reason: Some("ConnectionsFail".to_owned()),
        explanation: "something is held against its new connections, and nothing acts on that".to_owned(),
        hold_left_seconds: None,
        trial_seconds: None,
        ejections: 0,
        budget_left: 2,
        evidence: "probe".to_owned(),
        second_key: false,
        proven: true,
        last_probe: Some("silent".to_owned()),
        last_probe_age_seconds: Some(1.0),
        guards: vec![GuardRow { guard: "Mode".to_owned(), explanation: "traffic.mode is not enforce".to_owned() }],
        quiet_left_seconds: None,
    };
    let claim = ClaimRow {
        service: "default/web".to_owned(),
        health: "suspect".to_owned(),
        control_plane: None,
        control_plane_age_seconds: 125.0,
        scope: Some("Local".to_owned()),
        local: Some(EndpointsRow { ready: 2, draining: 0, unusable: 0 }),
        remote: Some(EndpointsRow { ready: 1, draining: 0, unusable: 0 }),
        traffic,
        check: None,
        ports: vec![ExplainedPort { port: "80/tcp".to_owned(), evidence: Some(evidence), probe: Some(probe) }],
    };
    Explain {
        node: "node1".to_owned(),
        status: samples::healthy().vips.remove(0),
        inputs: vec![input("services", "synced", Some(125.0)), input("prober", "running", None)],
        mode: "observe".to_owned(),
        services: vec![claim],
        would_change: vec!["a suspicion convicts once 3 probes in a row fail (now 2)".to_owned()],
        transitions: vec![TransitionRow {
            at: 951_782_400.25,
            vip: "10.100.0.1".to_owned(),
            to: "advertise".to_owned(),
            reason: None,
            message: None,
        }],
    }
}

#[test]
fn a_suspicion_reads_like_this() {
    let expected = "\
10.100.0.1 on node1: advertised, for 2h0m

What was heard
  services  synced   2m5s ago
  prober    running  never

Service default/web: suspect
  control plane  yes, 2m5s ago; Local: 2 ready here
  traffic        suspect (ConnectionsFail): something is held against its new connections, and nothing acts on that; mode observe
                 held by Mode: traffic.mode is not enforce
  80/tcp         answers visible, score 23.0 of 16.1, failing seconds 5 of 3, client prefixes 7 of 3, 1s ago
                 probe passed 63s ago; 2 of 3 failed since, 1s ago

What would change the answer
  a suspicion convicts once 3 probes in a row fail (now 2)

The last decisions
  2000-02-29T00:00:00.250Z  advertise
";
    assert_eq!(text(&suspected()), expected);
}

#[test]
fn what_its_owner_asks_reads_like_this() {
    let row = CheckRow {
        asks: "http://:8080/healthz".to_owned(),
        every_seconds: Some(5.0),
        complaint: Some("answered 503".to_owned()),
        passed_age_seconds: Some(63.0),
        failures: 3,
        failures_needed: 3,
    };
    let line = |row: &CheckRow| {
        let mut explain = suspected();
        explain.services[0].check = Some(row.clone());
        let line = text(&explain).lines().find(|line| line.contains("healthz")).map(|line| line.trim().to_owned());
        line.unwrap()
    };
    assert_eq!(line(&row), "probe          http://:8080/healthz every 5 s: answered 503, 3 in a row");
    let silent = CheckRow { complaint: None, ..row.clone() };
    assert!(line(&silent).ends_with("every 5 s: does not take connections, 3 in a row"));
    let well = CheckRow { failures: 0, ..silent.clone() };
    assert!(line(&well).ends_with("every 5 s: answered well 63s ago"));
    let never = CheckRow { passed_age_seconds: None, failures: 0, every_seconds: None, ..row };
    assert!(line(&never).ends_with("healthz: answered 503; never answered well, which proves nothing"));
}

#[test]
fn nothing_in_it_moves_the_cursor() {
    let mut explain = suspected();
    explain.services[0].service = "a\nb\u{1b}[2J".to_owned();
    explain.inputs[0].error = Some("x\u{9b}y\r".to_owned());
    assert!(!text(&explain).chars().any(|c| c.is_control() && c != '\n'));
    assert_eq!(text(&explain).lines().count(), text(&suspected()).lines().count());
}

#[test]
fn days_are_told_in_utc() {
    assert_eq!(utc(0.0), "1970-01-01T00:00:00.000Z");
    assert_eq!(utc(1_735_689_599.5), "2024-12-31T23:59:59.500Z");
    assert_eq!(utc(1_709_210_096.0), "2024-02-29T12:34:56.000Z");
}
