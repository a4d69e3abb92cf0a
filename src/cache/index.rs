//! Where a hit finds its entry.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

use super::{Entry, Fingerprint};

/// The entries that moka holds, by fingerprint. A look takes one lock that is shared and a few hundred nanoseconds less
/// than moka's, which also notes who was looked for and now and then does its housekeeping in the midst of a hit.
///
/// moka decides what is kept: what it lets go, its listener takes out here, and it is told of hits (see
/// [`Entry::told`]). An entry may stand here for as long as moka has not noticed that its age has ended; whether it may be
/// served is its scope's to say, as ever.
#[derive(Debug)]
pub(super) struct Index {
    shards: Box<[RwLock<HashTable<Arc<Entry>>>]>,
    /// Entries that came, and not in the place of another, or went.
    changes: AtomicU64,
}

impl Index {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), changes: AtomicU64::default() }
    }

    pub(super) fn get(&self, fingerprint: &Fingerprint) -> Option<Arc<Entry>> {
        let shard = self.shard(fingerprint).read().unwrap_or_else(PoisonError::into_inner);
        shard.find(hash(fingerprint), |entry| entry.fingerprint == *fingerprint).map(Arc::clone)
    }

    /// Takes `entry` in, in the place of another of its fingerprint. To be called before moka is given it, whose listener
    /// may let it go at once.
    pub(super) fn put(&self, entry: Arc<Entry>) {
        let fingerprint = entry.fingerprint;
        let same = |other: &Arc<Entry>| other.fingerprint == fingerprint;
        let mut shard = self.shard(&fingerprint).write().unwrap_or_else(PoisonError::into_inner);
        let replaced = match shard.entry(hash(&fingerprint), same, |other| hash(&other.fingerprint)) {
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
        drop(replaced);
    }

    /// Lets `entry` go, unless another has taken its place.
    pub(super) fn remove(&self, entry: &Arc<Entry>) {
        let mut shard = self.shard(&entry.fingerprint).write().unwrap_or_else(PoisonError::into_inner);
        if let Ok(slot) = shard.find_entry(hash(&entry.fingerprint), |other| Arc::ptr_eq(other, entry)) {
            drop(slot.remove());
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        if shard.len() < shard.capacity() / 4 {
            shard.shrink_to(0, |other| hash(&other.fingerprint));
        }
    }

    /// Lets go of all that `kept` does not name. One shard at a time.
    pub(super) fn retain(&self, kept: impl Fn(&Arc<Entry>) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|entry| kept(entry));
            if shard.len() != before {
                self.changes.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn shard(&self, fingerprint: &Fingerprint) -> &RwLock<HashTable<Arc<Entry>>> {
        &self.shards[usize::from(fingerprint.hash[31]) % SHARDS]
    }
}

/// A fingerprint is a hash under a random key already.
fn hash(fingerprint: &Fingerprint) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = fingerprint.hash;
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

const SHARDS: usize = 64;
