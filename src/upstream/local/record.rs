//! What the KMS has been asked and what it decided: how a test knows that a call was made, or that none was.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::auth::CallerName;
use crate::clock::{Clock, Moment};
use crate::fault::Fault;
use crate::kms::{Call, Context, KeyId, KeyVersion, Reply};
use crate::upstream::local::digest::Digest;

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

/// One decision, made on one key. Members that it has not are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Nanoseconds of the boot clock. For a call: after it was sent, and just before the state was read that decided it.
    /// For a change: just after it was in force. So after a `DisableKey` at T no allowed call on that key has a later
    /// time than T.
    pub at_ns: u64,
    /// The API's name of the call or change.
    pub action: &'static str,
    /// Which of the KMS's callers asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The key, where one was found.
    pub key: Option<String>,
    /// The version of it that an allowed call used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// [`Digest::of_context`] of the context in the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Digest>,
    /// Of the ciphertext, given or made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ciphertext: Option<Digest>,
    /// Of the plaintext that an allowed call gave out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<Digest>,
    /// `ok`, the label of the refusal, or `abandoned` where whoever asked left before anything was decided.
    pub outcome: &'static str,
}

impl Decision {
    /// A change of a key, carried out.
    pub(super) fn change(at: Moment, action: &'static str, key: &KeyId) -> Self {
        let mut change = Self::bare(at, action, OK);
        change.key = Some(key.as_str().to_owned());
        change
    }

    /// What became of a call.
    pub(super) fn of_call(at: Moment, asked: &Asked<'_>, key: Option<&KeyId>, decided: &Result<Reply, Fault>) -> Self {
        let mut decision = Self::abandoned(at, asked);
        decision.outcome = outcome(decided);
        decision.key = key.map(|key| key.as_str().to_owned());
        let version = |version: &KeyVersion| Some(version.as_str().to_owned());
        match decided {
            Ok(Reply::Decrypted(reply)) => {
                decision.version = version(&reply.version);
                decision.plaintext = Some(Digest::of(reply.plaintext.expose()));
            }
            Ok(Reply::DataKey(reply)) => {
                decision.version = version(&reply.version);
                decision.plaintext = reply.plaintext.as_ref().map(|plaintext| Digest::of(plaintext.expose()));
                decision.ciphertext = Some(Digest::of(reply.ciphertext.bytes()));
            }
            Ok(Reply::Encrypted(reply)) => {
                decision.version = version(&reply.version);
                decision.ciphertext = Some(Digest::of(reply.ciphertext.bytes()));
            }
            Ok(Reply::Document(_)) | Err(_) => {}
        }
        decision
    }

    fn abandoned(at: Moment, asked: &Asked<'_>) -> Self {
        let mut decision = Self::bare(at, asked.call.action().name(), ABANDONED);
        decision.identity = asked.by.map(|name| name.as_str().to_owned());
        decision.context = context(asked.call).map(Digest::of_context);
        if let Call::Decrypt(call) = asked.call {
            decision.ciphertext = Some(Digest::of(call.ciphertext.bytes()));
        }
        decision
    }

    fn bare(at: Moment, action: &'static str, outcome: &'static str) -> Self {
        let at_ns = u64::try_from(at.since(Moment::BOOT).as_nanos()).unwrap_or(u64::MAX);
        Self {
            at_ns,
            action,
            identity: None,
            key: None,
            version: None,
            context: None,
            ciphertext: None,
            plaintext: None,
            outcome,
        }
    }
}

/// A call and whose it is.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) by: Option<&'a CallerName>,
    pub(super) call: &'a Call,
}

/// Counters and the newest 100,000 decisions.
#[derive(Debug, Default)]
pub(super) struct Record {
    calls: Mutex<Calls>,
    decisions: Mutex<Decisions>,
}

#[derive(Debug, Default)]
struct Decisions {
    newest: VecDeque<Decision>,
    journal: Option<File>,
}

impl Record {
    /// Counts a call in; it is counted out when the returned value is concluded or dropped.
    pub(super) fn arrive<'a>(&'a self, asked: Asked<'a>, clock: &'a dyn Clock) -> Arrival<'a> {
        let mut calls = lock(&self.calls);
        calls.remote_calls += 1;
        calls.under_way += 1;
        Arrival { record: self, clock, asked, decided: AtomicBool::new(false), outcome: ABANDONED }
    }

    /// Keeps a decision, and writes it down before anybody can hear of it.
    pub(super) fn decided(&self, decision: Decision) {
        let mut decisions = lock(&self.decisions);
        if let Some(journal) = &mut decisions.journal
            && let Err(error) = append(journal, &decision)
        {
            tracing::error!(%error, "the decisions are not written down any more");
            decisions.journal = None;
        }
        if decisions.newest.len() == DECISIONS_MAX {
            decisions.newest.pop_front();
        }
        decisions.newest.push_back(decision);
    }

    /// Appends every further decision to `file`, as a line of JSON.
    pub(super) fn write_to(&self, file: &Path) -> io::Result<()> {
        let journal = OpenOptions::new().append(true).create(true).mode(0o600).open(file)?;
        lock(&self.decisions).journal = Some(journal);
        Ok(())
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
        lock(&self.decisions).newest.iter().cloned().collect()
    }
}

/// A call under way.
pub(super) struct Arrival<'a> {
    record: &'a Record,
    clock: &'a dyn Clock,
    asked: Asked<'a>,
    decided: AtomicBool,
    outcome: &'static str,
}

impl Arrival<'_> {
    /// What is asked; from now on it is no longer undecided.
    pub(super) fn deciding(&self) -> Asked<'_> {
        self.decided.store(true, Ordering::Relaxed);
        self.asked
    }

    pub(super) fn conclude(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        if !self.decided.load(Ordering::Relaxed) {
            self.record.decided(Decision::abandoned(self.clock.now(), &self.asked));
        }
        let mut calls = lock(&self.record.calls);
        calls.under_way -= 1;
        *calls.outcomes.entry(self.asked.call.action().name()).or_default().entry(self.outcome).or_default() += 1;
    }
}

/// One write for each line: a process that is killed leaves whole lines.
fn append(journal: &mut File, decision: &Decision) -> io::Result<()> {
    let mut line = serde_json::to_vec(decision)?;
    line.push(b'\n');
    journal.write_all(&line)
}

const fn context(call: &Call) -> Option<&Context> {
    match call {
        Call::Decrypt(call) => call.context.as_ref(),
        Call::Encrypt(call) => call.context.as_ref(),
        Call::GenerateDataKey(call) => call.context.as_ref(),
        Call::Read(_) => None,
    }
}

/// The word for how a call ended.
pub(super) fn outcome<T>(result: &Result<T, Fault>) -> &'static str {
    result.as_ref().map_or_else(|fault| fault.kind().label(), |_| OK)
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

const OK: &str = "ok";
const ABANDONED: &str = "abandoned";
const DECISIONS_MAX: usize = 100_000;
