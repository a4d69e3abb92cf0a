//! Keeps what one upstream is asked within what it grants: a window of calls in flight, a pause when it says "too
//! many", and a budget for retries, so that its bad minute never becomes a storm; and shares that out fairly.

use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::chance;
use crate::clock::{Clock, Deadline, Moment};
use crate::fault::{Fault, Kind};

mod budgets;
mod lanes;

use budgets::Budgets;
use lanes::{Lanes, Shed, Ticket};

/// How much one upstream is asked at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls in flight, at least 1.
    pub in_flight: usize,
    /// Calls that wait for one of those places, or for the end of a pause; more are shed. While all these seats are
    /// taken, a lane with less than its even part of them may still come: the last of the longest lane goes for it.
    pub queued: usize,
}

/// On whose account something is asked, and so in which lane it waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Priority<L> {
    /// For a caller, or several that share: waits its turn in their lane, and the lanes take turns.
    Call(L),
    /// For ourselves, and nobody is waiting for it: goes when no call waits.
    Upkeep,
    /// Has places of its own, and goes out during a pause as well: a few calls a second at most.
    Probe,
}

/// The guard of one upstream's pauses. Every attempt, retries included, needs a [`Pass`].
///
/// Fair between lanes, whatever names them: a free place goes to the lane with the fewest calls in flight, and among
/// equals to the one that waits longest. A lane that is alone may fill the window. One that has nothing in
/// flight waits for one place to become free, and for one more for each other such lane that waits before it, however
/// many calls wait in other lanes; so for `timeout` at the very most, where every call in flight hangs, and on average
/// for a call's time divided by the window. What the upstream says of its quota, it says to all: a pause is for all.
#[derive(Debug)]
pub struct Governor<L> {
    clock: Arc<dyn Clock>,
    places: Lanes<L>,
    /// For probes alone: leases live by them, so neither a queue nor a pause may stand before one.
    reserved: Semaphore,
    pauses: Mutex<Pauses>,
    budgets: Mutex<Budgets<Priority<L>>>,
}

impl<L: Clone + Eq + Hash> Governor<L> {
    /// A governor with an open window and a full retry budget.
    #[must_use]
    pub fn new(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            places: Lanes::new(limits.in_flight.max(1), limits.queued),
            reserved: Semaphore::new(RESERVED),
            pauses: Mutex::new(Pauses::new()),
            budgets: Mutex::new(Budgets::new()),
        }
    }

    /// Waits for a place in the window, through a pause if it ends in time. Dropping the future gives the wait up.
    ///
    /// # Errors
    /// [`Kind::Throttled`] at once where a pause outlasts `deadline`; [`Kind::Overloaded`] where too many wait
    /// already, or in this lane more than its part while others come, or no place was free before `deadline`.
    pub async fn admit<'a>(&'a self, priority: &'a Priority<L>, deadline: Deadline) -> Result<Pass<'a, L>, Fault> {
        if *priority == Priority::Probe {
            return Ok(Pass(Place::Reserved(self.reserved_place(deadline).await?)));
        }
        let open = self.pause() == Duration::ZERO;
        let ticket = self.places.enter(priority, open).ok_or(Fault::proxy(Kind::Overloaded))?;
        loop {
            self.wait_out_pause(&ticket, deadline).await?;
            self.wait_in_line(&ticket, deadline).await?;
            if self.pause() == Duration::ZERO {
                return Ok(Pass(Place::Shared(ticket)));
            }
        }
    }

    /// Counts a call (not its retries) towards the retry budget of its lane.
    pub fn called(&self, priority: &Priority<L>) {
        let now = self.clock.now();
        self.budgets().called(priority, now);
    }

    /// Takes one retry from the budget of the lane: about one for each ten calls, and a few to begin with. `false`
    /// where it is spent: the failure goes to the caller. Lanes do not share, so an ill upstream sees a tenth more
    /// than it is asked, and five to ten further attempts for each lane.
    #[must_use]
    pub fn may_retry(&self, priority: &Priority<L>) -> bool {
        let now = self.clock.now();
        self.budgets().take_retry(priority, now)
    }

    /// The upstream said "too many": nobody asks for `after`, or where it named no time for one that doubles with
    /// each further such answer. Answers to what was in flight when a pause began
    /// do not lengthen it, unless they name a later time.
    pub fn throttled(&self, after: Option<Duration>) {
        let now = self.clock.now();
        self.pauses().throttled(now, after, random());
    }

    /// The upstream answered: the next pause starts small again.
    pub fn answered(&self) {
        self.pauses().answered();
    }

    /// What is left of a pause; zero where there is none.
    #[must_use]
    pub fn pause(&self) -> Duration {
        let now = self.clock.now();
        self.pauses().pause(now)
    }

    async fn wait_out_pause(&self, ticket: &Ticket<'_, L>, deadline: Deadline) -> Result<(), Fault> {
        loop {
            let pause = self.pause();
            if pause == Duration::ZERO {
                return Ok(());
            }
            ticket.stand_aside();
            if pause >= deadline.remaining(self.clock.now()) {
                return Err(Fault::kms(Kind::Throttled(Some(pause))));
            }
            if let Ok(Err(Shed)) = tokio::time::timeout(pause, ticket.called()).await {
                return Err(Fault::proxy(Kind::Overloaded));
            }
        }
    }

    async fn wait_in_line(&self, ticket: &Ticket<'_, L>, deadline: Deadline) -> Result<(), Fault> {
        ticket.line_up();
        let left = deadline.remaining(self.clock.now());
        match tokio::time::timeout(left, ticket.called()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Shed)) | Err(_) => Err(Fault::proxy(Kind::Overloaded)),
        }
    }

    async fn reserved_place(&self, deadline: Deadline) -> Result<SemaphorePermit<'_>, Fault> {
        let left = deadline.remaining(self.clock.now());
        match tokio::time::timeout(left, self.reserved.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(Fault::proxy(Kind::Overloaded)),
        }
    }

    fn pauses(&self) -> MutexGuard<'_, Pauses> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets<Priority<L>>> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the window, free again when dropped.
