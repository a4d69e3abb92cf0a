//! Whom an engine asks. A reload may put another in its place while questions are under way.

use std::sync::Arc;
use std::time::Duration;

use super::{Contact, Engine};
use crate::clock::Deadline;
use crate::fault::{Fault, Kind};
use crate::kms::{Action, Call, Decrypt};
use crate::lease::Asked;
use crate::policy::{Held, Permit};
use crate::sync::{PoisonError, timeout};
use crate::trace::{Attribute, Span};
use crate::upstream::Upstream;

/// A KMS as somebody, and its patience.
#[derive(Debug)]
pub(super) struct Remote {
    /// The KMS.
    pub(super) upstream: Arc<dyn Upstream>,
    /// How long one question may take, retries included.
    pub(super) timeout: Duration,
    /// How many there were before.
    pub(super) number: u64,
}

impl Engine {
    /// Asks `upstream` from now on. Nothing that the one before it consented to is released any more: all leases end, what
    /// was kept is wiped, and what is on its way is asked again of the new one, while its deadline allows.
    pub fn exchange(&self, upstream: Arc<dyn Upstream>, timeout: Duration, why: &'static str) {
        let number = self.remote.load().number + 1;
        // First: whoever asks after the closing asks the new one.
        self.remote.store(Arc::new(Remote { upstream, timeout, number }));
        self.parts.ledger.begin_anew(why);
        self.parts.cache.forget_failures();
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = Contact::default();
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.iter().for_each(|followed| followed.begin_anew());
        drop(followed);
        self.parts.ledger.wake();
    }

    /// How often [`Engine::exchange`] was called.
    #[must_use]
    pub fn exchanges(&self) -> u64 {
        self.remote.load().number
    }

    /// As whom the upstream asks.
    #[must_use]
    pub fn identity(&self) -> Arc<str> {
        self.remote.load().upstream.identity()
    }

    /// As [`Upstream::recycle`].
    pub fn recycle(&self) {
        self.remote.load().upstream.recycle();
    }

    pub(super) fn remote_deadline(&self) -> Deadline {
        Deadline::after(self.parts.clock.now(), self.remote.load().timeout)
    }

    /// Asks, and says when. What one says who is not asked any more by then counts for nothing, be it an answer or a
    /// refusal: the question goes to its successor.
    pub(super) async fn ask(&self, permit: &Permit, call: &Call, deadline: Deadline) -> Result<(Asked, Held), Fault> {
        self.ask_marked(permit, call, deadline, || Some(self.parts.ledger.ask())).await
    }

    /// As [`Engine::ask`], where `depart` marks the question, each time that it is about to be sent, or takes it back.
    pub(super) async fn ask_marked(
        &self,
        permit: &Permit,
        call: &Call,
        deadline: Deadline,
        depart: impl Fn() -> Option<Asked> + Send + Sync,
    ) -> Result<(Asked, Held), Fault> {
        loop {
            // Before the upstream is looked up: what is asked of the new one is never taken for a question to the old.
            let asked = depart().ok_or(Fault::proxy(Kind::Lapsed))?;
            let remote = self.remote.load_full();
            let span = permit.span().map(|span| self.trace(span, call.action()));
            let asking = remote.upstream.ask(permit, call, deadline);
            let left = deadline.remaining(asked.sent);
            let outcome = timeout(left, asking).await.unwrap_or(Err(Fault::kms(Kind::TimedOut)));
            if let Some(span) = span {
                end(&span, &outcome);
            }
            if remote.number != self.remote.load().number && !deadline.passed(self.parts.clock.now()) {
                continue;
            }
            let held = self.heard(outcome)?;
            self.note_wrapped(call, &held, asked.sent);
            if let (Call::Decrypt(Decrypt { key: Some(named), .. }), Some(key)) = (call, held.key())
                && self.parts.ledger.resolve(named) != *key
            {
                return Err(Fault::kms(Kind::InvalidCiphertext));
            }
            return Ok((asked, held));
        }
    }

    /// The span of a question to the KMS, its wait for a turn and its retries included, in the trace of whoever asks.
    #[cold]
    fn trace(&self, span: &Span, action: Action) -> Span {
        let call = span.call(action.name());
        call.note(Attribute::Method(action.name()));
        call.note(Attribute::Upstream(self.parts.ledger.upstream().into()));
        call
    }
}

/// Ends the span of a question by what came back.
#[cold]
fn end(span: &Span, outcome: &Result<Held, Fault>) {
    match outcome {
        Ok(held) => {
            span.note(Attribute::KmsRequest((&*held.source().text()).into()));
            if let Some(key) = held.key() {
                span.note(Attribute::Key(key.clone()));
            }
        }
        Err(fault) => {
            span.note(Attribute::Reason(fault.kind().label()));
            if let Some(said) = fault.verbatim() {
                span.note(Attribute::HttpStatus(said.status));
                span.note(Attribute::KmsCode(said.code.as_str().into()));
                span.note(Attribute::KmsRequest((&*said.request_id.text()).into()));
            }
        }
    }
    span.end(outcome.is_err());
}
