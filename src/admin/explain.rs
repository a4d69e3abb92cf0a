//! `POST /explain`: what would become of a Decrypt, and why. Asks no KMS, changes nothing, and logs nothing of what it was
//! given.

use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::refusal::{Refusal, unknown_caller};
use super::status::{Times, millis};
use crate::auth::CallerName;
use crate::clock::Clock;
use crate::engine::{Engine, Explained};
use crate::kms::Ciphertext;
use crate::lease::Standing;
use crate::ledger::word;
use crate::wire::base64;

/// What is asked.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The caller, as the configuration names it.
    pub caller: String,
    /// The ciphertext blob of the KMS, in base64.
    pub ciphertext: String,
}

/// What would become of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Explanation {
    /// The caller.
    pub caller: String,
    /// With whom it shares what is kept: `caller:NAME` for nobody, or `group:NAME`.
    pub share: String,
    /// In each upstream; a listener is before one of them.
    pub upstreams: Vec<Judged>,
}

/// What would become of it in one upstream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Judged {
    /// The upstream.
    pub upstream: String,
    /// The verdict.
    pub verdict: Outlook,
    /// Why, in a sentence.
    pub why: String,
    /// What to do, where there is anything.
    pub remedy: Option<String>,
    /// What is kept for it.
    pub entries: Vec<Kept>,
}

/// What to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outlook {
    /// It would be refused here.
    Refused,
    /// It would be answered from memory.
    Served,
    /// The KMS would be asked; what it says decides.
    Asked,
}

/// One entry for the ciphertext.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Kept {
    /// For whom.
    pub share: String,
    /// The key that made it.
    pub key: String,
    /// Its version.
    pub version: String,
    /// Whether it answers calls with the encryption context only that it was asked for with.
    pub in_context: bool,
    /// Whether it answers only calls that name their key.
    pub names_key: bool,
    /// The state of its lease.
    pub lease: String,
    /// How much longer that is in force, in milliseconds.
    pub lease_left_ms: u64,
    /// When the question was sent that it is the answer to.
    pub asked_at: Timestamp,
    /// When it is too old.
    pub expires_at: Timestamp,
    /// The line of the caller's `allow` that gives it to it, counted from 1, and what it says; none where none does.
    pub allowed_by: Option<Line>,
}

/// One line of a caller's `allow`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Line {
    /// Its place, counted from 1.
    pub line: usize,
    /// What it allows.
    pub actions: Vec<String>,
    /// With which keys.
    pub keys: Vec<String>,
}

pub(super) const FORM: &str = "{\"caller\": \"NAME\", \"ciphertext\": \"BASE64\"}";

/// Answers `question` from what `engines` know.
pub(super) fn answer(question: &Question, engines: &[Arc<Engine>], clock: &dyn Clock) -> Result<Explanation, Refusal> {
    let blob = base64::decode(question.ciphertext.trim().as_bytes()).filter(|blob| !blob.is_empty());
    let ciphertext = Ciphertext::new(blob.ok_or_else(|| {
        let remedy = "give the CiphertextBlob as the KMS gave it, and nothing else";
        Refusal::new(StatusCode::BAD_REQUEST, "the ciphertext is not base64", remedy)
    })?);
    let caller = CallerName::new(&question.caller);
    let share = engines.first().and_then(|engine| engine.share(&caller)).ok_or_else(unknown_caller)?;
    let times = Times { now: clock.now(), wall: clock.wall() };
    let judge = |engine: &Arc<Engine>| judged(engine, &caller, &share, &ciphertext, times);
    let upstreams = engines.iter().map(judge).collect();
    Ok(Explanation { caller: question.caller.clone(), share: share.as_str().to_owned(), upstreams })
}

fn judged(engine: &Engine, caller: &CallerName, share: &CallerName, ciphertext: &Ciphertext, times: Times) -> Judged {
    let found = engine.explain(ciphertext, times.now);
    let own = found.iter().find(|entry| entry.share == *share);
    let (verdict, why, remedy) = match own {
        None => unkept(engine, caller, found.first()),
        Some(entry) => weighed(engine, caller, entry),
    };
    Judged {
        upstream: engine.ledger().upstream().to_owned(),
        verdict,
        why,
        remedy: remedy.map(str::to_owned),
        entries: found.iter().map(|entry| Kept::of(engine, caller, entry, times)).collect(),
    }
}

