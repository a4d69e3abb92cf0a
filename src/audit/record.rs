//! What is recorded, and in which words.

use serde::Serialize;

use super::members::Members;
use super::stamp::Clocks;
use crate::claim::ListenerName;
use crate::clock::Moment;
use crate::kms::{Action, Ciphertext, KeyId, KeyName, KeyVersion, RequestId};

/// One answer or one refusal. Has the ciphertext, of which only a keyed digest is written; never a plaintext or a
/// credential.
#[derive(Clone, Copy, Debug)]
pub struct Record<'r> {
    /// Who asked.
    pub caller: &'r str,
    /// Through which listener.
    pub listener: &'r ListenerName,
    /// For what.
    pub action: Action,
    /// How the caller called the key, where it named one.
    pub named: Option<&'r KeyName>,
    /// The key that the answer names.
    pub key: Option<&'r KeyId>,
    /// Its version.
    pub version: Option<&'r KeyVersion>,
    /// What was to be unwrapped.
    pub ciphertext: Option<&'r Ciphertext>,
    /// How it ended.
    pub outcome: Outcome,
    /// What the caller knows the answer by.
    pub request_id: Option<&'r RequestId>,
    /// What the KMS knows the call by that made the answer, or filled the cache entry that did.
    pub kms_request_id: Option<&'r RequestId>,
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

    pub(super) const fn event(self) -> &'static str {
        match self {
            Self::Refused(_) => "refusal",
            Self::Coalesced | Self::Encrypted | Self::Generated | Self::Hit | Self::Miss | Self::Passed => "answer",
        }
    }

    pub(super) const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Refused(reason) => Some(reason),
            Self::Coalesced | Self::Encrypted | Self::Generated | Self::Hit | Self::Miss | Self::Passed => None,
        }
    }
}

/// What the log says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event<'r> {
    /// Nothing new: says that the chain was whole so far.
    Checkpoint,
    /// A writer ends in an orderly way.
    Closed { why: Why },
    /// So many records were lost before this one, because the sink failed or the queue was full.
    Gap { dropped: u64 },
    /// A writer begins: the first record of each file and of each run.
    Opened { run: &'r str, keyed: bool, after: After },
    /// So many refusals of one caller were only counted.
    Suppressed { caller: &'r str, refusals: u64 },
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

impl Event<'_> {
    /// Appends its members to a line that has `seq` and `prev` already.
    pub(super) fn write(&self, at: Moment, clocks: &mut Clocks, line: &mut Vec<u8>) {
        let mut members = Members::begin(line, self.event(), at, clocks);
        match *self {
            Self::Checkpoint => {}
            Self::Closed { why } => members.value(r#","why":"#, &why),
            Self::Gap { dropped } => members.value(r#","dropped":"#, &dropped),
            Self::Opened { run, keyed, after } => {
                members.value(r#","format":"#, &FORMAT);
                members.text(r#","version":""#, env!("CARGO_PKG_VERSION").as_bytes());
                members.text(r#","run":""#, run.as_bytes());
                members.value(r#","keyed":"#, &keyed);
                members.value(r#","after":"#, &after);
            }
            Self::Suppressed { caller, refusals } => {
                members.text(r#","caller":""#, caller.as_bytes());
                members.value(r#","refusals":"#, &refusals);
            }
        }
    }

    const fn event(&self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Closed { .. } => "closed",
            Self::Gap { .. } => "gap",
            Self::Opened { .. } => "opened",
            Self::Suppressed { .. } => "suppressed",
        }
    }
}

/// The format that `opened` names.
const FORMAT: u32 = 1;
