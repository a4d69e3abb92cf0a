//! The leases of one upstream: which key, for which context, on which terms, with what was sealed under each.
//!
//! A scope is (upstream, resolved key, canonical context where there is one). Its lease and its sealing key live
//! behind one lock, so that checking an epoch and using the key that belongs to it cannot come apart.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::clock::{Clock, Moment};
use crate::fault::{About, Effect, Evidence, Fault, Kind};
use crate::guard;
use crate::kms::{Context, KeyId, KeyName};
use crate::lease::{Asked, Closings, Epoch, Stale, Standing, Terms};
use crate::sync::{Mutex, PoisonError, RwLock};

mod name;
mod report;
mod scope;
mod versions;

use name::{ContextScope, ScopeName};
pub use report::{Report, word};
pub use scope::{Kept, Mark, Probe, Scope, Scoped, Watching};
pub use versions::{Dek, KeyTally, Tally, Verdict, Versions};

/// In order, so that what is due at one instant is asked in an order that can be repeated.
type Scopes = BTreeMap<ScopeName, Arc<Scope>>;

/// All scopes of one upstream, and the order of their closings.
#[derive(Debug)]
pub struct Ledger {
    upstream: Arc<str>,
    clock: Arc<dyn Clock>,
    terms: Mutex<Terms>,
    closings: Mutex<Closings>,
    scopes: RwLock<Scopes>,
    /// What aliases and ARNs turned out to mean.
    names: Mutex<HashMap<Box<str>, KeyId>>,
    doubted: Mutex<Moment>,
    hastened: Mutex<Moment>,
    hurry: Notify,
    /// How often a sealing key was wiped because of what the KMS said, or an operator.
    wiped: watch::Sender<u64>,
    versions: Versions,
}

impl Ledger {
    /// An empty ledger for `upstream`.
    #[must_use]
    pub fn new(upstream: &str, terms: Terms, clock: Arc<dyn Clock>) -> Self {
        Self {
            upstream: upstream.into(),
            clock,
            terms: Mutex::new(terms),
            closings: Mutex::default(),
            scopes: RwLock::default(),
            names: Mutex::default(),
            doubted: Mutex::new(Moment::BOOT),
            hastened: Mutex::new(Moment::BOOT),
            hurry: Notify::new(),
            wiped: watch::Sender::new(0),
            versions: Versions::default(),
        }
    }

