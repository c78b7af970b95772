//! The lab itself: does it raise what it promises, does it see what happens, and does nothing stay behind?

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::api_server::{ApiServer, Place, User};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::daemon::Daemon as Cosmolet;
use cosmolet_tests::fabric::{Fabric, MANAGEMENT, Mode, NodeSpec, UPLINK, host, vip4, vip6};
use cosmolet_tests::forward::forward;
use cosmolet_tests::frr::{self, Daemon, Frr};
use cosmolet_tests::manifests::Manifests;
use cosmolet_tests::netns::{self, End, veth};
use cosmolet_tests::nft::Mapping;
use cosmolet_tests::objects::{self, State};
use cosmolet_tests::process::Spec;
use cosmolet_tests::wire::Event;
use cosmolet_tests::{Lab, wait};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

const LIMIT: Duration = Duration::from_secs(10);
const VICTIM: &str = "COSMOLET_LAB_VICTIM";

/// The fabric of the demo: one dynamic and numbered node, one connected and unnumbered.
fn demo_fabric(lab: &Lab) -> Result<Fabric> {
    Fabric::raise(lab, &[NodeSpec::new("node1", Mode::Dynamic), NodeSpec::new("node2", Mode::Connected).unnumbered()])
}

fn vips() -> [SocketAddr; 2] {
    [SocketAddr::new(vip4(1), 80), SocketAddr::new(vip6(1), 80)]
}

/// Puts the VIPs on both nodes by hand, as the daemon will; returns the moment before the first step.
fn advertise_by_hand(fabric: &mut Fabric) -> Result<Instant> {
    let cause = Instant::now();
    for node in &mut fabric.nodes {
        node.serve(&vips())?;
        for vip in vips() {
            node.add_vip(vip.ip())?;
        }
    }
    for vip in vips() {
        fabric.nodes[0].frr.configure(&network("", vip.ip()))?;
    }
    Ok(cause)
}

/// The lines that add (or with `no ` before, remove) a `network` of the host prefix.
fn network(no: &str, vip: IpAddr) -> [String; 3] {
    let family = if vip.is_ipv4() { "ipv4" } else { "ipv6" };
    ["router bgp".to_owned(), format!("address-family {family} unicast"), format!("{no}network {}", host(vip))]
}

/// What of a lab is still there: namespaces, its directory, processes that mention it.
fn remains(prefix: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for directory in [std::env::temp_dir(), netns::RUN_DIRECTORY.into()] {
        for entry in std::fs::read_dir(directory)? {
            let name = entry?.file_name().into_string().unwrap_or_default();
            if name == prefix || name.starts_with(&format!("{prefix}-")) {
                found.push(name);
            }
        }
    }
    for entry in std::fs::read_dir("/proc")? {
        let Ok(line) = std::fs::read(entry?.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&format!("{prefix}/")) || line.contains(&format!("{prefix}-")) {
            found.push(line);
        }
    }
    Ok(found)
}

#[test]
fn frr_daemons_are_started_killed_and_restarted() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.netns("a")?, lab.netns("b")?);
    veth(End { netns: &a, interface: "b" }, End { netns: &b, interface: "a" })?;
    a.add_address("b", "10.1.0.1/30".parse()?)?;
    b.add_address("a", "10.1.0.2/30".parse()?)?;
    let config = |asn: u32, peer: &str| {
        format!(
            "frr defaults datacenter\nrouter bgp {asn}\n no bgp ebgp-requires-policy\n timers bgp 1 3\n \
             neighbor {peer} remote-as external\n neighbor {peer} timers connect 1\n"
        )
    };
    let a_frr = Frr::start(&lab, &a, &config(65001, "10.1.0.2"), &frr::Options::default())?;
    let mut b_frr = Frr::start(&lab, &b, &config(65002, "10.1.0.1"), &frr::Options::default())?;
    a_frr.wait_established(1, LIMIT)?;
    b_frr.kill(Daemon::Bgpd)?;
    wait::until_true("session gone", LIMIT, || Ok(frr::established(&a_frr.show("show bgp summary")?).is_empty()))?;
    b_frr.restart(Daemon::Bgpd)?;
    a_frr.wait_established(1, LIMIT)
}

