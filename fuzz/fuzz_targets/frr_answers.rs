//! What FRR says when asked: the running configuration, the sessions, the RIB.
#![no_main]

use cosmolet::engine::types::Vrf;
use cosmolet::frr::observe::{RunningConfig, Sessions, rib};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let vrf = Vrf::default();
    let config = RunningConfig::parse(text, &vrf);
    assert_eq!(config, RunningConfig::parse(text, &vrf), "the same text was read in two ways");
    for asn in [None, Some(65001)] {
        drop(config.instance(asn));
    }
    drop(Sessions::parse(text));
    drop(rib(text));
});
