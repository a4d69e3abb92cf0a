//! How fast one upstream is asked: a token bucket, a count of the last second, and a limit that learns.

use std::collections::VecDeque;
use std::time::Duration;

use super::Quota;
use crate::clock::Moment;

/// The pace, without waiting: the part that decides.
///
/// Two things stand before a call. The *bucket* spreads calls evenly: it fills nearly at the limit and holds a twentieth of a
/// second, so that a late wake-up costs nothing. The *count* keeps the promise: a call counts from when it is sent until a
/// second after its end, and no more than the limit count at any time. The KMS decides somewhere in between, so however it
/// cuts its seconds, none of them sees more than the limit; what is gone is the time of a call in each second. A part of
/// the count is for probes alone. The bucket gains a little less than the count lets through, and nothing while the count
/// holds calls up: a burst would come again as a gap in every second after.
///
/// The limit is the quota, where there is one. Each time the KMS says "too many" to a call that was sent after the last
/// such time, it falls to 95 % of what was granted in the last second (by 5 % at least, by half at most); with each
/// answer it rises again, by a hundredth in a second of full use, and faster when nothing was throttled for a while.
/// Without a quota there is no limit until the KMS says "too many".
#[derive(Debug)]
pub(super) struct Pace {
    quota: Option<f64>,
    limit: Option<f64>,
    /// What a second of full use adds to the limit.
    step: f64,
    cut: Moment,
    tokens: f64,
    filled: Moment,
    flying: u32,
    /// Calls that ended in the last second, the oldest first.
    ended: VecDeque<Ended>,
    ended_calls: u32,
    ended_throttled: u32,
}

/// Calls that ended together.
#[derive(Clone, Copy, Debug)]
struct Ended {
    first: Moment,
    last: Moment,
    calls: u32,
    throttled: u32,
}

/// Of what a call partakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// All but the reserve.
    Common,
    /// Everything. Spread like all else, but by those that come after.
    Whole,
}

/// When one more call may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    At(Moment),
    /// Not before a call in flight has ended.
    Unknown,
}

impl Pace {
    pub(super) fn new(quota: Option<Quota>, now: Moment) -> Self {
        let limit = quota.map(|quota| f64::from(quota.calls().max(1)));
        Self {
            quota: limit,
            limit,
            step: 0.0,
            cut: Moment::BOOT,
            tokens: limit.map_or(0.0, depth),
            filled: now,
            flying: 0,
            ended: VecDeque::new(),
            ended_calls: 0,
            ended_throttled: 0,
        }
    }

    /// The calls per second that are allowed now; none where no limit is known.
    pub(super) const fn limit(&self) -> Option<f64> {
        self.limit
    }

    /// When one more may go, if nobody goes before.
    pub(super) fn turn(&mut self, part: Part, now: Moment) -> Turn {
        self.pass_time(now);
        let Some(limit) = self.limit else { return Turn::Now };
        let (counted, most) = (self.flying + self.ended_calls, places(limit, part));
        if counted >= most {
            // Who waits for the count gathers nothing to make up for it with: a burst now would be a gap in a second.
            self.tokens = self.tokens.min(1.0);
        }
        let counted_until = if counted < most { Some(now) } else { self.uncounted(counted - most + 1) };
        let Some(counted_until) = counted_until else { return Turn::Unknown };
        let lacking = if part == Part::Whole { 0.0 } else { 1.0 - self.tokens };
        let filled = if lacking > EPSILON { now + seconds(lacking / (limit * SPREAD)) } else { now };
        match counted_until.max(filled) {
            at if at > now => Turn::At(at),
            _ => Turn::Now,
        }
    }

    /// About how long one more waits, if `before` others of its kind go before it and a call takes `time`.
    pub(super) fn wait(&mut self, part: Part, before: usize, time: Duration, now: Moment) -> Duration {
        let first = match self.turn(part, now) {
            Turn::Now => Duration::ZERO,
            Turn::At(at) => at.since(now),
            Turn::Unknown => time,
        };
        let Some(limit) = self.limit else { return first };
        let at_once = (self.tokens - 1.0).max(0.0);
        let each = (1.0 + time.as_secs_f64()) / f64::from(places(limit, part));
        first + seconds((real(before) - at_once).max(0.0) * each)
    }

