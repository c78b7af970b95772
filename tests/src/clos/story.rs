//! What may happen to a fabric, each as a scene: something breaks, the switches' kernels tell, clients count, and it is mended.
//!
//! Each scene waits for what must be seen, is an error if it is not, and leaves the fabric whole.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::plan::{self, DATA_CENTRES, Device, EDGE, Role};
use super::{Clos, LIMIT, wait_answers};
use crate::client::{Client, Load, Summary};
use crate::report::{Step, ms};
use crate::stage::targets;
use crate::wait;

const PER_SECOND: u32 = 100;
/// How long after the last route has moved clients are still counted.
const AFTERMATH: Duration = Duration::from_millis(1500);

/// A scene.
pub type Scene = for<'story, 'clos> fn(&'story mut Story<'clos>) -> Result<Vec<Step>>;

/// All scenes, in the order in which the demo shows them.
pub const SCENES: [(&str, Scene); 11] = [
    ("the load is spread over data centres, spines, leaves and nodes", |story| story.spread()),
    ("a node with three endpoints gets three shares", |story| story.weights()),
    ("the Service is unhealthy on one node", |story| story.unhealthy_on_a_node()),
    ("the Service is unhealthy in one data centre", |story| story.unhealthy_in_a_data_centre()),
    ("the Service is unhealthy everywhere", |story| story.unhealthy_everywhere()),
    ("a node is drained", |story| story.drained()),
    ("a link drops everything without a word", |story| story.silent_link()),
    ("a leaf loses its power", |story| story.leaf_killed()),
    ("a node loses its power", |story| story.node_killed()),
    ("a data centre is only reached over the DCI", |story| story.over_the_dci()),
    ("a data centre loses its power", |story| story.data_centre_lost()),
];

/// A whole fabric under steady traffic.
#[derive(Debug)]
pub struct Story<'a> {
    clos: &'a mut Clos,
    client: Client,
}

const fn node(dc: u8, index: u8) -> Device {
    Device { dc, role: Role::Node, index }
}

const fn leaf(dc: u8, index: u8) -> Device {
    Device { dc, role: Role::Leaf, index }
}

impl<'a> Story<'a> {
    /// Waits until the fabric is whole and every node answers, and starts the traffic.
    pub fn begin(clos: &'a mut Clos) -> Result<Self> {
        clos.wait_whole(Instant::now())?;
        let load = Load { per_second: PER_SECOND, ..Load::new(targets().to_vec()) };
        let client = Client::start(&clos.client, load)?;
        let everybody: Vec<_> = (1..=DATA_CENTRES).flat_map(plan::nodes).collect();
        wait_answers(&everybody, || Ok(client.watch(Duration::from_secs(1))))?;
        Ok(Self { clos, client })
    }

    /// Every node gets its part of the connections.
    fn spread(&mut self) -> Result<Vec<Step>> {
        let seen = self.client.watch(Duration::from_secs(4));
        let shares = shares(&seen);
        let (least, most) = (shares.values().min().copied().unwrap_or(0), shares.values().max().copied().unwrap_or(0));
        ensure!(seen.failed() == 0 && shares.len() == 4 && least >= 12 && most <= 40, "{seen:?}");
        let effect = format!("each of 4 nodes gets {least} to {most} %");
        Ok(vec![step("nothing: ECMP at every hop", &effect, "-".to_owned(), seen)])
    }

