//! Leases: how long the consent of a KMS to use a key may be relied upon. Pure: no clock, no lock, no I/O.
//!
//! Only a successful `Decrypt` renews a lease, and it counts from the moment the request was *sent*. A refusal ends it
//! at once; silence ends it when its time is up. `SEMANTICS.md` numbers what follows from that.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::fault::Fault;

mod closings;

pub use closings::Closings;

/// The terms of every lease of one upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// How long one consent is good for. The hard bound of the fail-closed promise.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub duration: Duration,
    /// How often a key with cached DEKs is asked again, traffic or none. The typical time to notice a refusal.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub probe: Duration,
    /// How much longer to serve while the KMS cannot be asked. Zero by default; a refusal always beats it.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub outage_grace: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self { duration: Duration::from_secs(30), probe: Duration::from_secs(10), outage_grace: Duration::ZERO }
    }
}

/// A place in the order of all closings (refusals and suspensions) of one upstream. What was asked at an earlier place
/// than a key's last closing proves nothing for that key any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// When a question was sent, on the clock and among the closings. Taken before the question leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// The last closing before it was sent.
    pub epoch: Epoch,
    /// The instant before it was sent.
    pub sent: Moment,
}

/// What a lease is worth at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its time is up and the KMS has not renewed it.
    Lapsed,
    /// The KMS refused, in these words.
    Refused(Fault),
    /// In force.
    Serving,
    /// In force by `outage_grace` alone: the KMS cannot be asked.
    ServingByGrace,
    /// Set aside until the KMS consents again.
    Suspended,
    /// The KMS has never consented.
    Unknown,
}

/// The lease of one scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    state: State,
    epoch: Epoch,
    barrier: Epoch,
    until: Moment,
    silent: bool,
    doubted: bool,
    tried: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Refused(Fault),
    Suspended,
    Unknown,
    Valid,
}

/// Why a consent counts for nothing: it was asked for before a closing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stale {
    /// A refusal, in these words.
    Refused(Fault),
    /// A suspension; asking again may help.
    Suspended,
}

impl Lease {
    /// A lease that nobody has consented to. Questions sent before `barrier` will not count.
    #[must_use]
    pub const fn unknown(barrier: Epoch) -> Self {
        let (state, until, tried) = (State::Unknown, Moment::BOOT, Moment::BOOT);
        Self { state, epoch: barrier, barrier, until, silent: false, doubted: false, tried }
    }

    /// The epoch that entries kept now belong to. It changes with every refusal and every purge, and what was kept before is
    /// lost.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The end of the consent, grace not counted.
    #[must_use]
    pub const fn until(&self) -> Moment {
        self.until
    }

    /// A `Decrypt` in this scope succeeded.
    ///
    /// # Errors
    /// [`Stale`] where the scope was closed after the question was sent; the lease is then unchanged.
    pub fn consent(&mut self, asked: Asked, terms: &Terms) -> Result<(), Stale> {
        if let Some(stale) = self.closed_since(asked) {
            return Err(stale);
        }
        self.state = State::Valid;
        self.until = self.until.max(asked.sent + terms.duration);
        self.silent = false;
        self.doubted = false;
        Ok(())
    }

    /// What closed the lease after a question was `asked`, if anything did: the answer to it counts for nothing.
    #[must_use]
    pub fn closed_since(&self, asked: Asked) -> Option<Stale> {
        (asked.epoch < self.barrier).then(|| match &self.state {
            State::Refused(fault) => Stale::Refused(fault.clone()),
            State::Suspended | State::Unknown | State::Valid => Stale::Suspended,
        })
    }

