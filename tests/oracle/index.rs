//! A history, by what its rules look for.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::history::{DECRYPT, Decision, Heard, History, OK, Policy, Told, nanos};

/// A ciphertext in a context.
pub(super) type Exact<'h> = (&'h str, Option<&'h str>);
/// A key in a context.
pub(super) type Scope<'h> = (&'h str, Option<&'h str>);

/// Everything is in the order of its instants.
pub(super) struct Index<'h> {
    pub(super) history: &'h History,
    /// Decrypts, whatever was decided.
    unwrapped: HashMap<Exact<'h>, Vec<&'h Decision>>,
    consents: HashMap<Scope<'h>, Vec<&'h Decision>>,
    /// Encrypts and GenerateDataKeys that were allowed, by what they made.
    pub(super) made: HashMap<&'h str, &'h Decision>,
    refusals: HashMap<&'h str, Vec<&'h Decision>>,
    keys: HashMap<&'h str, &'h str>,
    first_asked: HashMap<(&'h str, Exact<'h>), u64>,
    /// Decrypts of which something was told.
    pub(super) told: BTreeMap<(&'h str, Exact<'h>), Vec<&'h Told>>,
    heard: HashMap<Exact<'h>, Vec<&'h Heard>>,
    heard_consents: HashMap<Scope<'h>, Vec<&'h Heard>>,
}

impl<'h> Index<'h> {
    pub(super) fn of(history: &'h History) -> Self {
        let mut index = Self {
            history,
            unwrapped: HashMap::new(),
            consents: HashMap::new(),
            made: HashMap::new(),
            refusals: HashMap::new(),
            keys: HashMap::new(),
            first_asked: HashMap::new(),
            told: BTreeMap::new(),
            heard: HashMap::new(),
            heard_consents: HashMap::new(),
        };
        let mut decisions: Vec<_> = history.decisions.iter().collect();
        decisions.sort_by_key(|decision| decision.at_ns);
        decisions.into_iter().for_each(|decision| index.add_decision(decision));
        let mut told: Vec<_> = history.told.iter().collect();
        told.sort_by_key(|told| told.sent_ns);
        told.into_iter().for_each(|told| index.add_told(told));
        let mut heard: Vec<_> = history.heard.iter().collect();
        heard.sort_by_key(|heard| heard.sent_ns);
        heard.into_iter().for_each(|heard| index.add_heard(heard));
        index
    }

    fn add_decision(&mut self, decision: &'h Decision) {
        let (key, context) = (decision.key.as_deref(), decision.context.as_deref());
        if let Some((key, ciphertext)) = key.zip(decision.ciphertext.as_deref()) {
            self.keys.insert(ciphertext, key);
        }
        if let Some(ciphertext) = decision.ciphertext.as_deref() {
            if decision.action == DECRYPT {
                self.unwrapped.entry((ciphertext, context)).or_default().push(decision);
            } else {
                self.made.insert(ciphertext, decision);
            }
        }
        let Some(key) = key else { return };
        if decision.is_consent() {
            self.consents.entry((key, context)).or_default().push(decision);
        } else if closes_key(&decision.outcome) || CLOSING_CHANGES.contains(&&*decision.action) {
            self.refusals.entry(key).or_default().push(decision);
        }
    }

    fn add_told(&mut self, told: &'h Told) {
        if let (DECRYPT, Some(exact)) = (told.action, exact_of(told)) {
            let by = (self.share(told), exact);
            self.first_asked.entry(by).or_insert(told.sent_ns);
            self.told.entry(by).or_default().push(told);
        }
    }

    fn add_heard(&mut self, heard: &'h Heard) {
        if heard.action != DECRYPT {
            return;
        }
        let context = heard.context.as_deref();
        if let Some(ciphertext) = heard.ciphertext.as_deref() {
            self.heard.entry((ciphertext, context)).or_default().push(heard);
        }
        if let (OK, Some(key)) = (&*heard.outcome, heard.key.as_deref()) {
            self.heard_consents.entry((key, context)).or_default().push(heard);
        }
    }

