//! What would become of a Decrypt, told without asking anybody and without changing anything.

use std::time::Duration;

use super::Engine;
use crate::auth::CallerName;
use crate::clock::Moment;
use crate::kms::{Action, Ciphertext, KeyId, KeyName, KeyVersion};
use crate::lease::{Epoch, Standing};
use crate::policy::Rule;

/// An entry that answers a ciphertext, as far as it may be told. Never what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// For whom it is kept: a caller, or a group.
    pub share: CallerName,
    /// The key that made it.
    pub key: KeyId,
    /// Its version.
    pub version: KeyVersion,
    /// Whether it answers calls with an encryption context only.
    pub in_context: bool,
    /// Whether it answers calls only that name their key, as Kubernetes providers' do.
    pub names_key: bool,
    /// What its lease is worth.
    pub standing: Standing,
    /// How much longer that is in force.
    pub lease_left: Duration,
    /// When the question was sent that it is the answer to.
    pub asked: Moment,
    /// After which of all closings and purges that was.
    pub epoch: Epoch,
    /// When it is too old.
    pub expires: Moment,
    /// Whether it would be served now, as far as lease, age and sealing key go.
    pub fresh: bool,
}

impl Engine {
    /// What is kept for `ciphertext`, for whomever. Walks the whole cache.
    #[must_use]
    pub fn explain(&self, ciphertext: &Ciphertext, now: Moment) -> Vec<Explained> {
        let found = self.parts.cache.those(self.ledger().upstream(), |entry| entry.ciphertext() == ciphertext.bytes());
        let explained = found.iter().map(|entry| Explained {
            share: entry.share().clone(),
            key: entry.key().clone(),
            version: entry.version().clone(),
            in_context: entry.is_in_context(),
            names_key: entry.names_key(),
            standing: entry.scope().standing(now),
            lease_left: entry.scope().left(now),
            asked: entry.asked().sent,
            epoch: entry.asked().epoch,
            expires: entry.expires(),
            fresh: entry.opens(now),
        });
        explained.collect()
    }

    /// With whom `caller` shares what is kept for it; none where there is no such caller.
    #[must_use]
    pub fn share(&self, caller: &CallerName) -> Option<CallerName> {
        self.parts.policy.grant(caller).map(|grant| grant.share)
    }

    /// By which of its lines, counted from 1, policy gives `caller` what `key` made; the first where several do.
    #[must_use]
    pub fn line(&self, caller: &CallerName, key: &KeyId) -> Option<(usize, Rule)> {
        let rules = self.parts.policy.grant(caller)?.rules;
        let lines = rules.into_iter().enumerate().map(|(at, rule)| (at + 1, rule));
        lines.into_iter().find(|(_, rule)| rule.covers(Action::Decrypt, key.as_str()))
    }

    /// Whether policy lets `caller` decrypt anything at all.
    #[must_use]
    pub fn may_decrypt(&self, caller: &CallerName) -> bool {
        let may = |rule: &Rule| rule.actions.contains(&Action::Decrypt) && !rule.keys.is_empty();
        self.parts.policy.grant(caller).is_some_and(|grant| grant.rules.iter().any(may))
    }

    /// The key that `name` names here, if it is known.
    #[must_use]
    pub fn known(&self, name: &KeyName) -> Option<KeyId> {
        let key = self.ledger().resolve(name);
        self.ledger().report(self.parts.clock.now()).into_iter().map(|report| report.key).find(|known| *known == key)
    }

    /// The daemon's cache: how many entries it has, and how many it may have, about.
    #[must_use]
    pub fn fill_level(&self) -> (u64, u64) {
        (self.parts.cache.len(), self.parts.cache.capacity())
    }
}
