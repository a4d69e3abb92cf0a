//! How long nobody asks after the upstream said "too many".

use std::time::Duration;

use super::{doubled, spread};
use crate::clock::Moment;

/// Pauses, without waiting: the part that decides.
#[derive(Debug)]
pub(super) struct Pauses {
    until: Moment,
    throttles: u32,
}

impl Pauses {
    pub(super) const fn new() -> Self {
        Self { until: Moment::BOOT, throttles: 0 }
    }

    /// When the pause ends or has ended.
    pub(super) const fn until(&self) -> Moment {
        self.until
    }

    /// What is left of a pause; zero where there is none.
    pub(super) const fn pause(&self, now: Moment) -> Duration {
        self.until.since(now)
    }

    /// The upstream said "too many": nobody asks for `after`, or where it named no time for one that doubles with each
    /// further such answer. Answers to what was in flight when a pause began do not lengthen it, unless they name a
    /// later time.
    pub(super) fn throttled(&mut self, now: Moment, after: Option<Duration>, random: u64) {
        let paused = self.pause(now) > Duration::ZERO;
        let pause = match after {
            Some(asked) => asked.clamp(PAUSE_MIN, PAUSE_MAX),
            None if paused => return,
            None => spread(doubled(PAUSE_FIRST, self.throttles, PAUSE_MAX), random),
        };
        if !paused {
            self.throttles = self.throttles.saturating_add(1);
        }
        self.until = self.until.max(now + pause);
    }

    /// The upstream answered: the next pause starts small again.
    pub(super) const fn answered(&mut self) {
        self.throttles = 0;
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Alibaba Cloud counts its quota by the second, so a first pause of a part of one often suffices.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::BOOT + Duration::from_secs(seconds)
    }

    /// The longest jitter.
    const LATEST: u64 = 1000;

    #[test]
    fn a_pause_doubles_with_each_throttling_after_it_and_starts_small_after_an_answer() {
        let mut pauses = Pauses::new();
        let mut lasted = Vec::new();
        for step in 1..=8 {
            pauses.throttled(at(100 * step), None, LATEST);
            lasted.push(pauses.pause(at(100 * step)).as_millis());
        }
        assert_eq!(lasted, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        pauses.answered();
        pauses.throttled(at(1000), None, LATEST);
        assert_eq!(pauses.pause(at(1000)), PAUSE_FIRST);
    }

    #[test]
    fn a_pause_lasts_as_long_as_the_upstream_says_up_to_the_cap() {
        let mut pauses = Pauses::new();
        pauses.throttled(at(1), Some(Duration::from_secs(3)), LATEST);
        assert_eq!(pauses.pause(at(1)), Duration::from_secs(3));
        pauses.throttled(at(1), Some(Duration::from_secs(3600)), LATEST);
        assert_eq!(pauses.pause(at(1)), PAUSE_MAX);
        assert_eq!(pauses.pause(at(11)), Duration::ZERO);
    }

    #[test]
    fn answers_to_what_was_in_flight_do_not_lengthen_the_pause() {
        let mut pauses = Pauses::new();
        for _ in 0..64 {
            pauses.throttled(at(1), None, LATEST);
        }
        assert_eq!(pauses.pause(at(1)), PAUSE_FIRST);
    }
}