    /// Whether the KMS refused, and has not relented.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused(_))
    }

    /// The KMS refused. `next` is a new epoch, drawn before the lock on this lease was taken.
    pub fn refuse(&mut self, fault: Fault, next: Epoch) {
        self.state = State::Refused(fault);
        self.epoch = self.epoch.max(next);
        self.barrier = self.barrier.max(next);
        self.until = Moment::BOOT;
        self.silent = false;
    }

    /// Something makes earlier consent doubtful. What was kept stays kept, and is not served before a consent that was
    /// asked for after `next`. A refusal stays a refusal.
    pub fn suspend(&mut self, next: Epoch) {
        if matches!(self.state, State::Valid) {
            self.state = State::Suspended;
        }
        self.barrier = self.barrier.max(next);
        self.until = Moment::BOOT;
        self.silent = false;
    }

    /// As [`Lease::suspend`], and nothing that was kept is ever served again, though nobody refused: it was not consented
    /// to for who asks now.
    pub fn forget(&mut self, next: Epoch) {
        if !matches!(self.state, State::Refused(_)) {
            self.state = State::Unknown;
        }
        self.epoch = self.epoch.max(next).max(self.barrier);
        self.barrier = self.epoch;
        self.until = Moment::BOOT;
        self.silent = false;
    }

    /// What was kept is to be gone, though nobody refused and nothing is doubted: consent stays as good as it was.
    pub fn purge(&mut self, next: Epoch) {
        self.epoch = self.epoch.max(next);
    }

    /// Something may have closed the lease, or may be nothing to it: what is in force goes on until `until` at the latest,
    /// grace or no grace, unless the KMS consents to what was asked after `next`. What was asked before counts for nothing.
    pub fn doubt(&mut self, next: Epoch, until: Moment) {
        self.barrier = self.barrier.max(next);
        self.until = self.until.min(until);
        self.silent = false;
        self.doubted = true;
    }

    /// Other terms than those by which it was consented to are in force: under a shorter duration it ends as much earlier as
    /// that is shorter; under a longer one when it would have. Where something else has shortened it meanwhile it ends
    /// earlier than it must, never later.
    pub fn curtail(&mut self, before: &Terms, now: &Terms) {
        let shorter_by = before.duration.saturating_sub(now.duration);
        self.until = Moment::BOOT + self.until.since(Moment::BOOT).saturating_sub(shorter_by);
    }

    /// Another KMS, or another of its customers, is asked from now on: what was consented to, refused and kept was another's.
    /// `next` is a new epoch, as for [`Lease::refuse`].
    pub fn begin_anew(&mut self, next: Epoch) {
        *self = Self::unknown(self.epoch.max(self.barrier).max(next));
    }

    /// The KMS was asked and did not answer. Neither renews nor ends; allows the grace to count, unless it is in doubt.
    pub const fn silence(&mut self) {
        self.silent = !self.doubted;
    }

    /// What the lease is worth at `now`.
    #[must_use]
    pub fn standing(&self, now: Moment, terms: &Terms) -> Standing {
        match &self.state {
            State::Refused(fault) => Standing::Refused(fault.clone()),
            State::Suspended => Standing::Suspended,
            State::Unknown => Standing::Unknown,
            State::Valid if now < self.until => Standing::Serving,
            State::Valid if self.silent && now < self.until + terms.outage_grace => Standing::ServingByGrace,
            State::Valid => Standing::Lapsed,
        }
    }

    /// How much longer it is in force at `now`, if nothing is heard; grace that counts already included.
    #[must_use]
    pub fn left(&self, now: Moment, terms: &Terms) -> Duration {
        let grace = if self.silent { terms.outage_grace } else { Duration::ZERO };
        if matches!(self.state, State::Valid) { (self.until + grace).since(now) } else { Duration::ZERO }
    }

    /// Whether entries of `epoch` may be served at `now`: as [`Lease::standing`], without its clone.
    #[must_use]
    pub fn serves(&self, epoch: Epoch, now: Moment, terms: &Terms) -> bool {
        let grace = if self.silent { terms.outage_grace } else { Duration::ZERO };
        matches!(self.state, State::Valid) && epoch == self.epoch && now < self.until + grace
    }

    /// The KMS did something else with the key, asked for after the last closing: it no longer refuses. That ends the
    /// wait between trials, and allows nothing: only a `Decrypt` consents.
    pub fn relent(&mut self, asked: Asked) {
        if matches!(self.state, State::Refused(_)) && asked.epoch >= self.barrier {
            self.state = State::Unknown;
        }
    }

    /// Whether the KMS may be asked about this scope now: always, unless it refused; then once a second.
    pub fn may_try(&mut self, now: Moment) -> bool {
        if !matches!(self.state, State::Refused(_)) {
            return true;
        }
        let due = now.since(self.tried) >= TRIAL_INTERVAL;
        if due {
            self.tried = now;
        }
        due
    }
}

