//! What has been used once: a bounded memory of nonces.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Moment;
use crate::fault::Kind;

/// Turns what must not come twice into 64 keyed bits, so that nobody outside can make two of them collide. Where two do by
/// chance, once in 2⁴⁶ requests beside a full memory, the second is refused, and comes again with another nonce.
#[derive(Debug, Default)]
pub(super) struct Marker(RandomState);

impl Marker {
    /// The mark of a nonce.
    pub(super) fn nonce(&self, nonce: &str) -> Mark {
        self.mark((0_u8, nonce.as_bytes()))
    }

    /// The mark of a signature, which can never be that of a nonce.
    pub(super) fn tag(&self, tag: &[u8]) -> Mark {
        self.mark((1_u8, tag))
    }

    fn mark(&self, subject: (u8, &[u8])) -> Mark {
        Mark(self.0.hash_one(subject))
    }
}

/// A keyed hash of a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Mark(u64);

/// The nonces of one access key, each kept for as long as its request could be sent again.
///
/// It holds at most `capacity` marks, and an admission costs the same few steps whatever it holds. When it is full it
/// forgets the marks of the oldest signing second and from then on refuses whatever was signed in that second or
/// before: under load the window of acceptance shrinks from 15 minutes to what fits (262,144 requests), and a replay
/// stays impossible. Only a caller whose clock is behind by more than that notices, and is told to come again.
///
/// Kept by the boot clock: setting the wall clock forward forgets nothing. Setting it back by more than the window
/// makes requests acceptable again that were forgotten on time.
#[derive(Debug)]
pub(super) struct Replays {
    seen: HashSet<Mark, BuildHasherDefault<Unhashed>>,
    seconds: BTreeMap<i64, Second>,
    floor: Option<Floor>,
    capacity: usize,
}

/// The marks of the requests signed in one second.
#[derive(Debug)]
struct Second {
    marks: Vec<Mark>,
    until: Moment,
}

/// Whatever was signed in this second or earlier is refused until then, because its marks may be gone.
#[derive(Clone, Copy, Debug)]
struct Floor {
    second: i64,
    until: Moment,
}

impl Default for Replays {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Replays {
    fn with_capacity(capacity: usize) -> Self {
        Self { seen: HashSet::default(), seconds: BTreeMap::new(), floor: None, capacity }
    }

    /// Notes `mark`, whose request was signed at `signed_at` and can be sent again for another `remaining`.
    ///
    /// # Errors
    /// [`Kind::NonceUsed`] where it is known already, [`Kind::Overloaded`] where it might have been and been forgotten.
    pub(super) fn admit(
        &mut self,
        mark: Mark,
        signed_at: Timestamp,
        remaining: Duration,
        now: Moment,
    ) -> Result<(), Kind> {
        self.forget(now);
        if self.seen.contains(&mark) {
            return Err(Kind::NonceUsed);
        }
        let second = signed_at.as_second();
        if self.floor.is_some_and(|floor| second <= floor.second) || !self.make_room(second) {
            return Err(Kind::Overloaded);
        }
        // A second more than needed: the timestamp's fraction was cut off.
        let until = now + remaining + Duration::from_secs(1);
        let signed = self.seconds.entry(second).or_insert_with(|| Second { marks: Vec::new(), until });
        signed.until = signed.until.max(until);
        signed.marks.push(mark);
        self.seen.insert(mark);
        Ok(())
    }

    /// Whether nothing that was admitted could be sent again at `now`.
    pub(super) fn is_spent(&self, now: Moment) -> bool {
        self.seconds.values().all(|second| second.until <= now) && self.floor.is_none_or(|floor| floor.until <= now)
    }

    /// Drops up to two marks that are no longer needed. Two for each that comes in is enough to keep up.
    fn forget(&mut self, now: Moment) {
        self.floor = self.floor.filter(|floor| now < floor.until);
        for _ in 0..FORGOTTEN_PER_ADMISSION {
            if let Some(second) = self.needless(now) {
                self.drop_one(second);
            }
        }
    }

    /// A second whose marks guard nothing any more. Both ends are looked at, because after a step of the wall clock
    /// the ends are where the leftovers are.
    fn needless(&self, now: Moment) -> Option<i64> {
        let ends = [self.seconds.first_key_value(), self.seconds.last_key_value()];
        let needless = |(second, signed): &(&i64, &Second)| {
            signed.until <= now || self.floor.is_some_and(|floor| **second <= floor.second)
        };
        ends.into_iter().flatten().find(needless).map(|(second, _)| *second)
    }

    /// Makes room for a request signed in `second`, at the cost of older ones; `false` where there is none older.
    fn make_room(&mut self, second: i64) -> bool {
        if self.seen.len() < self.capacity {
            return true;
        }
        let Some((&oldest, signed)) = self.seconds.first_key_value().filter(|(oldest, _)| **oldest < second) else {
            return false;
        };
        let until = self.floor.map_or(signed.until, |floor| floor.until.max(signed.until));
        self.floor = Some(Floor { second: oldest, until });
        self.drop_one(oldest);
        true
    }

