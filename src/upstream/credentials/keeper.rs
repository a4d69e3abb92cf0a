//! Keeps one identity's credentials fresh.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::{Clock, Deadline, Moment};
use crate::fault::{Fault, Kind};
use crate::governor::{doubled, jittered};
use crate::upstream::credentials::{Credentials, Fetch, Lack};

/// Credentials that are fetched when first asked for, renewed from half of their life on (by whoever asks, in the
/// background), and never given out after their end. There is at most one fetch at a time, and it does not end with
/// the request that started it.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    /// Owns the fetch under way; dropping the keeper ends it.
    fetches: Mutex<JoinSet<()>>,
}

impl Keeper {
    /// A keeper without credentials yet.
    #[must_use]
    pub fn new(source: Box<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        let shared = Shared {
            source,
            clock,
            current: ArcSwapOption::empty(),
            pace: Mutex::new(Pace::default()),
            rounds: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared), fetches: Mutex::default() }
    }

    /// Credentials that are valid now. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Kind::Credentials`] where there are none and none can be had before `deadline`; [`Keeper::trouble`] and the
    /// log say why.
    pub async fn current(&self, deadline: Deadline) -> Result<Arc<Credentials>, Fault> {
        if let Some(held) = self.shared.valid() {
            if self.shared.is_due(&held) {
                self.start(Urgency::Calm);
            }
            return Ok(Arc::clone(&held.credentials));
        }
        self.next_round(Urgency::Calm, deadline).await;
        self.shared.valid().map(|held| Arc::clone(&held.credentials)).ok_or(Fault::proxy(Kind::Credentials))
    }

    /// Other credentials than `refused`, which the KMS says are bad: those that came meanwhile, or else what one more
    /// fetch brings. Fetches for this reason at most every 5 s.
    ///
    /// # Errors
    /// [`Kind::Credentials`] where there are no others.
    pub async fn renewed(&self, refused: &Credentials, deadline: Deadline) -> Result<Arc<Credentials>, Fault> {
        let other = || {
            let held = self.shared.valid()?;
            (!held.credentials.same_key(refused)).then(|| Arc::clone(&held.credentials))
        };
        if let Some(credentials) = other() {
            return Ok(credentials);
        }
        self.next_round(Urgency::Refused, deadline).await;
        other().ok_or(Fault::proxy(Kind::Credentials))
    }

    /// As whom we ask; empty before the first credentials. Stays when they expire: whoever they were is not another.
    #[must_use]
    pub fn principal(&self) -> Arc<str> {
        self.shared.current.load().as_ref().map_or_else(|| "".into(), |held| Arc::clone(&held.credentials.principal))
    }

    /// Why the last fetch failed; `None` after one that did not.
    #[must_use]
    pub fn trouble(&self) -> Option<Lack> {
        self.shared.pace().trouble.clone()
    }

    /// Waits for the fetch under way, or for one that is started now if its time has come.
    async fn next_round(&self, urgency: Urgency, deadline: Deadline) {
        let mut rounds = self.shared.rounds.subscribe();
        if !self.start(urgency) {
            return;
        }
        let left = deadline.remaining(self.shared.clock.now());
        // A wait that ends without a round leaves things as they are, and the caller looks at them next.
        let _ = tokio::time::timeout(left, rounds.changed()).await;
    }

    /// Starts a fetch unless one is under way; `false` where its time has not come yet.
    fn start(&self, urgency: Urgency) -> bool {
        let now = self.shared.clock.now();
        match self.shared.pace().start(now, urgency) {
            Start::Wait => return false,
            Start::UnderWay => return true,
            Start::Now => {}
        }
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        while fetches.try_join_next().is_some() {}
        fetches.spawn(Arc::clone(&self.shared).fetch());
        true
    }
}

#[derive(Debug)]
struct Shared {
    source: Box<dyn Fetch>,
    clock: Arc<dyn Clock>,
    current: ArcSwapOption<Held>,
    pace: Mutex<Pace>,
    /// Counts fetches that ended.
    rounds: watch::Sender<u64>,
}

impl Shared {
    fn valid(&self) -> Option<Arc<Held>> {
        let held = self.current.load_full()?;
        let by_wall = held.credentials.expires.is_some_and(|end| self.clock.wall() >= end);
        // The wall clock may have been set back since.
        let by_boot = held.ends.is_some_and(|end| self.clock.now() >= end);
        (!by_wall && !by_boot).then_some(held)
    }