/// While a key is refused, at most one question a second goes up for it.
const TRIAL_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Kind;

    const TERMS: Terms = Terms {
        duration: Duration::from_secs(30),
        probe: Duration::from_secs(10),
        outage_grace: Duration::from_secs(60),
    };

    fn at(seconds: u64) -> Moment {
        Moment::BOOT + Duration::from_secs(seconds)
    }

    fn asked(epoch: u64, seconds: u64) -> Asked {
        Asked { epoch: Epoch(epoch), sent: at(seconds) }
    }

    fn disabled() -> Fault {
        Fault::kms(Kind::KeyDisabled)
    }

    #[test]
    fn consent_counts_from_the_sending_and_ends_on_the_instant() {
        let mut lease = Lease::unknown(Epoch(0));
        assert_eq!(lease.standing(at(100), &TERMS), Standing::Unknown);
        lease.consent(asked(0, 100), &TERMS).unwrap();
        assert!(lease.serves(Epoch(0), at(129), &TERMS));
        assert!(!lease.serves(Epoch(0), at(130), &TERMS));
        assert_eq!(lease.standing(at(130), &TERMS), Standing::Lapsed);
    }

    #[test]
    fn a_shorter_duration_ends_an_open_lease_as_much_earlier_and_a_longer_one_when_it_would_have() {
        let shorter = Terms { duration: Duration::from_secs(10), ..TERMS };
        let mut lease = Lease::unknown(Epoch(0));
        lease.consent(asked(0, 100), &TERMS).unwrap();
        lease.curtail(&TERMS, &shorter);
        assert_eq!(lease.until(), at(110));
        lease.curtail(&shorter, &TERMS);
        assert_eq!(lease.until(), at(110));
        lease.consent(asked(0, 105), &TERMS).unwrap();
        assert_eq!(lease.until(), at(135));
        // In doubt it ends earlier still, and never later.
        lease.doubt(Epoch(1), at(112));
        lease.curtail(&TERMS, &shorter);
        assert!(lease.until() <= at(112));
        let mut unknown = Lease::unknown(Epoch(0));
        unknown.curtail(&TERMS, &shorter);
        assert_eq!(unknown, Lease::unknown(Epoch(0)));
    }

    #[test]
    fn a_lease_that_begins_anew_remembers_neither_consent_nor_refusal_and_takes_no_older_answer() {
        let mut consented = Lease::unknown(Epoch(0));
        consented.consent(asked(0, 100), &TERMS).unwrap();
        let mut refused = consented.clone();
        refused.refuse(disabled(), Epoch(1));
        for mut lease in [consented, refused] {
            lease.begin_anew(Epoch(2));
            assert_eq!(lease.standing(at(101), &TERMS), Standing::Unknown);
            assert_eq!(lease.consent(asked(1, 102), &TERMS), Err(Stale::Suspended));
            lease.consent(asked(2, 103), &TERMS).unwrap();
            assert!(lease.serves(Epoch(2), at(104), &TERMS));
            assert!(!lease.serves(Epoch(0), at(104), &TERMS) && !lease.serves(Epoch(1), at(104), &TERMS));
        }
    }

    #[test]
    fn an_older_consent_never_shortens_a_newer_one() {
        let mut lease = Lease::unknown(Epoch(0));
        lease.consent(asked(0, 100), &TERMS).unwrap();
        lease.consent(asked(0, 90), &TERMS).unwrap();
        assert_eq!(lease.until(), at(130));
    }

    #[test]
    fn a_refusal_changes_the_epoch_and_consent_from_before_it_is_stale() {
        let mut lease = Lease::unknown(Epoch(0));
        lease.consent(asked(0, 100), &TERMS).unwrap();
        lease.refuse(disabled(), Epoch(1));
        assert_eq!(lease.standing(at(101), &TERMS), Standing::Refused(disabled()));
        assert_eq!(lease.consent(asked(0, 102), &TERMS), Err(Stale::Refused(disabled())));
        lease.consent(asked(1, 103), &TERMS).unwrap();
        assert!(lease.serves(Epoch(1), at(104), &TERMS));
        assert!(!lease.serves(Epoch(0), at(104), &TERMS), "what was kept before the refusal is lost");
    }

    #[test]
    fn a_suspension_keeps_entries_and_wants_a_new_consent() {
        let mut lease = Lease::unknown(Epoch(0));
        lease.consent(asked(0, 100), &TERMS).unwrap();
        lease.suspend(Epoch(1));
        assert_eq!(lease.standing(at(101), &TERMS), Standing::Suspended);
        assert_eq!(lease.consent(asked(0, 100), &TERMS), Err(Stale::Suspended));
        lease.consent(asked(1, 102), &TERMS).unwrap();
        assert!(lease.serves(Epoch(0), at(103), &TERMS));
    }

    #[test]
    fn a_purge_loses_what_was_kept_and_leaves_consent_and_refusals_as_they_are() {
        let mut lease = Lease::unknown(Epoch(0));
        lease.consent(asked(0, 100), &TERMS).unwrap();
        lease.purge(Epoch(1));
        assert!(!lease.serves(Epoch(0), at(101), &TERMS));
        assert_eq!(lease.standing(at(101), &TERMS), Standing::Serving);
        assert_eq!(lease.consent(asked(0, 101), &TERMS), Ok(()), "an answer under way still says what the KMS allows");
        lease.refuse(disabled(), Epoch(2));
        lease.purge(Epoch(3));
        assert_eq!(lease.standing(at(102), &TERMS), Standing::Refused(disabled()));
    }

    #[test]
    fn a_suspension_does_not_soften_a_refusal() {
        let mut lease = Lease::unknown(Epoch(0));
        lease.refuse(disabled(), Epoch(1));
        lease.suspend(Epoch(2));
        assert_eq!(lease.standing(at(1), &TERMS), Standing::Refused(disabled()));
    }

    #[test]
    fn grace_counts_only_while_the_kms_is_silent() {
        let mut lease = Lease::unknown(Epoch(0));
        lease.consent(asked(0, 100), &TERMS).unwrap();
        assert_eq!(lease.standing(at(131), &TERMS), Standing::Lapsed);
        lease.silence();
        assert_eq!(lease.standing(at(131), &TERMS), Standing::ServingByGrace);
        assert_eq!(lease.standing(at(190), &TERMS), Standing::Lapsed);
        lease.refuse(disabled(), Epoch(1));
        assert_eq!(lease.standing(at(131), &TERMS), Standing::Refused(disabled()));
    }

    #[test]
    fn a_refused_key_is_tried_once_a_second() {
        let mut lease = Lease::unknown(Epoch(0));
        lease.refuse(disabled(), Epoch(1));
        assert!(lease.may_try(at(5)));
        assert!(!lease.may_try(at(5)));
        assert!(lease.may_try(at(6)));
    }

    #[test]
    fn relenting_serves_nothing_until_a_decrypt_succeeds() {
        let mut lease = Lease::unknown(Epoch(0));
        lease.refuse(disabled(), Epoch(1));
        lease.relent(asked(0, 1));
        assert_eq!(lease.standing(at(2), &TERMS), Standing::Refused(disabled()));
        lease.relent(asked(1, 2));
        assert_eq!(lease.standing(at(2), &TERMS), Standing::Unknown);
        assert!(!lease.serves(Epoch(1), at(2), &TERMS));
    }
    #[test]
    fn a_doubt_leaves_what_is_in_force_until_its_term_and_no_grace() {
        let mut lease = Lease::unknown(Epoch(0));
        lease.consent(asked(0, 0), &TERMS).unwrap();
        lease.doubt(Epoch(1), at(12));
        lease.silence();
        assert!(lease.serves(Epoch(0), at(11), &TERMS));
        assert_eq!(lease.standing(at(12), &TERMS), Standing::Lapsed, "silence brings no grace");
        assert!(!lease.serves(Epoch(0), at(12), &TERMS));
    }

    #[test]
    fn a_doubt_is_lifted_only_by_what_was_asked_after_it() {
        let mut lease = Lease::unknown(Epoch(0));
        lease.consent(asked(0, 0), &TERMS).unwrap();
        lease.doubt(Epoch(1), at(12));
        assert_eq!(lease.consent(asked(0, 9), &TERMS), Err(Stale::Suspended));
        assert_eq!(lease.until(), at(12));
        lease.consent(asked(1, 11), &TERMS).unwrap();
        assert!(lease.serves(Epoch(0), at(40), &TERMS), "what was kept before is served again");
        lease.silence();
        assert_eq!(lease.standing(at(42), &TERMS), Standing::ServingByGrace);
    }

    #[test]
    fn a_doubt_lengthens_nothing_and_opens_nothing() {
        let mut lease = Lease::unknown(Epoch(0));
        lease.consent(asked(0, 0), &TERMS).unwrap();
        lease.doubt(Epoch(1), at(50));
        assert_eq!(lease.until(), at(30));
        lease.refuse(disabled(), Epoch(2));
        lease.doubt(Epoch(3), at(50));
        assert_eq!(lease.standing(at(1), &TERMS), Standing::Refused(disabled()));
    }
}
