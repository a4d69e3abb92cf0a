//! When an entry is asked for again.

use std::time::Duration;

use crate::chance;
use crate::clock::Moment;

/// Where in each period of seven tenths of its age an entry is asked for again. It is drawn when the first entry of a
/// fingerprint is filled; those that take its place have it from when that was due.
///
/// So however many were filled at once, as after a start, they are asked for spread over the whole period, and in every
/// later one as evenly as in the first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase(f64);

impl Phase {
    pub(super) fn drawn() -> Self {
        Self(chance::share())
    }

    /// That of an entry that lasts for `age` and is due at `refresh`.
    pub(super) fn of(refresh: Moment, age: Duration) -> Self {
        let period = age / 10 * 7;
        let own = refresh.since(Moment::BOOT).as_nanos().checked_rem(period.as_nanos()).unwrap_or(0);
        Self(own as f64 / period.as_nanos().max(1) as f64)
    }

    /// When an entry that was asked for at `sent` and lasts for `age` is asked for again: two tenths of the age after `sent`
    /// at the earliest, nine tenths at the latest.
    pub(super) fn next(self, sent: Moment, age: Duration) -> Moment {
        let (earliest, period) = (sent + age / 10 * 2, age / 10 * 7);
        let own = period.mul_f64(self.0);
        let begun = earliest.since(Moment::BOOT).as_nanos().checked_rem(period.as_nanos()).unwrap_or(0);
        let begun = Duration::from_nanos(u64::try_from(begun).unwrap_or(u64::MAX));
        earliest + if own >= begun { own - begun } else { own + period - begun }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::BOOT + Duration::from_millis(millis)
    }

    proptest! {
        #[test]
        fn it_comes_in_time_and_then_once_in_each_period(own in 0.0..1.0, sent in 0..1_u64 << 40, age in 10..1_u64 << 32) {
            let (phase, life) = (Phase(own), Duration::from_millis(age));
            let first = phase.next(at(sent), life);
            let waited = first.since(at(sent));
            prop_assert!(waited >= life / 10 * 2 && waited <= life / 10 * 9, "{waited:?} of {life:?}");
            let second = phase.next(first, life);
            prop_assert_eq!(second.since(first), life / 10 * 7);
            let handed_on = Phase::of(first, life).next(at(sent), life);
            let apart = handed_on.since(first).max(first.since(handed_on));
            prop_assert!(apart < Duration::from_millis(1) || life / 10 * 7 - apart < Duration::from_millis(1), "{apart:?}");
        }
    }
}