    pub(super) fn policy(&self, at_ns: u64) -> Option<&'h Policy> {
        self.history.policies.iter().rev().find(|policy| policy.from_ns <= at_ns)
    }

    /// With whom the caller shared when it asked.
    pub(super) fn share(&self, told: &'h Told) -> &'h str {
        let grant = self.policy(told.sent_ns).and_then(|policy| policy.grants.get(&told.caller));
        grant.map_or(&told.caller, |grant| &grant.share)
    }

    pub(super) fn unwrapped(&self, exact: Exact<'h>) -> &[&'h Decision] {
        self.unwrapped.get(&exact).map_or(&[], Vec::as_slice)
    }

    pub(super) fn every_unwrapped(&self) -> impl Iterator<Item = (&Exact<'h>, &Vec<&'h Decision>)> {
        self.unwrapped.iter()
    }

    pub(super) fn consents(&self, scope: Scope<'h>) -> &[&'h Decision] {
        self.consents.get(&scope).map_or(&[], Vec::as_slice)
    }

    pub(super) fn heard(&self, exact: Exact<'h>) -> &[&'h Heard] {
        self.heard.get(&exact).map_or(&[], Vec::as_slice)
    }

    pub(super) fn every_heard(&self) -> impl Iterator<Item = (&Exact<'h>, &Vec<&'h Heard>)> {
        self.heard.iter()
    }

    pub(super) fn heard_consents(&self, scope: Scope<'h>) -> &[&'h Heard] {
        self.heard_consents.get(&scope).map_or(&[], Vec::as_slice)
    }

    /// What refused the key between two instants: decisions and changes.
    pub(super) fn refused(&self, key: &str, from: u64, to: u64) -> Option<&'h Decision> {
        self.refusals.get(key)?.iter().find(|refusal| (from..=to).contains(&refusal.at_ns)).copied()
    }

    pub(super) fn key_of(&self, told: &'h Told) -> Option<&'h str> {
        let by_ciphertext = || self.keys.get(told.ciphertext.as_deref()?).copied();
        by_ciphertext().or(told.key.as_deref())
    }

    /// The key of a question, where the proxy can know it.
    pub(super) fn key_of_heard(&self, heard: &'h Heard) -> Option<&'h str> {
        heard.key.as_deref().or_else(|| self.keys.get(heard.ciphertext.as_deref()?).copied())
    }

    pub(super) fn scope_of(&self, told: &'h Told) -> Option<Scope<'h>> {
        Some((self.key_of(told)?, told.context.as_deref()))
    }

    pub(super) fn first_asked(&self, told: &'h Told) -> u64 {
        let by = exact_of(told).map(|exact| (self.share(told), exact));
        by.and_then(|by| self.first_asked.get(&by)).copied().unwrap_or(told.sent_ns)
    }

    /// Whether the proxy lost all that it knew between two instants.
    pub(super) fn restarted(&self, from: u64, to: u64) -> bool {
        self.history.restarts.iter().any(|restart| (from..=to).contains(restart))
    }

    pub(super) fn earliest(&self, told: &Told) -> u64 {
        told.earliest(&self.history.terms)
    }

    /// How long one consent may be relied upon.
    pub(super) fn lease(&self) -> u64 {
        nanos(self.history.terms.lease).saturating_add(nanos(self.history.terms.outage_grace))
    }

    /// How many groups of callers ask the KMS for themselves.
    pub(super) fn shares(&self) -> usize {
        let shares: HashSet<_> = self.told.keys().map(|(share, _)| share).collect();
        shares.len().max(1)
    }
}

pub(super) fn exact_of(told: &Told) -> Option<Exact<'_>> {
    Some((told.ciphertext.as_deref()?, told.context.as_deref()))
}

/// Whether a refusal is of the key, for everybody and in every context.
pub(super) fn closes_key(outcome: &str) -> bool {
    let refusals = ["key_disabled", "key_not_found", "key_pending_deletion", "key_pending_import", "key_unavailable"];
    refusals.contains(&outcome)
}

const CLOSING_CHANGES: [&str; 2] = ["DisableKey", "ScheduleKeyDeletion"];
