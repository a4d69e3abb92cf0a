//! Records that wait to be written.

use super::chain::{Hash, Keys};
use super::members::{Members, cut};
use super::record::{Outcome, Record};
use super::stamp::Clocks;
use crate::clock::Moment;
use crate::kms::{Action, RequestId};

/// Records in the order in which they were accepted, what they name one behind the other. Whoever adds one copies it and does
/// no more, so that little of the log is on the way of a request; and whoever has written them frees nothing that another
/// thread has made, but for a request id that is no UUID.
#[derive(Debug, Default)]
pub struct Batch {
    accepted: Vec<Accepted>,
    /// What they name, of each in the order of [`Accepted`]'s lengths.
    named: Vec<u8>,
    /// How many have been taken, and how much of `named` with them.
    taken: usize,
    passed: usize,
}

/// A record, with lengths in the place of what it names.
#[derive(Debug)]
struct Accepted {
    at: Moment,
    action: Action,
    outcome: Outcome,
    caller: Length,
    listener: Length,
    key: Option<Length>,
    version: Option<Length>,
    key_named: Option<Length>,
    ciphertext: Option<Blob>,
    request_id: Option<RequestId>,
    kms_request_id: Option<RequestId>,
}

/// Nothing that a request or a configuration holds is longer than 32 bits can tell.
type Length = u32;

#[derive(Clone, Copy, Debug)]
enum Blob {
    /// In its place the digest: it was longer than what may wait.
    Digest,
    Whole(Length),
}

impl Batch {
    /// The digest of a ciphertext that is too long to wait; to be made before anybody is kept waiting for the batch.
    #[must_use]
    pub fn digest(record: &Record<'_>, keys: &Keys) -> Option<Hash> {
        let long = record.ciphertext.filter(|ciphertext| ciphertext.bytes().len() > CIPHERTEXT_BYTES_MAX)?;
        Some(keys.digest(long.bytes()))
    }

    /// Adds a record that is accepted `at`, with what [`Batch::digest`] says of it.
    pub fn add(&mut self, at: Moment, record: &Record<'_>, digest: Option<Hash>) {
        let accepted = Accepted {
            at,
            action: record.action,
            outcome: record.outcome,
            caller: self.name(record.caller.as_bytes()),
            listener: self.name(record.listener.as_str().as_bytes()),
            key: record.key.map(|key| self.name(cut(key.as_str()))),
            version: record.version.map(|version| self.name(cut(version.as_str()))),
            key_named: record.named.map(|name| self.name(cut(name.as_str()))),
            ciphertext: record.ciphertext.map(|ciphertext| self.blob(ciphertext.bytes(), digest)),
            request_id: record.request_id.cloned(),
            kms_request_id: record.kms_request_id.cloned(),
        };
        self.accepted.push(accepted);
    }

    fn name(&mut self, bytes: &[u8]) -> Length {
        self.named.extend_from_slice(bytes);
        bytes.len() as Length
    }

    fn blob(&mut self, ciphertext: &[u8], digest: Option<Hash>) -> Blob {
        match digest {
            Some(digest) => {
                self.name(digest.bytes());
                Blob::Digest
            }
            None => Blob::Whole(self.name(ciphertext)),
        }
    }

    /// How many have not been taken.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.accepted.len() - self.taken
    }

    /// Whether all have been taken.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the next.
    pub fn take(&mut self) -> Option<Entry<'_>> {
        let accepted = self.accepted.get(self.taken)?;
        let mut rest = &self.named[self.passed..];
        let entry = Entry::of(accepted, &mut rest);
        self.taken += 1;
        self.passed = self.named.len() - rest.len();
        Some(entry)
    }

    /// Makes room for others, once all have been taken.
    pub(super) fn clear(&mut self) {
        self.accepted.clear();
        self.named.clear();
        (self.taken, self.passed) = (0, 0);
        // What one storm took is not kept for ever.
        self.accepted.shrink_to(RECORDS_KEPT);
        self.named.shrink_to(NAMED_BYTES_KEPT);
    }
}

/// A record that was taken from a [`Batch`].
#[derive(Clone, Copy, Debug)]
pub struct Entry<'b> {
    accepted: &'b Accepted,
    caller: &'b [u8],
    listener: &'b [u8],
    key: Option<&'b [u8]>,
    version: Option<&'b [u8]>,
    key_named: Option<&'b [u8]>,
    ciphertext: Option<&'b [u8]>,
}

impl<'b> Entry<'b> {
    /// Takes what it names from the beginning of `rest`.
    fn of(accepted: &'b Accepted, rest: &mut &'b [u8]) -> Self {
        let mut named = |length: Length| {
            let (piece, behind) = rest.split_at(length as usize);
            *rest = behind;
            piece
        };
        Self {
            accepted,
            caller: named(accepted.caller),
            listener: named(accepted.listener),
            key: accepted.key.map(&mut named),
            version: accepted.version.map(&mut named),
            key_named: accepted.key_named.map(&mut named),
            ciphertext: accepted.ciphertext.map(|blob| match blob {
                Blob::Digest => named(Hash::BYTES as Length),
                Blob::Whole(length) => named(length),
            }),
        }
    }

    /// Appends its members to a line that has `seq` and `prev` already.
    pub fn write(&self, keys: &Keys, clocks: &mut Clocks, line: &mut Vec<u8>) {
        let accepted = self.accepted;
        let mut members = Members::begin(line, accepted.outcome.event(), accepted.at, clocks);
        members.text(r#","caller":""#, self.caller);
        members.text(r#","listener":""#, self.listener);
        members.plain(r#","action":""#, accepted.action.name().as_bytes());
        members.plain(r#","outcome":""#, accepted.outcome.word().as_bytes());
        if let Some(reason) = accepted.outcome.reason() {
            members.plain(r#","reason":""#, reason.as_bytes());
        }
        if let Some(key) = self.key {
            members.text(r#","key":""#, key);
        }
        if let Some(version) = self.version {
            members.text(r#","key_version":""#, version);
        }
        if let Some(name) = self.key_named {
            members.text(r#","key_named":""#, name);
        }
        if let Some(digest) = self.digest(keys) {
            members.plain(r#","ciphertext_digest":""#, &digest.hex());
        }
        if let Some(id) = &accepted.request_id {
            members.id(r#","request_id":""#, id);
        }
        if let Some(id) = &accepted.kms_request_id {
            members.id(r#","kms_request_id":""#, id);
        }
    }

    fn digest(&self, keys: &Keys) -> Option<Hash> {
        let ciphertext = self.ciphertext?;
        match self.accepted.ciphertext? {
            Blob::Digest => ciphertext.try_into().ok().map(Hash::of),
            Blob::Whole(_) => Some(keys.digest(ciphertext)),
        }
    }
}

const RECORDS_KEPT: usize = 1024;
const NAMED_BYTES_KEPT: usize = 512 * 1024;
/// So that a queue takes about as much for a record whose ciphertext waits as for one whose does not.
const CIPHERTEXT_BYTES_MAX: usize = 512;
