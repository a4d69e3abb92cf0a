//! Who was refused what, lately, for people to look at.

use std::collections::VecDeque;

use super::Engine;
use crate::auth::{Caller, CallerName};
use crate::clock::Moment;
use crate::fault::Fault;
use crate::kms::{Action, KeyId, KeyName};
use crate::sync::{Mutex, PoisonError};
use crate::trace::Attribute;

/// One refusal, or several that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When, the last time.
    pub at: Moment,
    /// How often in a row of others, since it was first remembered.
    pub times: u64,
    /// Who asked.
    pub caller: CallerName,
    /// For what.
    pub action: Action,
    /// With which key, where the call named one that is known here. Never what a caller made up.
    pub key: Option<KeyId>,
    /// Why not.
    pub fault: Fault,
}

/// The last [`REFUSALS_MAX`] that are not alike.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<VecDeque<Refusal>>);

impl Refusals {
    fn note(&self, refusal: Refusal) {
        let alike = |other: &Refusal| {
            other.caller == refusal.caller
                && other.action == refusal.action
                && other.key == refusal.key
                && other.fault.kind().label() == refusal.fault.kind().label()
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let times = match all.iter().position(alike).and_then(|at| all.remove(at)) {
            Some(before) => before.times + refusal.times,
            None => refusal.times,
        };
        if all.len() == REFUSALS_MAX {
            all.pop_front();
        }
        all.push_back(Refusal { times, ..refusal });
    }
}

impl Engine {
    pub(super) fn note_refusal(&self, caller: &Caller, action: Action, named: Option<&KeyName>, fault: &Fault) {
        let key = named.and_then(|name| self.ledger().known(name)).map(|scope| scope.key().clone());
        if let (Some(span), Some(key)) = (caller.span(), &key) {
            span.note(Attribute::Key(key.clone()));
        }
        let (at, caller, fault) = (self.parts.clock.now(), caller.name().clone(), fault.clone());
        self.refusals.note(Refusal { at, times: 1, caller, action, key, fault });
    }

    /// Who was refused what, the last first.
    #[must_use]
    pub fn refusals(&self) -> Vec<Refusal> {
        self.refusals.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}

const REFUSALS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Kind;

    fn refusal(caller: &str, kind: Kind, at: u64) -> Refusal {
        Refusal {
            at: Moment::BOOT + std::time::Duration::from_secs(at),
            times: 1,
            caller: CallerName::new(caller),
            action: Action::Decrypt,
            key: None,
            fault: Fault::kms(kind),
        }
    }

    #[test]
    fn refusals_that_are_alike_take_one_place_and_the_oldest_goes_first() {
        let refusals = Refusals::default();
        refusals.note(refusal("a", Kind::KeyDisabled, 1));
        refusals.note(refusal("b", Kind::KeyDisabled, 2));
        refusals.note(refusal("a", Kind::KeyDisabled, 3));
        let expected = [refusal("b", Kind::KeyDisabled, 2), Refusal { times: 2, ..refusal("a", Kind::KeyDisabled, 3) }];
        assert_eq!(*refusals.0.lock().unwrap(), expected);
        for caller in 0..REFUSALS_MAX {
            refusals.note(refusal(&format!("c{caller}"), Kind::Forbidden, 4));
        }
        let all = refusals.0.lock().unwrap();
        assert_eq!(all.len(), REFUSALS_MAX);
        assert_eq!(all[0], refusal("c0", Kind::Forbidden, 4));
    }
}