    fn is_due(&self, held: &Held) -> bool {
        let now = self.clock.now();
        held.renew.is_some_and(|renew| now >= renew) || (self.pace().may_look(now) && self.source.changed())
    }

    async fn fetch(self: Arc<Self>) {
        let _round = Round(&self);
        let outcome = match tokio::time::timeout(FETCH_MAX, self.source.fetch()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Lack::failed("took too long")),
        };
        let now = self.clock.now();
        let outcome = outcome.and_then(|credentials| Held::new(credentials, now, self.clock.wall()));
        match outcome {
            Ok(held) => {
                tracing::info!(principal = %held.credentials.principal, "credentials fetched");
                self.current.store(Some(Arc::new(held)));
                self.pace().succeeded(now);
            }
            Err(lack) => {
                tracing::warn!(%lack, valid = self.valid().is_some(), "credentials could not be fetched");
                self.pace().failed(now, lack);
            }
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a round however the fetch ends, so that nobody waits for one that panicked.
struct Round<'a>(&'a Shared);

impl Drop for Round<'_> {
    fn drop(&mut self) {
        self.0.pace().under_way = false;
        self.0.rounds.send_modify(|round| *round += 1);
    }
}

#[derive(Debug)]
struct Held {
    credentials: Arc<Credentials>,
    /// The end by the boot clock, as far as the wall clock was right when they came.
    ends: Option<Moment>,
    renew: Option<Moment>,
}

impl Held {
    fn new(credentials: Credentials, now: Moment, wall: jiff::Timestamp) -> Result<Self, Lack> {
        let left = credentials.expires.map(|end| Duration::try_from(end.duration_since(wall)).unwrap_or_default());
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Lack::failed(
                "the credentials handed out have expired already; is this machine's clock right?",
            ));
        }
        let ends = left.map(|left| now + left);
        // Half of what is left: so a source that hands out the same session until shortly before its end is asked a
        // handful of times, and an STS outage of half a session's life is not noticed.
        let renew = left.map(|left| now + jittered(left / 2).max(RENEWAL_GAP_MIN));
        Ok(Self { credentials: Arc::new(credentials), ends, renew })
    }
}

impl Credentials {
    fn same_key(&self, other: &Self) -> bool {
        (&self.id, &self.secret, &self.token) == (&other.id, &other.secret, &other.token)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    /// Renewal, or the first fetch.
    Calm,
    /// The KMS refused what we have.
    Refused,
}

#[derive(Debug, PartialEq, Eq)]
enum Start {
    Now,
    UnderWay,
    Wait,
}

/// When to fetch: the part that decides, without fetching.
#[derive(Debug, Default)]
struct Pace {
    under_way: bool,
    failures: u32,
    not_before: Option<Moment>,
    refused_not_before: Option<Moment>,
    look_at: Option<Moment>,
    trouble: Option<Lack>,
}

impl Pace {
    fn start(&mut self, now: Moment, urgency: Urgency) -> Start {
        if self.under_way {
            return Start::UnderWay;
        }
        let not_before = match urgency {
            Urgency::Calm => self.not_before,
            Urgency::Refused => self.refused_not_before.max(self.not_before),
        };
        if not_before.is_some_and(|time| now < time) {
            return Start::Wait;
        }
        if urgency == Urgency::Refused {
            self.refused_not_before = Some(now + REFUSED_GAP);
        }
        self.under_way = true;
        Start::Now
    }

    /// Whether it is time to look for a changed file.
    fn may_look(&mut self, now: Moment) -> bool {
        let may = self.look_at.is_none_or(|time| now >= time);
        if may {
            self.look_at = Some(now + LOOK_GAP);
        }
        may
    }

    fn succeeded(&mut self, now: Moment) {
        *self = Self {
            under_way: self.under_way,
            refused_not_before: self.refused_not_before,
            look_at: Some(now + LOOK_GAP),
            ..Self::default()
        };
    }

    fn failed(&mut self, now: Moment, lack: Lack) {
        self.not_before = Some(now + jittered(doubled(RETRY_FIRST, self.failures, RETRY_MAX)));
        self.failures = self.failures.saturating_add(1);
        self.trouble = Some(lack);
    }
}

/// The longest fetch: metadata, then STS.
const FETCH_MAX: Duration = Duration::from_secs(20);
const RENEWAL_GAP_MIN: Duration = Duration::from_secs(5);
const REFUSED_GAP: Duration = Duration::from_secs(5);
const LOOK_GAP: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
