//! One sealed DEK.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;

use super::Fingerprint;
use super::phase::Phase;
use crate::auth::CallerName;
use crate::clock::Moment;
use crate::fault::Fault;
use crate::kms::{Decrypt, Decrypted, KeyId, KeyVersion, RequestId};
use crate::lease::{Asked, Epoch, Standing};
use crate::ledger::{Dek, Mark, Scope};
use crate::policy::{Held, Release};
use crate::seal::Sealed;

/// One sealed DEK.
#[derive(Debug)]
pub struct Entry {
    pub(super) fingerprint: Fingerprint,
    pub(super) share: CallerName,
    pub(super) mark: Mark,
    pub(super) epoch: Epoch,
    pub(super) sealed: Sealed,
    pub(super) dek: Arc<Dek>,
    pub(super) call: Decrypt,
    /// What the KMS knows the call by that filled it.
    pub(super) source: RequestId,
    pub(super) asked: Asked,
    pub(super) expires: Moment,
    pub(super) phase: Phase,
    pub(super) refresh: Moment,
    /// The turn of eight seconds, since boot, in which moka last heard of a hit; 0 before the first.
    pub(super) told: AtomicU64,
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
        self.mark.scope().key()
    }

    /// The version of that key.
    #[must_use]
    pub fn version(&self) -> &KeyVersion {
        self.dek.version()
    }

    /// The DEK, which outlives the entry that a refresh replaces.
    #[must_use]
    pub const fn dek(&self) -> &Arc<Dek> {
        &self.dek
    }

    /// The scope it lives by.
    #[must_use]
    pub const fn scope(&self) -> &Arc<Scope> {
        self.mark.scope()
    }

    /// The callers that it may be given to, as far as policy allows: a caller, or a group.
    #[must_use]
    pub const fn share(&self) -> &CallerName {
        &self.share
    }

    /// The call that it answers.
    #[must_use]
    pub const fn call(&self) -> &Decrypt {
        &self.call
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

    /// Whether moka is to be told of a hit at `now`: of the first in each eight seconds. That is often enough to tell what is
    /// wanted from what is not, and leaves nearly all of moka's work out of the way of hits.
    pub(super) fn told(&self, now: Moment) -> bool {
        let turn = now.since(Moment::BOOT).as_secs() / TOLD_EVERY + 1;
        self.told.load(Ordering::Relaxed) != turn && self.told.swap(turn, Ordering::Relaxed) != turn
    }

    /// What it takes in memory, about, in started KiB.
    pub(super) fn kibibytes(&self) -> u32 {
        let context = self.call.context.as_ref().map_or(0, |context| {
            let pairs: usize = context.pairs().iter().map(|(name, value)| name.len() + value.len() + PAIR_BYTES).sum();
            context.text().len() + pairs
        });
        let bytes = ENTRY_BYTES + self.sealed.size() + self.call.ciphertext.bytes().len() + context;
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
            return Ok(Held::kept(reply, &self.source));
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

/// Whether moka lets go of what is old. It goes by the machine's own clock, and knows no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aging {
    /// When an entry's own age ends, and a little early because moka's clock ticks about once a second.
    Machine,
    /// Never. It is not served in any case.
    Never,
}

impl Aging {
    fn span(self, entry: &Entry) -> Option<Duration> {
        let span = entry.expires.since(entry.asked.sent);
        (self == Self::Machine).then(|| span.saturating_sub(MOKA_TICK.min(span / 4)))
    }
}

impl Expiry<Fingerprint, Arc<Entry>> for Aging {
    fn expire_after_create(&self, _: &Fingerprint, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        self.span(entry)
    }

    fn expire_after_update(
        &self,
        _: &Fingerprint,
        entry: &Arc<Entry>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.span(entry)
    }
}

const MOKA_TICK: Duration = Duration::from_millis(1100);
/// An entry without what it holds, and its places in moka's tables.
const ENTRY_BYTES: usize = 700;
const PAIR_BYTES: usize = 32;
/// Seconds.
const TOLD_EVERY: u64 = 8;