#[test]
fn a_vty_answers_in_order_and_says_what_it_refuses() -> Result<()> {
    let lab = Lab::new()?;
    let netns = lab.netns("a")?;
    let frr = Frr::start(&lab, &netns, "router bgp 65001\n", &frr::Options::default())?;
    let mut vty = frr.bgpd()?;
    let lines = ["router bgp", "address-family ipv4 unicast", "no network 10.100.0.9/32", "nonsense"];
    let statuses: Vec<u8> = vty.configure(&lines)?.into_iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [0, 0, 13, 2]);
    assert_eq!(vty.json("show bgp vrfs json")?["totalVrfs"], 1);
    assert!(vty.configure_ok(&["nonsense"]).is_err());
    vty.expect_success("show running-config").map(|text| assert!(text.contains("router bgp 65001")))
}

#[test]
fn the_fabric_spreads_a_vip_over_both_nodes() -> Result<()> {
    let lab = Lab::new()?;
    let mut fabric = demo_fabric(&lab)?;
    let cause = advertise_by_hand(&mut fabric)?;
    for vip in vips() {
        let prefix = host(vip.ip());
        let took = fabric.routes().wait_nodes(prefix, cause, LIMIT, &["node1", "node2"])?;
        assert!(took > Duration::ZERO && took < Duration::from_secs(2), "{prefix}: {took:?}");
        let by_ip = fabric.tor.ip(&["route", "show", &prefix.to_string()])?;
        let by_ip =
            if by_ip.is_empty() { fabric.tor.ip(&["-6", "route", "show", &prefix.to_string()])? } else { by_ip };
        assert!(by_ip.contains("dev node1") && by_ip.contains("dev node2"), "{by_ip}");
        for node in &fabric.nodes {
            let on_wire = node.wire()?.wait_advertised(prefix, cause, LIMIT)?;
            assert!(on_wire > Duration::ZERO && on_wire < Duration::from_secs(2), "{}: {on_wire:?}", node.name());
            assert_eq!(node.wire()?.advertised()[&prefix].as_path, [node.plan.asn()]);
        }
    }
    let client = Client::start(&fabric.client, Load::new(vips().to_vec()))?;
    let summary = client.watch(Duration::from_secs(1));
    assert_eq!(summary.failed(), 0, "{summary:?}");
    assert!(summary.ok() > 50 && summary.by_node.len() == 2, "{summary:?}");
    Ok(())
}

#[test]
fn withdrawals_and_link_failures_are_timed() -> Result<()> {
    let lab = Lab::new()?;
    let mut fabric = demo_fabric(&lab)?;
    let cause = advertise_by_hand(&mut fabric)?;
    let both = ["node1", "node2"];
    for vip in vips() {
        fabric.routes().wait_nodes(host(vip.ip()), cause, LIMIT, &both)?;
    }
    for vip in vips() {
        let (prefix, cause) = (host(vip.ip()), Instant::now());
        fabric.nodes[0].frr.configure(&network("no ", vip.ip()))?;
        let route = fabric.routes().wait_nodes(prefix, cause, LIMIT, &["node2"])?;
        let wire = fabric.nodes[0].wire()?.wait_withdrawn(prefix, cause, LIMIT)?;
        assert!(wire.max(route) < Duration::from_secs(2), "wire {wire:?}, route {route:?}");
        assert_eq!(fabric.routes().changes(prefix, cause).len(), 1, "the route flapped");
    }
    let cause = Instant::now();
    fabric.nodes[1].netns.ip(&["link", "set", "dev", UPLINK, "down"])?;
    for vip in vips() {
        fabric.routes().wait_nodes(host(vip.ip()), cause, LIMIT, &[])?;
    }
    fabric.nodes[1].netns.ip(&["link", "set", "dev", UPLINK, "up"])?;
    for vip in vips() {
        fabric.routes().wait_nodes(host(vip.ip()), Instant::now(), 2 * LIMIT, &["node2"])?;
    }
    let spoken = fabric.nodes[0].wire()?.events(cause);
    assert!(!spoken.iter().any(|(_, event)| matches!(event, Event::Down(_))), "the raw session flapped: {spoken:?}");
    Ok(())
}

