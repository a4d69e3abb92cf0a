//! Whether the wall clock and the boot clock go together.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::clock::{Clock, Moment};

/// The distance between the two clocks, sampled.
#[derive(Debug)]
pub(super) struct Drift {
    sampled_ms: AtomicU64,
    distance_ms: AtomicI64,
}

impl Drift {
    pub(super) fn new(clock: &dyn Clock) -> Self {
        let now = clock.now();
        Self { sampled_ms: AtomicU64::new(millis(now)), distance_ms: AtomicI64::new(distance(clock, now)) }
    }

    /// Whether they have parted by more than two seconds since the last look; looks once a second.
    pub(super) fn jumped(&self, clock: &dyn Clock, now: Moment) -> bool {
        if millis(now).saturating_sub(self.sampled_ms.load(Ordering::Relaxed)) < DRIFT_SAMPLE_MS {
            return false;
        }
        self.sampled_ms.store(millis(now), Ordering::Relaxed);
        // Both clocks in one breath: `now` may have been taken a while ago.
        let distance = distance(clock, clock.now());
        let before = self.distance_ms.swap(distance, Ordering::Relaxed);
        distance.abs_diff(before) > DRIFT_MAX_MS
    }
}

fn distance(clock: &dyn Clock, now: Moment) -> i64 {
    let boot = i64::try_from(millis(now)).unwrap_or(i64::MAX);
    clock.wall().as_millisecond().saturating_sub(boot)
}

fn millis(now: Moment) -> u64 {
    u64::try_from(now.since(Moment::BOOT).as_millis()).unwrap_or(u64::MAX)
}

const DRIFT_SAMPLE_MS: u64 = 1000;
const DRIFT_MAX_MS: u64 = 2000;
