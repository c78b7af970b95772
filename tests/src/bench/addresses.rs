//! What an address costs, beside none: the kernel walks all that there are for each of IPv6's.

use std::time::{Duration, Instant};

use anyhow::Result;
use ipnet::IpNet;

use super::figure::{Figure, Measure, Summary};
use super::world::{LIMIT, OWN, World, list, node};
use crate::fabric::{BACKEND_PORT, Mode, VIPS_V6, vip6};
use crate::objects::{self, State};
use crate::report::ms;

/// How long what is promised not to grow may take for each VIP of many, over that of few: a third is the machine's.
const TARGET: f64 = 1.33;

/// Until all are on the wire; until none is; until all that was made for them is gone.
type Spans = [Duration; 3];

/// Measures with `few` and with `many`.
pub fn measure(few: u16, many: u16) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (bare, way) in [(false, "with addresses"), (true, "without addresses")] {
        let (of_few, of_many) = (run(bare, few)?, run(bare, many)?);
        eprintln!("  {way}: {few}: {}, {many}: {}", told(of_few), told(of_many));
        let parts = ["advertised", "withdrawn", "withdrawn and gone"];
        for (part, (few_took, many_took)) in parts.iter().zip(of_few.into_iter().zip(of_many)) {
            figures.push(Figure {
                name: format!("{many} IPv6 VIPs {way}: {part}, for each"),
                unit: "us",
                own: each(many_took, many),
                against: format!("for each of {few}"),
                baseline: Some(each(few_took, few)),
                measure: Measure::Ratio,
                target: bare.then_some(TARGET),
            });
        }
    }
    Ok(figures)
}

fn told(spans: Spans) -> String {
    spans.map(ms).join(", ")
}

fn each(span: Duration, count: u16) -> Summary {
    Summary::of(&[span.as_secs_f64() * 1e6 / f64::from(count)])
}

/// One label of the node lets all VIPs come, and go.
fn run(bare: bool, count: u16) -> Result<Spans> {
    let mut world = if bare { World::raise_bare()? } else { World::raise(Mode::Dynamic)? };
    let name = |n: u16| format!("s{n}");
    let services = (1..=count).map(|n| objects::local(objects::service(&name(n), &[vip6(n)], &[80])));
    world.put("services.json", &list(services)?)?;
    let endpoint = world.own().backend_address(vip6(1)).ip();
    let slice = |n: u16| {
        let endpoints = vec![objects::endpoint(endpoint, OWN, State::Ready)];
        objects::slice(&format!("{}-a", name(n)), &name(n), BACKEND_PORT, endpoints)
    };
    world.put("endpoints.json", &list((1..=count).map(slice))?)?;
    world.put("node.json", &list([node(true)])?)?;
    world.start()?;
    world.wait_state("withdrawn", count.into())?;
    let (wire, range) = (world.own().wire()?, IpNet::from(VIPS_V6));
    std::thread::sleep(Duration::from_secs(1));
    let since = world.put("node.json", &list([node(false)])?)?;
    let advertised = wire.wait_count(range, count.into(), since, LIMIT)?;
    world.wait_state("advertised", count.into())?;
    std::thread::sleep(Duration::from_secs(1));
    let since = world.put("node.json", &list([node(true)])?)?;
    let withdrawn = wire.wait_count(range, 0, since, LIMIT)?;
    world.wait_addresses(world.own(), range, 0)?;
    // An address lingers for a second, however many there are.
    let gone = withdrawn.max(Instant::now().duration_since(since).saturating_sub(Duration::from_secs(1)));
    Ok([advertised, withdrawn, gone])
}
