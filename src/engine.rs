//! The path of a request: permit, look, fly, ask, keep, release.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::audit::Outcome;
use crate::auth::{Caller, CallerName};
use crate::cache::{Cache, Closed, Entry, Filled, Fingerprint};
use crate::clock::{Clock, Deadline, Moment};
use crate::fault::{Fault, Kind};
use crate::flight::{Crashed, Flights, Role};
use crate::kms::{Answer, Call, Decrypt, KeyName};
use crate::lease::Standing;
use crate::ledger::{Ledger, Scope};
use crate::metrics::Decrypts;
use crate::policy::{Held, Permit, Policy};
use crate::sync::{Mutex, RwLock, TaskTracker, timeout};
use crate::trace::Context;
use crate::upstream::Upstream;

mod contact;
mod direct;
mod drift;
mod explaining;
mod filling;
mod passing;
mod primary;
mod probing;
mod purge;
mod refusals;
mod remote;
mod versions;

pub use contact::Contact;
pub use direct::Direct;
use drift::Drift;
pub use explaining::Explained;
use filling::Purpose;
use primary::Followed;
pub use primary::{Following, Primary, Provide, Turn};
use purge::Purges;
pub use purge::Target;
pub use refusals::Refusal;
use refusals::Refusals;
use remote::Remote;

/// What a face hands its calls to.
pub trait Respond: Send + Sync + 'static {
    /// Answers `call` for `caller` before `deadline`.
    fn respond(
        &self,
        caller: &Caller,
        call: Call,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Answer, Fault>> + Send;
}

/// One upstream with what is known of its keys. Listeners on the same upstream share it, its leases and its probes.
#[derive(Debug)]
pub struct Engine {
    parts: Kept,
    remote: ArcSwap<Remote>,
    flights: Arc<Flights<Fingerprint, Flown>>,
    decrypts: Decrypts,
    drift: Drift,
    followed: Mutex<Vec<Arc<Followed>>>,
    purges: RwLock<Purges>,
    refusals: Refusals,
    contact: Mutex<Contact>,
}

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts {
    /// Who may do what.
    pub policy: Arc<Policy>,
    /// The daemon's cache.
    pub cache: Arc<Cache>,
    /// This upstream's leases.
    pub ledger: Ledger,
    /// The KMS.
    pub upstream: Arc<dyn Upstream>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long one question to the KMS may take, retries included.
    pub timeout: Duration,
    /// Where flights run.
    pub tasks: TaskTracker,
}

/// What stays with an engine while it lives.
#[derive(Debug)]
struct Kept {
    policy: Arc<Policy>,
    cache: Arc<Cache>,
    ledger: Ledger,
    clock: Arc<dyn Clock>,
}

/// How a flight ended, for all who waited.
type Landing = Result<Landed, Fault>;

/// A flight that has ended, with the span of the call that it made, where that was traced.
#[derive(Clone, Debug)]
struct Flown {
    landing: Landing,
    call: Option<Context>,
}

#[derive(Clone, Debug)]
enum Landed {
    /// The KMS answered.
    Fresh { filled: Filled, held: Arc<Held> },
    /// Another flight had filled the cache just before this one left.
    Kept(Entry),
}

/// A Decrypt, and for whom its answer is kept.
#[derive(Clone, Debug)]
struct Question {
    share: CallerName,
    fingerprint: Fingerprint,
    call: Decrypt,
}

