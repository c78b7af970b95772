//! The wire-true probe on the real kernel: through DNAT to a backend in another namespace, and every way in which that fails.

mod asks;
mod ways;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet::ebpf::{Options as Load, Programs};
use cosmolet::engine::types::{Port, Protocol, Uplink, Vip};
use cosmolet::probe::{Prober, Reply, Sources};
use cosmolet_tests::daemon::User;
use cosmolet_tests::fabric::{Fabric, Mode, NodeSpec, UPLINK, vip4, vip6};
use cosmolet_tests::nft::Mapping;
use cosmolet_tests::objects::State;
use cosmolet_tests::raw::Raw;
use cosmolet_tests::stage::{Options, Stage};
use cosmolet_tests::{Lab, Netns, wait};
use tokio::runtime::Runtime;

const NODE: &str = "node1";
const PORT: u16 = 80;
/// Longer than any answer takes here.
const ANSWER: Duration = Duration::from_secs(2);
/// How many probes the wire is watched for. By hand: `COSMOLET_PROBES=100000`.
const PROBES: usize = 10_000;

/// A fabric without daemons: the edge alone is driven here.
struct World {
    fabric: Fabric,
    _lab: Lab,
}

impl World {
    fn raise() -> Result<Self> {
        Self::with_nodes(&[NODE])
    }

    fn with_nodes(names: &[&str]) -> Result<Self> {
        let lab = Lab::new()?;
        let specs: Vec<NodeSpec> = names.iter().map(|name| NodeSpec::new(name, Mode::Dynamic)).collect();
        let fabric = Fabric::raise(&lab, &specs)?;
        Ok(Self { fabric, _lab: lab })
    }

    /// Runs `body` in the node's namespace with programs attached to its uplink and a prober over them.
    fn probing<T: Send>(&self, body: impl FnOnce(&mut Driver) -> Result<T> + Send) -> Result<T> {
        self.fabric.nodes[0].netns.run(|| {
            let runtime = Rc::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
            let _inside = runtime.enter();
            let mut driver = Driver::open(Rc::clone(&runtime))?;
            body(&mut driver)
        })?
    }

    /// Counts what arrives at the ToR from the node to or from a probe's source.
    fn watch_wire(&self) -> Result<()> {
        let rules = format!(
            "table netdev csm_watch {{\nchain in {{ type filter hook ingress device \"{NODE}\" priority -500;\n\
             ip saddr 198.18.0.0/15 counter\nip daddr 198.18.0.0/15 counter\nip6 saddr 2001:2::/48 counter\n\
             ip6 daddr 2001:2::/48 counter\nip daddr != 198.18.0.0/15 counter comment \"others\"\n}}\n}}\n"
        );
        self.fabric.tor.exec_with_input("nft", &["-f", "-"], &rules).map(drop)
    }

    /// What was counted of probes, and of everything else of IPv4.
    fn seen_on_the_wire(&self) -> Result<(u64, u64)> {
        let text = self.fabric.tor.exec("nft", &["list", "table", "netdev", "csm_watch"])?;
        let count =
            |line: &str| -> Option<u64> { line.split("packets ").nth(1)?.split_whitespace().next()?.parse().ok() };
        let (others, probes): (Vec<&str>, Vec<&str>) =
            text.lines().filter(|line| line.contains("counter packets")).partition(|line| line.contains("others"));
        ensure!(probes.len() == 4 && others.len() == 1, "{text}");
        let sum = |lines: &[&str]| lines.iter().filter_map(|line| count(line)).sum();
        Ok((sum(&probes), sum(&others)))
    }
}

struct Driver {
    programs: Programs,
    prober: Prober,
    ifindex: u32,
    runtime: Rc<Runtime>,
}

fn sources() -> Result<Sources> {
    Ok(Sources::new(&["198.18.94.0/24".parse()?, "2001:2:0:c05e::/64".parse()?]))
}

impl Driver {
    fn open(runtime: Rc<Runtime>) -> Result<Self> {
        let sources = sources()?;
        sources.check()?;
        let mut programs = Programs::load(&Load { probes: sources.prefixes(), ..Load::default() })?;
        let ring = programs.take_caught().context("the ring")?;
        let name = std::ffi::CString::new(UPLINK)?;
        let ifindex = index(&name);
        let uplink = Uplink { ifindex, name: UPLINK.to_owned() };
        for (_, result) in programs.attach(std::slice::from_ref(&uplink)) {
            result?;
        }
        let mut prober = Prober::open(sources, ring)?;
        for (_, result) in prober.reconcile(&[uplink])? {
            result?;
        }
        Ok(Self { programs, prober, ifindex, runtime })
    }

    /// One probe, and what came back for it; `None` is silence.
    fn probe(&mut self, target: SocketAddr) -> Result<Option<(Reply, Duration)>> {
        self.probe_for(target, ANSWER)
    }

