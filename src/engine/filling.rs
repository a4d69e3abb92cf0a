//! How the cache is filled: for somebody who wants an answer, or on our own account.

use std::fmt;
use std::sync::Arc;

use tokio::task::yield_now;

use super::{Engine, Flown, Landed, Landing, Question};
use crate::auth::CallerName;
use crate::cache::{Entry, Fill, Fingerprint};
use crate::fault::{Evidence, Fault, Kind};
use crate::kms::{Call, Decrypt, Decrypted, KeyId};
use crate::lease::{Asked, Stale};
use crate::policy::{Held, Permit};
use crate::sync::PoisonError;

/// Why a flight is launched.
pub(super) enum Purpose {
    /// The entry is getting old: ask although it is still served, unless it is purged meanwhile.
    Refresh(Entry),
    /// Somebody may want the answer, for as long as this says so.
    Warm(Box<dyn Fn() -> bool + Send + Sync>),
    /// Somebody wants the answer.
    Want,
}

impl fmt::Debug for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refresh(_) => "Refresh",
            Self::Warm(_) => "Warm",
            Self::Want => "Want",
        })
    }
}

impl Engine {
    /// As [`Engine::fill`], and tells which call of a trace it made.
    pub(super) async fn flight(self: Arc<Self>, permit: Permit, question: Question, why: Purpose) -> Flown {
        let span = permit.span().cloned();
        let landing = self.fill(permit, question, why).await;
        Flown { landing, call: span.and_then(|span| span.called()) }
    }

    pub(super) async fn fill(self: Arc<Self>, permit: Permit, question: Question, why: Purpose) -> Landing {
        let Question { share, fingerprint, call } = question;
        let now = self.parts.clock.now();
        let before = self.parts.cache.find(&permit, &fingerprint, now);
        if !matches!(why, Purpose::Refresh(_)) {
            // Whoever looked before an earlier flight landed, and boarded after, finds its answer here. What does not open is no
            // answer: it would shut out whoever asks until it is too old.
            if let Some(entry) = before.as_ref().filter(|entry| entry.opens(now)) {
                return Ok(Landed::Kept(entry.clone()));
            }
            if let Some(fault) = self.parts.cache.failed(&permit, &fingerprint, now) {
                return Err(fault);
            }
        }
        let (scope, call) = (before.map(|entry| Arc::clone(entry.scope())), Call::Decrypt(call));
        for _ in 0..FILL_ATTEMPTS {
            let asking = self.ask_marked(&permit, &call, self.remote_deadline(), || self.depart(&why));
            let (asked, held) = asking.await.inspect_err(|fault| {
                self.parts.ledger.weigh(fault, scope.as_deref());
                self.parts.cache.remember(fingerprint, fault, self.parts.clock.now());
            })?;
            match self.keep(asked, &share, fingerprint, &call, held) {
                Ok(landed) => return Ok(landed),
                Err(Stale::Refused(fault)) => return Err(fault),
                Err(Stale::Suspended) => {}
            }
        }
        Err(Fault::kms(Kind::Lapsed))
    }

    /// Marks a question about to be sent; none where it was to be sent on our own account for what is purged. A purge comes
    /// before this as a whole, and is seen here, or after, and then the answer counts for nothing.
    fn depart(&self, why: &Purpose) -> Option<Asked> {
        let purges = self.purges.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = match why {
            Purpose::Refresh(entry) => self.parts.cache.holds(entry) && !purges.cover(entry),
            Purpose::Warm(wanted) => wanted(),
            Purpose::Want => true,
        };
        wanted.then(|| self.parts.ledger.ask())
    }

