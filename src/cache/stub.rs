//! What moka has of an entry.

use super::Entry;

/// Stands for an entry at moka, which bounds by its weight and says by it which entry is to go.
///
/// Not the entry itself: moka ends what it has let go of when threads have left its tables, which may be never where nobody
/// asks, and the key that sealed an entry lives as long as that does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stub {
    /// Which it is of those that have had its place. Goes round after 2³² entries of the whole cache.
    pub(super) number: u32,
    /// What it takes in memory, about, in started KiB.
    pub(super) kibibytes: u32,
}

impl Stub {
    pub(super) fn of(entry: &Entry) -> Self {
        Self { number: entry.number, kibibytes: entry.kibibytes() }
    }
}
