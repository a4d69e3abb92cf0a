//! One sealed DEK.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

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

/// One sealed DEK.
///
/// In this order in memory, and with no more than the ciphertext elsewhere: a hit reads the first three lines, and of one
/// that was not asked for lately each line is waited for.
#[derive(Debug)]
#[repr(C)]
pub struct Entry {
    pub(super) fingerprint: Fingerprint,
    pub(super) lot: Mark<Arc<Lot>>,
    /// The second, since boot and counted from 1, in which moka last heard of a hit; 0 before the first.
    pub(super) told: AtomicU32,
    pub(super) epoch: Epoch,
    pub(super) expires: Moment,
    pub(super) sealed: Sealed,
    pub(super) dek: Dek,
    /// What the KMS knows the call by that filled it.
    pub(super) source: RequestId,
    pub(super) asked: Asked,
    pub(super) refresh: Moment,
    pub(super) ciphertext: Box<[u8]>,
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
    pub const fn dek(&self) -> &Dek {
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
    pub const fn ciphertext(&self) -> &[u8] {
        &self.ciphertext
    }

    /// The call that it answers.
    #[must_use]
    pub fn call(&self) -> Decrypt {
        let (ciphertext, Lot { named, context, .. }) = (Ciphertext::new(self.ciphertext.to_vec()), &**self.lot.held());
        // Calls that are kept have no other parts.
        let (dry_run, extra) = (false, Extra::default());
        Decrypt { ciphertext, key: named.clone(), context: context.clone(), dry_run, extra }
    }

    /// When the question was sent that it is the answer to.
    #[must_use]
    pub const fn asked(&self) -> Asked {
        self.asked
    }

    /// When it is too old.
    #[must_use]
    pub const fn expires(&self) -> Moment {
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
        let bytes = ENTRY_BYTES + self.sealed.size() + self.ciphertext.len() + self.lot.held().size();
        u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
    }

    /// What it is filed under.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
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
const ENTRY_BYTES: usize = 580;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hit_reads_lies_in_the_first_three_lines() {
        let counts = 2 * size_of::<usize>();
        let read = std::mem::offset_of!(Entry, source) + size_of::<RequestId>();
        assert!(counts + read <= 3 * 64, "{read}");
        assert!(counts + size_of::<Entry>() <= 224, "{}", size_of::<Entry>());
    }
}
