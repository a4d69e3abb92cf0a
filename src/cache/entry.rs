//! One sealed DEK.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use triomphe::ThinArc;

use super::Fingerprint;
use super::lot::Lot;
use super::phase::Phase;
use crate::auth::CallerName;
use crate::clock::Moment;
use crate::fault::Fault;
use crate::kms::{Ciphertext, Decrypt, Decrypted, Extra, KeyId, KeyVersion, RequestId};
use crate::lease::{Asked, Epoch, Standing};
use crate::ledger::{Dek, Mark, Scope};
use crate::policy::{Held, Release};
use crate::seal::Sealed;

/// One sealed DEK. Its clones are the same entry.
///
/// One piece of memory, with no count of weak references and no pointer from one half to the other: there may be a million.
#[derive(Clone, Debug)]
pub struct Entry(ThinArc<Body, u8>);

/// What an entry is, but for the ciphertext that it answers, which lies behind.
///
/// In this order in memory: a hit reads the first three lines, and of an entry that was not asked for lately each line is
/// waited for.
#[derive(Debug)]
#[repr(C)]
pub struct Body {
    pub(super) fingerprint: Fingerprint,
    pub(super) lot: Mark<Arc<Lot>>,
    /// The second, since boot and counted from 1, in which moka last heard of a hit; 0 before the first.
    pub(super) told: AtomicU32,
    /// As [`Stub::number`](super::stub::Stub::number).
    pub(super) number: u32,
    pub(super) epoch: Epoch,
    pub(super) expires: Moment,
    pub(super) sealed: Sealed,
    pub(super) dek: Dek,
    /// What the KMS knows the call by that filled it.
    pub(super) source: RequestId,
    pub(super) asked: Asked,
    pub(super) refresh: Moment,
}

impl Deref for Entry {
    type Target = Body;

    fn deref(&self) -> &Body {
        &self.0.header.header
    }
}

/// Why an entry was not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It is too old, its lease is not in force, or its epoch is gone: ask the KMS.
    Ask,
    /// Its key is refused, in these words.
    Refused(Fault),
}

impl Entry {
    pub(super) fn new(body: Body, ciphertext: &[u8]) -> Self {
        Self(ThinArc::from_header_and_slice(body, ciphertext))
    }

    /// Whether it is this very one, and not another of the same call.
    pub(super) fn is(&self, other: &Self) -> bool {
        std::ptr::eq::<Body>(&**self, &**other)
    }

    /// The key that made it.
    #[must_use]
    pub fn key(&self) -> &KeyId {
        self.scope().key()
    }

    /// The version of that key.
    #[must_use]
    pub fn version(&self) -> &KeyVersion {
        self.dek.version()
    }

    /// The DEK.
    #[must_use]
    pub fn dek(&self) -> &Dek {
        &self.dek
    }

    /// The scope it lives by.
    #[must_use]
    pub fn scope(&self) -> &Arc<Scope> {
        self.lot.scope()
    }

    /// The callers that it may be given to, as far as policy allows: a caller, or a group.
    #[must_use]
    pub fn share(&self) -> &CallerName {
        &self.lot.held().share
    }

    /// The ciphertext that it answers.
    #[must_use]
    pub fn ciphertext(&self) -> &[u8] {
        &self.0.slice
    }

    /// The call that it answers.
    #[must_use]
    pub fn call(&self) -> Decrypt {
        let (ciphertext, Lot { named, context, .. }) =
            (Ciphertext::new(self.ciphertext().to_vec()), &**self.lot.held());
        // Calls that are kept have no other parts.
        let (dry_run, extra) = (false, Extra::default());
        Decrypt { ciphertext, key: named.clone(), context: context.clone(), dry_run, extra }
    }

    /// When the question was sent that it is the answer to.
    #[must_use]
    pub fn asked(&self) -> Asked {
        self.asked
    }

    /// When it is too old.
    #[must_use]
    pub fn expires(&self) -> Moment {
        self.expires
    }

    /// Where in its period it is asked for again.
    pub(super) fn phase(&self) -> Phase {
        Phase::of(self.refresh, self.expires.since(self.asked.sent))
    }

    /// Whether moka is to be told of a hit at `now`: where it has not been for `spacing` seconds. That is often enough to tell
    /// what is wanted from what is not, and leaves nearly all of moka's work out of the way of hits.
    pub(super) fn told(&self, now: Moment, spacing: u32) -> bool {
        let second = u32::try_from(now.since(Moment::BOOT).as_secs() + 1).unwrap_or(u32::MAX);
        let last = self.told.load(Ordering::Relaxed);
        (last == 0 || second.saturating_sub(last) >= spacing)
            && self.told.compare_exchange(last, second, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// What it takes in memory, about, in started KiB.
    pub(super) fn kibibytes(&self) -> u32 {
        let bytes = ENTRY_BYTES + self.sealed.size() + self.ciphertext().len() + self.lot.held().size();
        u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
    }

    /// What it is filed under.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Whether it would be served at `now`.
    #[must_use]
    pub fn fresh(&self, now: Moment) -> bool {
        now < self.expires && self.scope().serves(self.epoch, now)
    }

    /// As [`Entry::fresh`], and it can be unsealed: its sealing key is not wiped. That it is, for one that is fresh, happens
    /// where a closing or a purge ended between the sealing and the keeping of its scope's first entry.
    #[must_use]
    pub fn opens(&self, now: Moment) -> bool {
        now < self.expires && self.scope().open(self.epoch, &self.fingerprint.hash, &self.sealed, now).is_some()
    }

    /// What was unwrapped, if entry and lease allow it at `now`, against proof that policy does; still locked.
    ///
    /// # Errors
    /// [`Closed`] says whether to ask the KMS or to give up.
    pub fn open(&self, _: &Release<'_>, now: Moment) -> Result<Held, Closed> {
        if now < self.expires
            && let Some(plaintext) = self.scope().open(self.epoch, &self.fingerprint.hash, &self.sealed, now)
        {
            let reply = Decrypted { plaintext, key: self.key().clone(), version: self.version().clone() };
            return Ok(Held::kept(reply, self.source.clone()));
        }
        match self.scope().standing(now) {
            Standing::Refused(fault) => Err(Closed::Refused(fault)),
            Standing::Lapsed
            | Standing::Serving
            | Standing::ServingByGrace
            | Standing::Suspended
            | Standing::Unknown => Err(Closed::Ask),
        }
    }
}

/// An entry without what it holds, and its places in the index and in moka's tables.
const ENTRY_BYTES: usize = 480;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hit_reads_lies_in_the_first_three_lines_and_the_rest_is_not_much() {
        let count = size_of::<usize>();
        let read = std::mem::offset_of!(Body, source) + size_of::<RequestId>();
        assert!(count + read <= 3 * 64, "{read}");
        // With the length of the ciphertext.
        let whole = count + size_of::<Body>() + size_of::<usize>();
        assert!(whole <= 184, "{whole}");
    }
}
