//! What is recorded, and in which words.

use serde::Serialize;

use super::chain::Keys;
use crate::claim::ListenerName;
use crate::kms::{Action, Ciphertext, KeyId, KeyName, KeyVersion, RequestId, RequestIdText};

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

    const fn event(self) -> &'static str {
        match self {
            Self::Refused(_) => "refusal",
            Self::Coalesced | Self::Encrypted | Self::Generated | Self::Hit | Self::Miss | Self::Passed => "answer",
        }
    }

    const fn reason(self) -> Option<&'static str> {
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

/// A record in the words it is written in, but for what only the writer knows: its number, the hashes, the time.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// What kind of record it is.
    pub event: &'static str,
    /// The other members, each after a comma.
    pub members: Vec<u8>,
}

impl Record<'_> {
    /// Puts it into `words`, in place of what they were. Not by `serde`, which is slow where members are flattened into
    /// others: this is on the way of each hit.
    pub fn put(&self, keys: &Keys, words: &mut Words) {
        words.event = self.outcome.event();
        words.members.clear();
        words.text(r#","caller":""#, self.caller);
        words.text(r#","listener":""#, self.listener.as_str());
        words.plain(r#","action":""#, self.action.name().as_bytes());
        words.plain(r#","outcome":""#, self.outcome.word().as_bytes());
        if let Some(reason) = self.outcome.reason() {
            words.plain(r#","reason":""#, reason.as_bytes());
        }
        if let Some(key) = self.key {
            words.text(r#","key":""#, cut(key.as_str()));
        }
        if let Some(version) = self.version {
            words.text(r#","key_version":""#, cut(version.as_str()));
        }
        if let Some(name) = self.named {
            words.text(r#","key_named":""#, cut(name.as_str()));
        }
        if let Some(ciphertext) = self.ciphertext {
            words.plain(r#","ciphertext_digest":""#, &keys.digest(ciphertext.bytes()).hex());
        }
        if let Some(id) = self.request_id {
            words.id(r#","request_id":""#, id);
        }
        if let Some(id) = self.kms_request_id {
            words.id(r#","kms_request_id":""#, id);
        }
    }
}

impl Event<'_> {
    /// Puts it into words.
    pub(super) fn words(&self) -> Words {
        let of = |event| Words { event, members: Vec::new() };
        match *self {
            Self::Checkpoint => of("checkpoint"),
            Self::Closed { why } => {
                let mut words = of("closed");
                words.value(r#","why":"#, &why);
                words
            }
            Self::Gap { dropped } => {
                let mut words = of("gap");
                words.value(r#","dropped":"#, &dropped);
                words
            }
            Self::Opened { run, keyed, after } => {
                let mut words = of("opened");
                words.value(r#","format":"#, &FORMAT);
                words.text(r#","version":""#, env!("CARGO_PKG_VERSION"));
                words.text(r#","run":""#, run);
                words.value(r#","keyed":"#, &keyed);
                words.value(r#","after":"#, &after);
                words
            }
            Self::Suppressed { caller, refusals } => {
                let mut words = of("suppressed");
                words.text(r#","caller":""#, caller);
                words.value(r#","refusals":"#, &refusals);
                words
            }
        }
    }
}

impl Words {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { event: "", members: Vec::new() }
    }

    /// Adds a member whose value may be anything; `name` with all that stands before the value.
    fn value(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) {
        self.members.extend_from_slice(name.as_bytes());
        // Neither writing to memory nor the JSON form of texts and numbers can fail.
        let _ = serde_json::to_writer(&mut self.members, value);
    }

    /// Adds a member that is a text; `name` up to the quote that opens it.
    fn text(&mut self, name: &'static str, text: &str) {
        // Looked at without a branch for each byte; nearly all are plain.
        let is_plain = |byte: u8| (byte >= b' ') & (byte != b'"') & (byte != b'\\');
        if text.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
            self.plain(name, text.as_bytes());
        } else {
            self.value(name.trim_end_matches('"'), text);
        }
    }

    fn id(&mut self, name: &'static str, id: &RequestId) {
        match id.text() {
            RequestIdText::Other(text) => self.text(name, cut(text)),
            RequestIdText::Uuid(text) => self.plain(name, &text),
        }
    }

    /// Adds a member that is a text without anything that JSON escapes; `name` up to the quote that opens it.
    fn plain(&mut self, name: &'static str, text: &[u8]) {
        self.members.extend_from_slice(name.as_bytes());
        self.members.extend_from_slice(text);
        self.members.push(b'"');
    }
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
const FORMAT: u32 = 1;
const TEXT_BYTES_MAX: usize = 256;
