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

/// The guard of one upstream's quota. Every attempt, retries included, needs a [`Pass`].
#[derive(Debug)]
pub struct Governor {
    limits: Limits,
    clock: Arc<dyn Clock>,
    places: Semaphore,
    queued: AtomicUsize,
    quota: Mutex<Quota>,
}

impl Governor {
    /// A governor with an open window and a full retry budget.
    #[must_use]
    pub fn new(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let quota = Mutex::new(Quota::new(clock.now()));
        Self { limits, places: Semaphore::new(limits.in_flight.max(1)), queued: AtomicUsize::new(0), quota, clock }
    }

    /// Waits for a place in the window, through a pause if it ends in time. Dropping the future gives the wait up.
    ///
    /// # Errors
    /// [`Kind::Throttled`] at once where a pause outlasts `deadline`; [`Kind::Overloaded`] where too many wait
    /// already, or no place was free before `deadline`.
    pub async fn admit(&self, deadline: Deadline) -> Result<Pass<'_>, Fault> {
        if self.pause() == Duration::ZERO
            && let Ok(place) = self.places.try_acquire()
        {
            return Ok(Pass { _place: place });
        }
        let _waiting = self.queue_up()?;
        loop {
            self.wait_out_pause(deadline).await?;
            let place = self.next_place(deadline).await?;
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
    /// each further such answer. Answers to what was in flight before the pause do not lengthen it.
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

    async fn next_place(&self, deadline: Deadline) -> Result<SemaphorePermit<'_>, Fault> {
        let left = deadline.remaining(self.clock.now());
        match tokio::time::timeout(left, self.places.acquire()).await {
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