    fn weights(&mut self) -> Result<Vec<Step>> {
        let since = Instant::now();
        self.clos.set_endpoints([(node(1, 1), 3)])?;
        plan::leaves(1).try_for_each(|leaf| self.wait_weights(leaf, &[3, 1]))?;
        let took = since.elapsed();
        let seen = self.client.watch(Duration::from_secs(6));
        let of = |node: Device| seen.by_node.get(&node.name()).copied().unwrap_or(0);
        let (three, one) = (of(node(1, 1)), of(node(1, 2)));
        ensure!(seen.failed() == 0 && three > 2 * one && three < 5 * one, "{seen:?}");
        let effect = format!("both leaves weigh 3 to 1; {three} and {one} requests");
        let first = step("dc1-node1 has 3 endpoints, dc1-node2 one", &effect, ms(took), seen);
        self.clos.set_endpoints([(node(1, 1), 1)])?;
        plan::leaves(1).try_for_each(|leaf| self.wait_weights(leaf, &[1, 1]))?;
        Ok(vec![first])
    }

    fn wait_weights(&self, leaf: Device, wanted: &[u64]) -> Result<()> {
        wait::until_true(&format!("weights {wanted:?} in the kernel of {}", leaf.name()), LIMIT, || {
            let found = self.weights_at(leaf)?;
            ensure!(found.iter().all(|of_vip| of_vip == wanted), "they are {found:?}");
            Ok(true)
        })
    }

    /// The weights of the next hops of each VIP, divided by the least, in the order of the interfaces' names.
    fn weights_at(&self, device: Device) -> Result<Vec<Vec<u64>>> {
        let weights = |vip: std::net::IpAddr| {
            let family = if vip.is_ipv4() { "-4" } else { "-6" };
            let text = self.clos.netns(device).ip(&["-j", family, "route", "show", &vip.to_string()])?;
            let routes: Value = serde_json::from_str(&text)?;
            let hops = routes[0]["nexthops"].as_array().context("there is no multipath route")?;
            let by_name: BTreeMap<&str, u64> =
                hops.iter().filter_map(|hop| Some((hop["dev"].as_str()?, hop["weight"].as_u64()?))).collect();
            let least = by_name.values().min().copied().unwrap_or(1).max(1);
            Ok(by_name.values().map(|weight| (weight + least / 2) / least).collect())
        };
        targets().iter().map(|target| weights(target.ip())).collect()
    }

    fn unhealthy_on_a_node(&mut self) -> Result<Vec<Step>> {
        let since = Instant::now();
        self.clos.set_endpoints([(node(1, 1), 0)])?;
        let gone = self.seen("dc1-node1's endpoint is not ready", "both leaves: only dc1-node2", since, |clos| {
            leaves_by(clos, 1, since, &[node(1, 2)])
        })?;
        let since = Instant::now();
        self.clos.set_endpoints([(node(1, 1), 1)])?;
        let back = self.seen("it is ready again", "both leaves: both nodes", since, |clos| {
            leaves_by(clos, 1, since, &[node(1, 1), node(1, 2)])
        })?;
        Ok(vec![gone, back])
    }

    fn unhealthy_in_a_data_centre(&mut self) -> Result<Vec<Step>> {
        let since = Instant::now();
        self.clos.set_endpoints(plan::nodes(1).map(|node| (node, 0)))?;
        let gone = self.seen("no endpoint in dc1 is ready", "edge: only dc2", since, |clos| {
            clos.wait_peers(EDGE, since, &[plan::border(2)])
        })?;
        let back =
            self.whole_again("they are ready again", |clos| clos.set_endpoints(plan::nodes(1).map(|node| (node, 1))))?;
        Ok(vec![gone, back])
    }

    fn unhealthy_everywhere(&mut self) -> Result<Vec<Step>> {
        let everybody: Vec<_> = (1..=DATA_CENTRES).flat_map(plan::nodes).collect();
        let since = Instant::now();
        self.clos.set_endpoints(everybody.iter().map(|node| (*node, 0)))?;
        let gone = self
            .seen("no endpoint anywhere is ready", "edge: no route", since, |clos| clos.wait_peers(EDGE, since, &[]))?;
        ensure!(gone.requests.failed() > 0, "nobody should answer: {gone:?}");
        let back = self
            .whole_again("they are ready again", |clos| clos.set_endpoints(everybody.iter().map(|node| (*node, 1))))?;
        Ok(vec![gone, back])
    }

