//! Keeps what one upstream is asked within what it grants: a window of calls in flight, a pause when it says "too
//! many", and a budget for retries, so that its bad minute never becomes a storm.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock::{Clock, Deadline, Moment};
use crate::fault::{Fault, Kind};

/// How much one upstream is asked at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls in flight, at least 1.
    pub in_flight: usize,
    /// Calls that wait for one of those places, or for the end of a pause; more are shed.
    pub queued: usize,
}

/// Who goes before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Waits its turn.
    Call,
    /// Has places of its own, and goes out during a pause as well: a few calls a second at most.
    Probe,
}

/// The guard of one upstream's quota. Every attempt, retries included, needs a [`Pass`].
#[derive(Debug)]
pub struct Governor {
    limits: Limits,
    clock: Arc<dyn Clock>,
    places: Semaphore,
    /// For probes alone: leases live by them, so neither a queue nor a pause may stand before one.
    reserved: Semaphore,
    queued: AtomicUsize,
    quota: Mutex<Quota>,
}

impl Governor {
    /// A governor with an open window and a full retry budget.
    #[must_use]
    pub fn new(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let quota = Mutex::new(Quota::new(clock.now()));
        let (places, reserved) = (Semaphore::new(limits.in_flight.max(1)), Semaphore::new(RESERVED));
        Self { limits, places, reserved, queued: AtomicUsize::new(0), quota, clock }
    }

