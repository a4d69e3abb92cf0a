//! Where a hit finds its entry.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

use super::{Entry, Fingerprint, Slip};
use crate::clock::Moment;

/// The entries that moka bounds, by fingerprint. A look takes one lock that is shared and a few hundred nanoseconds less
/// than moka's, which also notes who was looked for and now and then does its housekeeping in the midst of a hit.
///
/// moka decides what is kept: what it lets go, its listener takes out here, and it is told of hits (see
/// [`Entry::told`]). An entry may stand here for a while after its age has ended, until [`Index::aged`] has come by; whether
/// it may be served it says itself, with its scope, as ever.
#[derive(Debug)]
pub(super) struct Index {
    shards: Box<[RwLock<HashTable<Entry>>]>,
    /// Entries that came, and not in the place of another, or went.
    changes: AtomicU64,
    /// The shard that is looked through next.
    next: AtomicUsize,
}

impl Index {
    pub(super) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self { shards, changes: AtomicU64::default(), next: AtomicUsize::default() }
    }

    pub(super) fn get(&self, fingerprint: &Fingerprint) -> Option<Entry> {
        let shard = self.shard(fingerprint.slip()).read().unwrap_or_else(PoisonError::into_inner);
        shard.find(fingerprint.slip().0, |entry| entry.fingerprint == *fingerprint).cloned()
    }

    /// Takes `entry` in, in the place of another of its fingerprint, which is returned. To be called before moka is given it,
    /// whose listener may let it go at once.
    pub(super) fn put(&self, entry: Entry) -> Option<Entry> {
        let fingerprint = entry.fingerprint;
        let same = |other: &Entry| other.fingerprint == fingerprint;
        let mut shard = self.shard(fingerprint.slip()).write().unwrap_or_else(PoisonError::into_inner);
        let replaced = match shard.entry(fingerprint.slip().0, same, rehash) {
            Slot::Occupied(mut slot) => Some(std::mem::replace(slot.get_mut(), entry)),
            Slot::Vacant(slot) => {
                slot.insert(entry);
                None
            }
        };
        // What it held is let go without the lock.
        drop(shard);
        if replaced.is_none() {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        replaced
    }

    /// Lets go of the entry of `slip` and `number`, unless another has taken its place.
    pub(super) fn remove(&self, slip: Slip, number: u32) {
        let mut shard = self.shard(slip).write().unwrap_or_else(PoisonError::into_inner);
        let gone = shard.find_entry(slip.0, |entry| entry.number == number && entry.fingerprint.slip() == slip);
        let gone = gone.ok().map(|slot| slot.remove().0);
        if gone.is_some() {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        if shard.len() < shard.capacity() / 4 {
            shard.shrink_to(0, rehash);
        }
        // What it held is let go without the lock.
        drop(shard);
        drop(gone);
    }

    /// Lets go of all that `kept` does not name. One shard at a time.
    pub(super) fn retain(&self, kept: impl Fn(&Entry) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|entry| kept(entry));
            if shard.len() != before {
                self.changes.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Entries whose age has ended at `now`, of those it comes by, and how many it has looked at: some four thousand, and all of
    /// a smaller cache. The next call goes on where this one ends.
    pub(super) fn aged(&self, now: Moment) -> (Vec<Entry>, usize) {
        let (mut aged, mut looked) = (Vec::new(), 0);
        for _ in 0..SHARDS {
            let shard = &self.shards[self.next.fetch_add(1, Ordering::Relaxed) % SHARDS];
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            aged.extend(shard.iter().filter(|entry| now >= entry.expires).cloned());
            looked += shard.len();
            if looked >= LOOKED_AT {
                break;
            }
        }
        (aged, looked)
    }

    /// To be looked through one after the other.
    pub(super) fn shards(&self) -> Range<usize> {
        0..self.shards.len()
    }

    /// How many there are in a shard, and those of them that are `wanted`.
    pub(super) fn of_shard(&self, at: usize, wanted: impl Fn(&Entry) -> bool) -> (usize, Vec<Entry>) {
        let shard = self.shards[at].read().unwrap_or_else(PoisonError::into_inner);
        (shard.len(), shard.iter().filter(|entry| wanted(entry)).cloned().collect())
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    /// By bits that a table does not go by, which looks at the lowest and the highest.
    fn shard(&self, slip: Slip) -> &RwLock<HashTable<Entry>> {
        let at = usize::try_from((slip.0 >> 32) % SHARDS as u64).expect("less than SHARDS");
        &self.shards[at]
    }
}

fn rehash(entry: &Entry) -> u64 {
    entry.fingerprint.slip().0
}

const SHARDS: usize = 128;
const LOOKED_AT: usize = 4096;
