//! A Clos fabric with two data centres, all of it real FRR: two spines, two leaves, a border and two dual-homed nodes in each,
//! a link between the borders (DCI), and an edge with the clients.
//!
//! Sessions are unnumbered, IPv4 goes by IPv6 next hops, and BFD watches every link. Each data centre is a cluster of its own; both
//! serve the same VIPs (anycast). On each device an interface is called as the peer behind it.

pub mod config;
mod fault;
pub mod plan;
pub mod shared;
pub mod story;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use self::plan::{CLIENTS_V4, CLIENTS_V6, DATA_CENTRES, Device, EDGE, Role};
use crate::backend::Backend;
use crate::daemon::Daemon;
use crate::fabric::{BACKEND_PORT, VIPS_V4, VIPS_V6, host};
use crate::frr::{Frr, Options};
use crate::manifests::Manifests;
use crate::netns::{End, veth};
use crate::nft::{Mapping, Proxy};
use crate::objects::{self, State};
use crate::route_monitor::RouteMonitor;
use crate::routes::Routes;
use crate::stage::{HTTP, targets};
use crate::{Lab, Netns, wait};

/// The whole may take this long to converge on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);
const READY_LIMIT: Duration = Duration::from_secs(30);
/// The node's interface towards its pods.
const PODS: &str = "pods";
/// How many devices start their FRR at the same time.
const AT_ONCE: usize = 4;

/// A switch or node: its FRR, and its routes as its kernel has them.
#[derive(Debug)]
struct Router {
    frr: Frr,
    monitor: RouteMonitor,
    netns: Arc<Netns>,
}

/// What a node has beside its FRR. Fields are dropped in this order.
#[derive(Debug)]
struct Server {
    daemon: Daemon,
    _backend: Backend,
    _proxy: Proxy,
    _pod: Netns,
}

/// The fabric, its Service `web` and its daemons. Fields are dropped in this order: processes first, namespaces last.
#[derive(Debug)]
pub struct Clos {
    servers: BTreeMap<Device, Server>,
    /// One directory for each data centre.
    manifests: BTreeMap<u8, Manifests>,
    /// How many ready endpoints each node has.
    endpoints: BTreeMap<Device, u8>,
    routers: BTreeMap<Device, Router>,
    /// The clients' namespace.
    pub client: Netns,
    lab: Lab,
}

impl Clos {
    /// Raises everything, starts a daemon on every node, and waits until the edge and all leaves carry the VIPs.
    pub fn raise(say: impl Fn(&str)) -> Result<Self> {
        let lab = Lab::new()?;
        let netns = namespaces(&lab)?;
        let client = client(&lab, &netns[&EDGE])?;
        say(&format!("{} namespaces and {} links", netns.len(), plan::links().len()));
        let servers = netns.iter().filter(|(device, _)| device.role == Role::Node);
        let pods = servers.map(|(device, netns)| Ok((*device, pods(&lab, *device, netns)?)));
        let pods = pods.collect::<Result<Vec<_>>>()?;
        let routers = routers(&lab, netns)?;
        say(&format!("FRR on {} devices: zebra, bgpd, bfdd", routers.len()));
        let manifests = (1..=DATA_CENTRES).map(|dc| Ok((dc, Manifests::create(&lab, &format!("dc{dc}"))?)));
        let manifests: BTreeMap<_, _> = manifests.collect::<Result<_>>()?;
        let mut servers = BTreeMap::new();
        for (device, pod) in pods {
            let server = server(&lab, device, &routers[&device], pod, &manifests[&device.dc])?;
            servers.insert(device, server);
        }
        let endpoints = servers.keys().map(|device| (*device, 1)).collect();
        let mut clos = Self { servers, manifests, endpoints, routers, client, lab };
        clos.wait_segments()?;
        say("every session is up: the leaves route to every pod");
        clos.write_all()?;
        for server in clos.servers.values_mut() {
            server.daemon.launch()?;
        }
        clos.servers.values_mut().try_for_each(|server| server.daemon.wait_ready(READY_LIMIT))?;
        clos.wait_whole(Instant::now())?;
        say("cosmolet on every node: both VIPs by both borders");
        Ok(clos)
    }

    /// What a device's kernel routes.
    #[must_use]
    pub fn routes(&self, device: Device) -> &Routes {
        self.routers[&device].monitor.routes()
    }

    /// A device's namespace.
    #[must_use]
    pub fn netns(&self, device: Device) -> &Netns {
        &self.routers[&device].netns
    }

