//! The Clos fabric: every scene of the demo, and the configurations that the documentation shows.
#![allow(clippy::print_stdout, reason = "libtest shows it with a test that failed")]

use anyhow::{Context, Result, ensure};
use cosmolet_tests::clos::story::{SCENES, Story};
use cosmolet_tests::clos::{config, plan, shared};
use cosmolet_tests::packaging;

/// Plays one scene.
fn play(name: &str) -> Result<()> {
    let (_, scene) = SCENES.iter().find(|(of, _)| *of == name).context("there is no such scene")?;
    let steps = shared::alone(|clos| scene(&mut Story::begin(clos)?))?;
    for step in steps {
        println!("{}: {}: {}; {:?}", step.cause, step.effect, step.took, step.requests);
    }
    Ok(())
}

macro_rules! scenes {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() -> Result<()> {
            play($name)
        })*

        #[test]
        fn quick_every_scene_has_a_test() {
            let tested = [$($name),*];
            assert_eq!(SCENES.map(|(name, _)| name), tested);
        }
    };
}

scenes! {
    the_load_is_spread: "the load is spread over data centres, spines, leaves and nodes",
    weights_count: "a node with three endpoints gets three shares",
    unhealthy_on_a_node: "the Service is unhealthy on one node",
    unhealthy_in_a_data_centre: "the Service is unhealthy in one data centre",
    unhealthy_everywhere: "the Service is unhealthy everywhere",
    a_drain_costs_nothing: "a node is drained",
    a_silent_link_is_found_by_bfd: "a link drops everything without a word",
    a_leaf_dies: "a leaf loses its power",
    a_node_dies: "a node loses its power",
    the_dci_carries: "a data centre is only reached over the DCI",
    a_data_centre_dies: "a data centre loses its power",
}

/// docs/fabric.md has a heading with a device's name above each configuration.
#[test]
fn quick_the_documentation_shows_what_runs() -> Result<()> {
    let text = packaging::read("docs/fabric.md")?;
    let mut shown = Vec::new();
    for section in text.split("\n### ").skip(1) {
        let (name, rest) = section.split_once('\n').context("an empty section")?;
        let block = rest
            .split("```frr\n")
            .nth(1)
            .and_then(|rest| rest.split("```\n").next())
            .with_context(|| format!("no configuration below {name}"))?;
        let device = plan::devices().into_iter().find(|device| device.name() == name);
        let device = device.with_context(|| format!("{name} is no device"))?;
        ensure!(block == config::whole(device), "{name} is not current: cargo xtask fabric config {name}");
        shown.push(device.role);
    }
    shown.sort_unstable();
    shown.dedup();
    assert_eq!(shown.len(), 5, "a role is not shown: {shown:?}");
    Ok(())
}
