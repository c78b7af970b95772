//! The operator edits while steps are under way: whatever the order, none of their lines is lost, changed or added to.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use cosmolet::engine::attributes::{Attributes, Profile, Route};
use cosmolet::engine::plan::{Outcome, Step};
use cosmolet::engine::types::Vip;
use cosmolet::frr::Options;
use cosmolet_tests::frr::Frr;
use cosmolet_tests::running_config::RunningConfig;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::{DYNAMIC, Node, Watched, options, vips};

/// So many VIPs in one go: some batches.
const VIPS: u16 = 60;

/// What happens at the same time: steps of ours, and lines that an operator types.
#[derive(Clone, Debug)]
struct Act {
    ours: Ours,
    operators: Vec<Edit>,
}

#[derive(Clone, Debug)]
enum Ours {
    Advertise { from: u16, count: u16, med: Option<u32> },
    Withdraw { from: u16, count: u16 },
}

/// One edit, of or without `no`. The numbers are few, so that the same line is met again.
#[derive(Clone, Debug)]
struct Edit {
    no: bool,
    kind: u8,
    number: u8,
}

impl Edit {
    fn lines(&self) -> Vec<String> {
        let Self { kind, number: n, .. } = self;
        let no = if self.no { "no " } else { "" };
        let family = |family: &str, line: String| {
            vec!["router bgp 65001".to_owned(), format!("address-family {family} unicast"), format!("{no}{line}")]
        };
        match kind % 12 {
            // Beside our prefixes, and around them.
            0 => family("ipv4", format!("network 10.78.{n}.1/32")),
            1 => family("ipv4", format!("network 10.77.0.0/{}", 20 + n % 8)),
            2 => family("ipv6", format!("network 2001:db8:78::{n}/128")),
            3 => family("ipv4", format!("network 10.79.{n}.1/32 route-map THEIRS-{}", n % 2)),
            4 => vec![format!("{no}route-map THEIRS-{n} permit 10")],
            5 => vec![format!("{no}ip prefix-list THEIRS-{n} seq 5 permit 10.77.{n}.0/24 le 32")],
            6 => vec![format!("{no}bgp community-list standard THEIRS-{n} permit 65001:{n}")],
            7 => vec!["router bgp 65001".to_owned(), format!("{no}neighbor 10.9.0.{} remote-as 65100", n + 1)],
            8 => family("ipv6", "redistribute static".to_owned()),
            // In another instance, of which there is always another line.
            9 => vec![
                "router bgp 65002 vrf red".to_owned(),
                "address-family ipv4 unicast".to_owned(),
                format!("{no}network 10.77.0.{n}/32"),
            ],
            // In the list that is lent, behind our entries. Not of a VIP: FRR silently drops a second entry of the same prefix.
            10 => vec![format!(
                "{no}ip prefix-list COSMOLET-WITHDRAWN seq {} deny 10.78.0.{n}/32",
                70_000 + u32::from(*n)
            )],
            _ => vec![format!("{no}bgp as-path access-list THEIRS-{n} permit ^65{n}_")],
        }
    }

    /// bgpd may refuse a line, such as one that removes what is not there: it then does so on both sides.
    fn make(&self, frr: &Frr) -> Result<String> {
        let replies = frr.bgpd()?.configure(&self.lines())?;
        Ok(format!("{replies:?}"))
    }
}

fn act() -> impl Strategy<Value = Act> {
    let ours = prop_oneof![
        (0..VIPS, 1..VIPS, prop::option::of(1..4_u32)).prop_map(|(from, count, med)| Ours::Advertise {
            from,
            count,
            med
        }),
        (0..VIPS, 1..VIPS).prop_map(|(from, count)| Ours::Withdraw { from, count }),
    ];
    let edit = (any::<bool>(), any::<u8>(), 0..4_u8).prop_map(|(no, kind, number)| Edit { no, kind, number });
    (ours, prop::collection::vec(edit, 0..6)).prop_map(|(ours, operators)| Act { ours, operators })
}