#[derive(Debug)]
pub struct Pass<'a, L: Clone + Eq + Hash>(#[allow(dead_code, reason = "it is there to be dropped")] Place<'a, L>);

#[derive(Debug)]
#[allow(dead_code, reason = "they are there to be dropped")]
enum Place<'a, L: Clone + Eq + Hash> {
    Reserved(SemaphorePermit<'a>),
    Shared(Ticket<'a, L>),
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

/// Pauses, without waiting: the part that decides.
#[derive(Debug)]
struct Pauses {
    until: Moment,
    throttles: u32,
}

impl Pauses {
    const fn new() -> Self {
        Self { until: Moment::BOOT, throttles: 0 }
    }

    const fn pause(&self, now: Moment) -> Duration {
        self.until.since(now)
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
        self.until = self.until.max(now + pause);
    }

    const fn answered(&mut self) {
        self.throttles = 0;
    }
}

fn spread(span: Duration, random: u64) -> Duration {
    let half = span / 2;
    let thousandths = u32::try_from(random % 1001).unwrap_or(0);
    half + half * thousandths / 1000
}

fn random() -> u64 {
    chance::number()
}

const PAUSE_MIN: Duration = Duration::from_millis(1);
/// Alibaba Cloud counts its quota by the second, so a first pause of a part of one often suffices.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Places for probes.
const RESERVED: usize = 4;

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;
    use crate::clock::Manual;

    fn at(seconds: u64) -> Moment {
        Moment::BOOT + Duration::from_secs(seconds)
    }

    const CALL: Priority<u32> = Priority::Call(0);

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

    fn governor(in_flight: usize, queued: usize) -> Governor<u32> {
        Governor::new(Limits { in_flight, queued }, Arc::new(Paused(tokio::time::Instant::now())))
    }

    fn within(governor: &Governor<u32>, millis: u64) -> Deadline {
        Deadline::after(governor.clock.now(), Duration::from_millis(millis))
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_let_in_than_there_are_places_and_a_place_given_back_lets_the_next_in() {
        let governor = governor(1, 8);
        let deadline = within(&governor, 1000);
        let first = governor.admit(&CALL, deadline).await.unwrap();
        let next = governor.admit(&CALL, deadline);
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
        let _first = governor.admit(&CALL, within(&governor, 1000)).await.unwrap();
        let fault = governor.admit(&CALL, within(&governor, 50)).await.unwrap_err();
        assert_eq!((fault, governor.clock.now()), (Fault::proxy(Kind::Overloaded), at(1) + Duration::from_millis(50)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_the_queue_full_is_shed_at_once() {
        let governor = governor(1, 1);
        let _first = governor.admit(&CALL, within(&governor, 1000)).await.unwrap();
        let waiting = governor.admit(&CALL, within(&governor, 1000));
        let shed = async { (governor.admit(&CALL, within(&governor, 1000)).await.unwrap_err(), governor.clock.now()) };
        let (waiting, shed) = tokio::join!(waiting, shed);
        assert_eq!(shed, (Fault::proxy(Kind::Overloaded), at(1)));
        assert_eq!(waiting.unwrap_err(), Fault::proxy(Kind::Overloaded));
        assert_eq!(governor.places.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_beyond_the_deadline_fails_fast_and_a_shorter_one_is_waited_out() {
        let governor = governor(4, 8);
        let pause = Duration::from_millis(500);
        governor.throttled(Some(pause));
        let fault = governor.admit(&CALL, within(&governor, 400)).await.unwrap_err();
        assert_eq!((fault, governor.clock.now()), (Fault::kms(Kind::Throttled(Some(pause))), at(1)));
        drop(governor.admit(&CALL, within(&governor, 2000)).await.unwrap());
        assert!(governor.clock.now().since(at(1)) >= pause);
    }

    #[tokio::test]
    async fn a_probe_waits_for_neither_the_queue_nor_a_pause() {
        let clock: Arc<dyn Clock> = Arc::new(Manual::at("2026-01-02T03:04:05Z".parse().unwrap()));
        let governor = Governor::new(Limits { in_flight: 1, queued: 0 }, Arc::clone(&clock));
        let deadline = Deadline::after(clock.now(), Duration::from_secs(1));
        let _busy = governor.admit(&CALL, deadline).await.unwrap();
        governor.throttled(Some(Duration::from_secs(60)));
        assert!(governor.admit(&CALL, deadline).await.is_err());
        assert!(governor.admit(&Priority::Probe, deadline).await.is_ok());
    }

    /// Who was admitted, in that order; each call takes 20 ms.
    type Order = Arc<Mutex<Vec<Priority<u32>>>>;

    fn ask(governor: &Arc<Governor<u32>>, order: &Order, lane: Priority<u32>) -> JoinHandle<Result<(), Fault>> {
        let (governor, order) = (Arc::clone(governor), Arc::clone(order));
        tokio::spawn(async move {
            let pass = governor.admit(&lane, within(&governor, 100_000)).await?;
            order.lock().unwrap().push(lane.clone());
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(pass);
            Ok(())
        })
    }

    async fn all(calls: Vec<JoinHandle<Result<(), Fault>>>) -> Vec<Result<(), Fault>> {
        let mut ended = Vec::new();
        for call in calls {
            ended.push(call.await.unwrap());
        }
        ended
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_behind_a_flood_of_another_lane_has_the_next_place_that_is_freed() {
        let (governor, order) = (Arc::new(governor(4, 16_384)), Order::default());
        let flood = (0..10_000).map(|_| ask(&governor, &order, CALL)).collect();
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(governor.places.waiting(), 10_000 - 8);
        let other = Priority::Call(1);
        ask(&governor, &order, other.clone()).await.unwrap().unwrap();
        assert_eq!(order.lock().unwrap().iter().position(|lane| *lane == other), Some(8));
        assert!(all(flood).await.iter().all(Result::is_ok));
        assert_eq!(governor.places.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_sheds_from_the_flood_while_another_lane_is_let_in() {
        let (governor, order) = (Arc::new(governor(1, 10)), Order::default());
        let flood = (0..15).map(|_| ask(&governor, &order, CALL)).collect();
        tokio::task::yield_now().await;
        let others = (0..5).map(|_| ask(&governor, &order, Priority::Call(1))).collect();
        assert_eq!(all(others).await, vec![Ok(()); 5]);
        let shed = all(flood).await.into_iter().filter(|it| *it == Err(Fault::proxy(Kind::Overloaded))).count();
        assert_eq!(shed, 9);
        assert_eq!(governor.clock.now(), at(1) + 11 * Duration::from_millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_out_a_pause_can_be_shed_for_another_lane_and_is_told_at_once() {
        let governor = governor(1, 2);
        governor.throttled(Some(Duration::from_secs(1)));
        let wait = async |lane: &Priority<u32>| {
            let outcome = governor.admit(lane, within(&governor, 5000)).await.map(drop);
            (outcome, governor.clock.now() >= at(2))
        };
        let other = Priority::Call(1);
        let (first, second, third) = tokio::join!(wait(&CALL), wait(&CALL), wait(&other));
        assert_eq!([first, third], [(Ok(()), true), (Ok(()), true)]);
        assert_eq!(second, (Err(Fault::proxy(Kind::Overloaded)), false));
    }

    #[tokio::test(start_paused = true)]
    async fn probes_and_pauses_know_no_lanes() {
        let (governor, order) = (Arc::new(governor(1, 100)), Order::default());
        let flood = (0..50).map(|_| ask(&governor, &order, CALL)).collect();
        tokio::task::yield_now().await;
        drop(governor.admit(&Priority::Probe, within(&governor, 1)).await.unwrap());
        assert_eq!(governor.clock.now(), at(1));
        let pause = Duration::from_millis(500);
        governor.throttled(Some(pause));
        let other = governor.admit(&Priority::Call(1), within(&governor, 400)).await.map(drop);
        assert_eq!(other, Err(Fault::kms(Kind::Throttled(Some(pause)))));
        assert!(all(flood).await.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn upkeep_goes_when_no_call_waits_and_waits_no_longer_than_its_deadline() {
        let (governor, order) = (Arc::new(governor(1, 100)), Order::default());
        let flood: Vec<_> = (0..50).map(|_| ask(&governor, &order, CALL)).collect();
        tokio::task::yield_now().await;
        let hasty = governor.admit(&Priority::Upkeep, within(&governor, 200)).await.map(drop);
        assert_eq!(hasty, Err(Fault::proxy(Kind::Overloaded)));
        ask(&governor, &order, Priority::Upkeep).await.unwrap().unwrap();
        assert_eq!(order.lock().unwrap().iter().position(|lane| *lane == Priority::Upkeep), Some(50));
        all(flood).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn under_stress_no_wake_up_and_no_place_is_lost() {
        let clock: Arc<dyn Clock> = Arc::new(crate::clock::System);
        let governor = Arc::new(Governor::<u32>::new(Limits { in_flight: 3, queued: 200 }, Arc::clone(&clock)));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..40_u32 {
            let (governor, clock) = (Arc::clone(&governor), Arc::clone(&clock));
            tasks.spawn(async move {
                let lane = if number % 10 == 9 { Priority::Upkeep } else { Priority::Call(number % 5) };
                let mut admitted = 0_u32;
                for round in 0..500_u32 {
                    // Some give up while they wait, at any moment of it.
                    let patience = if (number + round) % 7 == 0 { u64::from(round % 5) * 20 } else { 60_000_000 };
                    let deadline = Deadline::after(clock.now(), Duration::from_micros(patience));
                    if let Ok(pass) = governor.admit(&lane, deadline).await {
                        admitted += 1;
                        tokio::task::yield_now().await;
                        drop(pass);
                    } else {
                        assert_ne!(patience, 60_000_000, "a place was freed and nobody told");
                    }
                    if number == 0 && round % 100 == 50 {
                        governor.throttled(Some(Duration::from_millis(2)));
                    }
                }
                admitted
            });
        }
        let admitted: u32 = tasks.join_all().await.iter().sum();
        assert!(admitted >= 40 * 500 * 5 / 7, "{admitted}");
        assert_eq!(governor.places.waiting(), 0);
        let deadline = Deadline::after(clock.now(), Duration::ZERO);
        let passes = tokio::join!(
            governor.admit(&CALL, deadline),
            governor.admit(&CALL, deadline),
            governor.admit(&CALL, deadline)
        );
        assert!(passes.0.is_ok() && passes.1.is_ok() && passes.2.is_ok());
    }
}