    /// The vty sockets of a device's FRR.
    #[must_use]
    pub fn frr(&self, device: Device) -> &Frr {
        &self.routers[&device].frr
    }

    /// A node's daemon.
    pub fn daemon(&mut self, node: Device) -> Result<&mut Daemon> {
        Ok(&mut self.servers.get_mut(&node).with_context(|| format!("{} is no node", node.name()))?.daemon)
    }

    /// Says how many ready endpoints nodes have from now on; 0 is one that is not ready.
    pub fn set_endpoints(&mut self, changes: impl IntoIterator<Item = (Device, u8)>) -> Result<()> {
        self.endpoints.extend(changes);
        (1..=DATA_CENTRES).try_for_each(|dc| self.write_endpoints(dc))
    }

    /// Waits until a device's kernel sends both VIPs to exactly these peers; how long after `since` the later one did.
    pub fn wait_peers(&self, device: Device, since: Instant, peers: &[Device]) -> Result<Duration> {
        let names: Vec<String> = peers.iter().map(|peer| peer.name()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut last = Duration::ZERO;
        for target in targets() {
            let took = self.routes(device).wait_nodes(host(target.ip()), since, LIMIT, &names);
            last =
                last.max(took.with_context(|| format!("{} should send {} to {names:?}", device.name(), target.ip()))?);
        }
        Ok(last)
    }

    /// Waits until everything carries the VIPs: the edge by both borders, each border and leaf by all that is below it.
    pub fn wait_whole(&self, since: Instant) -> Result<Duration> {
        let borders: Vec<_> = (1..=DATA_CENTRES).map(plan::border).collect();
        let mut last = self.wait_peers(EDGE, since, &borders)?;
        for dc in 1..=DATA_CENTRES {
            let (spines, leaves, nodes): (Vec<_>, Vec<_>, Vec<_>) =
                (plan::spines(dc).collect(), plan::leaves(dc).collect(), plan::nodes(dc).collect());
            last = last.max(self.wait_peers(plan::border(dc), since, &spines)?);
            for spine in spines {
                last = last.max(self.wait_peers(spine, since, &leaves)?);
            }
            for leaf in leaves {
                last = last.max(self.wait_peers(leaf, since, &nodes)?);
            }
        }
        Ok(last)
    }

    /// Waits until every leaf routes to the pods of every node of its data centre, and each node has its default routes.
    fn wait_segments(&self) -> Result<()> {
        for (device, peers) in plan::devices().into_iter().map(|device| (device, device.peers())) {
            let wait = |prefix: IpNet, names: &[String]| {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.routes(device)
                    .wait_nodes(prefix, Instant::now(), LIMIT, &names)
                    .with_context(|| format!("{}'s route to {prefix}", device.name()))
            };
            match device.role {
                Role::Leaf => {
                    for node in plan::nodes(device.dc) {
                        node.pods().into_iter().try_for_each(|prefix| wait(prefix, &[node.name()]).map(drop))?;
                    }
                }
                Role::Node => {
                    let names: Vec<String> = peers.iter().map(|peer| peer.name()).collect();
                    DEFAULTS.into_iter().try_for_each(|prefix| wait(prefix, &names).map(drop))?;
                }
                Role::Spine | Role::Border | Role::Edge => {}
            }
        }
        Ok(())
    }

    fn write_all(&self) -> Result<()> {
        for (dc, manifests) in &self.manifests {
            let vips: Vec<IpAddr> = targets().iter().map(SocketAddr::ip).collect();
            let mut service = objects::local(objects::service("web", &vips, &[targets()[0].port()]));
            service
                .metadata
                .annotations
                .get_or_insert_default()
                .insert("cosmolet.io/weight".to_owned(), "endpoints".to_owned());
            manifests.write("web", &service)?;
            self.write_endpoints(*dc)?;
        }
        Ok(())
    }

    fn write_endpoints(&self, dc: u8) -> Result<()> {
        let slices = targets().map(|target| {
            let of_node = |(node, count): (&Device, &u8)| {
                let state = if *count == 0 { State::NotReady } else { State::Ready };
                // Its first is the backend; more of them only weigh.
                let hosts = 2..2 + (*count).max(1);
                let name = node.name();
                let node = *node;
                hosts
                    .map(move |pod| objects::endpoint(pod_address(node, target.ip(), pod), &name, state))
                    .collect::<Vec<_>>()
            };
            let endpoints = self.endpoints.iter().filter(|(node, _)| node.dc == dc).flat_map(of_node).collect();
            let name = if target.is_ipv4() { "web-v4" } else { "web-v6" };
            objects::slice(name, "web", BACKEND_PORT, endpoints)
        });
        self.manifests[&dc].write_all("web-endpoints", &slices)
    }

    /// How to look around in it, for a person.
    pub fn look_around(&self) -> Result<String> {
        let binary = crate::daemon::binary()?;
        let (vip, node) = (targets()[0].ip(), Device { dc: 1, role: Role::Node, index: 1 });
        let inside = |netns: &Netns, what: &str| format!("  nsenter --net=/run/netns/{} {what}\n", netns.name());
        let socket = |device| format!("vtysh --vty_socket {}", self.frr(device).directory().display());
        let border = plan::border(1);
        Ok(format!(
            "As root:\n\n  # the clients\n{}  # the edge: which data centres carry the VIP\n{}  # a border\n{}{}  # a node\n{}{}  \
             # every device has a namespace {}-NAME: {}\n  # the Services of each data centre, and all logs\n  ls {}\n",
            inside(&self.client, &format!("curl -s http://{vip}/")),
            inside(self.netns(EDGE), &format!("ip route show {vip}")),
            inside(self.netns(border), &format!("{} -c 'show bgp ipv4 unicast {vip}/32'", socket(border))),
            inside(self.netns(border), &format!("{} -c 'show bfd peers brief'", socket(border))),
            inside(self.netns(node), &format!("{} status", binary.display())),
            inside(self.netns(node), &format!("{} -c 'show bgp summary'", socket(node))),
            self.lab.prefix(),
            plan::devices().iter().map(|device| device.name()).collect::<Vec<_>>().join(" "),
            self.lab.directory().display(),
        ))
    }
}

/// The default routes.
const DEFAULTS: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
];