    /// Drained by its file, as `services.drain_file` has it: peers take other paths first, then the routes go.
    fn drained(&mut self) -> Result<Vec<Step>> {
        let drained = node(1, 2);
        let file = self.clos.lab.directory().join(format!("drain-{}", drained.name()));
        let since = Instant::now();
        std::fs::write(&file, "")?;
        let gone = self.seen("dc1-node2 is drained", "both leaves: only dc1-node1", since, |clos| {
            leaves_by(clos, 1, since, &[node(1, 1)])
        })?;
        wait::until_true("dc1-node2 drained", LIMIT, || {
            let status = self.clos.daemon(drained)?.status()?;
            let rows = status["vips"].as_array().context("no VIPs")?;
            ensure!(rows.iter().all(|row| row["state"] == "withdrawn" && row["reason"] == "NodeDrained"), "{rows:?}");
            Ok(true)
        })?;
        let all = self.client.summary(since, Instant::now());
        ensure!(all.failed() == 0 && all.ok() > 0, "a drain costs requests: {all:?}");
        let back = self.whole_again("its drain is over", |_| Ok(std::fs::remove_file(&file)?))?;
        ensure!(back.requests.failed() == 0, "the end of a drain costs requests: {back:?}");
        Ok(vec![Step { requests: all, ..gone }, back])
    }

    /// Only BFD can tell.
    fn silent_link(&mut self) -> Result<Vec<Step>> {
        let (node, leaf) = (node(1, 1), leaf(1, 1));
        let since = self.clos.cut(leaf, node)?;
        let gone = self.seen("dc1-node1 – dc1-leaf1 drops all, silently", "dc1-leaf1, by BFD", since, |clos| {
            clos.wait_peers(leaf, since, &[Device { index: 2, ..node }])
        })?;
        self.told_by_bfd(node)?;
        let back = self.whole_again("the link is mended", |clos| clos.mend(leaf, node))?;
        Ok(vec![gone, back])
    }

    /// The node's daemon says which leaf BFD does not find, and that the other alone hears of the VIPs.
    fn told_by_bfd(&mut self, node: Device) -> Result<()> {
        let (lost, kept) = (leaf(node.dc, 1).name(), leaf(node.dc, 2).name());
        wait::until_true(&format!("{} tells of BFD", node.name()), LIMIT, || {
            let status = self.clos.daemon(node)?.status()?;
            let peers = status["bgp"]["peers"].as_array().context("no peers")?;
            let bfd = |name: &str| peers.iter().find(|peer| peer["name"] == name).map(|peer| &peer["bfd"]);
            ensure!(
                bfd(&lost).is_some_and(|bfd| bfd == "down") && bfd(&kept).is_some_and(|bfd| bfd == "up"),
                "{peers:?}"
            );
            let rows = status["vips"].as_array().context("no VIPs")?;
            ensure!(rows.iter().all(|row| row["rib"]["peers"] == json!([kept])), "{rows:?}");
            Ok(true)
        })
    }

    fn leaf_killed(&mut self) -> Result<Vec<Step>> {
        let since = self.clos.power_off(&[leaf(1, 1)])?;
        let gone = self.seen("dc1-leaf1 loses its power", "both spines: only dc1-leaf2", since, |clos| {
            let each = plan::spines(1).map(|spine| clos.wait_peers(spine, since, &[leaf(1, 2)]));
            each.collect::<Result<Vec<_>>>().map(latest)
        })?;
        let back = self.whole_again("it is on again", |clos| clos.power_on(&[leaf(1, 1)]))?;
        Ok(vec![gone, back])
    }

