//! A fabric with a Service on it: real daemons on manifests directories, one VIP of each family, a backend on each node.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::Value;

use crate::daemon::{Daemon, User};
use crate::fabric::{BACKEND_PORT, Fabric, NodeSpec, VIPS_V4, VIPS_V6, host, vip4, vip6};
use crate::manifests::Manifests;
use crate::objects::{self, State};
use crate::{Lab, wait};

/// Where each daemon listens, in its own namespace.
pub const HTTP: &str = "127.0.0.1:9470";
/// The port of the Service.
pub const PORT: u16 = 80;

/// Addresses of an endpoint on a node that is not there.
const ELSEWHERE: ([u8; 4], [u16; 8]) = ([10, 244, 99, 9], [0xfd00, 0x244, 0x99, 0, 0, 0, 0, 9]);
/// Longer than the 10 s between two readings of FRR's configuration.
const STATUS_LIMIT: Duration = Duration::from_secs(20);

/// What the daemons' configuration says beyond the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    /// `traffic.mode`
    pub traffic: &'static str,
    /// `loopback.lease_seconds`
    pub lease_seconds: u64,
    /// `bgp.on_exit`
    pub on_exit: &'static str,
    /// `logging.level`
    pub level: &'static str,
    /// `services.vip_ranges`, as the items of a YAML list
    pub vip_ranges: String,
    /// `bgp.asn`
    pub asn: u32,
    /// Variables of its environment, such as `COSMOLET_BGP_ENABLED`.
    pub env: Vec<(&'static str, &'static str)>,
    /// Whom it runs as, if not root.
    pub user: Option<User>,
    /// A node outside of the fabric has a ready endpoint of `web` too.
    pub elsewhere: bool,
}

impl Default for Options {
    fn default() -> Self {
        let vip_ranges = format!("{VIPS_V4}, '{VIPS_V6}'");
        Self {
            traffic: "observe",
            lease_seconds: 120,
            on_exit: "keep",
            level: "info",
            vip_ranges,
            asn: 0,
            env: vec![],
            user: None,
            elsewhere: false,
        }
    }
}

/// The fabric, its Service and its daemons. Fields are dropped in this order.
#[derive(Debug)]
pub struct Stage {
    /// One daemon for each node, in the order of the nodes.
    pub daemons: Vec<Daemon>,
    /// One directory for each node.
    pub manifests: Vec<Manifests>,
    /// Whether each node's endpoint is ready.
    pub endpoints: Vec<State>,
    /// Whether a node outside of the fabric has a ready endpoint as well.
    pub elsewhere: bool,
    /// The fabric.
    pub fabric: Fabric,
    /// The lab.
    pub lab: Lab,
}

impl Stage {
    /// Raises the fabric and prepares Service `web` with a ready backend on every node; no daemon runs yet.
    pub fn raise(specs: &[NodeSpec], options: Options) -> Result<Self> {
        let lab = Lab::new()?;
        let mut fabric = Fabric::raise(&lab, specs)?;
        let mut manifests = Vec::new();
        for node in &mut fabric.nodes {
            node.serve(&targets())?;
            manifests.push(Manifests::create(&lab, node.name())?);
        }
        let endpoints = vec![State::Ready; specs.len()];
        let elsewhere = options.elsewhere;
        let mut stage = Self { daemons: Vec::new(), manifests, endpoints, elsewhere, fabric, lab };
        stage.write_service()?;
        stage.write_endpoints()?;
        for index in 0..specs.len() {
            let daemon = stage.prepare(index, &options)?;
            stage.daemons.push(daemon);
        }
        Ok(stage)
    }

    /// The configuration of a node's daemon.
    #[must_use]
    pub fn config(&self, index: usize, options: &Options) -> String {
        format!(
            "services:\n  manifests: {}\n  vip_ranges: [{}]\nloopback:\n  lease_seconds: {}\n\
             bgp:\n  on_exit: {}\n  asn: {}\nfrr:\n  socket_path: {}\ntraffic:\n  mode: {}\nhttp:\n  listen: {HTTP}\n\
             logging:\n  level: {}\n",
            self.manifests[index].path().display(),
            options.vip_ranges,
            options.lease_seconds,
            options.on_exit,
            options.asn,
            self.fabric.nodes[index].frr.directory().display(),
            options.traffic,
            options.level,
        )
    }

    fn prepare(&self, index: usize, options: &Options) -> Result<Daemon> {
        let node = &self.fabric.nodes[index];
        let config = self.config(index, options);
        let daemon = Daemon::prepare(&self.lab, &node.netns, node.name(), &config, HTTP.parse()?, &options.env)?;
        match options.user {
            Some(user) => daemon.as_user(&self.lab, user),
            None => Ok(daemon),
        }
    }

    /// Prepares a node's daemon anew with other options; one that still runs is killed.
    pub fn reconfigure(&mut self, index: usize, options: &Options) -> Result<()> {
        self.daemons[index] = self.prepare(index, options)?;
        Ok(())
    }

