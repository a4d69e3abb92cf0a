//! The only source of time.

use std::fmt::Debug;
use std::ops::Add;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// A point on the boot clock: it counts while the machine is suspended and no one can set it. In nanoseconds, which are
/// enough for 584 years; what would be later is then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The machine's boot.
    pub const BOOT: Self = Self(0);

    /// Time since `earlier`; zero where `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Where time comes from: [`System`] in the daemon, [`Manual`] in tests.
pub trait Clock: Debug + Send + Sync {
    /// The boot clock. Leases, ages and deadlines use nothing else.
    fn now(&self) -> Moment;

    /// The wall clock. Only for what the wire demands (signed timestamps, credential expiry) and to notice that the
    /// two clocks have drifted apart; never to lengthen anything.
    fn wall(&self) -> Timestamp;
}

/// `CLOCK_BOOTTIME` and `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Clock for System {
    fn now(&self) -> Moment {
        let now = clock_gettime(ClockId::Boottime);
        let of = |part| u64::try_from(part).unwrap_or(0);
        Moment(of(now.tv_sec).saturating_mul(1_000_000_000).saturating_add(of(now.tv_nsec)))
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Microseconds on `CLOCK_MONOTONIC`, which nothing here goes by: systemd compares them.
#[must_use]
pub fn monotonic_usec() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(now.tv_nsec / 1000).unwrap_or(0))
}

/// The instant after which nobody waits any more. One is made for each request and passed down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Moment);

impl Deadline {
    /// `span` from `now`.
    #[must_use]
    pub fn after(now: Moment, span: Duration) -> Self {
        Self(now + span)
    }

    /// What is left at `now`; zero once it has passed.
    #[must_use]
    pub const fn remaining(self, now: Moment) -> Duration {
        self.0.since(now)
    }

    /// Whether it has passed at `now`.
    #[must_use]
    pub fn passed(self, now: Moment) -> bool {
        now >= self.0
    }
}

/// A clock that stands still until it is moved, for tests that must not sleep.
#[derive(Debug)]
pub struct Manual(Mutex<(Moment, Timestamp)>);

impl Manual {
    /// Starts an hour after boot, at `wall`.
    #[must_use]
    pub const fn at(wall: Timestamp) -> Self {
        Self(Mutex::new((Moment(3_600_000_000_000), wall)))
    }

    /// Moves both clocks forward.
    pub fn advance(&self, span: Duration) {
        self.change(|(moment, wall)| {
            *moment = *moment + span;
            *wall = wall.saturating_add(span).unwrap_or(Timestamp::MAX);
        });
    }

    /// Sets the wall clock alone, as an administrator or a restored snapshot would.
    pub fn step_wall(&self, wall: Timestamp) {
        self.change(|now| now.1 = wall);
    }

    fn change(&self, change: impl FnOnce(&mut (Moment, Timestamp))) {
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn read(&self) -> (Moment, Timestamp) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for Manual {
    fn now(&self) -> Moment {
        self.read().0
    }

    fn wall(&self) -> Timestamp {
        self.read().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_counts_down_to_zero_and_stays_there() {
        let clock = Manual::at(Timestamp::UNIX_EPOCH);
        let deadline = Deadline::after(clock.now(), Duration::from_secs(2));
        clock.advance(Duration::from_millis(500));
        assert_eq!(deadline.remaining(clock.now()), Duration::from_millis(1500));
        clock.advance(Duration::from_secs(9));
        assert_eq!(deadline.remaining(clock.now()), Duration::ZERO);
        assert!(deadline.passed(clock.now()));
    }

    #[test]
    fn a_step_of_the_wall_clock_leaves_the_boot_clock_alone() {
        let clock = Manual::at(Timestamp::UNIX_EPOCH);
        let before = clock.now();
        clock.step_wall(Timestamp::MAX);
        assert_eq!(clock.now(), before);
    }
}
