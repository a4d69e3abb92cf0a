//! What the KMS has been asked and what it decided: how a test knows that a call was made, or that none was.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::clock::Moment;
use crate::kms::{Action, KeyId};

/// Calls by action and outcome since the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// Every call that arrived, whatever became of it.
    pub remote_calls: u64,
    /// Those that wait for their answer now.
    pub under_way: u64,
    /// Finished calls, by action and then by `ok`, the label of their fault, or `abandoned`.
    pub outcomes: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
}

/// One decision, made on one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Nanoseconds of the boot clock. For a call: just before the state was read that decided it. For a change: just
    /// after it was in force. So after a `DisableKey` at T no allowed call on that key has a later time than T.
    pub at_ns: u64,
    /// The API's name of the call or change.
    pub action: &'static str,
    /// The key, where one was found.
    pub key: Option<String>,
    /// `ok`, or the label of the refusal.
    pub outcome: &'static str,
}

/// Counters and the newest 100,000 decisions.
#[derive(Debug, Default)]
pub(super) struct Record {
    calls: Mutex<Calls>,
    decisions: Mutex<VecDeque<Decision>>,
}

impl Record {
    /// Counts a call in; it is counted out when the returned value is concluded or dropped.
    pub(super) fn arrive(&self, action: Action) -> Arrival<'_> {
        let mut calls = lock(&self.calls);
        calls.remote_calls += 1;
        calls.under_way += 1;
        Arrival { record: self, action, outcome: ABANDONED }
    }

    pub(super) fn decided(&self, at: Moment, action: &'static str, key: Option<&KeyId>, outcome: &'static str) {
        let at_ns = u64::try_from(at.since(Moment::BOOT).as_nanos()).unwrap_or(u64::MAX);
        let mut decisions = lock(&self.decisions);
        if decisions.len() == DECISIONS_MAX {
            decisions.pop_front();
        }
        decisions.push_back(Decision { at_ns, action, key: key.map(|key| key.as_str().to_owned()), outcome });
    }

    pub(super) fn calls(&self) -> Calls {
        lock(&self.calls).clone()
    }

    /// Forgets what is finished; calls under way stay so, and will be counted out.
    pub(super) fn reset(&self) {
        let mut calls = lock(&self.calls);
        *calls = Calls { under_way: calls.under_way, ..Calls::default() };
    }

    pub(super) fn decisions(&self) -> Vec<Decision> {
        lock(&self.decisions).iter().cloned().collect()
    }
}

/// A call under way.
#[derive(Debug)]
pub(super) struct Arrival<'a> {
    record: &'a Record,
    action: Action,
    outcome: &'static str,
}

impl Arrival<'_> {
    pub(super) fn conclude(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        let mut calls = lock(&self.record.calls);
        calls.under_way -= 1;
        *calls.outcomes.entry(self.action.name()).or_default().entry(self.outcome).or_default() += 1;
    }
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) const OK: &str = "ok";
const ABANDONED: &str = "abandoned";
const DECISIONS_MAX: usize = 100_000;
