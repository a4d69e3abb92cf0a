//! Keeps one identity's credentials fresh.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::clock::{Clock, Deadline, Moment};
use crate::fault::{Fault, Kind};
use crate::governor::{doubled, jittered};
use crate::metrics;
use crate::seal::AtRest;
use crate::upstream::credentials::{Credentials, Fetch, Lack};

/// Credentials that are fetched when first asked for, renewed from half of their life on (by whoever asks, in the
/// background), and never given out after their end. Between two uses they are sealed. There is at most one fetch at a time, and it does not end with
/// the request that started it.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    /// Owns the fetch under way; dropping the keeper ends it.
    fetches: Mutex<JoinSet<()>>,
}

impl Keeper {
    /// A keeper of the credentials for `upstream`, without any yet.
    #[must_use]
    pub fn new(upstream: &str, source: Box<dyn Fetch>, clock: Arc<dyn Clock>) -> Self {
        let shared = Shared {
            source,
            clock,
            current: ArcSwapOption::empty(),
            pace: Mutex::new(Pace::default()),
            round_ended: Notify::new(),
            metrics: metrics::Credentials::of(upstream),
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
            return Ok(held.open());
        }
        self.next_round(Urgency::Calm, deadline).await;
        self.shared.valid().map(|held| held.open()).ok_or(Fault::proxy(Kind::Credentials))
    }

    /// Other credentials than `refused`, which the KMS says are bad: those that came meanwhile, or else what one more
    /// fetch brings. Fetches for this reason at most every 5 s.
    ///
    /// # Errors
    /// [`Kind::Credentials`] where there are no others.
    pub async fn renewed(&self, refused: &Credentials, deadline: Deadline) -> Result<Arc<Credentials>, Fault> {
        let other = || {
            let credentials = self.shared.valid()?.open();
            (!credentials.same_key(refused)).then_some(credentials)
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
        self.shared.current.load().as_ref().map_or_else(|| "".into(), |held| Arc::clone(&held.principal))
    }

    /// Why the last fetch failed; `None` after one that did not.
    #[must_use]
    pub fn trouble(&self) -> Option<Lack> {
        self.shared.pace().trouble.clone()
    }

    /// Waits for the fetch under way, or for one that is started now if its time has come.
    async fn next_round(&self, urgency: Urgency, deadline: Deadline) {
        // Hears of each round that ends from here on.
        let ended = self.shared.round_ended.notified();
        if !self.start(urgency) {
            return;
        }
        let left = deadline.remaining(self.shared.clock.now());
        // A wait that ends without a round leaves things as they are, and the caller looks at them next.
        let _ = tokio::time::timeout(left, ended).await;
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
    /// Wakes whoever waits for a fetch, in the order in which they came.
    round_ended: Notify,
    metrics: metrics::Credentials,
}

impl Shared {
    fn valid(&self) -> Option<Arc<Held>> {
        let held = self.current.load_full()?;
        let by_wall = held.expires.is_some_and(|end| self.clock.wall() >= end);
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
                tracing::info!(principal = %held.principal, "credentials fetched");
                self.metrics.fetched(held.expires.map(Timestamp::as_second));
                self.current.store(Some(Arc::new(held)));
                self.pace().succeeded(now);
            }
            Err(lack) => {
                tracing::warn!(%lack, valid = self.valid().is_some(), "credentials could not be fetched");
                self.metrics.failed();
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
        self.0.round_ended.notify_waiters();
    }
}

#[derive(Debug)]
struct Held {
    id: String,
    secret: AtRest,
    token: Option<AtRest>,
    expires: Option<Timestamp>,
    principal: Arc<str>,
    /// The end by the boot clock, as far as the wall clock was right when they came.
    ends: Option<Moment>,
    renew: Option<Moment>,
}

impl Held {
    fn new(credentials: Credentials, now: Moment, wall: Timestamp) -> Result<Self, Lack> {
        let Credentials { id, secret, token, expires, principal } = credentials;
        let left = expires.map(|end| Duration::try_from(end.duration_since(wall)).unwrap_or_default());
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Lack::failed(
                "the credentials handed out have expired already; is this machine's clock right?",
            ));
        }
        let ends = left.map(|left| now + left);
        // Half of what is left: so a source that hands out the same session until shortly before its end is asked a
        // handful of times, and an STS outage of half a session's life is not noticed.
        let renew = left.map(|left| now + jittered(left / 2).max(RENEWAL_GAP_MIN));
        let (secret, token) = (AtRest::new(&secret)?, token.as_ref().map(AtRest::new).transpose()?);
        Ok(Self { id, secret, token, expires, principal, ends, renew })
    }

