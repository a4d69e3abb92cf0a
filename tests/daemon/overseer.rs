//! Holds what a scene's clients were told against what its emulator decided, when the scene ends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tempfile::TempDir;

use super::client::diary::{self, Diary, Entry, Page};
use super::oracle::history::{
    DECRYPT, Decision, Grant, History, OK, Policy, Terms, Told, context_digest, decisions, digest,
};
use super::oracle::hold;
use super::scene::Setting;

/// Fails its test when dropped, where a promise was broken.
pub(crate) struct Overseer {
    dir: TempDir,
    diary: Arc<Diary>,
    terms: Terms,
    grants: BTreeMap<String, Grant>,
    steps: Mutex<Vec<u64>>,
    kms: Option<Box<dyn Fn() -> Vec<Decision> + Send + Sync>>,
}

impl Overseer {
    pub(crate) fn new(setting: Setting) -> Self {
        let span = |text: &str| Duration::try_from(text.parse::<jiff::SignedDuration>().unwrap()).unwrap();
        let calls_per_flight = 1 + usize::try_from(setting.retries).unwrap();
        let (lease, probe) = (span(setting.lease), span(setting.probe));
        let terms = Terms { lease, probe, calls_per_flight, ..Terms::default() };
        Self {
            dir: tempfile::tempdir().unwrap(),
            diary: Arc::default(),
            terms,
            grants: BTreeMap::new(),
            steps: Mutex::default(),
            kms: None,
        }
    }

    /// Of a KMS that the test plays, in place of an emulator.
    #[allow(dead_code, reason = "for tests that play one")]
    pub(crate) fn of_kms(setting: Setting, decided: impl Fn() -> Vec<Decision> + Send + Sync + 'static) -> Self {
        let mut overseer = Self::new(setting);
        overseer.kms = Some(Box::new(decided));
        overseer
    }

    /// The wall clock of the daemon has just been set.
    #[allow(dead_code, reason = "for tests that set it")]
    pub(crate) fn clock_is_set(&self) {
        self.steps.lock().unwrap().push(diary::now());
    }

    /// Where the emulator is to write its decisions.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("decisions")
    }

    /// For the calls of `caller`, who may do `actions` with every key.
    pub(crate) fn page(&mut self, caller: &'static str, actions: &[&str]) -> Page {
        let actions = actions.iter().map(|&action| action.to_owned()).collect();
        let grant = Grant { share: caller.to_owned(), actions, keys: vec!["*".to_owned()] };
        self.grants.insert(caller.to_owned(), grant);
        Page { diary: Arc::clone(&self.diary), caller }
    }
}

impl Drop for Overseer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let tally = hold(&History {
            terms: self.terms,
            policies: vec![Policy { from_ns: 0, grants: std::mem::take(&mut self.grants) }],
            decisions: self.kms.as_ref().map_or_else(|| decisions(&self.file()), |kms| kms()),
            told: self.diary.entries().iter().map(told).collect(),
            steps: self.steps.lock().unwrap().clone(),
            ..History::default()
        });
        eprintln!("the oracle: {tally:?}");
    }
}

fn told(entry: &Entry) -> Told {
    let action = ACTIONS.into_iter().find(|action| *action == entry.action).unwrap_or("another");
    let parameter =
        |name: &str| entry.parameters.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let unanswered = (entry.sent_ns, (0, Value::Null));
    let (received_ns, (status, body)) = entry.told.as_ref().unwrap_or(&unanswered);
    let answered = |name: &str| body[name].as_str();
    let made = if action == DECRYPT { parameter("CiphertextBlob") } else { answered("CiphertextBlob") };
    Told {
        caller: entry.caller.to_owned(),
        action,
        sent_ns: entry.sent_ns,
        received_ns: *received_ns,
        released_ns: None,
        key: answered("KeyId").or(parameter("KeyId")).map(str::to_owned),
        context: parameter("EncryptionContext").map(context),
        ciphertext: made.and_then(decoded).map(|blob| digest(&blob)),
        plaintext: answered("Plaintext").and_then(decoded).map(|plaintext| digest(&plaintext)),
        outcome: if *status == 200 { OK } else { refusal(answered("Code").unwrap_or("none")) }.to_owned(),
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

fn context(text: &str) -> String {
    let pairs: BTreeMap<String, String> = serde_json::from_str(text).unwrap();
    context_digest(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())))
}

/// kmsproxy's own word for a refusal of a key. `Rejected.Unavailable` is none: it also stands for silence.
fn refusal(code: &str) -> &str {
    match code {
        "Rejected.Disabled" => "key_disabled",
        "Rejected.PendingDeletion" => "key_pending_deletion",
        "Forbidden.KeyNotFound" => "key_not_found",
        other => other,
    }
}

const ACTIONS: [&str; 5] = [DECRYPT, "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "DescribeKey"];