#[test]
fn the_client_tells_refused_from_timed_out() -> Result<()> {
    let lab = Lab::new()?;
    let mut fabric = Fabric::raise(&lab, &[NodeSpec::new("node1", Mode::Connected)])?;
    let cause = Instant::now();
    let node = fabric.node("node1")?;
    node.serve(&vips())?;
    for vip in vips() {
        node.add_vip(vip.ip())?;
    }
    for vip in vips() {
        fabric.routes().wait_nodes(host(vip.ip()), cause, LIMIT, &["node1"])?;
    }
    let load = Load { timeout: Duration::from_millis(300), ..Load::new(vips().to_vec()) };
    let client = Client::start(&fabric.client, load)?;
    let span = Duration::from_millis(500);
    let all_ok = |summary: &cosmolet_tests::client::Summary| summary.failed() == 0 && summary.ok() > 20;
    let summary = client.watch(span);
    assert!(all_ok(&summary), "healthy: {summary:?}");

    fabric.nodes[0].backend.stop()?;
    let summary = client.watch(span);
    assert!(summary.ok() == 0 && summary.refused == summary.failed() && summary.refused > 20, "stopped: {summary:?}");
    fabric.nodes[0].backend.resume()?;

    fabric.nodes[0].proxy.lose()?;
    let summary = client.watch(span);
    assert!(summary.ok() == 0 && summary.refused == summary.failed() && summary.refused > 20, "no DNAT: {summary:?}");
    fabric.nodes[0].proxy.restore()?;

    fabric.nodes[0].pod.ip(&["link", "set", "dev", "eth0", "down"])?;
    let summary = client.watch(span);
    assert!(summary.ok() == 0 && summary.timed_out > 20, "silent backend: {summary:?}");
    Ok(())
}

#[test]
fn the_proxy_spreads_rejects_and_reaches_other_nodes() -> Result<()> {
    let lab = Lab::new()?;
    let specs = [NodeSpec::new("node1", Mode::Connected), NodeSpec::new("node2", Mode::Connected)];
    let mut fabric = Fabric::raise(&lab, &specs)?;
    let span = Duration::from_millis(500);
    for vip in vips() {
        let backends = fabric.nodes.iter().map(|node| node.backend_address(vip.ip())).collect();
        let mapping = Mapping { masquerade: true, backends, ..Mapping::tcp(vip.ip(), vip.port(), vip) };
        let (prefix, cause) = (host(vip.ip()), Instant::now());
        fabric.nodes[0].add_vip(vip.ip())?;
        fabric.nodes[0].proxy.set(vec![mapping.clone()])?;
        fabric.routes().wait_nodes(prefix, cause, LIMIT, &["node1"])?;
        let client = Client::start(&fabric.client, Load::new(vec![vip]))?;
        let summary = client.watch(span);
        assert!(summary.failed() == 0 && summary.by_node.len() == 2, "{vip}: {summary:?}");
        fabric.nodes[0].proxy.set(vec![Mapping { backends: vec![], ..mapping }])?;
        // The node's kernel limits the rate of ICMP errors, so only some are told at once; and over IPv6 a client's kernel
        // (6.18) goes on sending SYNs in spite of them.
        let summary = client.watch(4 * span);
        assert!(summary.ok() == 0 && (summary.refused > 0 || vip.is_ipv6()), "{vip} without backends: {summary:?}");
    }
    Ok(())
}

