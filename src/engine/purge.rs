//! Purges: what somebody wants gone is wiped, and no answer under way brings it back.
//!
//! A purge draws a line in the order of closings, notes it here, and then takes out what was asked for before it. Whoever
//! keeps an answer looks here first and holds on to the lock until the entry stands: so either the purge finds the entry, or
//! the answer finds the line and is asked for anew, where a caller wants it. What we ask on our own account looks here
//! before it leaves.

use std::collections::VecDeque;

use sha2::{Digest as _, Sha256};

use super::Engine;
use crate::auth::CallerName;
use crate::cache::Entry;
use crate::kms::KeyId;
use crate::lease::{Asked, Epoch};
use crate::sync::PoisonError;

/// What is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everything of the upstream.
    All,
    /// What is kept for a caller, or for the group that it shares with.
    Caller(CallerName),
    /// What answers the ciphertext of this SHA-256, whoever asked.
    Digest([u8; 32]),
    /// What a key made.
    Key(KeyId),
}

impl Target {
    /// Whether it is meant by this.
    #[must_use]
    pub fn covers(&self, share: &CallerName, key: &KeyId, ciphertext: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Caller(caller) => caller == share,
            Self::Digest(digest) => Sha256::digest(ciphertext)[..] == *digest,
            Self::Key(one) => one == key,
        }
    }

    fn means(&self, entry: &Entry) -> bool {
        self.covers(entry.share(), entry.key(), entry.ciphertext())
    }
}

/// The last purges of an upstream, and the line of the last that is not remembered any more.
#[derive(Debug, Default)]
pub(super) struct Purges {
    recent: VecDeque<(Target, Epoch)>,
    older: Epoch,
    /// How many there were.
    count: u64,
}

impl Purges {
    fn note(&mut self, target: Target, line: Epoch) {
        if self.recent.len() == REMEMBERED_MAX
            && let Some((_, line)) = self.recent.pop_front()
        {
            // From then on every answer of before is asked for anew, whatever it is about.
            self.older = line;
        }
        self.recent.push_back((target, line));
        self.count += 1;
    }

    /// Whether what was `asked` has been purged since.
    pub(super) fn overtook(&self, asked: Asked, share: &CallerName, key: &KeyId, ciphertext: &[u8]) -> bool {
        let after = |line: Epoch| asked.epoch < line;
        after(self.older)
            || self.recent.iter().any(|(target, line)| after(*line) && target.covers(share, key, ciphertext))
    }

    /// Whether `entry` is being purged, or was lately.
    pub(super) fn cover(&self, entry: &Entry) -> bool {
        self.recent.iter().any(|(target, line)| entry.asked().epoch < *line && target.means(entry))
    }
}

impl Engine {
    /// How often whom it asks was replaced, and how often something was purged: where one of them has changed, that an answer
    /// counts for nothing may be its doing.
    pub(super) fn upheavals(&self) -> (u64, u64) {
        (self.exchanges(), self.purges.read().unwrap_or_else(PoisonError::into_inner).count)
    }

    /// Wipes what `target` means, as far as it was asked for before now; returns how many entries that were. What is asked
    /// for from now on is asked of the KMS. Leases stay as they are. A caller that is just being given its answer has it.
    pub fn purge(&self, target: &Target) -> usize {
        let mut purges = self.purges.write().unwrap_or_else(PoisonError::into_inner);
        let (ledger, cache) = (&self.parts.ledger, &self.parts.cache);
        let line = ledger.line();
        purges.note(target.clone(), line);
        drop(purges);
        match target {
            Target::All => ledger.purge(None, line),
            Target::Key(key) => ledger.purge(Some(key), line),
            // Others have what was sealed under the same key: only the entries go.
            Target::Caller(_) | Target::Digest(_) => {}
        }
        let gone: Vec<Entry> =
            cache.those(ledger.upstream(), |entry| entry.asked().epoch < line && target.means(entry));
        cache.discard(&gone);
        // And the buffers that have carried them.
        ledger.let_go();
        gone.len()
    }
}

/// Purges that are told apart. Flights last seconds.
const REMEMBERED_MAX: usize = 64;
