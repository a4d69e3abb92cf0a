//! The leases of one upstream: which key, for which context, on which terms, with what was sealed under each.
//!
//! A scope is (upstream, resolved key, canonical context where there is one). Its lease and its sealing key live
//! behind one lock, so that checking an epoch and using the key that belongs to it cannot come apart.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use crate::clock::{Clock, Moment};
use crate::fault::Fault;
use crate::kms::{Context, Decrypt, KeyId, KeyName};
use crate::lease::{Asked, Epoch, Evidence, Lease, Stale, Standing, Terms};
use crate::seal::{EpochKey, Sealed};
use crate::secret::Secret;

/// All scopes of one upstream, and the order of their closings.
#[derive(Debug)]
pub struct Ledger {
    upstream: Arc<str>,
    clock: Arc<dyn Clock>,
    terms: Terms,
    /// The last closing, of any scope.
    epochs: AtomicU64,
    /// Questions from before this closing prove nothing for a scope that is not in `scopes` yet.
    barrier: AtomicU64,
    scopes: RwLock<HashMap<ScopeName, Arc<Scope>>>,
    /// What aliases and ARNs turned out to mean.
    names: Mutex<HashMap<Box<str>, KeyId>>,
    doubted: Mutex<Moment>,
    hurry: Notify,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ScopeName {
    key: KeyId,
    context: ContextScope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ContextScope {
    Absent,
    Digest([u8; 32]),
    /// Every context beyond the first [`CONTEXTS_PER_KEY`]: nobody probes these one by one.
    Overflow,
}

/// One key in one context: its lease, and the key that seals what was unwrapped under it.
#[derive(Debug)]
pub struct Scope {
    upstream: Arc<str>,
    name: ScopeName,
    terms: Terms,
    entries: AtomicUsize,
    inner: RwLock<Inner>,
}

#[derive(Debug)]
struct Inner {
    lease: Lease,
    seal: Option<EpochKey>,
    /// One ciphertext that the KMS has unwrapped: asked again to see whether it still would.
    sample: Option<Decrypt>,
    probe_due: Moment,
}

/// What was kept of an answer: for which epoch, and sealed, where there was room for a sealing key.
#[derive(Debug)]
pub struct Kept {
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// The plaintext under that epoch's key.
    pub sealed: Option<Sealed>,
}

/// One scope as `status`, metrics and tests see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The key.
    pub key: KeyId,
    /// What its lease is worth now.
    pub standing: Standing,
    /// How many entries name it, of all epochs.
    pub entries: usize,
}

impl Ledger {
    /// An empty ledger for `upstream`.
    #[must_use]
    pub fn new(upstream: &str, terms: Terms, clock: Arc<dyn Clock>) -> Self {
        Self {
            upstream: upstream.into(),
            clock,
            terms,
            epochs: AtomicU64::new(0),
            barrier: AtomicU64::new(0),
            scopes: RwLock::default(),
            names: Mutex::default(),
            doubted: Mutex::new(Moment::BOOT),
            hurry: Notify::new(),
        }
    }

    /// The name of the upstream.
    #[must_use]
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// The terms of all its leases.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Marks a question about to be sent. To be called before it leaves.
    #[must_use]
    pub fn ask(&self) -> Asked {
        Asked { epoch: Epoch(self.epochs.load(Ordering::SeqCst)), sent: self.clock.now() }
    }

    /// The scope of `key` in `context`, made if need be. At most [`CONTEXTS_PER_KEY`] contexts of a key have their own.
    #[must_use]
    pub fn scope(&self, key: &KeyId, context: Option<&Context>) -> Arc<Scope> {
        let mut name = ScopeName { key: key.clone(), context: ContextScope::of(context) };
        if let Some(scope) = self.scopes.read().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Arc::clone(scope);
        }
        let mut scopes = self.scopes.write().unwrap_or_else(PoisonError::into_inner);
        if scopes.len() >= SCOPES_MAX {
            scopes.retain(|_, scope| scope.entries() > 0);
        }
        let of_key = scopes.keys().filter(|other| other.key == *key).count();
        if scopes.len() >= SCOPES_MAX || (of_key >= CONTEXTS_PER_KEY && !scopes.contains_key(&name)) {
            name.context = ContextScope::Overflow;
        }
        let barrier = Epoch(self.barrier.load(Ordering::SeqCst));
        let scope = scopes.entry(name).or_insert_with_key(|name| Scope::new(&self.upstream, name, self.terms, barrier));
        Arc::clone(scope)
    }

    /// The scope of a key without context, where one exists: to see whether the key is refused, without making one.
    #[must_use]
    pub fn known(&self, key: &KeyName) -> Option<Arc<Scope>> {
        let name = ScopeName { key: self.resolve(key), context: ContextScope::Absent };
        self.scopes.read().unwrap_or_else(PoisonError::into_inner).get(&name).map(Arc::clone)
    }