    /// One goes.
    pub(super) fn sent(&mut self, now: Moment) {
        self.pass_time(now);
        self.flying += 1;
        if let Some(limit) = self.limit {
            self.tokens = (self.tokens - 1.0).max(-depth(limit));
        }
    }

    /// One that went has been answered.
    pub(super) fn answered(&mut self, now: Moment) {
        self.ended(now, 0);
        let Some(limit) = self.limit else { return };
        let step = if now.since(self.cut) < QUIET { self.step } else { limit * STEP_QUIET };
        let raised = limit + step / limit;
        self.limit = match self.quota {
            Some(quota) => Some(raised.min(quota)),
            None => Some(raised).filter(|&raised| raised < BOUNDLESS),
        };
    }

    /// One that went at `sent` has been told "too many".
    pub(super) fn throttled(&mut self, sent: Moment, now: Moment) {
        self.ended(now, 1);
        // What was in flight then says nothing new.
        if sent <= self.cut {
            return;
        }
        let granted = DECREASE * f64::from(self.ended_calls - self.ended_throttled);
        let lowered = match self.limit {
            Some(limit) => granted.clamp(limit * DECREASE_MOST, limit * DECREASE),
            // How much was granted to few calls is no sign of how many would be.
            None => granted.max(FIRST_LEAST),
        };
        let least = f64::from(Quota::LEAST.calls()).min(self.quota.unwrap_or(f64::MAX));
        let limit = lowered.max(least);
        self.limit = Some(limit);
        self.step = (limit * STEP).max(STEP_LEAST);
        self.tokens = self.tokens.min(depth(limit));
        self.cut = now;
    }

    /// One that went has ended, and nobody knows whether it was granted.
    pub(super) fn lost(&mut self, now: Moment) {
        self.ended(now, 0);
    }

    fn ended(&mut self, now: Moment, throttled: u32) {
        self.pass_time(now);
        // Who looked at the clock first may come second.
        let now = self.filled;
        self.flying = self.flying.saturating_sub(1);
        self.ended_calls += 1;
        self.ended_throttled += throttled;
        match self.ended.back_mut() {
            Some(ended) if now.since(ended.first) < TOGETHER => {
                (ended.last, ended.calls, ended.throttled) = (now, ended.calls + 1, ended.throttled + throttled);
            }
            _ => self.ended.push_back(Ended { first: now, last: now, calls: 1, throttled }),
        }
    }

    fn pass_time(&mut self, now: Moment) {
        if let Some(limit) = self.limit {
            let gained = now.since(self.filled).as_secs_f64() * limit * SPREAD;
            self.tokens = (self.tokens + gained).min(depth(limit));
        }
        self.filled = self.filled.max(now);
        while let Some(ended) = self.ended.front().copied().filter(|ended| now.since(ended.last) >= SECOND) {
            self.ended.pop_front();
            self.ended_calls -= ended.calls;
            self.ended_throttled -= ended.throttled;
        }
    }

    /// When `calls` of those that count will not count any more.
    fn uncounted(&self, calls: u32) -> Option<Moment> {
        let mut sum = 0;
        let last = self.ended.iter().find(|ended| {
            sum += ended.calls;
            sum >= calls
        });
        last.map(|ended| ended.last + SECOND)
    }
}

/// How many calls may count at a time.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a limit is from 5 to 2^32")]
fn places(limit: f64, part: Part) -> u32 {
    let whole = limit as u32;
    match part {
        Part::Whole => whole,
        Part::Common => whole.saturating_sub(RESERVE_LEAST + whole / RESERVE_PART).max(1),
    }
}

/// What the bucket holds.
fn depth(limit: f64) -> f64 {
    (limit * DEPTH).max(1.0)
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "queues are shorter than 2^52")]
const fn real(number: usize) -> f64 {
    number as f64
}

