//! What is recorded, and in which words.

use std::sync::Arc;

use serde::Serialize;

use super::chain::Keys;
use super::stamp::Stamp;
use crate::claim::ListenerName;
use crate::clock::Moment;
use crate::kms::{Action, Ciphertext, KeyId, KeyName, KeyVersion, RequestId};

/// One answer or one refusal, before it is written. Holds the ciphertext, of which only a keyed digest is written; never
/// a plaintext or a credential.
#[derive(Clone, Debug)]
pub struct Record {
    /// Who asked.
    pub caller: Arc<str>,
    /// Through which listener.
    pub listener: ListenerName,
    /// For what.
    pub action: Action,
    /// How the caller called the key, where it named one.
    pub named: Option<KeyName>,
    /// The key that the answer names.
    pub key: Option<KeyId>,
    /// Its version.
    pub version: Option<KeyVersion>,
    /// What was to be unwrapped.
    pub ciphertext: Option<Ciphertext>,
    /// How it ended.
    pub outcome: Outcome,
    /// What the caller knows the answer by.
    pub request_id: Option<RequestId>,
    /// What the KMS knows the call by that made the answer, or filled the cache entry that did.
    pub kms_request_id: Option<RequestId>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Unwrapped by a question that was under way already.
    Coalesced,
    /// Wrapped.
    Encrypted,
    /// A data key was made.
    Generated,
    /// Unwrapped from the cache.
    Hit,
    /// Unwrapped by a question of its own.
    Miss,
    /// Answered by the KMS without cache: a Decrypt that is never shared, or a read.
    Passed,
    /// Not answered, for this reason (a `Kind` label).
    Refused(&'static str),
}

impl Outcome {
    /// A fixed word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Coalesced => "coalesced",
            Self::Encrypted => "encrypted",
            Self::Generated => "generated",
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Passed => "passed",
            Self::Refused(_) => "refused",
        }
    }

    const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Refused(reason) => Some(reason),
            Self::Coalesced | Self::Encrypted | Self::Generated | Self::Hit | Self::Miss | Self::Passed => None,
        }
    }
}

/// The members of a line between `prev` and `hash`: one of these.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'r> {
    /// An answer.
    Answer(Call<'r>),
    /// A refusal.
    Refusal(Call<'r>),
    /// A writer begins: the first record of each file and of each run.
    Opened {
        #[serde(flatten)]
        stamp: Stamp,
        format: u32,
        version: &'static str,
        run: &'r str,
        keyed: bool,
        after: After,
    },
    /// A writer ends in an orderly way.
    Closed {
        #[serde(flatten)]
        stamp: Stamp,
        why: Why,
    },
    /// Nothing new: says that the chain was whole so far.
    Checkpoint {
        #[serde(flatten)]
        stamp: Stamp,
    },
    /// So many records were lost before this one, because the sink failed or the queue was full.
    Gap {
        #[serde(flatten)]
        stamp: Stamp,
        dropped: u64,
    },
    /// So many refusals of one caller were only counted.
    Suppressed {
        #[serde(flatten)]
        stamp: Stamp,
        caller: &'r str,
        refusals: u64,
    },
}

/// What stood before a writer's first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// A record that is not a `closed`: the writer before was killed.
    Break,
    /// The `closed` of the writer before.
    Close,
    /// Nothing that is known: a chain begins.
    Nothing,
    /// The file was moved away; this is its successor.
    Rotation,
    /// A record that is cut off: the disk was full, or the power failed.
    Torn,
    /// The file was emptied in place.
    Truncation,
    /// Something that is no record: a chain begins, and the file is not whole.
    Unreadable,
}

/// Why a writer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The file was moved away; its successor follows.
    Rotation,
    /// The daemon stopped.
    Stop,
}

/// A record as it is written.
#[derive(Serialize)]
pub(super) struct Call<'r> {
    #[serde(flatten)]
    stamp: Stamp,
    caller: &'r str,
    listener: &'r str,
    action: &'static str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_version: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_named: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kms_request_id: Option<String>,
}

impl Record {
    pub(super) fn event(&self, stamp: Stamp, keys: &Keys) -> Event<'_> {
        let call = Call {
            stamp,
            caller: &self.caller,
            listener: self.listener.as_str(),
            action: self.action.name(),
            outcome: self.outcome.word(),
            reason: self.outcome.reason(),
            key: self.key.as_ref().map(|key| cut(key.as_str())),
            key_version: self.version.as_ref().map(|version| cut(version.as_str())),
            key_named: self.named.as_ref().map(|name| cut(name.as_str())),
            ciphertext_digest: self.ciphertext.as_ref().map(|ciphertext| keys.digest(ciphertext.bytes())),
            request_id: self.request_id.as_ref().map(|id| cut(&id.text()).to_owned()),
            kms_request_id: self.kms_request_id.as_ref().map(|id| cut(&id.text()).to_owned()),
        };
        match self.outcome {
            Outcome::Refused(_) => Event::Refusal(call),
            Outcome::Coalesced
            | Outcome::Encrypted
            | Outcome::Generated
            | Outcome::Hit
            | Outcome::Miss
            | Outcome::Passed => Event::Answer(call),
        }
    }
}

/// A record in the queue, and when it was accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) at: Moment,
    pub(super) record: Record,
}

/// What a caller or a KMS names is bounded only by what a request may hold.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The format that `opened` names.
pub(super) const FORMAT: u32 = 1;
const TEXT_BYTES_MAX: usize = 256;
