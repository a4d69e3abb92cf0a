//! How many calls of each lane may be tried again.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::clock::Moment;

/// One budget for each lane, so that one whose calls all fail uses up nobody else's.
#[derive(Debug)]
pub(super) struct Budgets<K>(HashMap<K, Budget>);

impl<K: Clone + Eq + Hash> Budgets<K> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Counts a call of `lane`.
    pub(super) fn called(&mut self, lane: &K, now: Moment) {
        if let Some(budget) = self.of(lane, now) {
            budget.called(now);
        }
    }

    /// Takes a retry from the budget of `lane`; `false` where it is spent, or where too many lanes have one.
    pub(super) fn take_retry(&mut self, lane: &K, now: Moment) -> bool {
        self.of(lane, now).is_some_and(|budget| budget.take_retry(now))
    }

    fn of(&mut self, lane: &K, now: Moment) -> Option<&mut Budget> {
        if !self.0.contains_key(lane) {
            if self.0.len() >= LANES_MAX {
                self.0.retain(|_, budget| now.since(budget.used) < IDLE);
            }
            if self.0.len() >= LANES_MAX {
                return None;
            }
            self.0.insert(lane.clone(), Budget::new(now));
        }
        self.0.get_mut(lane)
    }
}

#[derive(Debug)]
struct Budget {
    tenths: u32,
    trickled: Moment,
    used: Moment,
}

impl Budget {
    const fn new(now: Moment) -> Self {
        Self { tenths: RETRY_TENTHS_FIRST, trickled: now, used: now }
    }

    fn called(&mut self, now: Moment) {
        self.trickle(now);
        self.tenths = (self.tenths + 1).min(RETRY_TENTHS_MAX);
    }

    fn take_retry(&mut self, now: Moment) -> bool {
        self.trickle(now);
        match self.tenths.checked_sub(TENTHS) {
            Some(left) => {
                self.tenths = left;
                true
            }
            None => false,
        }
    }

    /// Who rarely asks would never earn a retry by its calls alone.
    fn trickle(&mut self, now: Moment) {
        self.used = now;
        let seconds = now.since(self.trickled).as_secs();
        if seconds > 0 {
            self.trickled = self.trickled + Duration::from_secs(seconds);
            let earned = u32::try_from(seconds).unwrap_or(u32::MAX);
            self.tenths = self.tenths.saturating_add(earned).min(RETRY_TENTHS_MAX);
        }
    }
}

/// Tenths of a retry in one retry.
const TENTHS: u32 = 10;
/// Retries to begin with, in tenths: a start into a bad minute.
const RETRY_TENTHS_FIRST: u32 = 50;
/// The largest budget, in tenths: ten retries.
const RETRY_TENTHS_MAX: u32 = 100;
/// Lanes with a budget at once.
const LANES_MAX: usize = 1024;
/// After this long without use a budget has earned at least what a new one begins with: forgetting it gives nothing
/// away.
const IDLE: Duration = Duration::from_secs(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::BOOT + Duration::from_secs(seconds)
    }

    #[test]
    fn a_hundred_failing_calls_are_at_most_a_hundred_and_twenty_attempts() {
        let mut budgets = Budgets::new();
        let attempts: u32 = (0..100)
            .map(|_| {
                budgets.called(&'a', at(0));
                1 + u32::from(budgets.take_retry(&'a', at(0))) + u32::from(budgets.take_retry(&'a', at(0)))
            })
            .sum();
        assert_eq!(attempts, 115);
    }

    #[test]
    fn an_idle_lane_earns_a_retry_every_ten_seconds_up_to_ten() {
        let mut budgets = Budgets::new();
        while budgets.take_retry(&'a', at(0)) {}
        assert!(!budgets.take_retry(&'a', at(9)));
        assert!(budgets.take_retry(&'a', at(10)));
        let saved = (0..100).filter(|_| budgets.take_retry(&'a', at(100_000))).count();
        assert_eq!(saved, 10);
    }

    #[test]
    fn failing_calls_of_one_lane_use_up_nobody_elses_retries() {
        let mut budgets = Budgets::new();
        budgets.called(&'b', at(0));
        for _ in 0..1000 {
            budgets.called(&'a', at(0));
            let _ = budgets.take_retry(&'a', at(0));
        }
        assert!(!budgets.take_retry(&'a', at(0)));
        assert!(budgets.take_retry(&'b', at(0)));
    }

    #[test]
    fn lanes_are_bounded_and_those_forgotten_are_given_nothing_they_had_not_earned() {
        let mut budgets = Budgets::new();
        for lane in 0..LANES_MAX {
            while budgets.take_retry(&lane, at(0)) {}
        }
        assert!(!budgets.take_retry(&LANES_MAX, at(49)));
        assert_eq!(budgets.0.len(), LANES_MAX);
        let retries =
            |budgets: &mut Budgets<usize>, lane| (0..).take_while(|_| budgets.take_retry(&lane, at(50))).count();
        assert_eq!(retries(&mut budgets, 0), 5);
        assert_eq!(retries(&mut budgets, LANES_MAX), 5);
        assert_eq!(retries(&mut budgets, 1), 5);
        assert!(budgets.0.len() < LANES_MAX);
    }
}
