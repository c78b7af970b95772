//! What must not take a VIP out: floods, scans, resets, broken clients, a service that fails a little, restarts of its backend.
//!
//! All of it meets one node that enforces its verdict and could be spared, under steady traffic of honest clients.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cosmolet_tests::client::{Client, Load};
use cosmolet_tests::fabric::{BACKEND_PORT, Mode, vip4, vip6};
use cosmolet_tests::packet::flag;
use cosmolet_tests::raw::Raw;
use cosmolet_tests::stage::{Stage, targets};

use crate::traffic::total;
use crate::verdict::{enforcing, proven, says};
use crate::{LIMIT, ensure_unmoved, one_node};

/// Longer than the rule's windows.
const TIME: Duration = Duration::from_secs(6);

struct World {
    stage: Stage,
    client: Client,
    raw: Raw,
    /// The honest clients' addresses, in four prefixes of each family.
    sources: Vec<IpAddr>,
}

#[test]
fn nothing_that_clients_do_takes_a_vip_out() -> Result<()> {
    let world = World::raise()?;
    world.harmless("a SYN flood from addresses that nobody has", || world.counted("syn", 10_000, || world.flood()))?;
    world.harmless("every port is knocked at", || world.scan())?;
    world.harmless("a storm of RST in the clients' names", || world.counted("rst_client", 5000, || world.resets()))?;
    world.harmless("connections that are half closed and kept", || world.half_closed())?;
    world.harmless("ICMP errors made up off the node", || world.unreachable())
}

#[test]
fn neither_one_broken_site_nor_a_few_failures_take_a_vip_out() -> Result<()> {
    let mut world = World::raise()?;
    // One client, then all clients behind one NAT: one prefix, whose connections the backend refuses.
    let site: [IpAddr; 2] = [[10, 77, 9, 1].into(), "fd00:77:0:900::1".parse()?];
    for address in site {
        world.stage.fabric.client.add_address("lo", address.into())?;
    }
    world.refuse("ip saddr 10.77.9.0/24", "ip6 saddr fd00:77:0:900::/56")?;
    world.harmless("a broken site that retries 50 times a second", || {
        let load = Load { per_second: 50, sources: site.to_vec(), ..Load::new(targets().to_vec()) };
        let refused = Client::start(&world.stage.fabric.client, load)?.watch(TIME);
        ensure!(refused.refused > 100 && refused.ok() == 0, "{refused:?}");
        Ok(())
    })?;
    world.serve_all()?;
    let few = "numgen random mod 100 < 5";
    world.refuse(few, few)?;
    world.harmless("5 % of all connections are refused", || {
        let load = Load { per_second: 200, sources: world.sources.clone(), ..Load::new(targets().to_vec()) };
        let seen = Client::start(&world.stage.fabric.client, load)?.watch(TIME * 2);
        ensure!(seen.refused > 20 && seen.refused * 10 < seen.ok(), "{seen:?}");
        Ok(())
    })?;
    world.serve_all()?;
    for _restart in 0..3 {
        let since = Instant::now();
        world.stage.fabric.nodes[0].backend.stop()?;
        std::thread::sleep(Duration::from_millis(400));
        world.stage.fabric.nodes[0].backend.resume()?;
        std::thread::sleep(TIME / 2);
        ensure_unmoved(&world.stage, since).context("the backend restarts in 0.4 s")?;
    }
    says(&world.stage, "clear")
}

impl World {
    fn raise() -> Result<Self> {
        let stage = one_node(Mode::Dynamic, enforcing())?;
        let sources = stage.prefixes_of_the_client()?;
        let load = Load { per_second: 20, sources: sources.clone(), ..Load::new(targets().to_vec()) };
        let client = Client::start(&stage.fabric.client, load)?;
        proven(&stage)?;
        says(&stage, "clear")?;
        let raw = Raw::open(&stage.fabric.client)?;
        Ok(Self { stage, client, raw, sources })
    }

    /// Lets it happen: nothing moves, honest clients are served, and nothing is held against the VIPs in the end.
    fn harmless(&self, what: &str, happens: impl FnOnce() -> Result<()>) -> Result<()> {
        let since = Instant::now();
        happens().with_context(|| what.to_owned())?;
        ensure_unmoved(&self.stage, since).with_context(|| what.to_owned())?;
        let seen = self.client.summary(since, Instant::now());
        ensure!(seen.ok() > 0, "{what}: {seen:?}");
        for vip in [vip4(1), vip6(1)] {
            let row = self.stage.wait_status(0, vip, "clear again", |row| row["services"][0]["verdict"] == "clear")?;
            ensure!(row["services"][0]["ejections"] == 0 && row["state"] == "advertised", "{what}: {row}");
        }
        Ok(())
    }

    /// The programs have seen it: a counter of each VIP has grown by so much at least.
    fn counted(&self, counter: &str, least: u64, happens: impl FnOnce() -> Result<()>) -> Result<()> {
        let sums =
            || [vip4(1), vip6(1)].map(|vip| self.stage.row(0, vip).ok().flatten().map(|row| total(&row, counter)));
        let before = sums();
        happens()?;
        std::thread::sleep(Duration::from_secs(2));
        let after = sums();
        let grown = after.iter().zip(&before).all(|(after, before)| *after >= before.map(|before| before + least));
        ensure!(grown, "{counter}: {before:?}, then {after:?}");
        Ok(())
    }