#[test]
fn a_dead_bgpd_is_seen_on_both_observers() -> Result<()> {
    let lab = Lab::new()?;
    let mut fabric = demo_fabric(&lab)?;
    let cause = advertise_by_hand(&mut fabric)?;
    let prefix = host(vip4(1));
    fabric.routes().wait_nodes(prefix, cause, LIMIT, &["node1", "node2"])?;
    let killed = fabric.node("node2")?.frr.kill(Daemon::Bgpd)?;
    fabric.routes().wait_nodes(prefix, killed, LIMIT, &["node1"])?;
    let down = |event: &Event| matches!(event, Event::Down(_));
    fabric.node("node2")?.wire()?.wait_event("the end of the session", killed, LIMIT, down)?;
    let restarted = fabric.node("node2")?.frr.restart(Daemon::Bgpd)?;
    fabric.routes().wait_nodes(prefix, restarted, LIMIT, &["node1", "node2"])?;
    fabric.node("node2")?.wire()?.wait_advertised(prefix, restarted, LIMIT).map(drop)
}

#[test]
fn bfd_sees_a_silent_node() -> Result<()> {
    let lab = Lab::new()?;
    let specs =
        [NodeSpec::new("node1", Mode::Connected).bfd(), NodeSpec::new("node2", Mode::Connected).unnumbered().bfd()];
    let fabric = Fabric::raise(&lab, &specs)?;
    let cause = Instant::now();
    fabric.nodes.iter().try_for_each(|node| node.add_vip(vip4(1)))?;
    fabric.routes().wait_nodes(host(vip4(1)), cause, LIMIT, &["node1", "node2"])?;
    let up =
        |peers: &serde_json::Value| peers.as_array().is_some_and(|all| all.iter().all(|peer| peer["status"] == "up"));
    wait::until_true("BFD sessions", LIMIT, || {
        Ok(up(&fabric.tor_frr.vty(Daemon::Bfdd)?.json("show bfd peers json")?))
    })?;
    let cause = Instant::now();
    let silence = "table inet silence {
        chain i { type filter hook input priority -300; iifname uplink drop; }
        chain o { type filter hook output priority -300; oifname uplink drop; }
    }";
    fabric.nodes[1].netns.exec_with_input("nft", &["-f", "-"], silence)?;
    let took = fabric.routes().wait_nodes(host(vip4(1)), cause, LIMIT, &["node1"])?;
    assert!(took < Duration::from_millis(1500), "{took:?}: the hold time, not BFD");
    Ok(())
}