impl Engine {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { policy, cache, ledger, upstream, clock, timeout, tasks } = parts;
        let decrypts = Decrypts::of(ledger.upstream());
        let drift = Drift::new(&*clock);
        Arc::new(Self {
            parts: Kept { policy, cache, ledger, clock },
            remote: ArcSwap::from_pointee(Remote { upstream, timeout, number: 0 }),
            flights: Flights::new(tasks),
            decrypts,
            drift,
            followed: Mutex::default(),
            purges: RwLock::default(),
            refusals: Refusals::default(),
            contact: Mutex::default(),
        })
    }

    /// The leases.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.parts.ledger
    }

    /// The time.
    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        &*self.parts.clock
    }

    /// How long an entry lasts at most.
    #[must_use]
    pub fn max_age(&self) -> Duration {
        self.parts.cache.max_age()
    }

    /// Whether the cache has room of its own for `share`.
    #[must_use]
    pub fn shares(&self, share: &CallerName) -> bool {
        self.parts.cache.shares(share)
    }

    /// Whether what it releases can be recorded now, where it must be.
    #[must_use]
    pub fn is_auditable(&self) -> bool {
        self.parts.policy.ready().is_ok()
    }

    async fn decrypt(self: &Arc<Self>, permit: &Permit, call: Decrypt, deadline: Deadline) -> Result<Answer, Fault> {
        let share = permit.share().ok_or_else(|| Fault::proxy(Kind::Forbidden))?;
        let fingerprint = self.parts.cache.fingerprint(self.parts.ledger.upstream(), share, &call);
        let outcome = match self.look(permit, &fingerprint, call.key.as_ref()) {
            Ok(Some(answer)) => {
                self.decrypts.hit.increment(1);
                return Ok(answer);
            }
            // In a box, as all that a hit does not need: every call is moved, and most of them are hits.
            Ok(None) => {
                let question = Question { share: share.clone(), fingerprint, call };
                Box::pin(self.fly(permit, question, deadline)).await
            }
            Err(fault) => Err(fault),
        };
        match &outcome {
            Ok((Role::Leader, _)) => self.decrypts.miss.increment(1),
            Ok((Role::Follower, _)) => self.decrypts.coalesced.increment(1),
            Err(_) => self.decrypts.failed.increment(1),
        }
        outcome.map(|(_, answer)| answer)
    }

    /// What the cache has to say: an answer, a refusal, or nothing.
    fn look(
        &self,
        permit: &Permit,
        fingerprint: &Fingerprint,
        named: Option<&KeyName>,
    ) -> Result<Option<Answer>, Fault> {
        let now = self.parts.clock.now();
        self.check_drift(now);
        if let Some(entry) = self.parts.cache.find(permit, fingerprint, now) {
            let release = self.parts.policy.release(permit, entry.key())?;
            self.parts.cache.asked(&entry, now);
            match entry.open(&release, now) {
                Ok(held) => return held.hand_out(&release, Outcome::Hit).map(Some),
                // A trial is not spent on what is answered from memory anyway.
                Err(Closed::Refused(fault)) => {
                    let failed = self.parts.cache.failed(permit, fingerprint, now);
                    return failed.or_else(|| (!entry.scope().may_try(now)).then_some(fault)).map_or(Ok(None), Err);
                }
                Err(Closed::Ask) => {}
            }
        } else if let Some(key) = named {
            self.check_refused(key)?;
        }
        self.parts.cache.failed(permit, fingerprint, now).map_or(Ok(None), Err)
    }

    async fn fly(
        self: &Arc<Self>,
        permit: &Permit,
        question: Question,
        deadline: Deadline,
    ) -> Result<(Role, Answer), Fault> {
        let before = self.upheavals();
        match self.board(permit, question.clone(), deadline).await {
            // Whoever was asked has been replaced since, or what it had answered was purged: this says nothing of the key.
            Err(fault) if *fault.kind() == Kind::Lapsed && self.upheavals() != before => {
                self.board(permit, question, deadline).await
            }
            outcome => outcome,
        }
    }

    async fn board(
        self: &Arc<Self>,
        permit: &Permit,
        question: Question,
        deadline: Deadline,
    ) -> Result<(Role, Answer), Fault> {
        let fingerprint = question.fingerprint;
        let launch = || Arc::clone(self).flight(permit.clone(), question, Purpose::Want);
        let waiting = self.flights.join(&fingerprint, launch);
        let left = deadline.remaining(self.parts.clock.now());
        let (role, landing) = timeout(left, waiting).await.map_err(|_| Fault::kms(Kind::TimedOut))?;
        let Flown { landing, call } = landing.map_err(|Crashed| Fault::proxy(Kind::Internal))?;
        if let (Role::Follower, Some(span), Some(call)) = (role, permit.span(), &call) {
            span.link(call);
        }
        Ok((role, self.disembark(permit, &landing?, role)?))
    }

    /// Decides once more, for this waiter and this instant, whether what the flight brought may go out.
    fn disembark(&self, permit: &Permit, landed: &Landed, role: Role) -> Result<Answer, Fault> {
        let now = self.parts.clock.now();
        self.check_drift(now);
        match landed {
            Landed::Kept(entry) => {
                let release = self.parts.policy.release(permit, entry.key())?;
                self.parts.cache.asked(entry, now);
                let held = entry.open(&release, now).map_err(|closed| match closed {
                    Closed::Refused(fault) => fault,
                    Closed::Ask => Fault::kms(Kind::Lapsed),
                })?;
                held.hand_out(&release, Outcome::Hit)
            }
            Landed::Fresh { filled: filled @ Filled { scope, epoch, .. }, held } => {
                let release = self.parts.policy.release(permit, scope.key())?;
                self.parts.cache.asked_fresh(filled, now);
                if !scope.serves(*epoch, now) {
                    return Err(closed(scope, now));
                }
                let outcome = match role {
                    Role::Follower => Outcome::Coalesced,
                    Role::Leader => Outcome::Miss,
                };
                held.hand_out_copy(&release, outcome)
            }
        }
    }

    /// Suspends all leases if the wall clock and the boot clock have parted since the last look: a restored snapshot,
    /// or somebody set the clock. Looks at most once a second.
    pub fn check_drift(&self, now: Moment) {
        if self.drift.jumped(&*self.parts.clock, now) {
            self.parts.ledger.suspend_all("wall clock and boot clock have parted");
        }
    }
}

impl Respond for Arc<Engine> {
    async fn respond(&self, caller: &Caller, call: Call, deadline: Deadline) -> Result<Answer, Fault> {
        let permit = self.parts.policy.permit(caller, &call);
        let permit = permit.inspect_err(|fault| self.note_refusal(caller, call.action(), call.key(), fault))?;
        let outcome = match call {
            Call::Decrypt(call) if call.shareable() => self.decrypt(&permit, call, deadline).await,
            call @ (Call::Decrypt(_) | Call::Encrypt(_) | Call::GenerateDataKey(_) | Call::Read(_)) => {
                Box::pin(self.pass(&permit, call, deadline)).await
            }
        };
        outcome.map_err(|fault| {
            self.note_refusal(caller, permit.action(), permit.requested(), &fault);
            self.parts.policy.refused(&permit, fault)
        })
    }
}

fn closed(scope: &Scope, now: Moment) -> Fault {
    match scope.standing(now) {
        Standing::Refused(fault) => fault,
        Standing::Lapsed | Standing::Serving | Standing::ServingByGrace | Standing::Suspended | Standing::Unknown => {
            Fault::kms(Kind::Lapsed)
        }
    }
}
