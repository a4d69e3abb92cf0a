//! A set of marks, in one piece of memory.

use super::Mark;

/// Marks that are keyed hashes already, each in the place that it names itself or the next that is free. To look for one, and
/// to add or to remove it, waits for one line of memory that is far away; a table that keeps its keys apart from what it knows
/// them by waits for two.
#[derive(Debug)]
pub(super) struct Marks {
    /// A power of two, half of them free at least.
    places: Box<[Option<Mark>]>,
    len: usize,
}

impl Default for Marks {
    fn default() -> Self {
        Self { places: [None; PLACES_MIN].into(), len: 0 }
    }
}

impl Marks {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, mark: Mark) -> bool {
        self.places[self.place(mark)].is_some()
    }

    /// Adds a mark that is not there.
    pub(super) fn insert(&mut self, mark: Mark) {
        if (self.len + 1) * 2 > self.places.len() {
            self.grow();
        }
        let place = self.place(mark);
        debug_assert!(self.places[place].is_none(), "it is there already");
        self.places[place] = Some(mark);
        self.len += 1;
    }

    /// Removes a mark, and closes the gap, so that those behind it are found again.
    pub(super) fn remove(&mut self, mark: Mark) {
        let mut gap = self.place(mark);
        if self.places[gap].take().is_none() {
            return;
        }
        self.len -= 1;
        let mut at = self.next(gap);
        while let Some(moved) = self.places[at] {
            // It stays where it is unless the gap is on the way to it.
            let (way, back) = (self.distance(self.home(moved), at), self.distance(gap, at));
            if way >= back {
                self.places[gap] = self.places[at].take();
                gap = at;
            }
            at = self.next(at);
        }
    }

    /// Where it is, or would come.
    fn place(&self, mark: Mark) -> usize {
        let mut at = self.home(mark);
        while self.places[at].is_some_and(|other| other != mark) {
            at = self.next(at);
        }
        at
    }

    fn grow(&mut self) {
        let before = std::mem::take(&mut self.places);
        self.places = vec![None; before.len() * 2].into();
        for mark in before.into_iter().flatten() {
            let place = self.place(mark);
            self.places[place] = Some(mark);
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "what is cut off is masked off")]
    fn home(&self, mark: Mark) -> usize {
        mark.0.get() as usize & (self.places.len() - 1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }

    /// Steps from one place to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.places.len() - 1)
    }
}

const PLACES_MIN: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::num::NonZeroU64;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Homes of few kinds, the last places among them: marks crowd, and go round the end.
        #[test]
        fn it_holds_what_a_set_holds(steps in prop::collection::vec((any::<bool>(), 0..9_u64, 0..12_u64), 1..400)) {
            let (mut marks, mut set) = (Marks::default(), HashSet::new());
            for (add, home, more) in steps {
                let mark = Mark(NonZeroU64::new((more << 32) + 58 + home).unwrap());
                prop_assert_eq!(marks.contains(mark), set.contains(&mark));
                if !add {
                    marks.remove(mark);
                    set.remove(&mark);
                } else if set.insert(mark) {
                    marks.insert(mark);
                }
                prop_assert_eq!(marks.len(), set.len());
                prop_assert!(set.iter().all(|&mark| marks.contains(mark)));
                prop_assert_eq!(marks.places.iter().flatten().count(), set.len());
            }
        }
    }
}