#[test]
fn two_fabrics_stand_beside_each_other() -> Result<()> {
    let raise = || -> Result<()> {
        let lab = Lab::new()?;
        let mut fabric = demo_fabric(&lab)?;
        let cause = advertise_by_hand(&mut fabric)?;
        fabric.routes().wait_nodes(host(vip4(1)), cause, LIMIT, &["node1", "node2"]).map(drop)
    };
    std::thread::scope(|scope| {
        let both = [scope.spawn(raise), scope.spawn(raise)];
        both.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[test]
fn the_api_server_keeps_objects_over_a_restart() -> Result<()> {
    let lab = Lab::new()?;
    let mut api = ApiServer::start(&lab, Place::Loopback)?;
    api.apply(&objects::service("web", &[vip4(1), vip6(1)], &[80]))?;
    let endpoint = objects::endpoint("10.3.1.2".parse()?, "node1", State::Ready);
    api.apply(&objects::slice("web-1", "web", 8080, vec![endpoint]))?;
    api.apply(&objects::node("node1", "10.255.0.1".parse()?))?;
    api.apply(&objects::pod("web-0", "node1", "10.3.1.2".parse()?, true, 3))?;
    api.kill()?;
    assert!(api.get::<Service>("web").is_err(), "a dead server answered");
    api.restart()?;
    let service: Service = api.get("web")?.context("the Service is gone")?;
    let ingress = service.status.and_then(|status| status.load_balancer?.ingress).unwrap_or_default();
    assert_eq!(ingress.iter().filter_map(|i| i.ip.clone()).collect::<Vec<_>>(), ["10.100.0.1", "fd00:100::1"]);
    let slice: EndpointSlice = api.get("web-1")?.context("the slice is gone")?;
    assert_eq!(slice.endpoints.len(), 1);
    let pod: Pod = api.get("web-0")?.context("the pod is gone")?;
    let statuses = pod.status.and_then(|status| status.container_statuses).unwrap_or_default();
    assert_eq!(statuses[0].restart_count, 3);
    api.delete::<Pod>("web-0")?;
    assert!(api.get::<Pod>("web-0")?.is_none());
    Ok(())
}

#[test]
fn nodes_reach_an_api_server_in_the_management_namespace() -> Result<()> {
    let lab = Lab::new()?;
    let fabric = demo_fabric(&lab)?;
    let mut api = ApiServer::start(&lab, Place::Inside(&fabric.management, MANAGEMENT))?;
    api.apply(&objects::service("web", &[vip4(1)], &[80]))?;
    let client = |user: User| {
        let kubeconfig = std::fs::read_to_string(api.kubeconfig(user))?;
        ensure!(kubeconfig.contains(&MANAGEMENT.to_string()), "{kubeconfig}");
        api.config(user)
    };
    for (user, allowed) in [(User::Admin, true), (User::Cosmolet, false)] {
        let config = client(user)?;
        let seen = fabric.nodes[1].netns.run(move || -> Result<usize> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let services = kube::Api::<Service>::default_namespaced(kube::Client::try_from(config)?);
                Ok(services.list(&kube::api::ListParams::default()).await?.items.len())
            })
        })?;
        assert_eq!(seen.is_ok(), allowed, "{user:?}: {seen:?}");
    }
    api.process()?.pause()?;
    assert!(api.get::<Service>("web").is_err(), "a paused server answered");
    api.process()?.resume()?;
    api.wait_ready(LIMIT)?;
    assert!(api.get::<Service>("web")?.is_some());
    Ok(())
}

#[test]
fn the_daemon_is_started_asked_killed_and_stopped() -> Result<()> {
    let lab = Lab::new()?;
    let mut fabric = Fabric::raise(&lab, &[NodeSpec::new("node1", Mode::Dynamic)])?;
    let node = fabric.node("node1")?;
    let manifests = Manifests::create(&lab, "node1")?;
    let http: SocketAddr = ([127, 0, 0, 1], 9470).into();
    let config = format!(
        "services: {{source: manifests, manifests: {}}}\nfrr: {{socket_path: {}}}\n\
         traffic: {{mode: \"off\"}}\nhttp: {{listen: \"{http}\"}}\n",
        manifests.path().display(),
        node.frr.directory().display()
    );
    let mut daemon = Cosmolet::prepare(&lab, &node.netns, "node1", &config, http, &[])?;
    let (vip, backend) = (vip4(1), node.backend_address(vip4(1)));
    manifests.write("node1", &objects::node("node1", node.plan.loopback4().into()))?;
    manifests.write("web", &objects::service("web", &[vip], &[80]))?;
    let slice = |state| {
        let endpoints = vec![objects::endpoint(backend.ip(), "node1", state)];
        manifests.write("web-1", &objects::slice("web-1", "web", backend.port(), endpoints))
    };
    slice(State::Ready)?;
    let started = daemon.start()?;
    fabric.routes().wait_nodes(host(vip), started, LIMIT, &["node1"])?;
    assert!(daemon.status()?.is_object() && daemon.metrics()?.contains("# EOF"));

    daemon.kill()?;
    assert!(daemon.get("/livez").is_err(), "a killed daemon answered");
    daemon.start()?;
    let cause = Instant::now();
    slice(State::NotReady)?;
    fabric.routes().wait_nodes(host(vip), cause, LIMIT, &[])?;
    let (_, status) = daemon.stop(LIMIT)?;
    assert!(status.success(), "{status}: {}", daemon.log_tail());

    daemon.write_config("nonsense: true\n")?;
    let error = format!("{:#}", daemon.start().map(drop).expect_err("it took a nonsensical configuration"));
    assert!(error.contains("nonsense"), "the error has not the log: {error}");
    Ok(())
}

