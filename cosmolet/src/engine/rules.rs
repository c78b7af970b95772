//! Which addresses may ever be advertised.

use std::net::IpAddr;

use ipnet::IpNet;

use super::service::Refusal;
use super::types::Vip;

/// The operator's limits (`services.vip_ranges`, `loopback.excluded`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VipRules {
    /// Prefixes that VIPs must lie in; empty allows all that is not refused otherwise.
    pub ranges: Vec<IpNet>,
    /// Prefixes that are never touched.
    pub excluded: Vec<IpNet>,
}

impl VipRules {
    /// Judges an address by itself and by the configuration, whatever this node holds.
    ///
    /// # Errors
    /// The reason why it may not be advertised.
    pub fn check(&self, vip: Vip) -> Result<(), Refusal> {
        never(vip.address())?;
        if self.excluded.iter().any(|prefix| prefix.contains(&vip.address())) {
            return Err(Refusal::Excluded);
        }
        if !self.ranges.is_empty() && !self.ranges.iter().any(|prefix| prefix.contains(&vip.address())) {
            return Err(Refusal::OutsideRanges);
        }
        Ok(())
    }
}

/// The addresses that no Service may have advertised, whatever the configuration says (RFC 6890, RFC 4291).
const fn never(address: IpAddr) -> Result<(), Refusal> {
    if address.is_unspecified() {
        return Err(Refusal::Unspecified);
    }
    if address.is_loopback() {
        return Err(Refusal::Loopback);
    }
    if address.is_multicast() {
        return Err(Refusal::Multicast);
    }
    match address {
        IpAddr::V4(v4) if v4.is_link_local() => Err(Refusal::LinkLocal),
        // 0.0.0.0/8 is "this network", 240.0.0.0/4 is reserved and holds the broadcast address.
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240 => Err(Refusal::Reserved),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Err(Refusal::LinkLocal),
        IpAddr::V4(_) | IpAddr::V6(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(address: &str, rules: &VipRules) -> Result<(), Refusal> {
        rules.check(Vip::new(address.parse().unwrap()))
    }

    #[test]
    fn addresses_that_are_never_advertised() {
        let rules = VipRules::default();
        for (address, refusal) in [
            ("0.0.0.0", Refusal::Unspecified),
            ("::", Refusal::Unspecified),
            ("127.0.0.1", Refusal::Loopback),
            ("127.9.9.9", Refusal::Loopback),
            ("::1", Refusal::Loopback),
            ("::ffff:127.0.0.1", Refusal::Loopback),
            ("169.254.1.1", Refusal::LinkLocal),
            ("fe80::1", Refusal::LinkLocal),
            ("224.0.0.5", Refusal::Multicast),
            ("ff02::1", Refusal::Multicast),
            ("255.255.255.255", Refusal::Reserved),
            ("0.1.2.3", Refusal::Reserved),
            ("240.0.0.1", Refusal::Reserved),
        ] {
            assert_eq!(judged(address, &rules), Err(refusal), "{address}");
        }
        assert_eq!(judged("10.0.0.1", &rules), Ok(()));
        assert_eq!(judged("2001:db8::1", &rules), Ok(()));
    }

    #[test]
    fn ranges_allow_and_exclusions_win() {
        let rules = VipRules {
            ranges: vec!["10.50.0.0/16".parse().unwrap(), "2001:db8:50::/64".parse().unwrap()],
            excluded: vec!["10.50.9.0/24".parse().unwrap()],
        };
        assert_eq!(judged("10.50.1.1", &rules), Ok(()));
        assert_eq!(judged("2001:db8:50::7", &rules), Ok(()));
        assert_eq!(judged("10.51.1.1", &rules), Err(Refusal::OutsideRanges));
        assert_eq!(judged("2001:db8:51::7", &rules), Err(Refusal::OutsideRanges));
        assert_eq!(judged("10.50.9.1", &rules), Err(Refusal::Excluded));
    }
}