    /// Starts every daemon and waits until each is ready.
    pub fn start(&mut self) -> Result<()> {
        for daemon in &mut self.daemons {
            daemon.launch()?;
        }
        self.daemons.iter_mut().try_for_each(|daemon| daemon.wait_ready(Duration::from_secs(15)))
    }

    /// Gives the client addresses in four prefixes (/24 and /56) of each family, routed, to connect from.
    pub fn prefixes_of_the_client(&self) -> Result<Vec<IpAddr>> {
        let (client, tor) = (&self.fabric.client, &self.fabric.tor);
        let mut sources: Vec<IpAddr> = Vec::new();
        for n in 1..=4 {
            sources.push(format!("10.77.{n}.1").parse()?);
            sources.push(format!("fd00:77:0:{n}00::1").parse()?);
        }
        for source in &sources {
            client.add_address("lo", IpNet::from(*source))?;
        }
        let gateways: [(&str, IpAddr); 2] =
            [("10.77.0.0/16", "10.2.0.2".parse()?), ("fd00:77::/48", "fd00:2::2".parse()?)];
        for (prefix, gateway) in gateways {
            tor.add_route(prefix.parse()?, gateway)?;
        }
        Ok(sources)
    }

    /// The endpoint in a VIP's family on a node that is not there ([`Options::elsewhere`]).
    #[must_use]
    pub fn elsewhere_of(vip: IpAddr) -> IpAddr {
        if vip.is_ipv4() { IpAddr::from(ELSEWHERE.0) } else { IpAddr::from(ELSEWHERE.1) }
    }

    /// Writes Service `web` with `externalTrafficPolicy: Local` to every node's directory.
    pub fn write_service(&self) -> Result<()> {
        let service = objects::local(objects::service("web", &[vip4(1), vip6(1)], &[PORT]));
        self.manifests.iter().try_for_each(|manifests| manifests.write("web", &service))
    }

    /// Writes the EndpointSlices of `web`, one of each family, as they are on all nodes.
    pub fn write_endpoints(&self) -> Result<()> {
        let slice = |name: &str, vip: IpAddr| {
            let nodes = self.fabric.nodes.iter().zip(&self.endpoints);
            let endpoint =
                nodes.map(|(node, state)| objects::endpoint(node.backend_address(vip).ip(), node.name(), *state));
            let other = || objects::endpoint(Self::elsewhere_of(vip), "elsewhere", State::Ready);
            let elsewhere = self.elsewhere.then(other);
            objects::slice(name, "web", BACKEND_PORT, endpoint.chain(elsewhere).collect())
        };
        let slices = [slice("web-v4", vip4(1)), slice("web-v6", vip6(1))];
        self.manifests.iter().try_for_each(|manifests| manifests.write_all("web-endpoints", &slices))
    }

    /// Changes the endpoint of one node and writes the slices.
    pub fn set_endpoint(&mut self, index: usize, state: State) -> Result<()> {
        self.endpoints[index] = state;
        self.write_endpoints()
    }

    /// Waits until the ToR's kernel routes both VIPs to exactly these nodes.
    pub fn wait_nodes(&self, nodes: &[&str], since: std::time::Instant, limit: Duration) -> Result<Duration> {
        let mut last = Duration::ZERO;
        for prefix in prefixes() {
            last = last.max(self.fabric.routes().wait_nodes(prefix, since, limit, nodes)?);
        }
        Ok(last)
    }

    /// The number of changes that the ToR's kernel has seen of both VIPs since then.
    #[must_use]
    pub fn changes(&self, since: std::time::Instant) -> usize {
        prefixes().iter().map(|prefix| self.fabric.routes().changes(*prefix, since).len()).sum()
    }

    /// A VIP's row in a node's status.
    pub fn row(&self, index: usize, vip: IpAddr) -> Result<Option<Value>> {
        let (text, mut status) = (vip.to_string(), self.daemons[index].status()?);
        let rows = status["vips"].as_array_mut().context("no list of VIPs")?;
        Ok(rows.iter_mut().find(|row| row["vip"] == text.as_str()).map(Value::take))
    }

    /// Waits until a VIP's row in a node's status fits.
    pub fn wait_status(&self, index: usize, vip: IpAddr, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        wait::until(&format!("{vip}: {what}"), STATUS_LIMIT, || match self.row(index, vip)? {
            Some(row) if fits(&row) => Ok(Some(row)),
            other => bail!("its row is {other:?}"),
        })
    }

    /// Waits until a node's daemon says what `fits` of FRR: the part `bgp` of its status.
    pub fn wait_bgp(&self, index: usize, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        wait::until(what, STATUS_LIMIT, || {
            let mut status = self.daemons[index].status()?;
            let bgp = status["bgp"].take();
            if fits(&bgp) { Ok(Some(bgp)) } else { bail!("FRR is {bgp}") }
        })
    }
}

/// Both VIPs with their port.
#[must_use]
pub fn targets() -> [SocketAddr; 2] {
    [SocketAddr::new(vip4(1), PORT), SocketAddr::new(vip6(1), PORT)]
}

/// Both host prefixes.
#[must_use]
pub fn prefixes() -> [IpNet; 2] {
    [host(vip4(1)), host(vip6(1))]
}
