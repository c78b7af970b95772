//! The families of the whole cluster: served by the daemon that leads, for as long as it surely does.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::advertised::Statistics;
use crate::book::Book;
use crate::engine::types::ServiceKey;

#[derive(Debug)]
pub(super) struct Cluster {
    book: Arc<Book>,
}

impl Cluster {
    pub(super) const fn new(book: Arc<Book>) -> Self {
        Self { book }
    }
}

impl Collector for Cluster {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        match self.book.summary().statistics {
            Some(dated) if self.book.now() < dated.until => encode(&dated.statistics, &mut encoder),
            Some(_) | None => Ok(()),
        }
    }
}

/// VIPs of one Service: wanted, and without any node.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    wanted: i64,
    without: i64,
}

fn encode(statistics: &Statistics, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    nodes(statistics, encoder)?;
    let mut all = Count::default();
    let mut services: BTreeMap<&ServiceKey, Count> = BTreeMap::new();
    for wanted in statistics.vips.values() {
        let without = i64::from(wanted.nodes == 0);
        all = Count { wanted: all.wanted + 1, without: all.without + without };
        for service in &wanted.services {
            let count = services.entry(service).or_default();
            *count = Count { wanted: count.wanted + 1, without: count.without + without };
        }
    }
    single(encoder, "cluster_vips", "VIPs that Services want, in the whole cluster", all.wanted)?;
    single(encoder, "cluster_vips_without_node", "VIPs that no answering node advertises", all.without)?;
    by_service(encoder, &services, "cluster_service_vips", "VIPs that a Service wants", |count| count.wanted)?;
    let help = "VIPs of a Service that no answering node advertises";
    by_service(encoder, &services, "cluster_service_vips_without_node", help, |count| count.without)?;
    vips(statistics, encoder)
}

fn nodes(statistics: &Statistics, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let help = "Nodes by whether their daemon has answered; what unknown ones advertise is in no count";
    let mut family = encoder.encode_descriptor("cluster_nodes", help, None, MetricType::Gauge)?;
    let unknown = i64::try_from(statistics.unknown.len()).unwrap_or(i64::MAX);
    for (state, count) in [("answering", i64::from(statistics.answering)), ("unknown", unknown)] {
        ConstGauge::new(count).encode(family.encode_family(&[("state", state)])?)?;
    }
    let help = "1 for a node whose daemon has not answered, with the reason";
    let mut family = encoder.encode_descriptor("cluster_node_unknown", help, None, MetricType::Gauge)?;
    for (node, why) in &statistics.unknown {
        let labels = [("node", node.as_str()), ("error", why.as_str())];
        ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn single(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: i64) -> Result<(), Error> {
    let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(family)
}

fn by_service(
    encoder: &mut DescriptorEncoder<'_>,
    services: &BTreeMap<&ServiceKey, Count>,
    name: &str,
    help: &str,
    value: impl Fn(&Count) -> i64,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (service, count) in services {
        let labels = [("namespace", service.namespace.as_ref()), ("service", service.name.as_ref())];
        ConstGauge::new(value(count)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn vips(statistics: &Statistics, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
    let help = "Answering nodes that advertise a VIP";
    let mut family = encoder.encode_descriptor("cluster_vip_nodes", help, None, MetricType::Gauge)?;
    for (vip, wanted) in &statistics.vips {
        let text = vip.to_string();
        for service in &wanted.services {
            let labels =
                [("namespace", service.namespace.as_ref()), ("service", service.name.as_ref()), ("vip", &text)];
            ConstGauge::new(i64::from(wanted.nodes)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