    /// 10 000 SYN a second to each VIP's port for as long as the rule looks back.
    fn flood(&self) -> Result<()> {
        let mut sent = 0_u32;
        self.paced(10_000, |turn| {
            let [_, a, b, c] = turn.to_be_bytes();
            let port = 1024 + (turn % 60_000) as u16;
            for target in targets() {
                let from: IpAddr = match target.ip() {
                    IpAddr::V4(_) => Ipv4Addr::new(10, 200 + (a & 7), b, c).into(),
                    IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, u16::from(b), u16::from(c)).into(),
                };
                self.raw.tcp(SocketAddr::new(from, port), target, turn, flag::SYN)?;
                sent += 1;
            }
            Ok(())
        })?;
        // A slow machine sends fewer; it has to be a flood all the same.
        ensure!(sent > 20_000, "{sent} SYN are no flood");
        Ok(())
    }

    fn scan(&self) -> Result<()> {
        self.paced(2000, |turn| {
            let port = (turn % 20_000) as u16 + 1;
            for target in targets() {
                let from = self.sources_of(target).nth(turn as usize % 4).context("no source")?;
                let from = SocketAddr::new(from, 40_000 + (turn % 20_000) as u16);
                self.raw.tcp(from, SocketAddr::new(target.ip(), port), turn, flag::SYN)?;
            }
            Ok(())
        })
    }

    fn resets(&self) -> Result<()> {
        self.paced(2000, |turn| {
            for target in targets() {
                for from in self.sources_of(target) {
                    let from = SocketAddr::new(from, 32_768 + (turn % 28_000) as u16);
                    self.raw.tcp(from, target, turn.wrapping_mul(7919), flag::RST)?;
                }
            }
            Ok(())
        })
    }

    /// ICMP "port unreachable" about packets of the VIPs, as if a router had made them.
    fn unreachable(&self) -> Result<()> {
        use cosmolet_tests::packet::{icmp, ip, protocol, tcp_packet};
        self.paced(2000, |turn| {
            for target in targets() {
                let client = self.sources_of(target).next().context("no source")?;
                let quoted = tcp_packet(target, SocketAddr::new(client, 40_000), turn, 0, flag::SYN | flag::ACK);
                let (kind, code, number) =
                    if target.is_ipv4() { (3, 3, protocol::ICMP) } else { (1, 4, protocol::ICMPV6) };
                let packet = ip(client, target.ip(), number, &icmp(kind, code, &quoted));
                self.raw.send(&packet, target.ip())?;
            }
            Ok(())
        })
    }

    fn half_closed(&self) -> Result<()> {
        let kept = self.stage.fabric.client.run(|| -> Result<Vec<TcpStream>> {
            let mut kept = Vec::new();
            for target in targets().into_iter().cycle().take(100) {
                let mut stream = TcpStream::connect_timeout(&target, LIMIT)?;
                stream.write_all(b"GET")?;
                stream.shutdown(Shutdown::Write)?;
                kept.push(stream);
            }
            Ok(kept)
        })??;
        std::thread::sleep(TIME);
        ensure!(kept.len() == 100, "{} connections", kept.len());
        Ok(())
    }

    /// Does something so many times a second, for [`TIME`].
    fn paced(&self, per_second: u32, mut each: impl FnMut(u32) -> Result<()>) -> Result<()> {
        let since = Instant::now();
        let mut turn = 0_u32;
        while since.elapsed() < TIME {
            let due = (since.elapsed().as_secs_f64() * f64::from(per_second)) as u32;
            while turn < due {
                turn += 1;
                each(turn)?;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        ensure!(turn > 0, "nothing happened");
        Ok(())
    }

    /// The honest clients' addresses of a target's family.
    fn sources_of(&self, target: SocketAddr) -> impl Iterator<Item = IpAddr> {
        self.sources.iter().copied().filter(move |source| source.is_ipv4() == target.is_ipv4())
    }

    /// The backend's host refuses new connections that a rule names.
    fn refuse(&self, v4: &str, v6: &str) -> Result<()> {
        let port = BACKEND_PORT;
        let rules = format!(
            "table inet csm_refuse {{ chain in {{ type filter hook input priority 0;\n\
             tcp dport {port} tcp flags & (syn|ack) == syn meta nfproto ipv4 {v4} reject with tcp reset\n\
             tcp dport {port} tcp flags & (syn|ack) == syn meta nfproto ipv6 {v6} reject with tcp reset\n}}; }}"
        );
        self.stage.fabric.nodes[0].pod.exec_with_input("nft", &["-f", "-"], &rules).map(drop)
    }

    fn serve_all(&self) -> Result<()> {
        self.stage.fabric.nodes[0].pod.exec("nft", &["delete", "table", "inet", "csm_refuse"]).map(drop)
    }
}