/// The address of a node's pod in the family of a VIP.
fn pod_address(node: Device, vip: IpAddr, pod: u8) -> IpAddr {
    if vip.is_ipv4() { node.pods4(pod).into() } else { node.pods6(pod).into() }
}

/// A namespace for each device, joined by all links.
fn namespaces(lab: &Lab) -> Result<BTreeMap<Device, Arc<Netns>>> {
    let mut all = BTreeMap::new();
    for device in plan::devices() {
        let netns = lab.netns(&device.name())?;
        for conf in ["all", "default"] {
            netns.sysctl(&format!("net/ipv4/conf/{conf}/rp_filter"), "0")?;
        }
        netns.forward()?;
        for family in ["ipv4", "ipv6"] {
            // By addresses, protocol and ports of the packet itself: policy 1 takes the hash that the sender's socket left on it, which
            // a veth hands on, so that every switch would choose alike.
            netns.sysctl(&format!("net/{family}/fib_multipath_hash_policy"), "3")?;
            netns.sysctl(&format!("net/{family}/fib_multipath_hash_fields"), "55")?;
        }
        // And each switch with a seed of its own, for the same reason. In hardware it is a setting too.
        let seed = device.asn().wrapping_mul(2_654_435_761) ^ u32::from(device.loopback4());
        netns
            .sysctl("net/ipv4/fib_multipath_hash_seed", &seed.to_string())
            .context("this needs Linux 6.11 or newer")?;
        netns.add_address("lo", host(device.loopback4().into()))?;
        netns.add_address("lo", host(device.loopback6().into()))?;
        all.insert(device, Arc::new(netns));
    }
    for (a, b) in plan::links() {
        veth(End { netns: &all[&a], interface: &b.name() }, End { netns: &all[&b], interface: &a.name() })?;
    }
    Ok(all)
}

fn client(lab: &Lab, edge: &Netns) -> Result<Netns> {
    let client = lab.netns("client")?;
    veth(End { netns: edge, interface: "clients" }, End { netns: &client, interface: "eth0" })?;
    for (clients, default) in [IpNet::from(CLIENTS_V4), IpNet::from(CLIENTS_V6)].into_iter().zip(DEFAULTS) {
        let address = |n| nth(clients, n);
        edge.add_address("clients", address(1))?;
        client.add_address("eth0", address(2))?;
        client.add_route(default, address(1).addr())?;
    }
    Ok(client)
}