    fn keep(
        &self,
        asked: Asked,
        share: &CallerName,
        fingerprint: Fingerprint,
        call: &Call,
        held: Held,
    ) -> Result<Landed, Stale> {
        let Call::Decrypt(call) = call else { return Err(Stale::Refused(Fault::proxy(Kind::Internal))) };
        let kept = held.sealed_by(|reply| {
            let Decrypted { plaintext, key, version } = reply;
            // Held until the entry stands where a purge looks for it.
            let purges = self.purges.read().unwrap_or_else(PoisonError::into_inner);
            if purges.overtook(asked, share, key, call.ciphertext.bytes()) {
                return Err(Stale::Suspended);
            }
            let (plaintext, source) = (plaintext.expose(), held.source());
            let fill = Fill { fingerprint, share, call, asked, key, version, plaintext, source };
            self.parts.cache.keep(&self.parts.ledger, &fill)
        });
        let filled = kept.unwrap_or(Err(Stale::Refused(Fault::kms(Kind::Garbled))))?;
        Ok(Landed::Fresh { filled, held: Arc::new(held) })
    }

    /// Asks for up to `most` entries again whose age is drawing to its end.
    pub async fn refresh(self: &Arc<Self>, most: usize) {
        let mut round = self.parts.cache.round(self.parts.ledger.upstream(), self.parts.clock.now(), most);
        while round.step() {
            yield_now().await;
        }
        let due = round.end();
        // A refusal of one, or silence, may have closed the others since.
        self.ask_again(due, Entry::fresh).await;
    }

    /// How many entries of `key` there are to ask for again, and what asks for them, one after the other in the background
    /// class, whatever their age and whether or not their lease is in force. Ends early where the KMS refuses the key or says
    /// nothing.
    pub fn refresh_key(self: &Arc<Self>, key: &KeyId) -> (usize, impl Future<Output = ()> + Send + use<>) {
        let mut all = self.parts.cache.those(self.parts.ledger.upstream(), |entry| entry.key() == key);
        all.truncate(REFRESHES_MAX);
        let (count, engine) = (all.len(), Arc::clone(self));
        (count, async move { engine.ask_again(all, |_, _| true).await })
    }

    async fn ask_again(self: &Arc<Self>, entries: Vec<Entry>, worth: fn(&Entry, crate::clock::Moment) -> bool) {
        for entry in entries {
            if !worth(&entry, self.parts.clock.now()) {
                continue;
            }
            let (fingerprint, share, call) = (entry.fingerprint(), entry.share().clone(), entry.call());
            let (permit, question) = (self.parts.policy.upkeep(), Question { share, fingerprint, call });
            let flight = || Arc::clone(self).flight(permit, question, Purpose::Refresh(entry));
            // What it brought is in the cache; that it failed is in the ledger.
            let (_, landing) = self.flights.join(&fingerprint, flight).await;
            if matches!(&landing, Ok(Flown { landing: Err(fault), .. }) if ENDS_A_REFRESH.contains(&Evidence::of(fault)))
            {
                return;
            }
        }
    }

    /// Asks for `call` on our own account, so that its answer is there when somebody of `share` wants it; asks nobody where it
    /// is there already, or where it is not `wanted` any more. Not a flight that callers could join: it waits behind all of
    /// them, and they shall not.
    ///
    /// # Errors
    /// The KMS's, after its consequences have been drawn.
    pub async fn warm(
        self: &Arc<Self>,
        share: &CallerName,
        call: Decrypt,
        wanted: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<(), Fault> {
        let fingerprint = self.parts.cache.fingerprint(self.parts.ledger.upstream(), share, &call);
        let question = Question { share: share.clone(), fingerprint, call };
        let why = Purpose::Warm(Box::new(wanted));
        Arc::clone(self).fill(self.parts.policy.warm_up(), question, why).await.map(drop)
    }
}

/// What there is no point in asking on after.
const ENDS_A_REFRESH: [Evidence; 2] = [Evidence::KeyRefused, Evidence::Silence];
/// In one go. They are asked one after the other, so refreshing never takes more than one place upstream.
const REFRESHES_MAX: usize = 16_384;
/// A fill that a suspension or a purge overtook is sent once more.
const FILL_ATTEMPTS: u32 = 2;
