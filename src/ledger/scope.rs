//! One scope: its lease, and the key that seals what was unwrapped under it, behind one lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::name::{ContextScope, ScopeName};
use super::word;
use crate::chance;
use crate::clock::Moment;
use crate::fault::Fault;
use crate::kms::{Decrypt, KeyId};
use crate::lease::{Asked, Epoch, Lease, Stale, Standing, Terms};
use crate::seal::{EpochKey, Sealed};
use crate::secret::Secret;
use crate::sync::{RwLock, RwLockWriteGuard};

mod mark;

pub use mark::{Mark, Scoped};

/// One key in one context: its lease, and the key that seals what was unwrapped under it.
#[derive(Debug)]
pub struct Scope {
    upstream: Arc<str>,
    name: ScopeName,
    entries: AtomicUsize,
    watchers: AtomicUsize,
    /// The ledger's count of sealing keys that were wiped because of what the KMS said, or an operator.
    wiped: watch::Sender<u64>,
    inner: RwLock<Inner>,
}

#[derive(Debug)]
struct Inner {
    lease: Lease,
    terms: Terms,
    seal: Option<EpochKey>,
    /// One ciphertext that the KMS has unwrapped: asked again to see whether it still would.
    sample: Option<Decrypt>,
    probe_due: Moment,
    probing: bool,
}

/// What was kept of an answer: for which epoch, and sealed, where there was room for a sealing key.
#[derive(Debug)]
pub struct Kept {
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// The plaintext under that epoch's key.
    pub sealed: Option<Sealed>,
}