impl Ours {
    fn steps(&self, all: &[Vip]) -> Vec<Step> {
        let part = |from: u16, count: u16| all.iter().copied().skip(from.into()).take(count.into());
        match self {
            Self::Withdraw { from, count } => part(*from, *count).map(Step::Withdraw).collect(),
            Self::Advertise { from, count, med } => {
                let attributes = Attributes { med: *med, ..Attributes::default() };
                let profile = Profile::new(attributes, |text| text.bytes().map(u64::from).sum());
                let route = Route::new(profile, None);
                part(*from, *count).map(|vip| Step::Advertise(vip, route.clone())).collect()
            }
        }
    }
}

/// A second instance beside ours, and a list lent to us.
const MORE: &str = " neighbor 10.9.0.9 remote-as 65100
 address-family ipv4 unicast
  neighbor 10.9.0.9 prefix-list COSMOLET-WITHDRAWN out
 exit-address-family
exit
ip prefix-list COSMOLET-WITHDRAWN seq 4294967295 permit any
router bgp 65002 vrf red
 bgp router-id 10.255.0.2
exit
";

/// One bgpd has us and the operator, its twin the operator alone: what is not ours must read the same.
async fn twins(acts: &[Act], several: bool) -> Result<()> {
    let config = if several { format!("{DYNAMIC}{MORE}") } else { DYNAMIC.to_owned() };
    let (node, twin) = (Node::start(&config)?, Node::start(&config)?);
    // However busy the machine is: a lost answer would be another story.
    let mut watched = Watched::new(Options { patience: Duration::from_secs(10), ..options(node.frr.directory()) });
    watched.up().await?;
    let all = vips(VIPS);
    let mut wanted = BTreeSet::new();
    for act in acts {
        let steps = act.ours.steps(&all);
        let operators: Vec<&Edit> = act.operators.iter().filter(|edit| several || edit.kind % 12 != 9).collect();
        let (applied, edited) = tokio::join!(watched.handle.apply(steps.clone()), async {
            tokio::task::block_in_place(|| {
                operators.iter().map(|edit| edit.make(&node.frr)).collect::<Result<Vec<_>>>()
            })
        });
        let on_the_twin = operators.iter().map(|edit| edit.make(&twin.frr)).collect::<Result<Vec<_>>>()?;
        ensure!(edited? == on_the_twin, "bgpd answers the operator otherwise beside us");
        for one in applied {
            ensure!(one.outcome == Outcome::Done, "{one:?}");
            match one.step {
                Step::Advertise(vip, _) => drop(wanted.insert(vip.prefix())),
                _ => drop(wanted.remove(&one.step.vip().prefix())),
            }
        }
        let (here, there) = (RunningConfig::read(&node.frr)?, RunningConfig::read(&twin.frr)?);
        ensure!(here.ours == wanted, "ours are {:?}, not {wanted:?}", here.ours);
        ensure!(
            essence(&here.operators) == essence(&there.operators),
            "{}\nand alone\n{}",
            here.operators,
            there.operators
        );
    }
    Ok(())
}

/// The lines that mean something: a family that has none but ours reads as an empty one.
fn essence(operators: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = Vec::new();
    for line in operators.lines().filter(|line| line.trim() != "!") {
        let empty = lines.last().is_some_and(|last| last.trim().starts_with("address-family "));
        if empty && line.trim() == "exit-address-family" {
            lines.pop();
        } else {
            lines.push(line);
        }
    }
    lines
}

#[test]
fn every_line_of_an_operator_survives_whatever_we_do_meanwhile() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config =
        ProptestConfig { cases: 40, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() };
    let outcome =
        TestRunner::new(config).run(&(prop::collection::vec(act(), 1..12), any::<bool>()), |(acts, several)| {
            runtime.block_on(twins(&acts, several)).map_err(|error| TestCaseError::fail(format!("{error:#}")))
        });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
