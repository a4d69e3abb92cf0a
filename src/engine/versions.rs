//! What the answers of the KMS say about versions, for the tally.

use super::Engine;
use crate::clock::Moment;
use crate::kms::Call;
use crate::ledger::KeyTally;
use crate::policy::Held;

impl Engine {
    /// Under which versions of which keys callers have asked for DEKs, and which version encrypts. Walks the whole
    /// cache.
    #[must_use]
    pub fn versions(&self) -> Vec<KeyTally> {
        let ledger = self.ledger();
        let entries = self.parts.cache.those(ledger.upstream(), |_| true);
        ledger.versions().report(entries.iter().map(|entry| entry.dek()))
    }

    /// Whoever asked at `sent`, and for whatever reason: what was wrapped says which version wraps.
    pub(super) fn note_wrapped(&self, call: &Call, held: &Held, sent: Moment) {
        match call {
            Call::Encrypt(_) | Call::GenerateDataKey(_) => {
                if let Some((key, version)) = held.key().zip(held.version()) {
                    self.ledger().versions().encrypts(key, version, sent);
                }
            }
            Call::Decrypt(_) | Call::Read(_) => {}
        }
    }

    /// A Decrypt that is not shared was answered, for somebody who may have it.
    pub(super) fn note_passed(&self, call: &Call, held: &Held, now: Moment) {
        match call {
            Call::Decrypt(_) => {
                if let Some((key, version)) = held.key().zip(held.version()) {
                    let _ = self.ledger().versions().dek(key, version).asked(now);
                }
            }
            Call::Encrypt(_) | Call::GenerateDataKey(_) | Call::Read(_) => {}
        }
    }
}
