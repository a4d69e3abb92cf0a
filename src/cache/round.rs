//! A look at every entry for those that are due.

use std::ops::Range;

use super::{Cache, Entry};
use crate::clock::Moment;

/// A round through the whole cache at one instant, in steps that hold nothing up: of a million entries each looks at some
/// eight thousand, and there is only one where there are no more than four thousand.
#[derive(Debug)]
pub struct Round<'a> {
    cache: &'a Cache,
    upstream: &'a str,
    now: Moment,
    most: usize,
    /// Entries to look at before others may have the thread.
    step: usize,
    left: Range<usize>,
    due: Vec<Entry>,
}

impl<'a> Round<'a> {
    pub(super) fn new(cache: &'a Cache, upstream: &'a str, now: Moment, most: usize) -> Self {
        Self { cache, upstream, now, most, step: STEP, left: cache.index.shards(), due: Vec::new() }
    }

    /// Looks at some more; false once it has seen all. What comes or goes meanwhile may be missed, and nothing else.
    pub fn step(&mut self) -> bool {
        let (now, mut looked) = (self.now, 0);
        for shard in self.left.by_ref() {
            let (count, mut due) = self.cache.index.of_shard(shard, |entry| now >= entry.refresh);
            due.retain(|entry| {
                let scope = entry.scope();
                scope.upstream() == self.upstream && scope.renewable() && entry.fresh(now)
            });
            self.due.append(&mut due);
            looked += count;
            if looked >= self.step {
                break;
            }
        }
        if self.due.len() >= self.most.saturating_mul(2) {
            self.choose();
        }
        !self.left.is_empty()
    }

    /// What it has found, the longest due first.
    #[must_use]
    pub fn end(mut self) -> Vec<Entry> {
        self.choose();
        self.due
    }

    fn choose(&mut self) {
        self.due.sort_unstable_by_key(|entry| entry.refresh);
        self.due.truncate(self.most);
    }
}

const STEP: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Config;
    use super::super::tests::{keep, of_config};
    use super::*;

    #[test]
    fn by_nine_tenths_of_their_age_all_have_come_up_once_and_no_step_saw_more_than_its_share() {
        let max_age = Duration::from_secs(20);
        let all = 500;
        let (cache, ledger) = of_config(Config { capacity: 2 * u64::from(all), max_age });
        for blob in 0..all {
            keep(&cache, &ledger, blob);
        }
        let kept = ledger.ask().sent;
        let round = |tenths: u32, most: usize| {
            let (mut round, mut found) = (Round::new(&cache, "kms", kept + max_age / 10 * tenths, most), vec![]);
            round.step = 50;
            while round.step() {
                found.push(round.due.len());
            }
            (found, round.end())
        };
        assert_eq!(round(1, 10).1.len(), 0, "none before two tenths");
        let (found, due) = round(9, usize::MAX);
        assert_eq!(due.len(), all as usize);
        assert!(found.len() >= 3, "{found:?}");
        let steps = found.iter().scan(0, |before, &found| Some(found - std::mem::replace(before, found)));
        assert!(steps.clone().all(|step| step < 50 + all as usize / 16), "{found:?}");
        assert!(due.is_sorted_by_key(|entry| entry.refresh));
        let longest: Vec<_> = round(9, 100).1;
        assert!(longest.iter().zip(&due).all(|(one, other)| one.refresh == other.refresh) && longest.len() == 100);
    }
}
