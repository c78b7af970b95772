//! What eBPF counts and what follows from it; and the daemon with fewer rights than root.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::daemon::User;
use cosmolet_tests::fabric::{Mode, NodeSpec, UPLINK, host, vip4, vip6};
use cosmolet_tests::netns::{End, veth};
use cosmolet_tests::objects::State;
use cosmolet_tests::stage::{Options, Stage, targets};
use cosmolet_tests::wait;
use ipnet::IpNet;
use serde_json::Value;

use crate::{LIMIT, NODE, REREAD, ensure_unmoved, metric, one_node};

const ENFORCE: &str = "enforce";

#[test]
fn only_a_refusing_host_is_convicted() -> Result<()> {
    let mut stage = one_node(Mode::Dynamic, Options::default())?;
    observed(&stage)?;
    stage.daemons[0].stop(LIMIT)?;
    stage.reconfigure(0, &Options { traffic: ENFORCE, ..Options::default() })?;
    stage.daemons[0].start()?;
    harmless(&stage)?;
    convicted(&mut stage)
}

/// `observe` says so and does nothing.
fn observed(stage: &Stage) -> Result<()> {
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    counted(stage)?;
    let since = Instant::now();
    stage.fabric.nodes[0].proxy.lose()?;
    for vip in [vip4(1), vip6(1)] {
        let row = stage.wait_status(0, vip, "suspect", |row| row["services"][0]["health"] == "suspect")?;
        ensure!(row["state"] == "advertised" && row["reason"].is_null(), "{row}");
        let family = if vip.is_ipv4() { "ipv4" } else { "ipv6" };
        let series = format!(
            "cosmolet_vip_state{{namespace=\"default\",service=\"web\",vip=\"{vip}\",family=\"{family}\",\
             state=\"advertised\",reason=\"\",health=\"suspect\",mode=\"dynamic\"}}"
        );
        ensure!(metric(stage, &series)? == 1, "{series} is not there:\n{}", stage.daemons[0].metrics()?);
    }
    stage.fabric.nodes[0].proxy.restore()?;
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "up again", |row| row["services"][0]["health"] == "up")?;
    }
    drop(client);
    ensure_unmoved(stage, since)
}

/// Clients that connect and reset, reset without a connection, and knock at a port that nobody declares: no evidence.
fn harmless(stage: &Stage) -> Result<()> {
    let since = Instant::now();
    let undeclared = SocketAddr::new(vip4(1), 81);
    // More than the window of 3 s, at more than the 3 attempts that could convict.
    while since.elapsed() < Duration::from_secs(6) {
        stage.fabric.client.run(|| {
            for target in targets() {
                reset(target)?;
            }
            let refused = TcpStream::connect_timeout(&undeclared, LIMIT).map(drop);
            ensure!(refused.is_err(), "somebody listens on an undeclared port");
            Ok(())
        })??;
        std::thread::sleep(Duration::from_millis(50));
    }
    for vip in [vip4(1), vip6(1)] {
        let row = stage.wait_status(0, vip, "resets are counted", |row| total(row, "rst_client") >= 20)?;
        ensure!(row["state"] == "advertised" && row["services"][0]["health"] == "up", "{row}");
        ensure!(total(&row, "rst_host") == 0, "a declared port is charged with others' RSTs: {row}");
        ensure!(row["traffic"].as_array().is_some_and(|ports| ports.len() == 1), "another port is counted: {row}");
    }
    ensure_unmoved(stage, since)
}

/// The only node stays, whatever its traffic says; one of two is withdrawn.
fn convicted(stage: &mut Stage) -> Result<()> {
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    counted(stage)?;
    let alone = Instant::now();
    stage.fabric.nodes[0].proxy.lose()?;
    for vip in [vip4(1), vip6(1)] {
        let last = |row: &Value| row["ejection_refused"]["reason"] == "LastCandidate";
        let row = stage.wait_status(0, vip, "the last candidate", last)?;
        ensure!(row["state"] == "advertised" && row["services"][0]["health"] == "suspect", "{row}");
    }
    ensure_unmoved(stage, alone)?;
    let since = Instant::now();
    stage.elsewhere = true;
    stage.write_endpoints()?;
    for vip in [vip4(1), vip6(1)] {
        stage.fabric.routes().wait_nodes(host(vip), since, LIMIT, &[])?;
        let row = stage.wait_status(0, vip, "convicted", |row| row["reason"] == "HostRefuses")?;
        ensure!(row["services"][0]["health"] == "down" && row["services"][0]["ejections"] == 1, "{row}");
    }
    let series = "cosmolet_transitions_total{to=\"withdraw\",reason=\"HostRefuses\"}";
    ensure!(metric(stage, series)? == 2, "{}", stage.daemons[0].metrics()?);
    drop(client);
    Ok(())
}

/// Connects and ends with a RST.
#[expect(unsafe_code, reason = "SO_LINGER has no stable wrapper in std")]
fn reset(target: SocketAddr) -> Result<()> {
    let stream = TcpStream::connect_timeout(&target, LIMIT)?;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = libc::socklen_t::try_from(size_of::<libc::linger>())?;
    // SAFETY: the pointer is to a live linger of this length.
    let result = unsafe {
        let option = std::ptr::from_ref(&linger).cast();
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, option, length)
    };
    ensure!(result == 0, "SO_LINGER: {}", std::io::Error::last_os_error());
    Ok(())
}

/// The sum of one counter over a row's ports.
pub(crate) fn total(row: &Value, counter: &str) -> u64 {
    row["traffic"].as_array().into_iter().flatten().filter_map(|port| port["total"][counter].as_u64()).sum()
}

