//! `POST /explain`: what would become of a Decrypt, and why. Asks no KMS, changes nothing, and logs nothing of what it was
//! given.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::refusal::{Refusal, unknown_caller, unknown_listener};
use super::status::{Counted, Times, millis};
use crate::auth::{CallerName, Door};
use crate::claim::ListenerName;
use crate::clock::Clock;
use crate::engine::{Engine, Explained};
use crate::fault::Fault;
use crate::kms::{Ciphertext, Context, KeyId, KeyName};
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
    /// The encryption context that the call has. None: whichever it was asked for with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<BTreeMap<String, String>>,
    /// The key that the call names, as a Kubernetes provider's does. None: named or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The listener that it comes through. None: each upstream is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
}

/// A call that is thought of.
struct Thought<'q> {
    caller: CallerName,
    share: CallerName,
    ciphertext: Ciphertext,
    context: Option<&'q BTreeMap<String, String>>,
    key: Option<KeyName>,
    /// Whether the caller cannot come in where it is said to.
    misplaced: bool,
    times: Times,
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

pub(super) const FORM: &str = "{\"caller\": \"NAME\", \"ciphertext\": \"BASE64\"}, and as the call has them \
                               \"context\": {\"NAME\": \"VALUE\"}, \"key\": \"KEY\", \"listener\": \"NAME\"";

/// Answers `question` from what `engines` know.
pub(super) fn answer(
    question: &Question,
    engines: &[Arc<Engine>],
    listeners: &[Counted],
    door: &Door,
    clock: &dyn Clock,
) -> Result<Explanation, Refusal> {
    let blob = base64::decode(question.ciphertext.trim().as_bytes()).filter(|blob| !blob.is_empty());
    let ciphertext = Ciphertext::new(blob.ok_or_else(|| {
        let remedy = "give the CiphertextBlob as the KMS gave it, and nothing else";
        Refusal::new(StatusCode::BAD_REQUEST, "the ciphertext is not base64", remedy)
    })?);
    let caller = CallerName::new(&question.caller);
    let share = engines.first().and_then(|engine| engine.share(&caller)).ok_or_else(unknown_caller)?;
    let upstream = question.listener.as_ref().map(|name| {
        let listener = listeners.iter().find(|listener| listener.name == *name);
        listener.map(|listener| listener.upstream.as_str()).ok_or_else(unknown_listener)
    });
    let upstream = upstream.transpose()?;
    let misplaced = question.listener.as_ref().is_some_and(|name| !door.expects(&ListenerName::new(name), &caller));
    let thought = Thought {
        caller,
        share,
        ciphertext,
        context: question.context.as_ref(),
        key: question.key.as_deref().map(KeyName::new),
        misplaced,
        times: Times { now: clock.now(), wall: clock.wall() },
    };
    let meant = |engine: &&Arc<Engine>| upstream.is_none_or(|upstream| engine.ledger().upstream() == upstream);
    let upstreams = engines.iter().filter(meant).map(|engine| thought.judged(engine)).collect();
    Ok(Explanation { caller: question.caller.clone(), share: thought.share.as_str().to_owned(), upstreams })
}