/// The `n`th address of a network, with its length.
fn nth(network: IpNet, n: u8) -> IpNet {
    let address = match network.network() {
        IpAddr::V4(base) => IpAddr::V4((u32::from(base) + u32::from(n)).into()),
        IpAddr::V6(base) => IpAddr::V6((u128::from(base) + u128::from(n)).into()),
    };
    IpNet::new(address, network.prefix_len()).unwrap_or(network)
}

/// The namespace of a node's pods. The node's route to them is one of the kernel, as a network plugin makes it.
fn pods(lab: &Lab, device: Device, node: &Netns) -> Result<Netns> {
    let pod = lab.netns(&format!("{}-pod", device.name()))?;
    veth(End { netns: node, interface: PODS }, End { netns: &pod, interface: "eth0" })?;
    for (network, default) in device.pods().into_iter().zip(DEFAULTS) {
        let (gateway, address) = (nth(network, 1), nth(network, 2));
        node.add_address(PODS, host(gateway.addr()))?;
        node.ip(&["route", "add", &network.to_string(), "dev", PODS])?;
        pod.add_address("eth0", address)?;
        pod.add_route(default, gateway.addr())?;
    }
    Ok(pod)
}

/// FRR on every device, a few at a time.
fn routers(lab: &Lab, netns: BTreeMap<Device, Arc<Netns>>) -> Result<BTreeMap<Device, Router>> {
    let all: Vec<_> = netns.into_iter().collect();
    let mut routers = BTreeMap::new();
    for some in all.chunks(AT_ONCE) {
        let started: Vec<Result<Router>> = thread::scope(|scope| {
            let start = |(device, netns): &(Device, Arc<Netns>)| {
                let (device, netns) = (*device, Arc::clone(netns));
                scope.spawn(move || router(lab, device, netns))
            };
            let threads: Vec<_> = some.iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("it panicked")))).collect()
        });
        for ((device, _), router) in some.iter().zip(started) {
            routers.insert(*device, router.with_context(|| format!("FRR on {}", device.name()))?);
        }
    }
    Ok(routers)
}

fn router(lab: &Lab, device: Device, netns: Arc<Netns>) -> Result<Router> {
    let monitor = RouteMonitor::start(&netns)?;
    // What a switch replaces in its kernel's IPv6 routes it replaces at once.
    let zebra_args = if device.role == Role::Node { vec![] } else { vec!["--v6-rr-semantics".to_owned()] };
    let options = Options { bfd: Some(config::BFD), zebra_args, ..Options::default() };
    let frr = Frr::start(lab, &netns, &config::frr_conf(device), &options)?;
    Ok(Router { frr, monitor, netns })
}

/// A node's backend behind its DNAT, and its daemon, which does not run yet.
fn server(lab: &Lab, device: Device, router: &Router, pod: Netns, manifests: &Manifests) -> Result<Server> {
    let backend = Backend::start(&pod, &device.name(), BACKEND_PORT)?;
    let mut proxy = Proxy::new(Arc::clone(&router.netns));
    let map = |vip: SocketAddr| {
        Mapping::tcp(vip.ip(), vip.port(), SocketAddr::new(pod_address(device, vip.ip(), 2), BACKEND_PORT))
    };
    proxy.set(targets().map(map).to_vec())?;
    let config = format!(
        "services:\n  manifests: {}\n  vip_ranges: [{VIPS_V4}, '{VIPS_V6}']\nfrr:\n  socket_path: {}\n\
         traffic:\n  mode: enforce\nhttp:\n  listen: {HTTP}\n",
        manifests.path().display(),
        router.frr.directory().display(),
    );
    let drain = [("COSMOLET_BGP_DRAIN_SECONDS", "10")];
    let daemon = Daemon::prepare(lab, &router.netns, &device.name(), &config, HTTP.parse()?, &drain)?;
    Ok(Server { daemon, _backend: backend, _proxy: proxy, _pod: pod })
}

/// Waits until the clients' requests are answered by exactly these nodes.
pub(crate) fn wait_answers(wanted: &[Device], mut ask: impl FnMut() -> Result<crate::client::Summary>) -> Result<()> {
    let names: Vec<String> = wanted.iter().map(|node| node.name()).collect();
    wait::until_true(&format!("answers of {names:?}"), LIMIT, || {
        let seen = ask()?;
        let answered: Vec<&String> = seen.by_node.keys().collect();
        anyhow::ensure!(seen.failed() == 0 && answered == names.iter().collect::<Vec<_>>(), "{seen:?}");
        Ok(true)
    })
}