impl Scope {
    pub(super) fn new(
        upstream: &Arc<str>,
        name: &ScopeName,
        terms: Terms,
        lease: Lease,
        wiped: watch::Sender<u64>,
    ) -> Arc<Self> {
        let inner = Inner { lease, terms, seal: None, sample: None, probe_due: Moment::BOOT, probing: false };
        Arc::new(Self {
            upstream: Arc::clone(upstream),
            name: name.clone(),
            entries: AtomicUsize::new(0),
            watchers: AtomicUsize::new(0),
            wiped,
            inner: RwLock::new(inner),
        })
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &KeyId {
        &self.name.key
    }

    /// The upstream.
    #[must_use]
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Whether entries here outlive one lease. Those of contexts beyond the limit do not, since nobody probes them.
    #[must_use]
    pub const fn renewable(&self) -> bool {
        !matches!(self.name.context, ContextScope::Overflow)
    }

    /// A `Decrypt` that was `asked` succeeded: renews the lease and seals `plaintext`, in one critical section.
    ///
    /// # Errors
    /// [`Stale`] where the scope was closed since; nothing is renewed or sealed then.
    pub fn keep(&self, asked: Asked, call: &Decrypt, tag: &[u8], plaintext: &[u8]) -> Result<Kept, Stale> {
        let mut inner = self.write();
        self.consent(&mut inner, asked, call.clone())?;
        if inner.seal.is_none() {
            inner.seal = EpochKey::generate().ok();
        }
        let sealed = inner.seal.as_ref().and_then(|key| key.seal(tag, plaintext));
        Ok(Kept { epoch: inner.lease.epoch(), sealed })
    }

    /// As [`Scope::keep`], where there is nothing to keep: a probe with `sample` succeeded.
    ///
    /// # Errors
    /// [`Stale`] where the scope was closed since.
    pub fn renew(&self, asked: Asked, sample: Decrypt) -> Result<(), Stale> {
        self.consent(&mut self.write(), asked, sample)
    }

    fn consent(&self, inner: &mut Inner, asked: Asked, sample: Decrypt) -> Result<(), Stale> {
        let terms = inner.terms;
        let before = inner.lease.standing(asked.sent, &terms);
        inner.lease.consent(asked, &terms)?;
        self.note(&before);
        inner.probe_due = asked.sent + jittered(terms.probe);
        inner.sample = Some(sample);
        Ok(())
    }

    /// As [`Lease::relent`].
    pub fn relent(&self, asked: Asked) {
        self.write().lease.relent(asked);
    }

    /// Unseals what was kept in `epoch`, if the lease allows it at `now`.
    #[must_use]
    pub fn open(&self, epoch: Epoch, tag: &[u8], sealed: &Sealed, now: Moment) -> Option<Secret> {
        // A poisoned lock means that a change was cut off half way: nothing is served from it.
        let inner = self.inner.read().ok()?;
        if !inner.lease.serves(epoch, now, &inner.terms) {
            return None;
        }
        inner.seal.as_ref()?.open(tag, sealed)
    }

    /// Whether what was learned in `epoch` may still go out at `now`.
    #[must_use]
    pub fn serves(&self, epoch: Epoch, now: Moment) -> bool {
        self.inner.read().is_ok_and(|inner| inner.lease.serves(epoch, now, &inner.terms))
    }

    /// What the lease is worth at `now`.
    #[must_use]
    pub fn standing(&self, now: Moment) -> Standing {
        self.inner.read().map_or(Standing::Suspended, |inner| inner.lease.standing(now, &inner.terms))
    }

    /// As [`Lease::left`].
    #[must_use]
    pub fn left(&self, now: Moment) -> Duration {
        self.inner.read().map_or(Duration::ZERO, |inner| inner.lease.left(now, &inner.terms))
    }

    /// How much is left at `now` of what the KMS consented to; none where it is to end without being probed.
    #[must_use]
    pub fn consented(&self, now: Moment) -> Option<Duration> {
        let left = self.inner.read().map_or(Duration::ZERO, |inner| inner.lease.until().since(now));
        (self.renewable() && self.is_watched()).then_some(left)
    }

    /// As [`Lease::may_try`].
    #[must_use]
    pub fn may_try(&self, now: Moment) -> bool {
        self.write().lease.may_try(now)
    }

    /// How many entries name this scope.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Has the scope probed, whether or not anything is kept in it, until the result is dropped.
    #[must_use]
    pub fn watch(self: Arc<Self>) -> Watching {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watching(self)
    }

    fn note(&self, before: &Standing) {
        if !matches!(before, Standing::Serving | Standing::ServingByGrace) {
            info!(upstream = &*self.upstream, key = %self.name.key, was = word(before), "lease in force");
        }
    }

    pub(super) fn refuse(&self, fault: &Fault, next: Epoch) {
        let mut inner = self.write();
        let again = inner.lease.is_refused();
        inner.lease.refuse(fault.clone(), next);
        self.wipe(&mut inner);
        drop(inner);
        let (upstream, key) = (&*self.upstream, &self.name.key);
        if again {
            debug!(upstream, %key, refusal = %fault, "the KMS refuses as before");
        } else {
            warn!(upstream, %key, refusal = %fault, "lease ended: the KMS refused; its DEKs are wiped");
        }
    }

    /// Tells, too, where there was a key to wipe.
    fn wipe(&self, inner: &mut Inner) {
        if inner.seal.take().is_some() {
            self.wiped.send_modify(|times| *times += 1);
        }
    }

    pub(super) fn suspend(&self, next: Epoch) {
        self.write().lease.suspend(next);
        info!(upstream = &*self.upstream, key = %self.name.key, "lease suspended");
    }

    pub(super) fn doubt(&self, next: Epoch, until: Moment) {
        self.write().lease.doubt(next, until);
    }

    /// The KMS did not answer; it is asked again soon, so that two lost probes do not cost a healthy lease.
    pub(super) fn silence(&self, now: Moment) {
        let mut inner = self.write();
        inner.lease.silence();
        inner.probe_due = inner.probe_due.min(now + inner.terms.probe / 5);
        drop(inner);
        debug!(key = %self.name.key, "the KMS is silent; the lease is not renewed");
    }

    pub(super) fn forget(&self, next: Epoch) {
        let mut inner = self.write();
        inner.lease.forget(next);
        self.wipe(&mut inner);
    }

    /// As [`Lease::begin_anew`], with what was sealed wiped. The sample goes with it: it was wrapped by another's key.
    pub(super) fn begin_anew(&self, next: Epoch) {
        let mut inner = self.write();
        inner.lease.begin_anew(next);
        inner.sample = None;
        self.wipe(&mut inner);
    }

    /// Puts other terms in force, for the lease that is open as well, and has it probed by their interval: at once where it
    /// became shorter.
    pub(super) fn amend(&self, terms: &Terms, now: Moment) {
        let mut inner = self.write();
        let before = std::mem::replace(&mut inner.terms, *terms);
        inner.lease.curtail(&before, terms);
        let shorter = terms.duration < before.duration;
        let due = if shorter { Moment::BOOT } else { now + jittered(terms.probe) };
        inner.probe_due = inner.probe_due.min(due);
    }

    /// Wipes the sealing key of what was kept before `next`, and leaves the lease as it is.
    pub(super) fn purge(&self, next: Epoch) {
        let mut inner = self.write();
        inner.lease.purge(next);
        self.wipe(&mut inner);
    }

    /// Wipes the sealing key of a scope in which nothing is kept any more. Whoever is about to keep something there finds
    /// its entry shut, and asks again.
    pub(super) fn unburden(&self) {
        let idle = || self.entries() == 0;
        if idle() && self.inner.read().is_ok_and(|inner| inner.seal.is_some()) {
            let mut inner = self.write();
            if idle() {
                inner.seal = None;
            }
        }
    }

    /// Whether there is anything in it to lose, for now or for somebody who is about to keep something here. To be asked
    /// under the lock of the map that holds the one reference.
    pub(super) fn is_idle(self: &Arc<Self>) -> bool {
        let refusing = matches!(self.name.context, ContextScope::Absent) && self.is_refused();
        self.entries() == 0 && Arc::strong_count(self) == 1 && !refusing
    }

    fn is_refused(&self) -> bool {
        self.inner.read().is_ok_and(|inner| inner.lease.is_refused())
    }

    /// What closed the scope after `asked`, if anything did.
    pub(super) fn closed_since(&self, asked: Asked) -> Option<Stale> {
        self.write().lease.closed_since(asked)
    }

    pub(super) fn make_due(&self) {
        self.write().probe_due = Moment::BOOT;
    }

    pub(super) fn take_probe(self: &Arc<Self>, now: Moment) -> Option<Probe> {
        if !self.is_watched() || !self.renewable() {
            return None;
        }
        let mut inner = self.write();
        if now < inner.probe_due || inner.probing {
            return None;
        }
        let sample = inner.sample.clone()?;
        inner.probe_due = now + jittered(inner.terms.probe);
        inner.probing = true;
        Some(Probe { scope: Arc::clone(self), sample })
    }

    /// Whether anybody would miss it.
    fn is_watched(&self) -> bool {
        self.entries() > 0 || self.watchers.load(Ordering::Relaxed) > 0
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(|poisoned| {
            let mut inner = poisoned.into_inner();
            inner.seal = None;
            let epoch = inner.lease.epoch();
            inner.lease.forget(epoch);
            self.inner.clear_poison();
            inner
        })
    }
}

/// A probe that is due. While it lives, its scope has no other.
#[derive(Debug)]
pub struct Probe {
    scope: Arc<Scope>,
    /// What to ask.
    pub sample: Decrypt,
}

impl Probe {
    /// The scope that it is about.
    #[must_use]
    pub const fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.scope.write().probing = false;
    }
}

/// Held by whoever wants a scope probed although nothing is kept in it.
#[derive(Debug)]
pub struct Watching(Arc<Scope>);

impl Watching {
    /// The scope.
    #[must_use]
    pub const fn scope(&self) -> &Arc<Scope> {
        &self.0
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Up to a fifth earlier than `interval`, so that probes of many keys do not march in step. The watch looks five
/// times a second, so a probe leaves up to 0.2 s after it is due.
fn jittered(interval: Duration) -> Duration {
    interval - (interval / 5).mul_f64(chance::share())
}
