//! The cluster's statistics: the daemon that holds a Lease asks all others what they advertise.
//!
//! Owns the list of nodes, the asking and the rhythm. Leadership is [`super::leases`]', the sum is
//! [`crate::advertised`]'s. Never decides anything: a node that does not answer is unknown, and that is all.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::{Client as HttpClient, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info};

use super::leases::{Elector, Standing, Timings};
use super::watch::printable;
use crate::advertised::{Advertised, Statistics};

/// The Lease's name.
pub const LEASE: &str = "cosmolet-statistics";
/// How often the nodes are asked.
const PERIOD: Duration = Duration::from_secs(15);
/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nodes asked at the same time.
const AT_ONCE: usize = 16;
/// The largest answer that is read: ten thousand VIPs take 200 KiB.
const LARGEST: usize = 4 << 20;

/// Who asks whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node, which is also the candidate's name.
    pub node: String,
    /// Where the Lease is.
    pub namespace: String,
    /// The port on which every daemon listens.
    pub port: u16,
}

/// How it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Somebody else is the leader.
    Follower,
    /// We are; the figures hold until then.
    Leader(Box<Statistics>, Instant),
    /// The Lease cannot be read or written.
    Failed(String),
}

/// Stands for election for ever, and reports the figures while elected. `own` is what this node wants and what it
/// advertises.
pub async fn run(
    client: Client,
    options: Options,
    own: impl Fn() -> (Statistics, Advertised) + Send,
    report: impl Fn(Report) + Send + Sync,
) {
    let (told, standing) = watch::channel(Standing::Follower);
    let elector = Elector::new(client.clone(), &options.namespace, LEASE, &options.node, Timings::default());
    tokio::join!(stand(elector, told, &report), lead(client, options, own, standing, &report));
}

/// Stands for election.
async fn stand(mut elector: Elector, told: watch::Sender<Standing>, report: &(impl Fn(Report) + Sync)) {
    loop {
        match elector.step().await {
            Ok(Standing::Follower) => report(Report::Follower),
            Ok(Standing::Leader { .. }) => {}
            Err(error) => report(Report::Failed(error.to_string())),
        }
        told.send_replace(elector.standing());
        sleep(elector.pause()).await;
    }
}

/// Asks the nodes while elected.
async fn lead(
    client: Client,
    options: Options,
    own: impl Fn() -> (Statistics, Advertised) + Send,
    mut standing: watch::Receiver<Standing>,
    report: &(impl Fn(Report) + Sync),
) {
    let http = HttpClient::builder(TokioExecutor::new()).build_http();
    loop {
        if standing.wait_for(|now| matches!(now, Standing::Leader { .. })).await.is_err() {
            return;
        }
        info!("this node leads the cluster's statistics");
        let (reader, writer) = reflector::store();
        let nodes = watcher(Api::<Node>::all(client.clone()), watcher::Config::default()).modify(slim);
        let mut nodes = pin!(nodes.default_backoff().reflect(writer));
        let mut next = Instant::now() + Duration::from_secs(1);
        while let Some(until) = leads_until(&mut standing) {
            tokio::select! {
                () = sleep_until(until) => break,
                changed = standing.changed() => if changed.is_err() { return },
                Some(event) = nodes.next() => if let Err(error) = event { debug!(%error, "the nodes cannot be watched") },
                () = sleep_until(next) => {
                    next = Instant::now() + PERIOD;
                    let addresses: Vec<_> = reader.state().iter().map(|node| (node.name_any(), address(node))).collect();
                    let (mut sum, mine) = own();
                    ask_all(&http, &options, addresses, mine, &mut sum).await;
                    // Renewed meanwhile, or lost.
                    if let Some(until) = leads_until(&mut standing) {
                        report(Report::Leader(Box::new(sum), until));
                    }
                }
            }
        }
        info!("this node no longer leads the cluster's statistics");
    }
}

fn leads_until(standing: &mut watch::Receiver<Standing>) -> Option<Instant> {
    match *standing.borrow_and_update() {
        Standing::Leader { until } => Some(until).filter(|until| *until > Instant::now()),
        Standing::Follower => None,
    }
}

/// Ten thousand nodes with all their images would be a lot to keep.
fn slim(node: &mut Node) {
    node.metadata.managed_fields = None;
    node.metadata.annotations = None;
    node.spec = None;
    if let Some(status) = &mut node.status {
        let addresses = status.addresses.take();
        *status = Default::default();
        status.addresses = addresses;
    }
}

fn address(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|address| address.type_ == "InternalIP")?.address.parse().ok()
}

type Http = HttpClient<HttpConnector, Empty<Bytes>>;

async fn ask_all(
    http: &Http,
    options: &Options,
    nodes: Vec<(String, Option<IpAddr>)>,
    mine: Advertised,
    sum: &mut Statistics,
) {
    sum.add(&options.node, Ok(mine));
    let others = nodes.into_iter().filter(|(name, _)| *name != options.node);
    let asked = others.map(|(name, address)| async move {
        let answer = match address {
            Some(address) => ask(http, SocketAddr::new(address, options.port)).await,
            None => Err("it has no InternalIP".to_owned()),
        };
        (name, answer)
    });
    let mut answers = pin!(stream::iter(asked).buffer_unordered(AT_ONCE));
    while let Some((name, answer)) = answers.next().await {
        sum.add(&name, answer);
    }
    sum.unknown.sort_unstable();
}

async fn ask(http: &Http, server: SocketAddr) -> Result<Advertised, String> {
    let silent = |_| format!("{server} did not answer in {} s", PATIENCE.as_secs());
    timeout(PATIENCE, fetch(http, server))
        .await
        .map_err(silent)?
        .map_err(|error| printable(&format!("{server}: {error}")))
}

async fn fetch(http: &Http, server: SocketAddr) -> Result<Advertised, Box<dyn std::error::Error + Send + Sync>> {
    let response = http.get(format!("http://{server}/api/v1/advertised").parse()?).await?;
    if !response.status().is_success() {
        return Err(format!("it answers {}", response.status()).into());
    }
    let body = Limited::new(response.into_body(), LARGEST).collect().await?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}