const SECOND: Duration = Duration::from_secs(1);
/// Ends this close to each other are remembered as one, the last: a thousand of them at most.
const TOGETHER: Duration = Duration::from_millis(1);
/// Of the limit, what the bucket gains in a second: about what the count lets through where a call takes some 30 ms.
const SPREAD: f64 = 0.96;
/// Seconds of the limit.
const DEPTH: f64 = 0.05;
/// One place and a hundredth of all are for probes.
const RESERVE_LEAST: u32 = 1;
const RESERVE_PART: u32 = 100;
const DECREASE: f64 = 0.95;
const DECREASE_MOST: f64 = 0.5;
/// What a first limit is at least, where there was none: ten calls that were granted say little of a quota.
const FIRST_LEAST: f64 = 50.0;
const STEP: f64 = 0.01;
const STEP_LEAST: f64 = 0.5;
/// With this long without throttling, the limit is far from the quota: it rises by half in a second of full use.
const QUIET: Duration = Duration::from_secs(20);
const STEP_QUIET: f64 = 0.5;
/// A limit without a quota that has risen to this is none.
const BOUNDLESS: f64 = 100_000.0;
/// Of a token: rounding.
const EPSILON: f64 = 1e-6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::BOOT + Duration::from_millis(10_000 + millis)
    }

    fn pace(quota: u32) -> Pace {
        Pace::new(Some(Quota::per_second(quota)), at(0))
    }

    /// How many go within `millis`, if each goes as soon as it may and takes `latency`; looked at each millisecond.
    fn sent(pace: &mut Pace, part: Part, millis: std::ops::Range<u64>, latency: u64) -> Vec<u64> {
        let mut all = Vec::new();
        for now in millis {
            for _ in all.iter().filter(|&&sent| sent + latency == now) {
                pace.answered(at(now));
            }
            while pace.turn(part, at(now)) == Turn::Now {
                pace.sent(at(now));
                all.push(now);
            }
        }
        all
    }

    #[test]
    fn a_quota_is_used_up_but_for_the_reserve_and_the_time_of_a_call_and_evenly() {
        let all = sent(&mut pace(100), Part::Common, 0..10_200, 20);
        // 98 in 1.02 seconds.
        assert_eq!(all.len(), 980);
        let busiest = (0..10_100).map(|from| all.iter().filter(|&&at| (from..from + 100).contains(&at)).count()).max();
        assert_eq!(busiest, Some(14), "nearly a tenth of the quota and what the bucket holds");
    }

    #[test]
    fn what_went_at_once_in_the_beginning_leaves_one_gap_and_not_one_in_every_second() {
        let all = sent(&mut pace(1000), Part::Common, 0..5_000, 20);
        let gap = |from: u64| {
            let since = all.iter().filter(|&&at| at >= from);
            since.clone().zip(since.skip(1)).map(|(one, next)| next - one).max().unwrap()
        };
        assert_eq!([0, 1_100, 2_100].map(gap), [41, 2, 2], "milliseconds, and it would be 81 each time");
    }

    #[test]
    fn the_reserve_is_there_for_probes_when_all_else_is_used_up_and_no_more_than_the_quota_is() {
        let mut pace = pace(100);
        let common = sent(&mut pace, Part::Common, 0..999, 2000);
        let reserve = sent(&mut pace, Part::Whole, 999..1000, 2000);
        assert_eq!((common.len(), reserve.len()), (98, 2));
        assert_eq!(pace.turn(Part::Whole, at(1000)), Turn::Unknown);
        pace.answered(at(2000));
        assert_eq!(
            [Part::Common, Part::Whole].map(|part| pace.turn(part, at(2500))),
            [Turn::Unknown, Turn::At(at(3000))]
        );
    }

    #[test]
    fn the_wait_is_told_by_the_place_in_the_queue() {
        let mut pace = pace(100);
        let time = Duration::from_millis(20);
        assert_eq!(pace.wait(Part::Common, 4, time, at(0)), Duration::ZERO);
        let wait = pace.wait(Part::Common, 984, time, at(0)).as_millis();
        assert_eq!(wait, 10_200, "ten times 98 in 1.02 seconds, behind the four at once");
        assert_eq!(Pace::new(None, at(0)).wait(Part::Common, 1000, time, at(0)), Duration::ZERO);
    }

    #[test]
    fn throttled_calls_lower_the_limit_to_what_was_granted_and_those_in_flight_with_them_do_not_again() {
        let mut pace = Pace::new(None, at(0));
        for _ in 0..164 {
            pace.sent(at(1));
        }
        (0..100).for_each(|_| pace.answered(at(21)));
        (0..64).for_each(|_| pace.throttled(at(1), at(41)));
        assert_eq!(pace.limit(), Some(95.0));
        pace.sent(at(42));
        pace.throttled(at(42), at(62));
        assert_eq!(pace.limit(), Some(90.25), "a twentieth less, for it was sent after");
        pace.sent(at(1100));
        pace.throttled(at(1100), at(1120));
        assert_eq!(pace.limit(), Some(45.125), "half at most, however little was granted");
    }

    #[test]
    fn a_limit_rises_with_use_alone_by_a_hundredth_a_second_and_faster_after_a_quiet_while_and_ends_at_the_quota() {
        let mut pace = pace(200);
        (0..90).for_each(|_| pace.sent(at(1)));
        (0..89).for_each(|_| pace.answered(at(2)));
        pace.throttled(at(1), at(2));
        assert_eq!(pace.limit(), Some(100.0));
        assert_eq!(pace.turn(Part::Common, at(15_000)), Turn::Now);
        assert_eq!(pace.limit(), Some(100.0), "time alone changes nothing");
        let limit = |pace: &mut Pace, answers: u32, now: u64| {
            for _ in 0..answers {
                pace.sent(at(now));
                pace.answered(at(now));
            }
            pace.limit().unwrap().round()
        };
        assert_eq!(limit(&mut pace, 100, 15_000), 101.0);
        assert_eq!(limit(&mut pace, 101, 25_000), 151.0);
        assert_eq!(limit(&mut pace, 10_000, 25_000), 200.0);
    }

    #[test]
    fn without_a_quota_a_limit_is_forgotten_once_it_has_risen_out_of_sight() {
        let mut pace = Pace::new(None, at(0));
        pace.sent(at(1));
        pace.throttled(at(1), at(2));
        assert_eq!(pace.limit(), Some(FIRST_LEAST));
        for _ in 0..1_000_000 {
            pace.sent(at(30_000));
            pace.answered(at(30_000));
        }
        assert_eq!(pace.limit(), None);
        assert!(pace.ended.len() <= 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However long calls take and wherever in its flight the KMS counts each.
        #[test]
        fn no_second_of_the_kms_sees_more_than_the_quota(
            quota in 5..60_u32,
            latencies in prop::collection::vec((0..700_u64, 0..=100_u64), 1..50),
            probes in 1..20_usize,
        ) {
            let mut pace = pace(quota);
            let (mut flying, mut counted) = (Vec::new(), Vec::new());
            for now in 0..5_000_u64 {
                flying.retain(|&end| {
                    if end == now {
                        pace.answered(at(now));
                    }
                    end != now
                });
                for part in [Part::Whole, Part::Common] {
                    let mut most = if part == Part::Whole && now % 97 == 0 { probes } else { 0 };
                    while pace.turn(part, at(now)) == Turn::Now && (part == Part::Common || most > 0) {
                        most = most.saturating_sub(1);
                        pace.sent(at(now));
                        let (latency, share) = latencies[counted.len() % latencies.len()];
                        flying.push(now + latency + 1);
                        counted.push(now + (latency + 1) * share / 100);
                    }
                }
            }
            counted.sort_unstable();
            let most = usize::try_from(quota).unwrap();
            let crowded = counted.windows(most + 1).find(|calls| calls[most] - calls[0] < 1000);
            prop_assert_eq!(crowded, None);
            prop_assert!(counted.len() > 2 * most, "{}", counted.len());
        }
    }
}
