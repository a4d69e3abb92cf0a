//! Answers under lock, and what opens them.

use super::Permit;
use crate::audit::{Audit, Outcome, Receipt, Record};
use crate::fault::{Fault, Kind};
use crate::kms::{Answer, Decrypted, Encrypted, KeyId, KeyState, KeyVersion, Reply, RequestId};
use crate::secret::Secret;
use crate::trace::{Attribute, Span};

/// Leave to hand out what one key made: only [`super::Policy::release`] makes one.
#[derive(Debug)]
pub struct Release<'p> {
    audit: &'p Audit,
    permit: &'p Permit,
}

/// An answer that is still locked: what it holds in clear comes out only with a [`Release`], and only after the audit log
/// has taken the record of it.
///
/// ```compile_fail
/// // The answer itself is out of reach.
/// fn take(held: kmsproxy::policy::Held) -> kmsproxy::kms::Answer {
///     held.answer
/// }
/// ```
#[derive(Debug)]
pub struct Held {
    answer: Answer,
    /// What the KMS knows the call by that made it: another than the answer's own where it comes from the cache.
    source: RequestId,
}

impl<'p> Release<'p> {
    pub(super) const fn new(audit: &'p Audit, permit: &'p Permit) -> Self {
        Self { audit, permit }
    }

    /// The record of `held` going out as `outcome`, accepted.
    fn record(&self, held: &Held, outcome: Outcome) -> Result<Receipt, Fault> {
        // Our own upkeep has no release.
        let caller = self.permit.holder.caller().ok_or_else(|| Fault::proxy(Kind::Forbidden))?;
        let record = || Record {
            key: held.key(),
            version: held.version(),
            request_id: Some(&held.answer.request_id),
            kms_request_id: Some(&held.source),
            ..self.permit.record(caller, outcome)
        };
        let receipt = self.audit.accept(record).map_err(|_| Fault::proxy(Kind::Unaudited))?;
        if let Some(span) = caller.span() {
            tell(span, held, outcome);
        }
        Ok(receipt)
    }
}

/// Tells the span of a request what the audit log is told.
#[cold]
fn tell(span: &Span, held: &Held, outcome: Outcome) {
    span.note(Attribute::Outcome(outcome.word()));
    span.note(Attribute::KmsRequest((&*held.source.text()).into()));
    if let Some(key) = held.key() {
        span.note(Attribute::Key(key.clone()));
    }
}

impl Held {
    /// Locks `answer`. Upstreams return nothing else.
    #[must_use]
    pub fn new(answer: Answer) -> Self {
        let source = answer.request_id.clone();
        Self { answer, source }
    }

    /// Locks what was kept of the answer that the KMS knows as `source`, under a request id of its own.
    #[must_use]
    pub fn kept(reply: Decrypted, source: RequestId) -> Self {
        let answer = Answer { reply: Reply::Decrypted(reply), request_id: RequestId::random() };
        Self { answer, source }
    }

    /// The key that the answer names: none for lists.
    #[must_use]
    pub fn key(&self) -> Option<&KeyId> {
        match &self.answer.reply {
            Reply::DataKey(reply) => Some(&reply.key),
            Reply::Decrypted(reply) => Some(&reply.key),
            Reply::Document(reply) => reply.described.as_ref().map(|(key, _)| key),
            Reply::Encrypted(reply) => Some(&reply.key),
        }
    }

    /// What the KMS knows the call by that made it.
    #[must_use]
    pub const fn source(&self) -> &RequestId {
        &self.source
    }

    /// Lets `seal` see what was unwrapped, to keep it; the one way past the lock. None where there is nothing to keep.
    pub fn sealed_by<T>(&self, seal: impl FnOnce(&Decrypted) -> T) -> Option<T> {
        match &self.answer.reply {
            Reply::Decrypted(reply) => Some(seal(reply)),
            Reply::DataKey(_) | Reply::Document(_) | Reply::Encrypted(_) => None,
        }
    }

    /// The version of the key that wrapped what was unwrapped, or wrapped what was made: none for reads.
    #[must_use]
    pub const fn version(&self) -> Option<&KeyVersion> {
        match &self.answer.reply {
            Reply::DataKey(reply) => Some(&reply.version),
            Reply::Decrypted(reply) => Some(&reply.version),
            Reply::Document(_) => None,
            Reply::Encrypted(reply) => Some(&reply.version),
        }
    }

    /// What an `Encrypt` made; not a secret.
    #[must_use]
    pub const fn encrypted(&self) -> Option<&Encrypted> {
        match &self.answer.reply {
            Reply::Encrypted(reply) => Some(reply),
            Reply::DataKey(_) | Reply::Decrypted(_) | Reply::Document(_) => None,
        }
    }

    /// Whether it holds anything in clear.
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        match &self.answer.reply {
            Reply::DataKey(reply) => reply.plaintext.is_some(),
            Reply::Decrypted(_) => true,
            Reply::Document(_) | Reply::Encrypted(_) => false,
        }
    }

    /// A `DescribeKey` that says which key is in which state; not a secret.
    #[must_use]
    pub const fn described(&self) -> Option<&(KeyId, KeyState)> {
        match &self.answer.reply {
            Reply::Document(reply) => reply.described.as_ref(),
            Reply::DataKey(_) | Reply::Decrypted(_) | Reply::Encrypted(_) => None,
        }
    }

    /// Records that it goes out as `outcome`, and gives it away.
    ///
    /// # Errors
    /// [`Kind::Unaudited`] where the audit log is required and does not take the record.
    pub fn hand_out(self, release: &Release<'_>, outcome: Outcome) -> Result<Answer, Fault> {
        release.record(&self, outcome).map(|receipt| self.unlock(receipt))
    }

    /// As [`Held::hand_out`], for what was not shared: the reply says what was done.
    ///
    /// # Errors
    /// As there.
    pub fn pass(self, release: &Release<'_>) -> Result<Answer, Fault> {
        let outcome = match &self.answer.reply {
            Reply::DataKey(_) => Outcome::Generated,
            Reply::Decrypted(_) | Reply::Document(_) => Outcome::Passed,
            Reply::Encrypted(_) => Outcome::Encrypted,
        };
        self.hand_out(release, outcome)
    }

    /// As [`Held::hand_out`], for one of several who wait for the same Decrypt.
    ///
    /// # Errors
    /// As there; [`Kind::Garbled`] where it is the answer to something else.
    pub fn hand_out_copy(&self, release: &Release<'_>, outcome: Outcome) -> Result<Answer, Fault> {
        let Reply::Decrypted(reply) = &self.answer.reply else { return Err(Fault::kms(Kind::Garbled)) };
        let _: Receipt = release.record(self, outcome)?;
        let reply = Decrypted {
            plaintext: Secret::copied(reply.plaintext.expose()),
            key: reply.key.clone(),
            version: reply.version.clone(),
        };
        Ok(Answer { reply: Reply::Decrypted(reply), request_id: self.answer.request_id.clone() })
    }

    fn unlock(self, _: Receipt) -> Answer {
        self.answer
    }
}