type Judgement = (Outlook, String, Option<&'static str>);

/// Nothing is kept for the caller.
fn unkept(engine: &Engine, caller: &CallerName, others: Option<&Explained>) -> Judgement {
    if !engine.may_decrypt(caller) {
        let why = "no line of the caller's allow has Decrypt".to_owned();
        return (Outlook::Refused, why, Some("add a line to its allow: actions = [\"Decrypt\"], with the key's id"));
    }
    let Some(other) = others else {
        return (
            Outlook::Asked,
            "nothing is kept for it: the KMS is asked, and policy decides by the key that it names".to_owned(),
            None,
        );
    };
    if engine.line(caller, &other.key).is_none() {
        let why = format!("it is of key {}, which no line of the caller's allow has for Decrypt", other.key);
        return (Outlook::Refused, why, Some(ADD_A_LINE));
    }
    if let Standing::Refused(fault) = &other.standing {
        return (Outlook::Asked, format!("the KMS refuses its key, and is asked again: {fault}"), Some(ENABLE));
    }
    let why = "it is kept for another caller only: this one's first Decrypt asks the KMS".to_owned();
    (Outlook::Asked, why, None)
}

fn weighed(engine: &Engine, caller: &CallerName, entry: &Explained) -> Judgement {
    let Some((line, _)) = engine.line(caller, &entry.key) else {
        let why = format!("it is of key {}, which no line of the caller's allow has for Decrypt", entry.key);
        return (Outlook::Refused, why, Some(ADD_A_LINE));
    };
    if entry.fresh {
        let how = match (entry.in_context, entry.names_key) {
            (true, _) => ", to calls with the same encryption context",
            (false, true) => ", to calls that name the same key",
            (false, false) => "",
        };
        return (Outlook::Served, format!("from memory{how}, by line {line} of the caller's allow"), None);
    }
    match &entry.standing {
        Standing::Refused(fault) => (
            Outlook::Refused,
            format!("the KMS refuses its key: {fault}; one trial a second is let through"),
            Some(ENABLE),
        ),
        Standing::Lapsed => {
            let why = "the KMS has not renewed its lease: it is asked, and silence is no consent".to_owned();
            (Outlook::Asked, why, Some("see `kmsproxy status` for how the KMS is, and its log"))
        }
        Standing::Suspended | Standing::Unknown => {
            (Outlook::Asked, "its lease is set aside until the KMS consents again, so it is asked".to_owned(), None)
        }
        Standing::Serving | Standing::ServingByGrace => {
            (Outlook::Asked, "what is kept is too old, or was purged: the KMS is asked".to_owned(), None)
        }
    }
}

impl Kept {
    fn of(engine: &Engine, caller: &CallerName, entry: &Explained, times: Times) -> Self {
        let line = engine.line(caller, &entry.key).map(|(line, rule)| Line {
            line,
            actions: rule.actions.iter().map(|action| action.name().to_owned()).collect(),
            keys: rule.keys,
        });
        // Of a moment to come, what is told is how long it is until then.
        let expires = jiff::SignedDuration::try_from(entry.expires.since(times.now)).unwrap_or_default();
        Self {
            share: entry.share.as_str().to_owned(),
            key: entry.key.as_str().to_owned(),
            version: entry.version.as_str().to_owned(),
            in_context: entry.in_context,
            names_key: entry.names_key,
            lease: word(&entry.standing).to_owned(),
            lease_left_ms: millis(entry.lease_left),
            asked_at: times.of(entry.asked),
            expires_at: times.of(times.now).saturating_add(expires).unwrap_or(Timestamp::MAX),
            allowed_by: line,
        }
    }
}

const ADD_A_LINE: &str =
    "add the key's id to a line of its allow that has Decrypt, or leave it: this is what policy is for";
const ENABLE: &str = "enable the key in the KMS, or restore the permission; the next Decrypt then notices";