    /// For one call; to be dropped with it.
    fn open(&self) -> Arc<Credentials> {
        Arc::new(Credentials {
            id: self.id.clone(),
            secret: self.secret.open(),
            token: self.token.as_ref().map(AtRest::open),
            expires: self.expires,
            principal: Arc::clone(&self.principal),
        })
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use jiff::Timestamp;

    use super::*;
    use crate::clock::Manual;
    use crate::secret::Secret;
    use crate::upstream::credentials::Fetching;

    /// What the source does next; without more, it hangs.
    type Script = Mutex<Vec<Result<Credentials, Lack>>>;

    #[derive(Debug)]
    struct Scripted {
        script: Arc<Script>,
        fetched: Arc<AtomicUsize>,
        changed: bool,
    }

    impl Fetch for Scripted {
        fn fetch(&self) -> Fetching<'_> {
            self.fetched.fetch_add(1, Ordering::Relaxed);
            let next = self.script.lock().unwrap().pop();
            Box::pin(async {
                match next {
                    Some(next) => next,
                    None => std::future::pending().await,
                }
            })
        }

        fn changed(&self) -> bool {
            self.changed
        }
    }

    struct Scene {
        keeper: Keeper,
        clock: Arc<Manual>,
        script: Arc<Script>,
        fetched: Arc<AtomicUsize>,
    }

    impl Scene {
        fn new(changed: bool) -> Self {
            let clock = Arc::new(Manual::at("2026-01-01T00:00:00Z".parse().unwrap()));
            let (script, fetched) = (Arc::<Script>::default(), Arc::<AtomicUsize>::default());
            let source = Scripted { script: Arc::clone(&script), fetched: Arc::clone(&fetched), changed };
            let held: Arc<dyn Clock> = Arc::<Manual>::clone(&clock);
            Self { keeper: Keeper::new("kms", Box::new(source), held), clock, script, fetched }
        }

        fn next(&self, outcome: Result<Credentials, Lack>) {
            self.script.lock().unwrap().insert(0, outcome);
        }

        fn session(&self, id: &str, life: u64) -> Credentials {
            let end = self.clock.wall() + Duration::from_secs(life);
            Credentials { expires: Some(end), ..key(id) }
        }

        async fn id(&self) -> Option<String> {
            let deadline = Deadline::after(self.clock.now(), Duration::from_millis(100));
            self.keeper.current(deadline).await.ok().map(|held| held.id.clone())
        }

        /// Lets a fetch in the background end.
        async fn settle(&self) {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }

        fn fetched(&self) -> usize {
            self.fetched.load(Ordering::Relaxed)
        }
    }

