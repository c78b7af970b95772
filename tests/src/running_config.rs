//! bgpd's running configuration, parted into the operator's lines and cosmolet's.
//!
//! Pure. Written apart from the daemon's own reading on purpose.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use ipnet::IpNet;

use crate::frr::Frr;

/// The names of cosmolet's route-maps begin so.
const OURS: &str = "COSMOLET-";
/// The prefix-list that an operator may lend.
const LIST: &str = "COSMOLET-WITHDRAWN";

/// One reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningConfig {
    /// Everything that is not cosmolet's, byte for byte.
    pub operators: String,
    /// The prefixes of the `network` statements with a route-map of cosmolet's.
    pub ours: BTreeSet<IpNet>,
}

impl RunningConfig {
    /// Asks bgpd.
    pub fn read(frr: &Frr) -> Result<Self> {
        Self::parse(&frr.bgpd()?.expect_success("show running-config")?)
    }

    /// Parts a text.
    pub fn parse(text: &str) -> Result<Self> {
        let mut config = Self { operators: String::new(), ours: BTreeSet::new() };
        let mut in_our_map = false;
        for line in text.split_inclusive('\n') {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                // A route-map's block ends with its "!".
                ["!"] if in_our_map => in_our_map = false,
                _ if in_our_map => {}
                ["route-map", name, ..] if name.starts_with(OURS) => in_our_map = true,
                ["network", prefix, .., name] if name.starts_with(OURS) => {
                    config.ours.insert(prefix.parse().with_context(|| line.to_owned())?);
                }
                [_, "prefix-list", LIST, "seq", number, "deny", prefix] if is_entry(number, prefix) => {}
                _ => config.operators += line,
            }
        }
        Ok(config)
    }
}

/// An entry of ours in the list that an operator lends: a VIP, at a low number.
fn is_entry(number: &str, prefix: &str) -> bool {
    let host = prefix.parse::<IpNet>().is_ok_and(|prefix| prefix.prefix_len() == prefix.max_prefix_len());
    host && number.parse().is_ok_and(|number: u32| number < 1 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parted() {
        let text = "!\nroute-map A permit 10\nexit\n!\nroute-map COSMOLET-X permit 10\nexit\n!\nrouter bgp 1\n \
                    network 10.0.0.1/32\n network 10.0.0.2/32 route-map COSMOLET-X\n network 10.0.0.3/32 route-map A\nexit\n\
                    ip prefix-list COSMOLET-WITHDRAWN seq 3 deny 10.0.0.4/32\n\
                    ip prefix-list COSMOLET-WITHDRAWN seq 4 deny 10.0.0.0/8\n\
                    ip prefix-list COSMOLET-WITHDRAWN seq 70000 deny 10.0.0.5/32\n";
        let config = RunningConfig::parse(text).unwrap();
        assert_eq!(config.ours, BTreeSet::from(["10.0.0.2/32".parse().unwrap()]));
        let operators = "!\nroute-map A permit 10\nexit\n!\nrouter bgp 1\n network 10.0.0.1/32\n \
                         network 10.0.0.3/32 route-map A\nexit\n\
                         ip prefix-list COSMOLET-WITHDRAWN seq 4 deny 10.0.0.0/8\n\
                         ip prefix-list COSMOLET-WITHDRAWN seq 70000 deny 10.0.0.5/32\n";
        assert_eq!(config.operators, operators);
    }
}
