//! Keeps what one upstream is asked within what it grants: a window of calls in flight, a pace within its quota, a pause
//! when it says "too many", and a budget for retries, so that its bad minute never becomes a storm; and shares that out, by
//! urgency and fairly.

use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::chance;
use crate::clock::{Clock, Deadline};
use crate::fault::{Fault, Kind};

mod budgets;
mod gate;
mod lanes;
mod pace;
mod pauses;
mod queue;
mod quota;

use budgets::Budgets;
use gate::{Gate, Ticket};
use queue::{Said, Turned, USEFUL};
pub use quota::{NotAQuota, Quota};

/// How much one upstream is asked at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls in flight, at least 1.
    pub in_flight: usize,
    /// Calls that wait for their turn; more are turned away. While all these seats are taken, a lane with less than its
    /// even part of them may still come: the last of the longest lane goes for it, and background work before calls.
    pub queued: usize,
    /// Calls in any second, where that is known.
    pub quota: Option<Quota>,
}

/// On whose account something is asked, and so in which lane it waits. The order is that of [`Class`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Priority<L> {
    /// For the leases. Has places and a part of the quota of its own, and goes out during a pause as well: a few calls a
    /// second at most.
    Probe,
    /// An Encrypt or a GenerateDataKey for a caller, or several that share: waits its turn in their lane.
    Write(L),
    /// Any other call for them.
    Call(L),
    /// For ourselves, and nobody waits for it: goes when no call waits.
    Refresh,
    /// What somebody may ask for: goes when nothing else waits.
    WarmUp,
}

/// What kind of work something is, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// As [`Priority::Probe`].
    Probe,
    /// As [`Priority::Write`].
    Write,
    /// As [`Priority::Call`].
    Call,
    /// As [`Priority::Refresh`].
    Refresh,
    /// As [`Priority::WarmUp`].
    WarmUp,
}

impl Class {
    /// Every class, in order.
    pub const ALL: [Self; 5] = [Self::Probe, Self::Write, Self::Call, Self::Refresh, Self::WarmUp];

    /// A fixed word for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Write => "write",
            Self::Call => "call",
            Self::Refresh => "refresh",
            Self::WarmUp => "warm_up",
        }
    }

    const fn is_background(self) -> bool {
        matches!(self, Self::Refresh | Self::WarmUp)
    }
}

impl<L> Priority<L> {
    /// Its class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Probe => Class::Probe,
            Self::Write(_) => Class::Write,
            Self::Call(_) => Class::Call,
            Self::Refresh => Class::Refresh,
            Self::WarmUp => Class::WarmUp,
        }
    }
}

/// What passes, what waits and what was turned away, by class in the order of [`Class::ALL`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tally {
    /// The calls per second that are allowed now; none where no limit is known.
    pub limit: Option<f64>,
    /// Those who wait.
    pub waiting: [usize; Class::ALL.len()],
    /// Attempts let through since the start.
    pub taken: [u64; Class::ALL.len()],
    /// Those turned away, or whose deadline passed while they waited, since the start.
    pub turned: [u64; Class::ALL.len()],
}

/// The guard of one upstream's quota. Every attempt, retries included, needs a [`Pass`].
///
/// The most urgent goes first; but a flood of writes leaves every fourth turn to the other calls. Only background work can
/// wait without end, and what it would have fetched is fetched when somebody asks for it. Within a class turns are fair
/// between lanes, whatever names them: the next is of the lane with the fewest calls in flight, and among equals of the one
/// that waits longest. A lane that is alone may have everything. One that has nothing in flight waits for one turn, and for
/// one more for each other such lane that waits before it, however many calls wait in other lanes; so without a quota for
/// `timeout` at the very most, where every call in flight hangs, and on average for a call's time divided by the window.
///
/// What the upstream says of its quota, it says to all: pause and pace are for all. In no second is it asked more than
/// [`Limits::quota`]; less, and without one, by what it throttles.
#[derive(Debug)]
pub struct Governor<L> {
    clock: Arc<dyn Clock>,
    gate: Gate<L>,
    budgets: Mutex<Budgets<Account<L>>>,
}

