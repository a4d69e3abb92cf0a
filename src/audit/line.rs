//! A line of an audit log, read back.

use serde::Deserialize;

use super::chain::{Hash, Head, Keys, part};
use super::record::{After, Why};

/// What the chain and the verifier need of a line.
#[derive(Debug)]
pub(super) struct Line<'l> {
    body: &'l [u8],
    pub(super) head: Head,
    pub(super) prev: Hash,
    pub(super) event: What,
    /// The wall clock's time, as written.
    pub(super) time: String,
}

/// What kind of record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Call,
    Checkpoint,
    Closed(Why),
    Gap(u64),
    Opened { after: After, keyed: bool },
}

#[derive(Deserialize)]
struct Members {
    seq: u64,
    prev: String,
    event: Word,
    time: String,
    after: Option<After>,
    keyed: Option<bool>,
    why: Option<Why>,
    dropped: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Answer,
    Checkpoint,
    Closed,
    Gap,
    Opened,
    Refusal,
    Suppressed,
}

impl<'l> Line<'l> {
    /// Reads a line without its line feed. None where it is not one of ours.
    pub(super) fn parse(line: &'l [u8]) -> Option<Self> {
        let (body, hash) = part(line)?;
        let Members { seq, prev, event, time, after, keyed, why, dropped } = serde_json::from_slice(line).ok()?;
        let event = match event {
            Word::Answer | Word::Refusal | Word::Suppressed => What::Call,
            Word::Checkpoint => What::Checkpoint,
            Word::Closed => What::Closed(why?),
            Word::Gap => What::Gap(dropped?),
            Word::Opened => What::Opened { after: after?, keyed: keyed? },
        };
        Some(Self { body, head: Head { seq, hash }, prev: Hash::parse(&prev)?, event, time })
    }

    /// Whether one of `keys` made its hash.
    pub(super) fn holds(&self, keys: &[Keys]) -> bool {
        keys.iter().any(|keys| keys.hash(self.body) == self.head.hash)
    }
}
