//! How many refusals of one caller are recorded: a caller that is refused in a loop must not fill the log, nor the queue
//! that the records of others wait in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Moment;

/// What each caller was refused in the current second. Callers come from the configuration, so there are few.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<Arc<str>, Tally>>);

#[derive(Debug)]
struct Tally {
    since: Moment,
    recorded: u32,
    suppressed: u64,
}

impl Refusals {
    /// Whether a refusal of `caller` at `now` is recorded: the first [`RECORDED_MAX`] of a second are, the others counted.
    pub(super) fn admit(&self, caller: &str, now: Moment) -> bool {
        let mut all = self.lock();
        let fresh = || Tally { since: now, recorded: 0, suppressed: 0 };
        let tally = match all.get_mut(caller) {
            Some(tally) => tally,
            None => all.entry(caller.into()).or_insert_with(fresh),
        };
        if now.since(tally.since) >= WINDOW {
            (tally.since, tally.recorded) = (now, 0);
        }
        let recorded = tally.recorded < RECORDED_MAX;
        if recorded {
            tally.recorded += 1;
        } else {
            tally.suppressed += 1;
        }
        recorded
    }

    /// How many refusals of whom were only counted since the last look.
    pub(super) fn suppressed(&self) -> Vec<(Arc<str>, u64)> {
        let mut all = self.lock();
        let counted = all.iter_mut().filter(|(_, tally)| tally.suppressed > 0);
        counted.map(|(caller, tally)| (Arc::clone(caller), std::mem::take(&mut tally.suppressed))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Tally>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const WINDOW: Duration = Duration::from_secs(1);
pub(super) const RECORDED_MAX: u32 = 20;