/// Whose retries are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Account<L> {
    Caller(L),
    Probes,
    Background,
}

impl<L: Clone + Eq + Hash> Governor<L> {
    /// A governor with an open window, the whole quota and a full retry budget.
    #[must_use]
    pub fn new(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let gate = Gate::new(limits, Arc::clone(&clock));
        Self { clock, gate, budgets: Mutex::new(Budgets::new()) }
    }

    /// Waits to be let through, if that can be in time. Dropping the future gives the wait up.
    ///
    /// # Errors
    /// [`Kind::Throttled`], with the time after which to come again, where by pause or quota the turn would come too late
    /// for an answer before `deadline`; [`Kind::Overloaded`] where that is by the window alone, or too many wait, or in
    /// this lane more than its part while others come. At once as far as it can be told at once, and else as soon as it
    /// can, at the latest shortly before `deadline`.
    pub async fn admit<'a>(&'a self, priority: &'a Priority<L>, deadline: Deadline) -> Result<Pass<'a, L>, Fault> {
        let ticket = self.gate.enter(priority, deadline).map_err(turned)?;
        let patience = deadline.remaining(self.clock.now()).saturating_sub(USEFUL);
        match tokio::time::timeout(patience, ticket.called()).await {
            Ok(Ok(())) => Ok(Pass(ticket)),
            Ok(Err(why)) => Err(turned(why)),
            Err(_) => Err(turned(ticket.late())),
        }
    }

    /// Counts a call (not its retries) towards the retry budget of its caller.
    pub fn called(&self, priority: &Priority<L>) {
        let now = self.clock.now();
        self.budgets().called(&account(priority), now);
    }

    /// Takes one retry from the budget of the caller: about one for each ten calls, and a few to begin with. `false`
    /// where it is spent: the failure goes to the caller. Callers do not share, so an ill upstream sees a tenth more
    /// than it is asked, and five to ten further attempts for each.
    #[must_use]
    pub fn may_retry(&self, priority: &Priority<L>) -> bool {
        let now = self.clock.now();
        self.budgets().take_retry(&account(priority), now)
    }

    /// What is left of a pause; zero where there is none.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.gate.pause()
    }

    /// How things stand.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.gate.tally()
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets<Account<L>>> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave for one attempt. Dropped without a word of what came of it, it counts as sent, and says nothing of the quota.
#[derive(Debug)]
pub struct Pass<'a, L: Clone + Eq + Hash>(Ticket<'a, L>);

impl<L: Clone + Eq + Hash> Pass<'_, L> {
    /// The upstream did what was asked.
    pub fn answered(self) {
        self.0.heard(Said::Answered);
    }

    /// The upstream said "too many": nobody asks for `after`, or where it named no time for one that doubles with each
    /// further such answer; and then fewer at a time.
    pub fn throttled(self, after: Option<Duration>) {
        self.0.heard(Said::Throttled(after));
    }
}

/// Probes that may be in flight beside [`Limits::in_flight`].
pub const PROBE_PLACES: usize = queue::RESERVED;

const fn turned(why: Turned) -> Fault {
    match why {
        Turned::Crowded => Fault::proxy(Kind::Overloaded),
        Turned::Late(after) => Fault::kms(Kind::Throttled(Some(after))),
    }
}

