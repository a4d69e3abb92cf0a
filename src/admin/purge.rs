//! `POST /purge`.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::refusal::{Refusal, unknown_caller, unknown_key};
use crate::auth::CallerName;
use crate::engine::{Engine, Target};
use crate::kms::{KeyId, KeyName};
use crate::warm::Keeper;

/// What is to go: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Everything, where this is true.
    All(bool),
    /// What is kept for this caller, or for the group that it shares with.
    Caller(String),
    /// What answers the ciphertext of this SHA-256, in hexadecimal.
    Digest(String),
    /// What this key made: by its id, ARN, or an alias that was used here.
    Key(String),
}

/// What a purge answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Purged {
    /// How many DEKs were wiped, by upstream.
    pub entries: BTreeMap<String, usize>,
}

pub(super) const FORM: &str =
    "one of {\"all\": true}, {\"key\": \"KEY\"}, {\"caller\": \"NAME\"}, {\"digest\": \"SHA-256\"}";

impl Selection {
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::All(_) => "everything",
            Self::Caller(_) => "a caller's",
            Self::Digest(_) => "a ciphertext's",
            Self::Key(_) => "a key's",
        }
    }

    /// What that means in `engine`; nothing where it means nothing there.
    fn target(&self, engine: &Engine) -> Result<Option<Target>, Refusal> {
        Ok(match self {
            Self::All(true) => Some(Target::All),
            Self::All(false) => return Err(malformed()),
            Self::Caller(name) => engine.share(&CallerName::new(name)).map(Target::Caller),
            Self::Digest(digest) => Some(Target::Digest(unhex(digest).ok_or_else(malformed)?)),
            Self::Key(name) => engine.known(&KeyName::new(name)).map(Target::Key),
        })
    }

    /// What that means in upstreams that there are not, by what can be known of them: no names of keys but their ids.
    fn target_absent(&self, engines: &[Arc<Engine>]) -> Result<Option<Target>, Refusal> {
        match self {
            Self::Key(name) => Ok(Some(Target::Key(KeyId::new(name)))),
            // Means the same everywhere.
            Self::All(_) | Self::Caller(_) | Self::Digest(_) => {
                engines.first().map_or(Ok(None), |any| self.target(any))
            }
        }
    }

    fn unknown(&self) -> Option<Refusal> {
        match self {
            Self::Caller(_) => Some(unknown_caller()),
            Self::Key(key) => Some(unknown_key(key)),
            // That nothing is kept for it is as good as purged.
            Self::Digest(_) | Self::All(_) => None,
        }
    }
}

/// Wipes `selection` in each of `engines`, and has `keeper` forget it.
pub(super) fn carry_out(
    selection: &Selection,
    engines: &[Arc<Engine>],
    keeper: Option<&Keeper>,
) -> Result<Purged, Refusal> {
    let mut purged = Purged::default();
    let mut known = false;
    if let (Some(keeper), Some(target)) = (keeper, selection.target_absent(engines)?) {
        keeper.forget_absent(&target);
    }
    for engine in engines {
        let upstream = engine.ledger().upstream();
        let entries = purged.entries.entry(upstream.to_owned()).or_default();
        let Some(target) = selection.target(engine)? else { continue };
        known = true;
        if let Some(keeper) = keeper {
            keeper.forget(upstream, &target);
        }
        *entries += engine.purge(&target);
    }
    if let Some(refusal) = selection.unknown().filter(|_| !known) {
        return Err(refusal);
    }
    if let Some(keeper) = keeper {
        keeper.save();
    }
    Ok(purged)
}

fn malformed() -> Refusal {
    let error = "nothing is named that could be purged";
    Refusal::new(StatusCode::BAD_REQUEST, error, format!("send {FORM}, the last in 64 hexadecimal digits"))
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}
