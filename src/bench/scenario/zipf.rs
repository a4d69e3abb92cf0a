//! Which DEK of many: few often, many seldom, as real Secrets are read.

/// Draws by Zipf's law: the second is drawn half as often as the first, the third a third as often.
#[derive(Clone)]
pub(super) struct Zipf {
    /// For each DEK, the share of draws that goes to it and to those before it.
    shares: std::sync::Arc<[f64]>,
    state: u64,
}

impl Zipf {
    pub(super) fn new(count: usize, seed: u64) -> Self {
        let whole: f64 = (1..=count).map(|rank| 1.0 / rank as f64).sum();
        let mut sum = 0.0;
        let shares = (1..=count).map(|rank| {
            sum += 1.0 / rank as f64 / whole;
            sum
        });
        Self { shares: shares.collect(), state: seed }
    }

    /// The same law with another sequence.
    pub(super) fn seeded(&self, seed: u64) -> Self {
        Self { shares: std::sync::Arc::clone(&self.shares), state: seed }
    }

    /// The next DEK.
    pub(super) fn draw(&mut self) -> u32 {
        let share = self.share();
        let at = self.shares.partition_point(|sum| *sum < share).min(self.shares.len() - 1);
        u32::try_from(at).expect("DEKs are numbered in 32 bits")
    }

    /// Evenly from 0 to 1: splitmix64, the same sequence for the same seed.
    pub(super) fn share(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_drawn_twice_as_often_as_the_second_and_all_are_within_bounds() {
        let mut zipf = Zipf::new(100, 7);
        let mut drawn = [0_u32; 100];
        (0..100_000).for_each(|_| drawn[zipf.draw() as usize] += 1);
        let ratio = f64::from(drawn[0]) / f64::from(drawn[1]);
        assert!((1.9..2.1).contains(&ratio), "{ratio}");
        assert!(drawn[99] > 0);
    }
}
