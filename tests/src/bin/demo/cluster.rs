//! The same story on a real cluster: helm, a Deployment behind a LoadBalancer Service, kubelet, kube-proxy.

use std::time::Instant;

use anyhow::Result;
use cosmolet_tests::cluster::story::{LIMIT, Story as Chapter, wait_nodes};
use cosmolet_tests::cluster::{Cluster, Spec, WorkloadSpec};
use cosmolet_tests::interrupt;
use cosmolet_tests::report::{Step, ms};
use serde_json::json;

use super::Story;

const NAMESPACE: &str = "demo";

/// Raises the cluster and tells the story.
pub(super) fn tell(story: &mut Story, keep: bool) -> Result<()> {
    let started = Instant::now();
    let cluster = Cluster::raise(&Spec::default(), |step| {
        println!("{:>5.1} s  {step}", started.elapsed().as_secs_f64());
    })?;
    let since = Instant::now();
    cluster.install(&json!({}))?;
    story.add("helm install", "every node's daemon is ready", ms(since.elapsed()), None);
    cluster.new_namespace(NAMESPACE)?;
    let since = Instant::now();
    let workload = cluster.deploy(WorkloadSpec::new(NAMESPACE, "web"), LIMIT)?;
    println!("  its pods are ready after {}", ms(since.elapsed()));
    let took = wait_nodes(&cluster, &workload, since, &cluster.node_names())?;
    story.add("a Deployment behind a LoadBalancer Service", "both nodes carry both VIPs", ms(took), None);
    let chapter = Chapter::begin(&cluster, workload)?;
    println!("  both nodes' pods answer the client {} after the Deployment", ms(since.elapsed()));
    let mut tell = |steps: &[Step]| {
        for step in steps {
            story.add(&step.cause, &step.effect, step.took.clone(), Some(&step.requests));
        }
    };
    tell(&chapter.readiness("node1")?);
    tell(&chapter.rolling_upgrade()?);
    tell(&chapter.drain("node1")?);
    println!("  (the half-open trial begins 30 s after a conviction)");
    tell(&chapter.proxy_lost("node2")?);
    tell(&chapter.liveness("node1")?);
    tell(&[chapter.service_deleted()?]);
    if keep {
        println!("\n{}\nThe cluster stays up until Ctrl-C.\n{}", story.table(), cluster.look_around()?);
        interrupt::wait();
    }
    Ok(())
}
