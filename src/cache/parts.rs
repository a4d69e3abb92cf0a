//! Who has which part of the cache.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Slip;
use super::index::Index;
use super::stub::Stub;
use crate::auth::CallerName;

/// What bounds and evicts the entries of one share.
///
/// By 64 bits of its fingerprint, which is a hash under a random key: moka keeps each key a second time. Where two have the
/// same, one takes the other's place; which of them a hit finds, the index says, and that goes by the whole.
pub(super) type Part = moka::sync::Cache<Slip, Stub>;

/// A part for each share. Together they are never larger than the capacity, but for its being divided evenly: each has
/// room for one at least.
pub(super) struct Parts {
    shares: HashMap<CallerName, Part>,
    /// For whoever comes, where nobody is named.
    anyone: Option<Part>,
}

impl Parts {
    pub(super) fn new(capacity: u64, shares: &[CallerName], index: &Arc<Index>) -> Self {
        let distinct: BTreeSet<_> = shares.iter().cloned().collect();
        let each = (capacity / distinct.len().max(1) as u64).max(1);
        let anyone = distinct.is_empty().then(|| part(each, index));
        let shares = distinct.into_iter().map(|share| (share, part(each, index))).collect();
        Self { shares, anyone }
    }

    /// That of `share`, if it has one.
    pub(super) fn of(&self, share: &CallerName) -> Option<&Part> {
        self.shares.get(share).or(self.anyone.as_ref())
    }

    pub(super) fn has(&self, share: &CallerName) -> bool {
        self.shares.contains_key(share)
    }

    /// Whether `shares` have a part each, and nobody else has.
    pub(super) fn are_of(&self, shares: &[CallerName]) -> bool {
        let distinct: BTreeSet<_> = shares.iter().collect();
        distinct.len() == self.shares.len() && distinct.into_iter().all(|share| self.has(share))
    }

    pub(super) fn all(&self) -> Vec<Part> {
        self.shares.values().chain(&self.anyone).cloned().collect()
    }
}

fn part(capacity: u64, index: &Arc<Index>) -> Part {
    let index = Arc::clone(index);
    moka::sync::Cache::builder()
        .max_capacity(capacity)
        .weigher(|_, stub: &Stub| stub.kibibytes)
        .eviction_listener(move |slip, stub, cause| {
            index.remove(*slip, stub.number);
            if cause == moka::notification::RemovalCause::Size {
                metrics::counter!(crate::metrics::EVICTIONS).increment(1);
            }
        })
        .build()
}
