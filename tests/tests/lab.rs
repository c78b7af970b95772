//! The lab itself: does it raise what it promises, and does nothing stay behind?

use std::time::Duration;

use anyhow::Result;
use cosmolet_tests::Lab;
use cosmolet_tests::frr::{self, Daemon, Frr};
use cosmolet_tests::netns::{End, veth};

#[test]
fn frr_daemons_are_started_killed_and_restarted() -> Result<()> {
    let lab = Lab::new()?;
    let (a, b) = (lab.netns("a")?, lab.netns("b")?);
    veth(End { netns: &a, interface: "b" }, End { netns: &b, interface: "a" })?;
    a.add_address("b", "10.1.0.1/30".parse()?)?;
    b.add_address("a", "10.1.0.2/30".parse()?)?;
    let config = |asn: u32, peer: &str| {
        format!(
            "frr defaults datacenter\nrouter bgp {asn}\n no bgp ebgp-requires-policy\n timers bgp 1 3\n \
             neighbor {peer} remote-as external\n neighbor {peer} timers connect 1\n"
        )
    };
    let a_frr = Frr::start(&lab, &a, &config(65001, "10.1.0.2"), &frr::Options::default())?;
    let mut b_frr = Frr::start(&lab, &b, &config(65002, "10.1.0.1"), &frr::Options::default())?;
    a_frr.wait_established(1, Duration::from_secs(10))?;
    b_frr.kill(Daemon::Bgpd)?;
    cosmolet_tests::wait::until_true("session gone", Duration::from_secs(5), || {
        Ok(frr::established(&a_frr.show("show bgp summary")?).is_empty())
    })?;
    b_frr.restart(Daemon::Bgpd)?;
    a_frr.wait_established(1, Duration::from_secs(10))
}