    /// Waits for a place in the window, through a pause if it ends in time. Dropping the future gives the wait up.
    ///
    /// # Errors
    /// [`Kind::Throttled`] at once where a pause outlasts `deadline`; [`Kind::Overloaded`] where too many wait
    /// already, or no place was free before `deadline`.
    pub async fn admit(&self, priority: Priority, deadline: Deadline) -> Result<Pass<'_>, Fault> {
        if priority == Priority::Probe {
            return Ok(Pass { _place: self.next_place(&self.reserved, deadline).await? });
        }
        if self.pause() == Duration::ZERO
            && let Ok(place) = self.places.try_acquire()
        {
            return Ok(Pass { _place: place });
        }
        let _waiting = self.queue_up()?;
        loop {
            self.wait_out_pause(deadline).await?;
            let place = self.next_place(&self.places, deadline).await?;
            if self.pause() == Duration::ZERO {
                return Ok(Pass { _place: place });
            }
        }
    }

    /// Counts a call (not its retries) towards the retry budget.
    pub fn called(&self) {
        let now = self.clock.now();
        self.quota().called(now);
    }

    /// Takes one retry from the budget: about one for each ten calls, and a few to begin with. `false` where it is
    /// spent: the failure goes to the caller.
    #[must_use]
    pub fn may_retry(&self) -> bool {
        let now = self.clock.now();
        self.quota().take_retry(now)
    }

    /// The upstream said "too many": nobody asks for `after`, or where it named no time for one that doubles with
    /// each further such answer. Answers to what was in flight when a pause began
    /// do not lengthen it, unless they name a later time.
    pub fn throttled(&self, after: Option<Duration>) {
        let now = self.clock.now();
        self.quota().throttled(now, after, random());
    }

    /// The upstream answered: the next pause starts small again.
    pub fn answered(&self) {
        self.quota().answered();
    }

    /// What is left of a pause; zero where there is none.
    #[must_use]
    pub fn pause(&self) -> Duration {
        let now = self.clock.now();
        self.quota().pause(now)
    }

    fn queue_up(&self) -> Result<Waiting<'_>, Fault> {
        let before = self.queued.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(&self.queued);
        if before >= self.limits.queued {
            return Err(Fault::proxy(Kind::Overloaded));
        }
        Ok(waiting)
    }

    async fn wait_out_pause(&self, deadline: Deadline) -> Result<(), Fault> {
        loop {
            let pause = self.pause();
            if pause == Duration::ZERO {
                return Ok(());
            }
            if pause >= deadline.remaining(self.clock.now()) {
                return Err(Fault::kms(Kind::Throttled(Some(pause))));
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn next_place<'s>(&self, places: &'s Semaphore, deadline: Deadline) -> Result<SemaphorePermit<'s>, Fault> {
        let left = deadline.remaining(self.clock.now());
        match tokio::time::timeout(left, places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(Fault::proxy(Kind::Overloaded)),
        }
    }

    fn quota(&self) -> MutexGuard<'_, Quota> {
        self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the window, free again when dropped.
#[derive(Debug)]
pub struct Pass<'a> {
    _place: SemaphorePermit<'a>,
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Half of `span` at least and all of it at most, at random: so that those who failed together do not try together.
#[must_use]
pub fn jittered(span: Duration) -> Duration {
    spread(span, random())
}

/// `base` doubled `times` times, at most `cap`.
#[must_use]
pub fn doubled(base: Duration, times: u32, cap: Duration) -> Duration {
    base.saturating_mul(2_u32.saturating_pow(times)).min(cap)
}

/// Pause and retry budget, without waiting: the part that decides.
#[derive(Debug)]
struct Quota {
    paused_until: Moment,
    throttles: u32,
    tenths: u32,
    trickled: Moment,
}

impl Quota {
    const fn new(now: Moment) -> Self {
        Self { paused_until: Moment::BOOT, throttles: 0, tenths: RETRY_TENTHS_FIRST, trickled: now }
    }

    const fn pause(&self, now: Moment) -> Duration {
        self.paused_until.since(now)
    }

    fn throttled(&mut self, now: Moment, after: Option<Duration>, random: u64) {
        let paused = self.pause(now) > Duration::ZERO;
        let pause = match after {
            Some(asked) => asked.clamp(PAUSE_MIN, PAUSE_MAX),
            None if paused => return,
            None => spread(doubled(PAUSE_FIRST, self.throttles, PAUSE_MAX), random),
        };
        if !paused {
            self.throttles = self.throttles.saturating_add(1);
        }
        self.paused_until = self.paused_until.max(now + pause);
    }

    const fn answered(&mut self) {
        self.throttles = 0;
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

    /// A rarely asked upstream would never earn a retry by its calls alone.
    fn trickle(&mut self, now: Moment) {
        let seconds = now.since(self.trickled).as_secs();
        if seconds > 0 {
            self.trickled = self.trickled + Duration::from_secs(seconds);
            let earned = u32::try_from(seconds).unwrap_or(u32::MAX);
            self.tenths = self.tenths.saturating_add(earned).min(RETRY_TENTHS_MAX);
        }
    }
}

fn spread(span: Duration, random: u64) -> Duration {
    let half = span / 2;
    let thousandths = u32::try_from(random % 1001).unwrap_or(0);
    half + half * thousandths / 1000
}

fn random() -> u64 {
    // Without randomness nothing is signed either; the middle is as good as any value.
    getrandom::u64().unwrap_or(500)
}

/// Tenths of a retry in one retry.
const TENTHS: u32 = 10;
/// Retries to begin with, in tenths: a start into a bad minute.
const RETRY_TENTHS_FIRST: u32 = 50;
/// The largest budget, in tenths: ten retries.
const RETRY_TENTHS_MAX: u32 = 100;
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Alibaba Cloud counts its quota by the second, so a first pause of a part of one often suffices.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Places for probes.
const RESERVED: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Manual;

    fn at(seconds: u64) -> Moment {
        Moment::BOOT + Duration::from_secs(seconds)
    }

    /// The longest jitter.
    const LATEST: u64 = 1000;

    #[test]
    fn a_pause_doubles_with_each_throttling_after_it_and_starts_small_after_an_answer() {
        let mut quota = Quota::new(at(0));
        let mut pauses = Vec::new();
        for step in 1..=8 {
            quota.throttled(at(100 * step), None, LATEST);
            pauses.push(quota.pause(at(100 * step)).as_millis());
        }
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        quota.answered();
        quota.throttled(at(1000), None, LATEST);
        assert_eq!(quota.pause(at(1000)), PAUSE_FIRST);
    }

    #[test]
    fn a_pause_lasts_as_long_as_the_upstream_says_up_to_the_cap() {
        let mut quota = Quota::new(at(0));
        quota.throttled(at(1), Some(Duration::from_secs(3)), LATEST);
        assert_eq!(quota.pause(at(1)), Duration::from_secs(3));
        quota.throttled(at(1), Some(Duration::from_secs(3600)), LATEST);
        assert_eq!(quota.pause(at(1)), PAUSE_MAX);
        assert_eq!(quota.pause(at(11)), Duration::ZERO);
    }

    #[test]
    fn answers_to_what_was_in_flight_do_not_lengthen_the_pause() {
        let mut quota = Quota::new(at(1));
        for _ in 0..64 {
            quota.throttled(at(1), None, LATEST);
        }
        assert_eq!(quota.pause(at(1)), PAUSE_FIRST);
    }

    #[test]
    fn a_hundred_failing_calls_are_at_most_a_hundred_and_twenty_attempts() {
        let mut quota = Quota::new(at(0));
        let attempts: u32 = (0..100)
            .map(|_| {
                quota.called(at(0));
                1 + u32::from(quota.take_retry(at(0))) + u32::from(quota.take_retry(at(0)))
            })
            .sum();
        assert_eq!(attempts, 115);
    }

    #[test]
    fn an_idle_upstream_earns_a_retry_every_ten_seconds_up_to_ten() {
        let mut quota = Quota::new(at(0));
        while quota.take_retry(at(0)) {}
        assert!(!quota.take_retry(at(9)));
        assert!(quota.take_retry(at(10)));
        let saved = (0..100).filter(|_| quota.take_retry(at(100_000))).count();
        assert_eq!(saved, 10);
    }

    #[test]
    fn jitter_keeps_between_half_and_whole() {
        let second = Duration::from_secs(1);
        assert_eq!([spread(second, 0), spread(second, 1000)], [second / 2, second]);
    }

    /// Time as tokio's tests see it: it passes when all sleep.
    #[derive(Debug)]
    struct Paused(tokio::time::Instant);

    impl Clock for Paused {
        fn now(&self) -> Moment {
            at(1) + self.0.elapsed()
        }

        fn wall(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
    }

    fn governor(in_flight: usize, queued: usize) -> Governor {
        Governor::new(Limits { in_flight, queued }, Arc::new(Paused(tokio::time::Instant::now())))
    }

    fn within(governor: &Governor, millis: u64) -> Deadline {
        Deadline::after(governor.clock.now(), Duration::from_millis(millis))
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_let_in_than_there_are_places_and_a_place_given_back_lets_the_next_in() {
        let governor = governor(1, 8);
        let deadline = within(&governor, 1000);
        let first = governor.admit(Priority::Call, deadline).await.unwrap();
        let next = governor.admit(Priority::Call, deadline);
        let leave = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(first);
        };
        let (next, ()) = tokio::join!(next, leave);
        assert_eq!(governor.clock.now(), at(1) + Duration::from_millis(300));
        drop(next.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_a_place_ends_with_the_deadline() {
        let governor = governor(1, 8);
        let _first = governor.admit(Priority::Call, within(&governor, 1000)).await.unwrap();
        let fault = governor.admit(Priority::Call, within(&governor, 50)).await.unwrap_err();
        assert_eq!((fault, governor.clock.now()), (Fault::proxy(Kind::Overloaded), at(1) + Duration::from_millis(50)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_the_queue_full_is_shed_at_once() {
        let governor = governor(1, 1);
        let _first = governor.admit(Priority::Call, within(&governor, 1000)).await.unwrap();
        let waiting = governor.admit(Priority::Call, within(&governor, 1000));
        let shed = async {
            (governor.admit(Priority::Call, within(&governor, 1000)).await.unwrap_err(), governor.clock.now())
        };
        let (waiting, shed) = tokio::join!(waiting, shed);
        assert_eq!(shed, (Fault::proxy(Kind::Overloaded), at(1)));
        assert_eq!(waiting.unwrap_err(), Fault::proxy(Kind::Overloaded));
        assert_eq!(governor.queued.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_beyond_the_deadline_fails_fast_and_a_shorter_one_is_waited_out() {
        let governor = governor(4, 8);
        let pause = Duration::from_millis(500);
        governor.throttled(Some(pause));
        let fault = governor.admit(Priority::Call, within(&governor, 400)).await.unwrap_err();
        assert_eq!((fault, governor.clock.now()), (Fault::kms(Kind::Throttled(Some(pause))), at(1)));
        drop(governor.admit(Priority::Call, within(&governor, 2000)).await.unwrap());
        assert!(governor.clock.now().since(at(1)) >= pause);
    }

    #[tokio::test]
    async fn a_probe_waits_for_neither_the_queue_nor_a_pause() {
        let clock: Arc<dyn Clock> = Arc::new(Manual::at("2026-01-02T03:04:05Z".parse().unwrap()));
        let governor = Governor::new(Limits { in_flight: 1, queued: 0 }, Arc::clone(&clock));
        let deadline = Deadline::after(clock.now(), Duration::from_secs(1));
        let _busy = governor.admit(Priority::Call, deadline).await.unwrap();
        governor.throttled(Some(Duration::from_secs(60)));
        assert!(governor.admit(Priority::Call, deadline).await.is_err());
        assert!(governor.admit(Priority::Probe, deadline).await.is_ok());
    }
}