#[test]
fn a_hundred_labs_leave_nothing() -> Result<()> {
    for _ in 0..100 {
        let lab = Lab::new()?;
        let prefix = lab.prefix().to_owned();
        let (a, b) = (lab.netns("a")?, lab.netns("b")?);
        veth(End { netns: &a, interface: "b" }, End { netns: &b, interface: "a" })?;
        // The shell's child is in its group and goes with it; the mark makes both findable.
        let script = format!(": {prefix}-mark; sh -c ': {prefix}-mark; sleep 600; :' & wait");
        let process = Spec::new("sleep", "sh", lab.log("sleep")?).inside(&a).args(["-c", &script]).start()?;
        drop((process, a, b, lab));
        assert_eq!(remains(&prefix)?, Vec::<String>::new());
    }
    Ok(())
}

#[test]
fn a_panic_leaves_nothing() -> Result<()> {
    let (report, prefix) = std::sync::mpsc::channel();
    let victim = std::thread::spawn(move || {
        let lab = Lab::new().unwrap();
        let _fabric = demo_fabric(&lab).unwrap();
        report.send(lab.prefix().to_owned()).unwrap();
        panic!("this panic is part of the test");
    });
    assert!(victim.join().is_err());
    assert_eq!(remains(&prefix.recv()?)?, Vec::<String>::new());
    Ok(())
}

/// The runner is killed by SIGKILL: its processes die with it, and the next lab removes its namespaces.
#[test]
fn a_killed_runner_leaves_nothing_to_the_next() -> Result<()> {
    if std::env::var_os(VICTIM).is_some() {
        let lab = Lab::new()?;
        let _fabric = demo_fabric(&lab)?;
        std::fs::write(lab.directory().join("raised"), "")?;
        std::thread::sleep(6 * LIMIT);
        return Ok(());
    }
    let again = |name: &str| {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--exact", name]).stdout(Stdio::null()).stderr(Stdio::null());
        Result::<Command>::Ok(command)
    };
    let mut victim = again("a_killed_runner_leaves_nothing_to_the_next")?.env(VICTIM, "1").spawn()?;
    let prefix = format!("csm-{}-0", victim.id());
    let raised = wait::until_true("the victim's fabric", 3 * LIMIT, || {
        Ok(std::env::temp_dir().join(&prefix).join("raised").exists())
    });
    victim.kill()?;
    victim.wait()?;
    raised?;
    let running = || remains(&prefix).map(|all| all.iter().any(|name| name.contains(' ')));
    wait::until_true("its processes' end", LIMIT, || Ok(!running()?))?;
    assert!(!remains(&prefix)?.is_empty(), "nothing to sweep: the test would prove nothing");
    assert!(again("a_vty_answers_in_order_and_says_what_it_refuses")?.status()?.success());
    assert_eq!(remains(&prefix)?, Vec::<String>::new());
    Ok(())
}

/// What a browser on this machine asks goes into the namespace, and its end too.
#[test]
fn a_connection_is_handed_on_into_a_namespace() -> Result<()> {
    let lab = Lab::new()?;
    let netns = lab.netns("inside")?;
    let inside: SocketAddr = "127.0.0.1:4000".parse()?;
    let listener = netns.run(|| TcpListener::bind(inside))??;
    std::thread::spawn(move || -> Result<()> {
        let mut stream = listener.accept()?.0;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(stream.write_all(text.to_uppercase().as_bytes())?)
    });
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = forward(&netns, inside, taken.local_addr()?.port())?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"through")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer == "THROUGH", "{answer}");
    Ok(())
}