fn account<L: Clone>(priority: &Priority<L>) -> Account<L> {
    match priority {
        Priority::Write(caller) | Priority::Call(caller) => Account::Caller(caller.clone()),
        Priority::Probe => Account::Probes,
        Priority::Refresh | Priority::WarmUp => Account::Background,
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

fn spread(span: Duration, random: u64) -> Duration {
    let half = span / 2;
    let thousandths = u32::try_from(random % 1001).unwrap_or(0);
    half + half * thousandths / 1000
}

fn random() -> u64 {
    chance::number()
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;
    use crate::clock::{Manual, Moment};

    fn at(seconds: u64) -> Moment {
        Moment::BOOT + Duration::from_secs(seconds)
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const CALL: Priority<u32> = Priority::Call(0);
    const WRITE: Priority<u32> = Priority::Write(0);

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
        let limits = Limits { in_flight, queued, quota: None };
        Governor::new(limits, Arc::new(Paused(tokio::time::Instant::now())))
    }

    fn paced(calls: u32) -> Arc<Governor<u32>> {
        let limits = Limits { in_flight: 64, queued: 16_384, quota: Some(Quota::per_second(calls)) };
        Arc::new(Governor::new(limits, Arc::new(Paused(tokio::time::Instant::now()))))
    }

    fn within(governor: &Governor<u32>, patience: u64) -> Deadline {
        Deadline::after(governor.clock.now(), millis(patience))
    }

    async fn pause(governor: &Governor<u32>, pause: Duration) {
        let pass = governor.admit(&Priority::Probe, within(governor, 1000)).await.unwrap();
        pass.throttled(Some(pause));
    }

    fn waiting(governor: &Governor<u32>) -> usize {
        governor.tally().waiting.iter().sum()
    }

    #[tokio::test(start_paused = true)]
    async fn ten_calls_of_a_caller_earn_it_a_retry_whatever_they_are_and_nobody_else() {
        let governor = governor(1, 8);
        while governor.may_retry(&CALL) {}
        for _ in 0..9 {
            governor.called(&CALL);
            governor.called(&Priority::Call(1));
        }
        assert!(!governor.may_retry(&CALL));
        governor.called(&WRITE);
        assert_eq!([(); 2].map(|()| governor.may_retry(&CALL)), [true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_for_calls_that_count_is_told_that_it_was_the_pace() {
        let governor = paced(5);
        let mut under_way = Vec::new();
        for _ in 0..4 {
            under_way.push(governor.admit(&CALL, within(&governor, 2000)).await.unwrap());
        }
        let came = governor.clock.now();
        let refused = governor.admit(&CALL, within(&governor, 500)).await.unwrap_err();
        assert_eq!(refused, Fault::kms(Kind::Throttled(Some(millis(100)))));
        assert_eq!(governor.clock.now().since(came), millis(490));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_let_in_than_there_are_places_and_a_place_given_back_lets_the_next_in() {
        let governor = governor(1, 8);
        let deadline = within(&governor, 1000);
        let first = governor.admit(&CALL, deadline).await.unwrap();
        let next = governor.admit(&CALL, deadline);
        let leave = async {
            tokio::time::sleep(millis(300)).await;
            drop(first);
        };
        let (next, ()) = tokio::join!(next, leave);
        assert_eq!(governor.clock.now(), at(1) + millis(300));
        drop(next.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_a_place_ends_with_what_of_the_deadline_would_not_do_for_an_attempt() {
        let governor = governor(1, 8);
        let _first = governor.admit(&CALL, within(&governor, 1000)).await.unwrap();
        let fault = governor.admit(&CALL, within(&governor, 50)).await.unwrap_err();
        assert_eq!((fault, governor.clock.now()), (Fault::proxy(Kind::Overloaded), at(1) + millis(40)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_the_queue_full_is_turned_away_at_once() {
        let governor = governor(1, 1);
        let _first = governor.admit(&CALL, within(&governor, 1000)).await.unwrap();
        let second = governor.admit(&CALL, within(&governor, 1000));
        let third = async { (governor.admit(&CALL, within(&governor, 1000)).await.unwrap_err(), governor.clock.now()) };
        let (second, third) = tokio::join!(second, third);
        assert_eq!(third, (Fault::proxy(Kind::Overloaded), at(1)));
        assert_eq!(second.unwrap_err(), Fault::proxy(Kind::Overloaded));
        assert_eq!((waiting(&governor), governor.tally().turned), (0, [0, 0, 2, 0, 0]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_beyond_the_deadline_fails_fast_and_a_shorter_one_is_waited_out() {
        let governor = governor(4, 8);
        pause(&governor, millis(500)).await;
        let fault = governor.admit(&CALL, within(&governor, 400)).await.unwrap_err();
        assert_eq!((fault, governor.clock.now()), (Fault::kms(Kind::Throttled(Some(millis(500)))), at(1)));
        drop(governor.admit(&CALL, within(&governor, 2000)).await.unwrap());
        assert!(governor.clock.now().since(at(1)) >= millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_when_a_pause_begins_that_outlasts_it_is_told_at_once() {
        let governor = governor(1, 8);
        let first = governor.admit(&CALL, within(&governor, 1000)).await.unwrap();
        let wait = async |patience| {
            let outcome = governor.admit(&CALL, within(&governor, patience)).await.map(drop);
            (outcome, governor.clock.now().since(at(1)))
        };
        let throttle = async {
            tokio::time::sleep(millis(100)).await;
            first.throttled(Some(millis(2000)));
        };
        let (hasty, patient, ()) = tokio::join!(wait(1500), wait(4000), throttle);
        assert_eq!(hasty, (Err(Fault::kms(Kind::Throttled(Some(millis(2000))))), millis(100)));
        assert_eq!(patient.0, Ok(()));
    }

    #[tokio::test]
    async fn a_probe_waits_for_neither_the_queue_nor_a_pause() {
        let clock: Arc<dyn Clock> = Arc::new(Manual::at("2026-01-02T03:04:05Z".parse().unwrap()));
        let governor = Governor::new(Limits { in_flight: 1, queued: 0, quota: None }, Arc::clone(&clock));
        let deadline = Deadline::after(clock.now(), Duration::from_secs(1));
        let busy = governor.admit(&CALL, deadline).await.unwrap();
        busy.throttled(Some(Duration::from_secs(60)));
        assert!(governor.admit(&CALL, deadline).await.is_err());
        assert!(governor.admit(&Priority::Probe, deadline).await.is_ok());
    }

    /// Who was admitted, in that order; each call takes 20 ms.
    type Order = Arc<Mutex<Vec<Priority<u32>>>>;
    type Asking = JoinHandle<Result<(), Fault>>;

    fn ask(governor: &Arc<Governor<u32>>, order: &Order, lane: Priority<u32>) -> Asking {
        let (governor, order) = (Arc::clone(governor), Arc::clone(order));
        tokio::spawn(async move {
            let pass = governor.admit(&lane, within(&governor, 100_000)).await?;
            order.lock().unwrap().push(lane.clone());
            tokio::time::sleep(millis(20)).await;
            pass.answered();
            Ok(())
        })
    }

    fn crowd(governor: &Arc<Governor<u32>>, order: &Order, lane: &Priority<u32>, count: usize) -> Vec<Asking> {
        (0..count).map(|_| ask(governor, order, lane.clone())).collect()
    }

    async fn all(calls: Vec<Asking>) -> Vec<Result<(), Fault>> {
        let mut ended = Vec::new();
        for call in calls {
            ended.push(call.await.unwrap());
        }
        ended
    }

    #[tokio::test(start_paused = true)]
    async fn one_call_behind_a_flood_of_another_lane_has_the_next_place_that_is_freed() {
        let (governor, order) = (Arc::new(governor(4, 16_384)), Order::default());
        let flood = crowd(&governor, &order, &CALL, 10_000);
        tokio::time::sleep(millis(30)).await;
        assert_eq!(waiting(&governor), 10_000 - 8);
        let other = Priority::Call(1);
        ask(&governor, &order, other.clone()).await.unwrap().unwrap();
        assert_eq!(order.lock().unwrap().iter().position(|lane| *lane == other), Some(8));
        assert!(all(flood).await.iter().all(Result::is_ok));
        assert_eq!(waiting(&governor), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_turns_the_flood_away_while_another_lane_is_let_in() {
        let (governor, order) = (Arc::new(governor(1, 10)), Order::default());
        let flood = crowd(&governor, &order, &CALL, 15);
        tokio::task::yield_now().await;
        let others = crowd(&governor, &order, &Priority::Call(1), 5);
        assert_eq!(all(others).await, vec![Ok(()); 5]);
        let shed = all(flood).await.into_iter().filter(|it| *it == Err(Fault::proxy(Kind::Overloaded))).count();
        assert_eq!(shed, 9);
        assert_eq!(governor.clock.now(), at(1) + 11 * millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_out_a_pause_can_give_way_to_another_lane_and_is_told_at_once() {
        let governor = governor(1, 2);
        pause(&governor, Duration::from_secs(1)).await;
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
        let flood = crowd(&governor, &order, &CALL, 50);
        tokio::task::yield_now().await;
        drop(governor.admit(&Priority::Probe, within(&governor, 1)).await.unwrap());
        assert_eq!(governor.clock.now(), at(1));
        pause(&governor, millis(500)).await;
        let other = governor.admit(&Priority::Call(1), within(&governor, 400)).await.map(drop);
        assert_eq!(other, Err(Fault::kms(Kind::Throttled(Some(millis(500))))));
        assert!(all(flood).await.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn background_work_goes_when_no_call_waits_and_what_may_be_asked_for_after_what_is_kept() {
        let (governor, order) = (Arc::new(governor(1, 100)), Order::default());
        let flood = crowd(&governor, &order, &CALL, 50);
        tokio::task::yield_now().await;
        let hasty = governor.admit(&Priority::Refresh, within(&governor, 200)).await.map(drop);
        assert_eq!(hasty, Err(Fault::proxy(Kind::Overloaded)));
        let warm = ask(&governor, &order, Priority::WarmUp);
        ask(&governor, &order, Priority::Refresh).await.unwrap().unwrap();
        warm.await.unwrap().unwrap();
        assert_eq!(order.lock().unwrap()[50..], [Priority::Refresh, Priority::WarmUp]);
        all(flood).await;
    }

    #[tokio::test(start_paused = true)]
    async fn writes_go_first_and_leave_every_fourth_turn_to_the_other_calls() {
        let (governor, order) = (paced(100), Order::default());
        let calls = crowd(&governor, &order, &CALL, 100);
        tokio::time::sleep(millis(105)).await;
        let before = order.lock().unwrap().len();
        let writes = crowd(&governor, &order, &WRITE, 30);
        assert!(all(writes).await.iter().all(Result::is_ok));
        let since: String =
            order.lock().unwrap()[before..].iter().map(|it| if *it == WRITE { 'w' } else { 'c' }).collect();
        assert_eq!(since[..40], "cwww".repeat(10));
        assert!(all(calls).await.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_have_its_turn_in_time_is_told_at_once_after_how_long_to_come_again() {
        let (governor, order) = (paced(100), Order::default());
        let flood = crowd(&governor, &order, &CALL, 500);
        tokio::time::sleep(millis(1000)).await;
        let before = governor.clock.now();
        // Some 400 wait, which is four seconds.
        let fault = governor.admit(&CALL, within(&governor, 2000)).await.unwrap_err();
        assert_eq!(governor.clock.now(), before);
        let Kind::Throttled(Some(after)) = fault.kind() else { panic!("{fault}") };
        assert!((millis(2000)..millis(2400)).contains(after), "{after:?}");
        // As it was told.
        tokio::time::sleep(*after).await;
        assert_eq!(governor.admit(&CALL, within(&governor, 2000)).await.map(drop), Ok(()));
        // And another lane has its turn anyway.
        let before = governor.clock.now();
        assert_eq!(governor.admit(&Priority::Call(1), within(&governor, 100)).await.map(drop), Ok(()));
        assert!(governor.clock.now().since(before) <= millis(20));
        assert!(all(flood).await.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn who_could_have_made_it_until_the_pace_fell_is_told_at_once() {
        let (governor, order) = (paced(100), Order::default());
        let flood = crowd(&governor, &order, &CALL, 150);
        tokio::time::sleep(millis(1000)).await;
        let wait = async |patience| {
            let outcome = governor.admit(&CALL, within(&governor, patience)).await.map(drop);
            (
                outcome.map_err(|fault| matches!(fault.kind(), Kind::Throttled(Some(_)))),
                governor.clock.now().since(at(1)),
            )
        };
        let throttle = async {
            let pass = governor.admit(&Priority::Probe, within(&governor, 1000)).await.unwrap();
            tokio::time::sleep(millis(5)).await;
            pass.throttled(Some(millis(10)));
        };
        let (hasty, patient, ()) = tokio::join!(wait(600), wait(2000), throttle);
        assert_eq!((hasty, patient.0), ((Err(true), millis(1005)), Ok(())));
        assert!(all(flood).await.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_quota_probes_go_at_once_beside_a_flood_and_within_the_same_quota() {
        let (governor, order) = (paced(100), Order::default());
        let flood = crowd(&governor, &order, &CALL, 1000);
        for _ in 0..20 {
            tokio::time::sleep(millis(500)).await;
            let before = governor.clock.now();
            let pass = governor.admit(&Priority::Probe, within(&governor, 100)).await.unwrap();
            assert_eq!(governor.clock.now(), before);
            tokio::time::sleep(millis(20)).await;
            pass.answered();
        }
        assert!(all(flood).await.iter().all(Result::is_ok));
        // 1,020 calls at 98 in 1.02 seconds, and the reserve.
        let took = governor.clock.now().since(at(1));
        assert!((millis(10_200)..millis(10_800)).contains(&took), "{took:?}");
        assert_eq!(governor.tally().taken, [20, 0, 1000, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_keeps_the_time_may_leave_and_another_keeps_it() {
        let governor = paced(100);
        let (mut passes, mut turned) = (0, 0);
        let waiters: Vec<_> = (0..200_u64)
            .map(|number| {
                let governor = Arc::clone(&governor);
                // Most of them are dropped while they wait, each at another time.
                let patience = if number % 4 == 0 { 10_000 } else { number * 7 };
                tokio::spawn(async move {
                    let admitted = governor.admit(&CALL, within(&governor, 10_000));
                    tokio::time::timeout(millis(patience), admitted).await.map(|pass| pass.unwrap().answered())
                })
            })
            .collect();
        for waiter in waiters {
            *(if waiter.await.unwrap().is_ok() { &mut passes } else { &mut turned }) += 1;
        }
        assert!(passes >= 50 && turned > 20, "{passes} {turned}");
        assert_eq!((waiting(&governor), governor.tally().turned[2]), (0, turned));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn under_stress_no_wake_up_and_no_place_is_lost() {
        for quota in [None, Some(Quota::per_second(20_000))] {
            stress(Limits { in_flight: 3, queued: 200, quota }).await;
        }
    }

    async fn stress(limits: Limits) {
        let clock: Arc<dyn Clock> = Arc::new(crate::clock::System);
        let governor = Arc::new(Governor::<u32>::new(limits, Arc::clone(&clock)));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..40_u32 {
            let (governor, clock) = (Arc::clone(&governor), Arc::clone(&clock));
            tasks.spawn(async move {
                let lane = match number % 10 {
                    9 => Priority::Refresh,
                    8 => Priority::Write(number % 5),
                    7 => Priority::Probe,
                    _ => Priority::Call(number % 5),
                };
                let mut admitted = 0_u32;
                for round in 0..500_u32 {
                    // Some give up while they wait, at any moment of it.
                    let hasty = (number + round) % 7 == 0;
                    let deadline = Deadline::after(clock.now(), Duration::from_secs(60));
                    let patience =
                        if hasty { Duration::from_micros(u64::from(round % 5) * 20) } else { millis(60_000) };
                    match tokio::time::timeout(patience, governor.admit(&lane, deadline)).await {
                        Ok(Ok(pass)) => {
                            admitted += 1;
                            tokio::task::yield_now().await;
                            if number == 0 && round % 100 == 50 {
                                pass.throttled(Some(millis(2)));
                            } else {
                                pass.answered();
                            }
                        }
                        _ => assert!(hasty, "somebody was let in and not told"),
                    }
                }
                admitted
            });
        }
        let admitted: u32 = tasks.join_all().await.iter().sum();
        assert!(admitted >= 40 * 500 * 5 / 7, "{admitted}");
        assert_eq!(waiting(&governor), 0);
        let deadline = Deadline::after(clock.now(), Duration::from_secs(5));
        let passes = tokio::join!(
            governor.admit(&CALL, deadline),
            governor.admit(&CALL, deadline),
            governor.admit(&CALL, deadline)
        );
        assert!(passes.0.is_ok() && passes.1.is_ok() && passes.2.is_ok());
    }
}