type Judgement = (Outlook, String, Option<&'static str>);

impl Thought<'_> {
    fn judged(&self, engine: &Engine) -> Judged {
        let found = engine.explain(&self.ciphertext, self.times.now);
        let own = found.iter().find(|entry| entry.share == self.share && self.is_answered_by(entry));
        let (verdict, why, remedy) = match own {
            _ if self.misplaced => elsewhere(),
            None => self.misnamed(engine).unwrap_or_else(|| self.unkept(engine, &found)),
            Some(entry) => self.weighed(engine, entry),
        };
        Judged {
            upstream: engine.ledger().upstream().to_owned(),
            verdict,
            why,
            remedy: remedy.map(str::to_owned),
            entries: found.iter().map(|entry| Kept::of(engine, &self.caller, entry, self.times)).collect(),
        }
    }

    /// Whether it is of a call like this one, as far as that is said.
    fn is_answered_by(&self, entry: &Explained) -> bool {
        let same = |pairs: &BTreeMap<String, String>| {
            let kept = entry.context.iter().flat_map(Context::pairs).map(|(name, value)| (&**name, &**value));
            kept.eq(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        };
        self.context.is_none_or(same) && self.key.as_ref().is_none_or(|key| entry.named.as_ref() == Some(key))
    }

    /// Why a call that names its key is refused before anybody is asked.
    fn misnamed(&self, engine: &Engine) -> Option<Judgement> {
        let key = self.key.as_ref()?;
        if engine.line(&self.caller, &KeyId::new(key.bare())).is_none() {
            let why = "it names a key that no line of the caller's allow has for Decrypt".to_owned();
            return Some((Outlook::Refused, why, Some(ADD_A_LINE)));
        }
        engine.refusal_of(key, self.times.now).map(|fault| disabled(&fault))
    }

    /// Nothing is kept that would answer it.
    fn unkept(&self, engine: &Engine, found: &[Explained]) -> Judgement {
        if !engine.may_decrypt(&self.caller) {
            let why = "no line of the caller's allow has Decrypt".to_owned();
            return (Outlook::Refused, why, Some(ADD_DECRYPT));
        }
        let Some(other) = found.iter().find(|entry| entry.share == self.share).or(found.first()) else {
            return (
                Outlook::Asked,
                "nothing is kept for it: the KMS is asked, and policy decides by the key that it names".to_owned(),
                None,
            );
        };
        if engine.line(&self.caller, &other.key).is_none() {
            return unallowed(&other.key);
        }
        if let Standing::Refused(fault) = &other.standing {
            return (Outlook::Asked, format!("the KMS refuses its key, and is asked again: {fault}"), Some(ENABLE));
        }
        let why = if other.share == self.share {
            "it is kept for calls with another encryption context, or that name the key otherwise: the KMS is asked, and may \
             refuse it"
        } else {
            "it is kept for another caller only: this one's first Decrypt asks the KMS"
        };
        (Outlook::Asked, why.to_owned(), None)
    }

    fn weighed(&self, engine: &Engine, entry: &Explained) -> Judgement {
        let Some((line, _)) = engine.line(&self.caller, &entry.key) else { return unallowed(&entry.key) };
        if entry.fresh {
            let how = match (&entry.context, &entry.named) {
                (Some(_), _) => ", to calls with the same encryption context in the same spelling",
                (None, Some(_)) => ", to calls that name the same key",
                (None, None) => "",
            };
            return (Outlook::Served, format!("from memory{how}, by line {line} of the caller's allow"), None);
        }
        match &entry.standing {
            Standing::Refused(fault) => disabled(fault),
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
}

fn elsewhere() -> Judgement {
    let why = "nobody who comes through that listener is this caller".to_owned();
    (Outlook::Refused, why, Some("ask with the listener of its [[caller]], or give it an entry for this one as well"))
}

fn disabled(fault: &Fault) -> Judgement {
    let why = format!("the KMS refuses its key: {fault}; one trial a second is let through");
    (Outlook::Refused, why, Some(ENABLE))
}

fn unallowed(key: &KeyId) -> Judgement {
    let why = format!("it is of key {key}, which no line of the caller's allow has for Decrypt");
    (Outlook::Refused, why, Some(ADD_A_LINE))
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
            in_context: entry.context.is_some(),
            names_key: entry.named.is_some(),
            lease: word(&entry.standing).to_owned(),
            lease_left_ms: millis(entry.lease_left),
            asked_at: times.of(entry.asked),
            expires_at: times.of(times.now).saturating_add(expires).unwrap_or(Timestamp::MAX),
            allowed_by: line,
        }
    }
}

const ADD_DECRYPT: &str = "add a line to its allow: actions = [\"Decrypt\"], with the key's id";
const ADD_A_LINE: &str =
    "add the key's id to a line of its allow that has Decrypt, or leave it: this is what policy is for";
const ENABLE: &str = "enable the key in the KMS, or restore the permission; the next Decrypt then notices";