/// Waits until handshakes with both VIPs go on being counted.
fn counted(stage: &Stage) -> Result<()> {
    for vip in [vip4(1), vip6(1)] {
        let before = stage.row(0, vip)?.map_or(0, |row| total(&row, "handshakes"));
        stage.wait_status(0, vip, "handshakes are counted", |row| total(row, "handshakes") > before + 10)?;
    }
    Ok(())
}

#[test]
fn programs_follow_an_uplink_that_is_made_anew() -> Result<()> {
    let mut spec = NodeSpec::new(NODE, Mode::Dynamic);
    spec.wire = false;
    let mut stage = Stage::raise(&[spec], Options::default())?;
    stage.start()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    let client = Client::start(&stage.fabric.client, Load::new(targets().to_vec()))?;
    counted(&stage)?;
    wait_interfaces(&stage, &[UPLINK])?;
    stage.fabric.nodes[0].netns.ip(&["link", "del", UPLINK])?;
    stage.wait_nodes(&[], Instant::now(), LIMIT)?;
    wait_interfaces(&stage, &[])?;
    ensure!(metric(&stage, "cosmolet_programs_running")? == 0, "{}", stage.daemons[0].metrics()?);
    restore_uplink(&stage)?;
    stage.wait_nodes(&[NODE], Instant::now(), REREAD)?;
    wait_interfaces(&stage, &[UPLINK])?;
    counted(&stage)?;
    ensure!(metric(&stage, "cosmolet_programs_running")? == 1, "{}", stage.daemons[0].metrics()?);
    drop(client);
    Ok(())
}

fn wait_interfaces(stage: &Stage, names: &[&str]) -> Result<()> {
    wait::until_true(&format!("counting on {names:?}"), REREAD, || {
        let status = stage.daemons[0].status()?;
        let found: Vec<&str> =
            status["traffic"]["interfaces"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        ensure!(found == names, "it counts on {found:?}");
        Ok(true)
    })
}

fn restore_uplink(stage: &Stage) -> Result<()> {
    let (tor, node) = (&stage.fabric.tor, &stage.fabric.nodes[0]);
    let (plan, netns) = (node.plan, &node.netns);
    veth(End { netns: tor, interface: NODE }, End { netns, interface: UPLINK })?;
    for (end, interface, number) in [(tor, NODE, 1), (&**netns, UPLINK, 2)] {
        end.add_address(interface, IpNet::new(plan.link4(number).into(), 29)?)?;
        end.add_address(interface, IpNet::new(plan.link6(number).into(), 64)?)?;
    }
    netns.add_route("0.0.0.0/0".parse()?, plan.link4(1).into())?;
    netns.add_route("::/0".parse()?, plan.link6(1).into())
}

/// A pod's user.
const UID: u32 = 65532;

#[test]
fn fewer_rights_mean_fewer_eyes_but_the_same_vips() -> Result<()> {
    let mut stage = Stage::raise(&[NodeSpec::new(NODE, Mode::Dynamic)], Options::default())?;
    let user = |capabilities, groups| Options {
        user: Some(User { id: UID, capabilities, groups }),
        traffic: ENFORCE,
        ..Options::default()
    };
    // Without CAP_BPF: on the control plane alone, and it says so.
    stage.reconfigure(0, &user(&["net_admin"], &["frrvty"]))?;
    stage.daemons[0].start()?;
    ensure_user(&mut stage)?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    wait::until_true("it says why it is alone", LIMIT, || {
        let status = stage.daemons[0].status()?;
        let alone = status["traffic"]["control_plane_alone"].as_str().context("it is not alone")?;
        ensure!(alone.contains("CAP_BPF"), "{alone}");
        Ok(true)
    })?;
    ensure!(metric(&stage, "cosmolet_programs_running")? == 0, "{}", stage.daemons[0].metrics()?);
    let metrics = stage.daemons[0].metrics()?;
    ensure!(
        metrics.contains("cosmolet_last_error{component=\"programs\",error=\"") && metrics.contains("CAP_BPF"),
        "{metrics}"
    );
    let log = stage.daemons[0].log()?;
    ensure!(log.contains("deciding by the control plane alone") && log.contains("CAP_BPF"), "{log}");
    stage.set_endpoint(0, State::NotReady)?;
    stage.wait_nodes(&[], Instant::now(), LIMIT)?;
    stage.set_endpoint(0, State::Ready)?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    stage.daemons[0].stop(LIMIT)?;
    // Exactly what the chart gives: everything works, to the conviction.
    let since = Instant::now();
    stage.reconfigure(0, &user(&["net_admin", "bpf", "perfmon"], &["frrvty"]))?;
    stage.daemons[0].start()?;
    ensure_user(&mut stage)?;
    wait_interfaces(&stage, &[UPLINK])?;
    ensure_unmoved(&stage, since)?;
    convicted(&mut stage)?;
    stage.daemons[0].stop(LIMIT)?;
    // Without the group, FRR's socket is closed: named, and nothing is put on lo that nobody would advertise.
    stage.reconfigure(0, &user(&["net_admin"], &[]))?;
    stage.daemons[0].launch()?;
    let bgp = stage.wait_bgp(0, "PermissionDenied", |bgp| bgp["reason"] == "PermissionDenied")?;
    ensure!(bgp["error"].as_str().is_some_and(|text| text.contains("frrvty")), "{bgp}");
    Ok(())
}

/// The test tests nothing if the daemon is still root.
fn ensure_user(stage: &mut Stage) -> Result<()> {
    let pid = stage.daemons[0].process()?.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).context("no Uid")?;
    ensure!(uid.split_whitespace().all(|id| id == UID.to_string()), "it runs as {uid}");
    Ok(())
}
