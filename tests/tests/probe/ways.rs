//! The ways by which VIPs are served: kube-proxy with iptables, an endpoint on another node, the host's network, firewalls.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Result, ensure};
use cosmolet::probe::{Reply, Told};
use cosmolet_tests::fabric::UPLINK;
use cosmolet_tests::nft::Mapping;

use super::asks::misbehave;
use super::{ANSWER, PORT, World, node_address, targets};

/// A probe through the first node, and then a question.
fn served(world: &World, target: SocketAddr, what: &str) -> Result<()> {
    let found = world.probing(|driver| driver.probe(target))?.map(|(reply, _)| reply);
    ensure!(found == Some(Reply::Accepted), "{target}, {what}: {found:?}");
    let told = world.probing(|driver| driver.ask(target, "http:///well"))?;
    ensure!(told == Told::Well, "{target}, {what}: {told:?}");
    Ok(())
}

/// As kube-proxy's mode `iptables`, by the kernel's old tables and by those of nftables.
#[test]
fn iptables_translates_like_nftables() -> Result<()> {
    let world = World::raise()?;
    let node = &world.fabric.nodes[0];
    for target in targets() {
        let (address, backend) = (target.ip().to_string(), node.backend_address(target.ip()).to_string());
        let port = PORT.to_string();
        for kind in ["legacy", "nft"] {
            let program = if target.is_ipv4() { format!("iptables-{kind}") } else { format!("ip6tables-{kind}") };
            let rule = ["-p", "tcp", "-d", &address, "--dport", &port, "-j", "DNAT", "--to-destination", &backend];
            let run =
                |action: &str| node.netns.exec(&program, &[&["-t", "nat", action, "PREROUTING"], &rule[..]].concat());
            run("-A")?;
            served(&world, target, &program)?;
            run("-D")?;
            let found = world.probing(|driver| driver.probe_for(target, ANSWER))?.map(|(reply, _)| reply);
            ensure!(found == Some(Reply::RefusedHere), "{target}, without {program}: {found:?}");
        }
    }
    Ok(())
}

/// `externalTrafficPolicy: Cluster`: translated twice, what travels to the other node has this node's address.
#[test]
fn an_endpoint_on_another_node_is_reached() -> Result<()> {
    let mut world = World::with_nodes(&["node1", "node2"])?;
    world.watch_wire()?;
    for target in targets() {
        let backends = vec![world.fabric.nodes[1].backend_address(target.ip())];
        let mapping = Mapping { masquerade: true, backends, ..Mapping::tcp(target.ip(), PORT, target) };
        world.fabric.nodes[0].proxy.set(vec![mapping])?;
        served(&world, target, "through another node")?;
        world.fabric.nodes[1].backend.stop()?;
        let found = world.probing(|driver| driver.probe(target))?.map(|(reply, _)| reply);
        ensure!(found == Some(Reply::RefusedBehind), "{target}, nobody listens there: {found:?}");
        world.fabric.nodes[1].backend.resume()?;
    }
    let (probes, others) = world.seen_on_the_wire()?;
    ensure!(probes == 0 && others > 0, "{probes} packets with a probe's source on the wire, {others} others");
    Ok(())
}

#[test]
fn firewalls_let_through_what_they_let_through_of_a_client() -> Result<()> {
    let mut world = World::raise()?;
    for target in targets() {
        world.fabric.nodes[0].serve(&[target])?;
        let node = &world.fabric.nodes[0];
        let strict = "table inet csm_strict { chain through { type filter hook forward priority 0; policy drop; \
                      ct state established,related accept; ct status dnat accept; }; }";
        node.netns.exec_with_input("nft", &["-f", "-"], strict)?;
        for name in ["all", UPLINK] {
            node.netns.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "1")?;
        }
        served(&world, target, "a host that forwards nothing but VIPs, rp_filter strict")?;
        // A NetworkPolicy that does not know the probes' source.
        let policy = "table inet csm_policy { chain in { type filter hook input priority 0; ip saddr 198.18.94.0/24 drop; \
                      ip6 saddr 2001:2:0:c05e::/64 drop; }; }";
        node.pod.exec_with_input("nft", &["-f", "-"], policy)?;
        let found = world.probing(|driver| driver.probe_for(target, Duration::from_millis(300)))?;
        ensure!(found.is_none(), "{target}, a NetworkPolicy: {found:?}");
        node.pod.exec("nft", &["delete", "table", "inet", "csm_policy"])?;
        node.netns.exec("nft", &["delete", "table", "inet", "csm_strict"])?;
        in_the_hosts_network(&mut world, target)?;
    }
    Ok(())
}

fn in_the_hosts_network(world: &mut World, target: SocketAddr) -> Result<()> {
    let host = SocketAddr::new(node_address(world, target.ip()), 0);
    let listener = world.fabric.nodes[0].netns.run(|| TcpListener::bind(host))??;
    let host: SocketAddr = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || misbehave(stream));
        }
    });
    let address: IpAddr = target.ip();
    world.fabric.nodes[0].proxy.set(vec![Mapping::tcp(address, PORT, host)])?;
    served(world, target, "a backend in the host's network")
}