    fn node_killed(&mut self) -> Result<Vec<Step>> {
        let since = self.clos.power_off(&[node(2, 2)])?;
        let gone = self.seen("dc2-node2 loses its power", "both leaves: only dc2-node1", since, |clos| {
            leaves_by(clos, 2, since, &[node(2, 1)])
        })?;
        let back = self.whole_again("it is on again", |clos| clos.power_on(&[node(2, 2)]))?;
        Ok(vec![gone, back])
    }

    /// dc1 has lost its link to the edge, and dc2 serves nothing: what is asked for goes by dc2's border into dc1.
    fn over_the_dci(&mut self) -> Result<Vec<Step>> {
        self.clos.set_endpoints(plan::nodes(2).map(|node| (node, 0)))?;
        self.clos.wait_peers(EDGE, Instant::now(), &[plan::border(1), plan::border(2)])?;
        self.clos.wait_peers(plan::border(2), Instant::now(), &[plan::border(1)])?;
        let since = self.clos.cut(EDGE, plan::border(1))?;
        let gone = self.seen(
            "dc2 serves nothing, edge – dc1-border is cut",
            "edge: by dc2-border and the DCI",
            since,
            |clos| clos.wait_peers(EDGE, since, &[plan::border(2)]),
        )?;
        let ask = || Ok(self.client.watch(Duration::from_secs(1)));
        wait_answers(&plan::nodes(1).collect::<Vec<_>>(), ask)?;
        let back = self.whole_again("both are mended", |clos| {
            clos.mend(EDGE, plan::border(1))?;
            clos.set_endpoints(plan::nodes(2).map(|node| (node, 1)))
        })?;
        Ok(vec![gone, back])
    }

    fn data_centre_lost(&mut self) -> Result<Vec<Step>> {
        let all: Vec<_> = plan::devices_of(1).collect();
        let since = self.clos.power_off(&all)?;
        let gone = self.seen("dc1 loses its power", "edge: only dc2", since, |clos| {
            clos.wait_peers(EDGE, since, &[plan::border(2)])
        })?;
        let back = self.whole_again("it is on again", |clos| clos.power_on(&all))?;
        Ok(vec![gone, back])
    }

    /// Waits for what must be seen and counts the requests from the cause until a while after.
    fn seen(
        &self,
        cause: &str,
        effect: &str,
        since: Instant,
        wait: impl FnOnce(&Clos) -> Result<Duration>,
    ) -> Result<Step> {
        let took = wait(self.clos).with_context(|| cause.to_owned())?;
        std::thread::sleep(AFTERMATH);
        Ok(step(cause, effect, ms(took), self.client.summary(since, Instant::now())))
    }

    /// Mends and waits until everything is as it was. Counted from the end of the mending: a device takes its time to start.
    fn whole_again(&mut self, cause: &str, mend: impl FnOnce(&mut Clos) -> Result<()>) -> Result<Step> {
        let begun = Instant::now();
        mend(self.clos)?;
        let since = Instant::now();
        let took = self.clos.wait_whole(since).with_context(|| cause.to_owned())?;
        std::thread::sleep(AFTERMATH);
        Ok(step(cause, "all is as it was", ms(took), self.client.summary(begun, Instant::now())))
    }
}

fn leaves_by(clos: &Clos, dc: u8, since: Instant, nodes: &[Device]) -> Result<Duration> {
    let each = plan::leaves(dc).map(|leaf| clos.wait_peers(leaf, since, nodes));
    each.collect::<Result<Vec<_>>>().map(latest)
}

fn latest(times: Vec<Duration>) -> Duration {
    times.into_iter().max().unwrap_or_default()
}

fn step(cause: &str, effect: &str, took: String, requests: Summary) -> Step {
    Step { cause: cause.to_owned(), effect: effect.to_owned(), took, requests }
}

/// Each node's part of the answers, in percent.
fn shares(seen: &Summary) -> BTreeMap<String, usize> {
    let all = seen.ok().max(1);
    seen.by_node.iter().map(|(node, count)| (node.clone(), count * 100 / all)).collect()
}