    fn key(id: &str) -> Credentials {
        Credentials {
            id: id.into(),
            secret: Secret::copied(b"s"),
            token: None,
            expires: None,
            principal: "role".into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_share_one_fetch() {
        let scene = Scene::new(false);
        scene.next(Ok(key("a")));
        let (one, two, three) = tokio::join!(scene.id(), scene.id(), scene.id());
        assert_eq!([one, two, three], [Some("a".into()), Some("a".into()), Some("a".into())]);
        assert_eq!(scene.fetched(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_renewed_in_the_background_from_half_of_its_life() {
        let scene = Scene::new(false);
        scene.next(Ok(scene.session("a", 3600)));
        assert_eq!(scene.id().await.as_deref(), Some("a"));
        scene.clock.advance(Duration::from_secs(899));
        assert_eq!(scene.id().await.as_deref(), Some("a"));
        scene.settle().await;
        assert_eq!(scene.fetched(), 1, "not before a quarter");
        scene.clock.advance(Duration::from_secs(901));
        scene.next(Ok(scene.session("b", 3600)));
        assert_eq!(scene.id().await.as_deref(), Some("a"), "whoever asks does not wait");
        scene.settle().await;
        assert_eq!((scene.id().await.as_deref(), scene.fetched()), (Some("b"), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn when_renewal_fails_the_old_session_serves_until_its_end_and_not_a_moment_longer() {
        let scene = Scene::new(false);
        scene.next(Ok(scene.session("a", 3600)));
        scene.id().await;
        for _ in 0..3 {
            scene.next(Err(Lack::failed("STS is away")));
        }
        scene.clock.advance(Duration::from_secs(3599));
        assert_eq!(scene.id().await.as_deref(), Some("a"));
        scene.settle().await;
        assert_eq!(scene.keeper.trouble(), Some(Lack::failed("STS is away")));
        scene.clock.advance(Duration::from_secs(1));
        assert_eq!(scene.id().await, None);
        assert_eq!(&*scene.keeper.principal(), "role");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_set_back_lengthens_nothing() {
        let scene = Scene::new(false);
        scene.next(Ok(scene.session("a", 60)));
        scene.id().await;
        scene.clock.advance(Duration::from_secs(60));
        scene.clock.step_wall("2025-01-01T00:00:00Z".parse().unwrap());
        scene.next(Err(Lack::failed("no")));
        assert_eq!(scene.id().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_nobody_fetches_until_the_back_off_ends() {
        let scene = Scene::new(false);
        scene.next(Err(Lack::failed("no")));
        assert_eq!((scene.id().await, scene.id().await), (None, None));
        assert_eq!(scene.fetched(), 1);
        scene.clock.advance(RETRY_FIRST);
        scene.next(Ok(key("a")));
        assert_eq!((scene.id().await.as_deref(), scene.fetched()), (Some("a"), 2));
        assert_eq!(scene.keeper.trouble(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_outlives_the_request_that_started_it_and_a_request_waits_no_longer_than_its_deadline() {
        let scene = Scene::new(false);
        assert_eq!((scene.id().await, scene.fetched()), (None, 1));
        assert_eq!((scene.id().await, scene.fetched()), (None, 1), "the same fetch is still under way");
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_that_have_ended_when_they_come_are_refused() {
        let scene = Scene::new(false);
        scene.next(Ok(Credentials { expires: Some(Timestamp::UNIX_EPOCH), ..key("a") }));
        assert_eq!(scene.id().await, None);
        let clock = "the credentials handed out have expired already; is this machine's clock right?";
        assert_eq!(scene.keeper.trouble(), Some(Lack::failed(clock)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_looked_for_every_ten_seconds() {
        let scene = Scene::new(true);
        scene.next(Ok(key("a")));
        scene.id().await;
        scene.next(Ok(key("b")));
        scene.clock.advance(Duration::from_millis(9999));
        scene.id().await;
        scene.settle().await;
        assert_eq!(scene.fetched(), 1);
        scene.clock.advance(Duration::from_millis(1));
        scene.id().await;
        scene.settle().await;
        assert_eq!((scene.id().await.as_deref(), scene.fetched()), (Some("b"), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn refused_credentials_are_fetched_again_once_in_five_seconds_and_only_others_are_returned() {
        let scene = Scene::new(false);
        scene.next(Ok(key("a")));
        scene.id().await;
        let deadline = Deadline::after(scene.clock.now(), Duration::from_secs(60));
        let renewed = async || scene.keeper.renewed(&key("a"), deadline).await.map(|held| held.id.clone());
        scene.next(Ok(key("a")));
        assert_eq!(renewed().await, Err(Fault::proxy(Kind::Credentials)), "the same again");
        scene.next(Ok(key("b")));
        assert_eq!(renewed().await, Err(Fault::proxy(Kind::Credentials)), "too soon");
        assert_eq!(scene.fetched(), 2);
        scene.clock.advance(REFUSED_GAP);
        assert_eq!(renewed().await, Ok("b".into()));
        assert_eq!((renewed().await, scene.fetched()), (Ok("b".into()), 3), "others came meanwhile");
    }
}