    /// Remembers what a name turned out to mean. Up to [`NAMES_MAX`] names.
    pub fn learn(&self, name: &KeyName, key: &KeyId) {
        if name.bare() == key.as_str() {
            return;
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() < NAMES_MAX || names.contains_key(name.bare()) {
            names.insert(name.bare().into(), key.clone());
        }
    }

    fn resolve(&self, name: &KeyName) -> KeyId {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(name.bare()).cloned().unwrap_or_else(|| KeyId::new(name.bare()))
    }

    /// Takes an error for what it says about leases. `scope` is the one that was asked about, where that is known.
    pub fn weigh(&self, fault: &Fault, scope: Option<&Scope>) {
        match (Evidence::of(fault), scope) {
            (Evidence::Nothing, _) | (Evidence::Silence | Evidence::ScopeDoubted, None) => {}
            (Evidence::Silence, Some(scope)) => scope.silence(),
            (Evidence::ScopeDoubted, Some(scope)) => scope.suspend(self.close()),
            (Evidence::KeyRefused, Some(scope)) => self.refuse(scope.key(), fault),
            // Some key is refused and the answer does not say which: ask about all of ours at once.
            (Evidence::KeyRefused, None) => self.hurry(),
            (Evidence::IdentityRefused, Some(scope)) => scope.refuse(fault, self.close()),
            (Evidence::IdentityRefused, None) => self.doubt(),
            (Evidence::IdentityDoubted, _) => self.doubt(),
        }
    }

    /// The KMS refused a key that a request named.
    pub fn weigh_named(&self, fault: &Fault, name: &KeyName) {
        match Evidence::of(fault) {
            Evidence::KeyRefused => self.refuse(&self.resolve(name), fault),
            Evidence::IdentityDoubted => self.doubt(),
            // A right to Encrypt that is missing says nothing of the right to Decrypt.
            Evidence::IdentityRefused | Evidence::Nothing | Evidence::ScopeDoubted | Evidence::Silence => {}
        }
    }

    /// Ends the leases of `key` in every context, and wipes the keys that seal what it unwrapped.
    pub fn refuse(&self, key: &KeyId, fault: &Fault) {
        let next = self.close();
        for scope in self.all().iter().filter(|scope| scope.key() == key) {
            scope.refuse(fault, next);
        }
    }

    /// Suspends every lease: something is wrong that is larger than one key.
    pub fn suspend_all(&self, why: &'static str) {
        let next = self.close();
        warn!(upstream = &*self.upstream, why, "all leases suspended until the KMS consents again");
        for scope in self.all() {
            scope.suspend(next);
        }
        self.hurry.notify_one();
    }

    /// Scopes whose probe is due at `now`; marks them as asked.
    #[must_use]
    pub fn due(&self, now: Moment) -> Vec<(Arc<Scope>, Decrypt)> {
        let take = |scope: &Arc<Scope>| scope.take_probe(now).map(|sample| (Arc::clone(scope), sample));
        self.all().iter().filter_map(take).collect()
    }

    /// Makes all probes due, at most every half probe interval.
    fn hurry(&self) {
        if self.once_per(self.terms.probe / 2) {
            self.make_all_due();
        }
    }

    fn doubt(&self) {
        if self.once_per(self.terms.probe) {
            self.suspend_all("the KMS doubts our identity");
            self.make_all_due();
        }
    }

    fn once_per(&self, interval: Duration) -> bool {
        let now = self.clock.now();
        let mut last = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        let due = now.since(*last) >= interval;
        if due {
            *last = now;
        }
        due
    }

    fn make_all_due(&self) {
        for scope in self.all() {
            scope.write().probe_due = Moment::BOOT;
        }
        self.hurry.notify_one();
    }

    /// Returns when probes were made due ahead of their time.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// All scopes at `now`, for people and metrics.
    #[must_use]
    pub fn report(&self, now: Moment) -> Vec<Report> {
        let view = |scope: &Arc<Scope>| Report {
            key: scope.key().clone(),
            standing: scope.standing(now),
            entries: scope.entries(),
        };
        self.all().iter().map(view).collect()
    }

    /// Draws the next epoch and closes the door on scopes not born yet; to be called before any scope's lock is taken.
    fn close(&self) -> Epoch {
        let next = self.epochs.fetch_add(1, Ordering::SeqCst) + 1;
        self.barrier.fetch_max(next, Ordering::SeqCst);
        Epoch(next)
    }

    fn all(&self) -> Vec<Arc<Scope>> {
        self.scopes.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }
}

impl Scope {
    fn new(upstream: &Arc<str>, name: &ScopeName, terms: Terms, barrier: Epoch) -> Arc<Self> {
        let inner = Inner { lease: Lease::unknown(barrier), seal: None, sample: None, probe_due: Moment::BOOT };
        Arc::new(Self {
            upstream: Arc::clone(upstream),
            name: name.clone(),
            terms,
            entries: AtomicUsize::new(0),
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
        let before = inner.lease.standing(asked.sent, &self.terms);
        inner.lease.consent(asked, &self.terms)?;
        self.note(&before);
        inner.probe_due = asked.sent + jittered(self.terms.probe);
        inner.sample = Some(call.clone());
        if inner.seal.is_none() {
            inner.seal = EpochKey::generate().ok();
        }
        let sealed = inner.seal.as_ref().and_then(|key| key.seal(tag, plaintext));
        Ok(Kept { epoch: inner.lease.epoch(), sealed })
    }

    /// As [`Scope::keep`], where there is nothing to keep: a probe succeeded.
    ///
    /// # Errors
    /// [`Stale`] where the scope was closed since.
    pub fn renew(&self, asked: Asked) -> Result<(), Stale> {
        let mut inner = self.write();
        let before = inner.lease.standing(asked.sent, &self.terms);
        inner.lease.consent(asked, &self.terms)?;
        self.note(&before);
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
        if !inner.lease.serves(epoch, now, &self.terms) {
            return None;
        }
        inner.seal.as_ref()?.open(tag, sealed)
    }

    /// Whether what was learned in `epoch` may still go out at `now`.
    #[must_use]
    pub fn serves(&self, epoch: Epoch, now: Moment) -> bool {
        self.inner.read().is_ok_and(|inner| inner.lease.serves(epoch, now, &self.terms))
    }

    /// What the lease is worth at `now`.
    #[must_use]
    pub fn standing(&self, now: Moment) -> Standing {
        self.inner.read().map_or(Standing::Suspended, |inner| inner.lease.standing(now, &self.terms))
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

    /// Counts an entry that names this scope; the count falls when the mark is dropped.
    #[must_use]
    pub fn mark(self: &Arc<Self>) -> Mark {
        self.entries.fetch_add(1, Ordering::Relaxed);
        Mark(Arc::clone(self))
    }

    fn note(&self, before: &Standing) {
        if !matches!(before, Standing::Serving | Standing::ServingByGrace) {
            info!(upstream = &*self.upstream, key = %self.name.key, was = word(before), "lease in force");
        }
    }

    fn refuse(&self, fault: &Fault, next: Epoch) {
        let mut inner = self.write();
        inner.lease.refuse(fault.clone(), next);
        inner.seal = None;
        warn!(upstream = &*self.upstream, key = %self.name.key, refusal = %fault, "lease ended: the KMS refused; its DEKs are wiped");
    }

    fn suspend(&self, next: Epoch) {
        self.write().lease.suspend(next);
        info!(upstream = &*self.upstream, key = %self.name.key, "lease suspended");
    }

    fn silence(&self) {
        self.write().lease.silence();
        debug!(key = %self.name.key, "the KMS is silent; the lease is not renewed");
    }

    fn take_probe(&self, now: Moment) -> Option<Decrypt> {
        if self.entries() == 0 || !self.renewable() {
            return None;
        }
        let mut inner = self.write();
        if now < inner.probe_due {
            return None;
        }
        let sample = inner.sample.clone()?;
        inner.probe_due = now + jittered(self.terms.probe);
        Some(sample)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(|poisoned| {
            let mut inner = poisoned.into_inner();
            inner.seal = None;
            inner.lease = Lease::unknown(inner.lease.epoch());
            self.inner.clear_poison();
            inner
        })
    }
}

/// Held by an entry for as long as it names a scope.
#[derive(Debug)]
pub struct Mark(Arc<Scope>);

impl Mark {
    /// The scope.
    #[must_use]
    pub const fn scope(&self) -> &Arc<Scope> {
        &self.0
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.entries.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ContextScope {
    fn of(context: Option<&Context>) -> Self {
        let Some(context) = context else { return Self::Absent };
        let mut digest = Sha256::new();
        for (name, value) in context.pairs() {
            for part in [name, value] {
                digest.update((part.len() as u64).to_be_bytes());
                digest.update(part.as_bytes());
            }
        }
        Self::Digest(digest.finalize().into())
    }
}

/// A fixed word for a standing, for logs and metrics.
#[must_use]
pub const fn word(standing: &Standing) -> &'static str {
    match standing {
        Standing::Lapsed => "lapsed",
        Standing::Refused(_) => "refused",
        Standing::Serving => "serving",
        Standing::ServingByGrace => "serving_by_grace",
        Standing::Suspended => "suspended",
        Standing::Unknown => "unknown",
    }
}

/// Up to a fifth earlier than `interval`, so that probes of many keys do not march in step; never later.
fn jittered(interval: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(0);
    interval - (interval / 5).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// Contexts of one key with a lease of their own.
pub const CONTEXTS_PER_KEY: usize = 64;
const SCOPES_MAX: usize = 8192;
const NAMES_MAX: usize = 1024;