    fn probe_for(&mut self, target: SocketAddr, limit: Duration) -> Result<Option<(Reply, Duration)>> {
        self.send_for(target, None, limit)
    }

    /// The same with a datagram.
    fn say(&mut self, target: SocketAddr, datagram: &[u8], limit: Duration) -> Result<Option<Reply>> {
        Ok(self.send_for(target, Some(datagram), limit)?.map(|(reply, _)| reply))
    }

    fn send_for(
        &mut self,
        target: SocketAddr,
        datagram: Option<&[u8]>,
        limit: Duration,
    ) -> Result<Option<(Reply, Duration)>> {
        let token = self.prober.send(self.ifindex, target, datagram)?;
        let since = Instant::now();
        loop {
            if let Some(answer) = self.prober.collect().into_iter().find(|answer| answer.token == token) {
                return Ok(Some((answer.reply, answer.latency)));
            }
            if since.elapsed() > limit {
                self.prober.give_up(token);
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[expect(unsafe_code, reason = "if_nametoindex(3) has no stable wrapper in std")]
fn index(name: &std::ffi::CStr) -> u32 {
    // SAFETY: a C string that outlives the call.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

fn targets() -> [SocketAddr; 2] {
    [SocketAddr::new(vip4(1), PORT), SocketAddr::new(vip6(1), PORT)]
}

/// An address of the node itself, of the VIP's family.
fn node_address(world: &World, vip: IpAddr) -> IpAddr {
    let plan = world.fabric.nodes[0].plan;
    if vip.is_ipv4() { plan.link4(2).into() } else { plan.link6(2).into() }
}

#[test]
fn every_outcome_is_told_apart() -> Result<()> {
    let mut world = World::raise()?;
    world.watch_wire()?;
    for target in targets() {
        outcomes(&mut world, target).with_context(|| target.to_string())?;
    }
    let (probes, others) = world.seen_on_the_wire()?;
    ensure!(probes == 0, "{probes} packets of probes on the wire");
    ensure!(others > 0, "the wire was not watched");
    Ok(())
}

fn outcomes(world: &mut World, target: SocketAddr) -> Result<()> {
    let expect = |world: &World, what: &str, wanted: Option<Reply>| -> Result<()> {
        let limit = if wanted.is_some() { ANSWER } else { Duration::from_millis(300) };
        let found = world.probing(|driver| driver.probe_for(target, limit))?.map(|(reply, _)| reply);
        ensure!(found == wanted, "{what}: {found:?} instead of {wanted:?}");
        Ok(())
    };
    let vip = target.ip();
    let backend = world.fabric.nodes[0].backend_address(vip);
    // Nothing translates the VIP and nobody has it: the SYN is routed back to where it seems to come from, and caught.
    expect(world, "no DNAT, no address", Some(Reply::RefusedHere))?;
    world.fabric.nodes[0].serve(&[target])?;
    expect(world, "DNAT to a pod", Some(Reply::Accepted))?;
    world.fabric.nodes[0].netns.sysctl("net/ipv4/conf/all/rp_filter", "1")?;
    world.fabric.nodes[0].netns.sysctl(&format!("net/ipv4/conf/{UPLINK}/rp_filter"), "1")?;
    expect(world, "rp_filter strict", Some(Reply::Accepted))?;
    world.fabric.nodes[0].backend.stop()?;
    expect(world, "the backend is down", Some(Reply::RefusedBehind))?;
    world.fabric.nodes[0].backend.resume()?;
    let drop = "table inet csm_drop { chain in { type filter hook input priority 0; tcp dport 8080 drop; }; }";
    let drop = drop.replace("8080", &backend.port().to_string());
    world.fabric.nodes[0].pod.exec_with_input("nft", &["-f", "-"], &drop)?;
    expect(world, "the backend is a black hole", None)?;
    world.fabric.nodes[0].pod.exec("nft", &["delete", "table", "inet", "csm_drop"])?;
    expect(world, "it is none any more", Some(Reply::Accepted))?;
    world.fabric.nodes[0].proxy.set(vec![Mapping { backends: vec![], ..Mapping::tcp(vip, PORT, backend) }])?;
    world.fabric.nodes[0].add_vip(vip)?;
    expect(world, "no endpoint: kube-proxy rejects", Some(Reply::RefusedHere))?;
    world.fabric.nodes[0].proxy.lose()?;
    expect(world, "no DNAT: the host itself refuses", Some(Reply::RefusedHere))?;
    world.fabric.nodes[0].remove_vip(vip)?;
    let host = SocketAddr::new(node_address(world, vip), 8081);
    let listener = world.fabric.nodes[0].netns.run(|| TcpListener::bind(host))??;
    world.fabric.nodes[0].proxy.set(vec![Mapping::tcp(vip, PORT, host)])?;
    expect(world, "a backend in the host's network", Some(Reply::Accepted))?;
    std::mem::drop(listener);
    world.fabric.nodes[0].proxy.lose()
}

/// Nothing of ten thousand probes on the wire, nothing accepted, nothing counted as traffic.
#[test]
fn probes_leave_no_trace() -> Result<()> {
    let count = std::env::var("COSMOLET_PROBES").ok().and_then(|text| text.parse().ok()).unwrap_or(PROBES);
    let mut world = World::raise()?;
    let port = 8090;
    let backends: BTreeMap<IpAddr, SocketAddr> = targets()
        .map(|target| {
            let address = world.fabric.nodes[0].backend_address(target.ip()).ip();
            (target.ip(), SocketAddr::new(address, port))
        })
        .into();
    let listener = world.fabric.nodes[0].pod.run(|| TcpListener::bind(("::", port)))??;
    listener.set_nonblocking(true)?;
    let mappings = targets().map(|target| Mapping::tcp(target.ip(), PORT, backends[&target.ip()]));
    world.fabric.nodes[0].proxy.set(mappings.to_vec())?;
    world.watch_wire()?;
    let (micros, counted) = world.probing(|driver| {
        for target in targets() {
            let port = Port { protocol: Protocol::Tcp, number: PORT };
            driver.programs.track(Vip::new(target.ip()), &[port])?;
            driver.probe(target)?.context("the first probe, which resolves neighbours")?;
        }
        let started = cpu_time();
        for turn in 0..count {
            let target = targets()[turn % 2];
            let (reply, _) = driver.probe(target)?.with_context(|| format!("probe {turn} is lost"))?;
            ensure!(reply == Reply::Accepted, "probe {turn}: {reply:?}");
        }
        let spent = cpu_time().saturating_sub(started);
        let counted = driver.programs.sample(Duration::from_secs(1))?;
        Ok((spent.as_micros() / count as u128, counted))
    })?;
    println!("{count} probes, {micros} us of CPU each");
    ensure!(counted.is_empty(), "probes were counted as traffic: {counted:?}");
    let accepted = listener.accept();
    ensure!(accepted.is_err(), "the application accepted a probe: {accepted:?}");
    let (probes, others) = world.seen_on_the_wire()?;
    ensure!(probes == 0, "{probes} packets of probes on the wire");
    ensure!(others > 0, "the wire was not watched");
    // The connections are closed, not left to time out.
    wait::until_true("no half-open connection is left", Duration::from_secs(5), || {
        let open = world.fabric.nodes[0].pod.exec("ss", &["-Htn", "state", "syn-recv"])?;
        ensure!(open.trim().is_empty(), "{open}");
        Ok(true)
    })
}

/// The time that this thread's calls have taken, the kernel's receive path included, which runs within them.
#[expect(unsafe_code, reason = "std has no clock of CPU time")]
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the structure that it is handed.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A pod's user.
const UID: u32 = 65532;
const LIMIT: Duration = Duration::from_secs(20);

/// kube-proxy lags behind the endpoint: the VIP is not advertised before its translation is there, by a daemon that has no more
/// rights than the chart gives it.
#[test]
fn a_vip_waits_for_its_translation() -> Result<()> {
    let user = User { id: UID, capabilities: &["net_admin", "bpf", "perfmon"], groups: &["frrvty"] };
    let proving = Options {
        env: vec![("COSMOLET_TRAFFIC_PROVE_SECONDS", "60"), ("COSMOLET_TRAFFIC_PROBE_ROUND_SECONDS", "5")],
        user: Some(user),
        ..Options::default()
    };
    let mut stage = Stage::raise(&[NodeSpec::new(NODE, Mode::Dynamic)], proving)?;
    stage.fabric.nodes[0].proxy.lose()?;
    stage.daemons[0].launch()?;
    for vip in [vip4(1), vip6(1)] {
        stage.wait_status(0, vip, "it waits", |row| {
            row["reason"] == "Proving"
                && row["services"][0]["health"] == "proving"
                && row["services"][0]["probe"] == "refused_host"
        })?;
    }
    advertised_after_restore(&stage, Duration::from_secs(2))?;
    for lag in [0, 1500, 3000] {
        stage.set_endpoint(0, State::NotReady)?;
        stage.wait_nodes(&[], Instant::now(), LIMIT)?;
        // The address outlives its advertisement a little.
        std::thread::sleep(Duration::from_millis(1500));
        stage.fabric.nodes[0].proxy.lose()?;
        stage.set_endpoint(0, State::Ready)?;
        advertised_after_restore(&stage, Duration::from_millis(lag))?;
    }
    let metrics = stage.daemons[0].metrics()?;
    ensure!(metrics.contains("cosmolet_probes_total{purpose=\"proof\",outcome=\"passed\"}"), "{metrics}");
    // Nobody connects, so the round probes: none of it is counted as traffic.
    wait::until_true("the round's probes", LIMIT, || {
        Ok(stage.daemons[0].metrics()?.contains("cosmolet_probes_total{purpose=\"round\",outcome=\"passed\"}"))
    })?;
    for vip in [vip4(1), vip6(1)] {
        let row = stage.row(0, vip)?.context("no row")?;
        ensure!(row["services"][0]["proven"] == true && row["traffic"].as_array().is_none_or(Vec::is_empty), "{row}");
    }
    Ok(())
}

/// The ToR does not route the VIPs while the translation is away, and soon after it is there.
fn advertised_after_restore(stage: &Stage, lag: Duration) -> Result<()> {
    let away = Instant::now();
    while away.elapsed() < lag {
        stage.wait_nodes(&[], Instant::now(), Duration::from_millis(200))?;
        std::thread::sleep(Duration::from_millis(50));
    }
    stage.fabric.nodes[0].proxy.restore()?;
    stage.wait_nodes(&[NODE], Instant::now(), Duration::from_secs(5)).map(drop)
}

/// Without the wait the same lag is an advertisement into nothing; and where every probe is lost, nothing waits.
#[test]
fn nothing_waits_without_proving_or_where_probes_are_lost() -> Result<()> {
    let mut stage = Stage::raise(&[NodeSpec::new(NODE, Mode::Dynamic)], Options::default())?;
    stage.fabric.nodes[0].proxy.lose()?;
    stage.daemons[0].start()?;
    stage.wait_nodes(&[NODE], Instant::now(), LIMIT)?;
    stage.daemons[0].stop(LIMIT)?;
    stage.set_endpoint(0, State::NotReady)?;
    let proving = Options { env: vec![("COSMOLET_TRAFFIC_PROVE_SECONDS", "600")], ..Options::default() };
    stage.reconfigure(0, &proving)?;
    stage.daemons[0].start()?;
    stage.wait_nodes(&[], Instant::now(), LIMIT)?;
    stage.fabric.nodes[0].proxy.restore()?;
    let firewall = "table inet csm_firewall {\nchain in {\ntype filter hook prerouting priority -300\n\
                    ip saddr 198.18.0.0/15 drop\nip6 saddr 2001:2::/48 drop\n}\n}\n";
    stage.fabric.nodes[0].netns.exec_with_input("nft", &["-f", "-"], firewall)?;
    stage.set_endpoint(0, State::Ready)?;
    stage.wait_nodes(&[NODE], Instant::now(), Duration::from_secs(5))?;
    let metrics = stage.daemons[0].metrics()?;
    ensure!(metrics.contains("cosmolet_probes_total{purpose=\"proof\",outcome=\"lost\"}"), "{metrics}");
    Ok(())
}

/// A packet from off the node cannot answer for a backend: the cookie is missing.
#[test]
fn a_forged_answer_is_none() -> Result<()> {
    let world = World::raise()?;
    let target = targets()[0];
    let forged = world.probing(|driver| {
        let drop = format!(
            "table ip csm_drop {{ chain p {{ type filter hook prerouting priority -300; ip daddr {} drop; }}; }}",
            target.ip()
        );
        world.fabric.nodes[0].netns.exec_with_input("nft", &["-f", "-"], &drop)?;
        let token = driver.prober.send(driver.ifindex, target, None)?;
        // Every port of every source, with a guessed acknowledgement: RST to the probe's source, out by the uplink.
        let forge = forge(&world.fabric.nodes[0].netns, target);
        let answers = driver.prober.collect();
        driver.prober.give_up(token);
        forge?;
        Ok(answers.len())
    })?;
    ensure!(forged == 0, "{forged} forged answers were believed");
    Ok(())
}

/// Sends RSTs that seem to be the VIP's to many of the addresses and ports that a probe may have come from.
fn forge(node: &Netns, target: SocketAddr) -> Result<()> {
    use cosmolet_tests::packet::{flag, ip, protocol, tcp};
    let raw = Raw::open(node)?;
    for host in 1..=20_u8 {
        for port in (0x8000..=0xffff_u16).step_by(64) {
            let to = IpAddr::from([198, 18, 94, host]);
            let segment = tcp(PORT, port, 0, 1, flag::RST | flag::ACK);
            let sent = raw.send(&ip(target.ip(), to, protocol::TCP, &segment), to);
            // The egress program drops it, which the sender is told as ENOBUFS.
            let dropped = |error: &std::io::Error| error.raw_os_error() == Some(libc::ENOBUFS);
            ensure!(sent.as_ref().err().is_none_or(dropped), "{sent:?}");
        }
    }
    Ok(())
}
