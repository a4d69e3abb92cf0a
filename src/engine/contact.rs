//! Whether the KMS speaks to us.

use super::Engine;
use crate::clock::Moment;
use crate::fault::{Evidence, Fault, Kind, Origin};
use crate::policy::Held;
use crate::sync::PoisonError;

/// When the KMS was last heard of. What it refuses, it has answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// When it last answered.
    pub answered: Option<Moment>,
    /// When it last could not be asked, or did not answer, and how that showed.
    pub failed: Option<(Moment, Fault)>,
}

impl Contact {
    /// Whether it answered last time; none before the first.
    #[must_use]
    pub fn is_good(&self) -> Option<bool> {
        match (self.answered, &self.failed) {
            (None, None) => None,
            (answered, failed) => Some(answered > failed.as_ref().map(|(at, _)| *at)),
        }
    }
}

impl Engine {
    /// When this upstream's KMS was last heard of.
    #[must_use]
    pub fn contact(&self) -> Contact {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn heard(&self, outcome: Result<Held, Fault>) -> Result<Held, Fault> {
        let now = self.parts.clock.now();
        let mut contact = self.contact.lock().unwrap_or_else(PoisonError::into_inner);
        match &outcome {
            // Its own throttling is an answer; that our own queue had no turn to give says nothing of it.
            Err(fault) if matches!(fault.kind(), Kind::Throttled(_)) => {
                contact.answered = fault.verbatim().map_or(contact.answered, |_| Some(now));
            }
            Err(fault) if matches!(Evidence::of(fault), Evidence::Silence | Evidence::IdentityDoubted) => {
                contact.failed = Some((now, fault.clone()));
            }
            // The daemon's own: the KMS was not asked.
            Err(fault) if fault.origin() != Origin::Kms => {}
            Ok(_) | Err(_) => contact.answered = Some(now),
        }
        drop(contact);
        outcome
    }
}
