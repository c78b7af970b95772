//! Numbers that look random and are the same in every run of the same seed.

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast and repeatable.
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    pub const fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with this chance.
    pub fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// A number below `limit`.
    pub const fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// How many independent events there are where `mean` are to be expected; by the normal distribution above 50.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded, not below 0")]
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 50.0 {
            let angle = std::f64::consts::TAU * self.unit();
            let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
            return (mean.sqrt() * radius).mul_add(angle.cos(), mean).round().max(0.0) as u64;
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            count += 1;
        }
        count
    }
}
