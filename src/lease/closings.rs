//! The order of all closings of one upstream.

use super::{Asked, Epoch, Lease};
use crate::clock::Moment;

/// The last closing (refusal or suspension) of any lease, and the last that was of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Closings {
    last: Epoch,
    of_all: Epoch,
}

impl Closings {
    /// Marks a question about to be sent at `now`. To be called before it leaves.
    #[must_use]
    pub const fn ask(&self, now: Moment) -> Asked {
        Asked { epoch: self.last, sent: now }
    }

    /// Draws the epoch of a closing. To be called before the lock on any lease is taken: a question that is asked
    /// between the two is then stale rather than trusted.
    pub const fn close(&mut self) -> Epoch {
        self.last = Epoch(self.last.0 + 1);
        self.last
    }

    /// As [`Closings::close`], for a closing of every lease.
    pub const fn close_all(&mut self) -> Epoch {
        self.of_all = self.close();
        self.of_all
    }

    /// A lease that is made now. Questions from before the last closing, whomever it closed, do not count for it: it may
    /// have been this one's, too.
    #[must_use]
    pub const fn birth(&self) -> Lease {
        Lease::unknown(self.last)
    }

    /// Whether everything was closed after a question was `asked`.
    #[must_use]
    pub const fn closed_all_since(&self, asked: Asked) -> bool {
        asked.epoch.0 < self.of_all.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Stale, Standing, Terms};
    use super::*;

    const TERMS: Terms = Terms {
        duration: std::time::Duration::from_secs(30),
        probe: std::time::Duration::from_secs(10),
        outage_grace: std::time::Duration::ZERO,
    };

    #[test]
    fn a_question_from_before_a_closing_does_not_count_for_a_lease_born_after_it() {
        let mut closings = Closings::default();
        let asked = closings.ask(Moment::BOOT);
        closings.close();
        let mut lease = closings.birth();
        assert_eq!(lease.consent(asked, &TERMS), Err(Stale::Suspended));
        assert_eq!(lease.standing(Moment::BOOT, &TERMS), Standing::Unknown);
        assert_eq!(lease.consent(closings.ask(Moment::BOOT), &TERMS), Ok(()));
    }

    #[test]
    fn a_closing_of_one_lease_is_none_of_all() {
        let mut closings = Closings::default();
        let asked = closings.ask(Moment::BOOT);
        closings.close();
        assert!(!closings.closed_all_since(asked));
        closings.close_all();
        assert!(closings.closed_all_since(asked));
        assert!(!closings.closed_all_since(closings.ask(Moment::BOOT)));
    }
}