    fn drop_one(&mut self, second: i64) {
        if let Some(signed) = self.seconds.get_mut(&second) {
            if let Some(mark) = signed.marks.pop() {
                self.seen.remove(&mark);
            }
            if signed.marks.is_empty() {
                self.seconds.remove(&second);
            }
        }
    }
}

/// Passes a mark through: it is a keyed hash already.
#[derive(Debug, Default)]
struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, mark: u64) {
        self.0 = mark;
    }
}

/// Marks held for one access key; about 7 MB when full.
const CAPACITY: usize = 1 << 18;
const FORGOTTEN_PER_ADMISSION: usize = 2;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(900);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn moment(second: i64) -> Moment {
        Moment::BOOT + Duration::from_secs(second.unsigned_abs())
    }

    /// Admits nonce `name`, signed at `signed` by the clock that shows `now`.
    fn admit(replays: &mut Replays, marker: &Marker, name: &str, signed: i64, now: i64) -> Result<(), Kind> {
        let remaining = WINDOW.saturating_sub(Duration::from_secs((now - signed).max(0).unsigned_abs()));
        replays.admit(marker.nonce(name), at(signed), remaining, moment(now))
    }

    #[test]
    fn a_mark_is_refused_until_its_request_is_stale_and_then_forgotten() {
        let (mut replays, marker) = (Replays::with_capacity(8), Marker::default());
        assert_eq!(admit(&mut replays, &marker, "a", 0, 0), Ok(()));
        assert_eq!(admit(&mut replays, &marker, "a", 0, 900), Err(Kind::NonceUsed));
        assert_eq!(admit(&mut replays, &marker, "b", 901, 901), Ok(()));
        assert_eq!(replays.seen.len(), 1);
    }

    #[test]
    fn a_full_memory_forgets_the_oldest_second_and_refuses_all_of_it_from_then_on() {
        let (mut replays, marker) = (Replays::with_capacity(2), Marker::default());
        assert_eq!(admit(&mut replays, &marker, "a", 0, 1), Ok(()));
        assert_eq!(admit(&mut replays, &marker, "b", 1, 1), Ok(()));
        assert_eq!(admit(&mut replays, &marker, "c", 2, 2), Ok(()));
        assert_eq!(admit(&mut replays, &marker, "a", 0, 2), Err(Kind::Overloaded));
        assert_eq!(admit(&mut replays, &marker, "never seen", 0, 2), Err(Kind::Overloaded));
        assert_eq!(admit(&mut replays, &marker, "b", 1, 2), Err(Kind::NonceUsed));
    }

    #[test]
    fn a_memory_full_of_one_second_refuses_the_rest_of_that_second_only() {
        let (mut replays, marker) = (Replays::with_capacity(2), Marker::default());
        for name in ["a", "b"] {
            assert_eq!(admit(&mut replays, &marker, name, 5, 5), Ok(()));
        }
        assert_eq!(admit(&mut replays, &marker, "c", 5, 5), Err(Kind::Overloaded));
        assert_eq!(admit(&mut replays, &marker, "d", 6, 6), Ok(()));
    }

    #[test]
    fn marks_from_a_clock_that_was_ahead_do_not_stay_for_ever() {
        let (mut replays, marker) = (Replays::with_capacity(2), Marker::default());
        assert_eq!(replays.admit(marker.nonce("ahead"), at(10_000_000), WINDOW, moment(0)), Ok(()));
        assert_eq!(admit(&mut replays, &marker, "a", 1, 1), Ok(()));
        assert_eq!(admit(&mut replays, &marker, "b", 1, 1), Err(Kind::Overloaded));
        for name in ["c", "d"] {
            assert_eq!(admit(&mut replays, &marker, name, 902, 902), Ok(()));
        }
    }

    #[test]
    fn a_nonce_and_a_signature_of_the_same_bytes_have_different_marks() {
        let marker = Marker::default();
        assert_ne!(marker.nonce("abc"), marker.tag(b"abc"));
    }

    proptest! {
        #[test]
        fn nothing_is_admitted_twice_while_it_is_fresh_and_memory_is_bounded(
            steps in prop::collection::vec((0_i64..40, 0_u32..20, -30_i64..30), 1..400)
        ) {
            let (mut replays, marker) = (Replays::with_capacity(8), Marker::default());
            let mut admitted = HashMap::new();
            let mut now = 1_000;
            for (passed, name, skew) in steps {
                now += passed;
                let signed = now + skew;
                if admit(&mut replays, &marker, &name.to_string(), signed, now).is_ok() {
                    prop_assert_eq!(admitted.insert((name, signed), now), None);
                }
                prop_assert!(replays.seen.len() <= 8);
                prop_assert_eq!(replays.seen.len(), replays.seconds.values().map(|s| s.marks.len()).sum::<usize>());
            }
            for (name, signed) in admitted.into_keys().filter(|(_, signed)| now - signed <= 900) {
                prop_assert!(admit(&mut replays, &marker, &name.to_string(), signed, now).is_err());
            }
        }
    }
}
