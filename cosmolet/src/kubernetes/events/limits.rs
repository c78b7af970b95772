//! How many Events one node sends: token buckets, for each Service and for all. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::types::ServiceKey;

/// So many at once and then one in so long, for one Service: one that flaps is told of, but not each time.
const SERVICE: Rate = Rate { burst: 6, every: Duration::from_secs(60) };
/// The same for all Services of this node: ten thousand VIPs at once fill no API server.
const ALL: Rate = Rate { burst: 30, every: Duration::from_secs(2) };

#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u32,
    every: Duration,
}

/// A bucket, as the moment at which it will be full again.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    full_at: Instant,
}

impl Bucket {
    const fn full(rate: Rate, now: Instant) -> Self {
        Self { rate, full_at: now }
    }

    fn has_one(self, now: Instant) -> bool {
        let missing = self.full_at.saturating_duration_since(now);
        missing + self.rate.every <= self.rate.every * self.rate.burst
    }

    fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.rate.every;
    }
}

/// The buckets. Those of Services are forgotten when they are full again.
#[derive(Debug, Default)]
pub(super) struct Limits {
    all: Option<Bucket>,
    services: BTreeMap<ServiceKey, Bucket>,
}

impl Limits {
    /// Whether one more Event may be sent; if so, it counts. One that its Service may not send costs the others nothing.
    pub(super) fn admit(&mut self, service: &ServiceKey, now: Instant) -> bool {
        self.services.retain(|_, bucket| bucket.full_at > now);
        let all = self.all.get_or_insert(Bucket::full(ALL, now));
        let mut own = self.services.get(service).copied().unwrap_or(Bucket::full(SERVICE, now));
        if !own.has_one(now) || !all.has_one(now) {
            return false;
        }
        all.take(now);
        own.take(now);
        self.services.insert(service.clone(), own);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_flaps_is_cut_off_and_costs_the_others_nothing() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let flapping = ServiceKey::new("a", "flapping");
        let sent = (0..1000).filter(|_| limits.admit(&flapping, now)).count();
        assert_eq!(sent, 6);
        assert!(limits.admit(&ServiceKey::new("a", "calm"), now));
        assert!(limits.admit(&flapping, now + SERVICE.every) && !limits.admit(&flapping, now + SERVICE.every));
    }

    #[test]
    fn all_services_together_are_limited() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let admit = |limits: &mut Limits, now| {
            (0..10_000).filter(|n| limits.admit(&ServiceKey::new("a", &format!("s{n}")), now)).count()
        };
        assert_eq!(admit(&mut limits, now), 30);
        assert_eq!(admit(&mut limits, now + Duration::from_secs(10)), 5);
        assert_eq!(admit(&mut limits, now + Duration::from_secs(3600)), 30);
        assert!(limits.services.len() <= 30, "{}", limits.services.len());
    }
}