    /// The name of the upstream.
    #[must_use]
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// The terms of all its leases, as they are in force.
    #[must_use]
    pub fn terms(&self) -> Terms {
        *self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts other terms in force at once: a shorter lease shortens those that are open, and has them probed.
    pub fn amend(&self, terms: &Terms) {
        // A scope is made, and given its terms, under the same lock: it has the new ones, or is among those that are told.
        let scopes = self.scopes.write().unwrap_or_else(PoisonError::into_inner);
        *self.terms.lock().unwrap_or_else(PoisonError::into_inner) = *terms;
        let all: Vec<_> = scopes.values().map(Arc::clone).collect();
        drop(scopes);
        let now = self.clock.now();
        all.iter().for_each(|scope| scope.amend(terms, now));
        self.wake();
    }

    /// Another KMS, or the same as somebody else, is asked from now on. Nothing that is known holds for that: leases, refusals,
    /// what names mean; what was kept is wiped.
    pub fn begin_anew(&self, why: &'static str) {
        warn!(upstream = &*self.upstream, why, "all leases ended, and what was kept under them is wiped");
        self.close_all(Scope::begin_anew);
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether everything was closed after a question was `asked`: what its answer says is not to be learnt.
    #[must_use]
    pub fn is_overtaken(&self, asked: Asked) -> bool {
        self.closings(|closings| closings.closed_all_since(asked))
    }

    /// Under which versions of which keys callers have asked for DEKs.
    #[must_use]
    pub const fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Marks a question about to be sent. To be called before it leaves.
    #[must_use]
    pub fn ask(&self) -> Asked {
        self.closings(|closings| closings.ask(self.clock.now()))
    }

    /// The scope of `key` in `context`, made if need be. At most [`CONTEXTS_PER_KEY`] contexts of a key have their own.
    #[must_use]
    pub fn scope(&self, key: &KeyId, context: Option<&Context>) -> Arc<Scope> {
        let mut name = ScopeName { key: key.clone(), context: ContextScope::of(context) };
        if let Some(scope) = self.scopes.read().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Arc::clone(scope);
        }
        let mut scopes = self.scopes.write().unwrap_or_else(PoisonError::into_inner);
        let contexts = |scopes: &Scopes| {
            scopes.keys().filter(|other| other.key == *key && other.context != ContextScope::Absent).count()
        };
        let crowded = |scopes: &Scopes| scopes.len() >= SCOPES_MAX || contexts(scopes) >= CONTEXTS_PER_KEY;
        if crowded(&scopes) || guard::in_use() * 2 > guard::capacity() {
            scopes.retain(|_, scope| !scope.is_idle());
        }
        if context.is_some() && !scopes.contains_key(&name) && crowded(&scopes) {
            name.context = ContextScope::Overflow;
        }
        let lease = self.closings(|closings| closings.birth());
        let scope = scopes
            .entry(name)
            .or_insert_with_key(|name| Scope::new(&self.upstream, name, self.terms(), lease, self.wiped.clone()));
        Arc::clone(scope)
    }

    /// The scope of a key without context, where one exists: to see whether the key is refused, without making one.
    #[must_use]
    pub fn known(&self, key: &KeyName) -> Option<Arc<Scope>> {
        let name = ScopeName { key: self.resolve(key), context: ContextScope::Absent };
        self.scopes.read().unwrap_or_else(PoisonError::into_inner).get(&name).map(Arc::clone)
    }

    /// Remembers what a name turned out to mean. Up to 1,024 names.
    pub fn learn(&self, name: &KeyName, key: &KeyId) {
        if name.bare() == key.as_str() {
            return;
        }
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() < NAMES_MAX || names.contains_key(name.bare()) {
            names.insert(name.bare().into(), key.clone());
        }
    }

    /// The key that `name` names, as far as is known: an alias that nobody has used yet stands for itself.
    #[must_use]
    pub fn resolve(&self, name: &KeyName) -> KeyId {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(name.bare()).cloned().unwrap_or_else(|| KeyId::new(name.bare()))
    }

    /// Takes an error for what it says about leases. `scope` is the one that was asked about, where that is known.
    pub fn weigh(&self, fault: &Fault, scope: Option<&Scope>) {
        let about = if scope.is_some() { About::Scope } else { About::Stranger };
        self.draw(fault, about, scope, scope.map(Scope::key));
    }

    /// As [`Ledger::weigh`], where a request named its key.
    pub fn weigh_named(&self, fault: &Fault, name: &KeyName) {
        let about = if name.is_id() { About::Id } else { About::Name };
        self.draw(fault, about, None, Some(&KeyId::new(name.as_str())));
    }

    /// As [`Ledger::weigh`], where a request was about no key.
    pub fn weigh_listing(&self, fault: &Fault) {
        self.draw(fault, About::List, None, None);
    }

    /// Draws the consequences; the table says which.
    fn draw(&self, fault: &Fault, about: About, scope: Option<&Scope>, key: Option<&KeyId>) {
        match (Effect::of(Evidence::of(fault), about), scope, key) {
            (Effect::DoubtAll, ..) => self.doubt(),
            (Effect::ProbeAll, ..) => self.hurry(),
            (Effect::RefuseKey, _, Some(key)) => self.refuse(key, fault),
            (Effect::RefuseScope, Some(scope), _) => scope.refuse(fault, self.close()),
            (Effect::RefuseScopeProbeAll, Some(scope), _) => {
                scope.refuse(fault, self.close());
                self.hurry();
            }
            (Effect::Silence, Some(scope), _) => scope.silence(self.clock.now()),
            (Effect::SuspendAll, ..) => self.suspend_serving(),
            (Effect::SuspendScope, Some(scope), _) => scope.suspend(self.close()),
            (Effect::Nothing, ..) => {}
            // Not in the table: nothing is closed that was not asked about.
            (Effect::RefuseKey, _, None)
            | (Effect::RefuseScope | Effect::RefuseScopeProbeAll | Effect::Silence | Effect::SuspendScope, None, _) => {
                self.suspend_serving();
            }
        }
    }

    /// Ends the leases of `key` in every context, and wipes the keys that seal what it unwrapped.
    pub fn refuse(&self, key: &KeyId, fault: &Fault) {
        let next = self.close();
        // So that the refusal is known also where nothing was ever kept; names that callers make up find an end.
        if self.scopes.read().unwrap_or_else(PoisonError::into_inner).len() < SCOPES_MAX {
            drop(self.scope(key, None));
        }
        for scope in self.all().iter().filter(|scope| scope.key() == key) {
            scope.refuse(fault, next);
        }
    }

    /// Suspends every lease: something is wrong that is larger than one key.
    pub fn suspend_all(&self, why: &'static str) {
        warn!(upstream = &*self.upstream, why, "all leases suspended until the KMS consents again");
        self.close_all(Scope::suspend);
    }

    /// As [`Ledger::suspend_all`], and what was kept is lost: it was allowed to somebody else than we are now.
    pub fn forget_all(&self, why: &'static str) {
        warn!(upstream = &*self.upstream, why, "all leases ended, and what was kept under them is lost");
        self.close_all(Scope::forget);
    }

    fn close_all(&self, close: impl Fn(&Scope, Epoch)) {
        let next = self.closings(Closings::close_all);
        for scope in self.all() {
            close(&scope, next);
        }
        self.make_all_due();
    }

    /// Draws the line of a purge: what was asked before it is from before the purge. Closes nothing.
    #[must_use]
    pub fn line(&self) -> Epoch {
        self.close()
    }

    /// Wipes the keys that seal what was kept before `line`: of `key` in every context, or of every key. Leases stay, and so
    /// do refusals: nobody refused, and nothing is allowed.
    pub fn purge(&self, key: Option<&KeyId>, line: Epoch) {
        for scope in self.all().iter().filter(|scope| key.is_none_or(|key| scope.key() == key)) {
            scope.purge(line);
        }
    }

    /// Has what carried DEKs let go of, though no sealing key may have been wiped: see [`Ledger::wipes`].
    pub fn let_go(&self) {
        self.wiped.send_modify(|times| *times += 1);
    }

    /// Has every scope of `key` probed at the next turn.
    pub fn make_due(&self, key: &KeyId) {
        self.all().iter().filter(|scope| scope.key() == key).for_each(|scope| scope.make_due());
        self.wake();
    }

    /// Changes when DEKs were lost because the KMS refused their key, we are another than we were, or an operator purged
    /// them: what has carried them is to be let go of, too. No caller brings that about; a key that callers make up has no
    /// DEKs.
    #[must_use]
    pub fn wipes(&self) -> watch::Receiver<u64> {
        self.wiped.subscribe()
    }

    /// Whether an answer about `key` may still go out at `now`: nothing was closed since it was `asked`, and a lease
    /// that began then would be in force.
    ///
    /// # Errors
    /// The refusal that came between, or [`Kind::Lapsed`].
    pub fn stands(&self, key: &KeyId, asked: Asked, now: Moment) -> Result<(), Fault> {
        let lapsed = Fault::kms(Kind::Lapsed);
        let scopes = self.all();
        let closed = scopes.iter().filter(|scope| scope.key() == key).find_map(|scope| scope.closed_since(asked));
        match closed {
            Some(Stale::Refused(fault)) => Err(fault),
            Some(Stale::Suspended) => Err(lapsed),
            None if self.closings(|closings| closings.closed_all_since(asked)) => Err(lapsed),
            None if now >= asked.sent + self.terms().duration => Err(lapsed),
            None => Ok(()),
        }
    }

    /// Lets go of scopes that hold nothing, and of the guarded memory that their sealing keys take.
    pub fn reap(&self) {
        // Those that are watched stay although they hold nothing.
        self.all().iter().for_each(|scope| scope.unburden());
        self.scopes.write().unwrap_or_else(PoisonError::into_inner).retain(|_, scope| !scope.is_idle());
    }

    /// Scopes whose probe is due at `now`; marks them as asked.
    #[must_use]
    pub fn due(&self, now: Moment) -> Vec<Probe> {
        self.all().iter().filter_map(|scope| scope.take_probe(now)).collect()
    }

    /// Makes all probes due, at most every half probe interval.
    fn hurry(&self) {
        if self.once_per(&self.hastened, self.terms().probe / 2) {
            self.make_all_due();
        }
    }

    /// One ciphertext was denied to us, and it may be a stranger's, or a sign that all is denied: at most once a probe
    /// interval, no lease outlives [`Ledger::notice`] that is not renewed by a question asked from now on.
    fn doubt(&self) {
        if self.once_per(&self.doubted, self.terms().probe) {
            let until = self.clock.now() + self.notice();
            info!(
                upstream = &*self.upstream,
                "the KMS denied us a ciphertext of a key that we do not know: all keys are probed"
            );
            self.close_all(|scope, next| scope.doubt(next, until));
        }
    }

    /// How long what was consented to before a doubt is still served: as long as a probe that is not answered waits
    /// before it is repeated.
    fn notice(&self) -> Duration {
        self.terms().probe / 5
    }

    /// Our credentials were refused. Nothing is gained by closing what is closed.
    fn suspend_serving(&self) {
        let now = self.clock.now();
        let serving = |scope: &Arc<Scope>| matches!(scope.standing(now), Standing::Serving | Standing::ServingByGrace);
        if self.all().iter().any(serving) {
            self.suspend_all("the KMS refuses our credentials");
        }
    }

    fn once_per(&self, last: &Mutex<Moment>, interval: Duration) -> bool {
        let now = self.clock.now();
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = now.since(*last) >= interval;
        if due {
            *last = now;
        }
        due
    }

    fn make_all_due(&self) {
        for scope in self.all() {
            scope.make_due();
        }
        self.wake();
    }

    /// Something is due ahead of its time.
    pub fn wake(&self) {
        self.hurry.notify_one();
    }

    /// Returns when something was made due ahead of its time.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Draws the next epoch; to be called before any scope's lock is taken.
    fn close(&self) -> Epoch {
        self.closings(Closings::close)
    }

    fn closings<T>(&self, change: impl FnOnce(&mut Closings) -> T) -> T {
        change(&mut self.closings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn all(&self) -> Vec<Arc<Scope>> {
        self.scopes.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }
}

/// Contexts of one key with a lease of their own.
pub const CONTEXTS_PER_KEY: usize = 64;
const SCOPES_MAX: usize = 8192;
const NAMES_MAX: usize = 1024;
