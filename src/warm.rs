//! Warm when the storm comes: a daemon that starts unwraps again what the one before it had unwrapped, in parallel, behind
//! everything that anybody asks for; and keeps the file up to date from which it, or the next one, begins.

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cache::{Cache, Entry, Fingerprint};
use crate::engine::{Engine, Target};
use crate::fault::{Evidence, Fault, Origin};
use crate::kms::KeyId;
use crate::metrics;
use crate::working_set::{self, Member, Refused};

/// What is to be unwrapped again in one upstream. Callers are not kept from asking for any of it: what they ask for first
/// is there when its turn comes, and not asked for twice.
#[derive(Debug)]
pub struct WarmUp {
    engine: Arc<Engine>,
    state: Mutex<State>,
    /// Its upstream ends, or is asked otherwise: what is left is somebody else's.
    over: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Member>,
    /// At most [`AT_ONCE`].
    asking: Vec<Member>,
    /// Under keys that were refused: not asked for again by us, and not forgotten either, for a key may be enabled again.
    refused: Vec<Member>,
    keys: HashSet<KeyId>,
    /// Members that the KMS does not know.
    unknown: usize,
    progress: Progress,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Progress {
    /// DEKs that were in the file.
    pub members: usize,
    /// Unwrapped since, by us or because somebody asked.
    pub unwrapped: usize,
    /// Refused by the KMS, or by then under a key that was.
    pub refused: usize,
}

impl Progress {
    /// DEKs whose turn is still to come.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.members - self.unwrapped - self.refused
    }
}

impl WarmUp {
    /// Of those of `members` that are of `engine`'s upstream and of a share that there is, in their order.
    #[must_use]
    pub fn new(engine: Arc<Engine>, members: &[Member]) -> Arc<Self> {
        let ours = |member: &&Member| member.upstream == engine.ledger().upstream() && engine.shares(&member.share);
        let waiting: VecDeque<_> = members.iter().filter(ours).cloned().collect();
        let progress = Progress { members: waiting.len(), ..Progress::default() };
        let state = State { waiting, progress, ..State::default() };
        Arc::new(Self { engine, state: Mutex::new(state), over: CancellationToken::new() })
    }

    /// The upstream.
    #[must_use]
    pub fn upstream(&self) -> &str {
        self.engine.ledger().upstream()
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.state().progress
    }

    /// What is not in the cache yet.
    #[must_use]
    pub fn left(&self) -> Vec<Member> {
        let state = self.state();
        state.asking.iter().chain(&state.waiting).chain(&state.refused).cloned().collect()
    }

    /// Asks for one after the other, some at a time, until nothing is left, until `stop`, or until [`Keeper::part`].
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let members = self.progress().members;
        if members == 0 {
            return;
        }
        let upstream = self.engine.ledger().upstream();
        info!(upstream, members, "unwrapping again what was cached before");
        self.publish(self.progress());
        let workers = (0..AT_ONCE).map(|_| Arc::clone(&self).work());
        let all = self.over.run_until_cancelled(futures_util::future::join_all(workers));
        if stop.run_until_cancelled(all).await.flatten().is_some() {
            let Progress { unwrapped, refused, .. } = self.progress();
            info!(upstream, unwrapped, refused, "warm");
        }
    }

    async fn work(self: Arc<Self>) {
        let mut pause = PAUSE_FIRST;
        while let Some(member) = self.next() {
            let (warm_up, asking) = (Arc::clone(&self), member.clone());
            let wanted = move || warm_up.state().asking.contains(&asking);
            let outcome = self.engine.warm(&member.share, member.call.clone(), wanted).await;
            match End::of(&outcome) {
                Some(end) => {
                    pause = PAUSE_FIRST;
                    self.ended(member, end);
                }
                None => {
                    self.again(member);
                    debug!(fault = ?outcome.err(), "warming up waits");
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    fn next(&self) -> Option<Member> {
        let mut state = self.state();
        while let Some(member) = state.waiting.pop_front() {
            if state.keys.contains(&member.key) {
                state.put_aside(member);
                continue;
            }
            state.asking.push(member.clone());
            return Some(member);
        }
        // Those put aside are told of here, once, and not each.
        self.publish(state.progress);
        None
    }

    fn again(&self, member: Member) {
        let mut state = self.state();
        if state.take(&member) {
            state.waiting.push_front(member);
        }
    }

    /// Asks no more for what `target` means. To be called before that is purged: what is being asked for then is from before
    /// the purge, and not asked for again.
    pub fn forget(&self, target: &Target) {
        let kept = |member: &Member| !target.covers(&member.share, &member.key, member.call.ciphertext.bytes());
        let mut state = self.state();
        state.waiting.retain(kept);
        state.asking.retain(kept);
        state.refused.retain(kept);
        let left = state.waiting.len() + state.asking.len();
        state.progress.refused = state.refused.len() + state.unknown;
        state.progress.members = left + state.progress.unwrapped + state.progress.refused;
        self.publish(state.progress);
    }

    fn ended(&self, member: Member, end: End) {
        let mut state = self.state();
        if !state.take(&member) {
            return;
        }
        match end {
            End::Unwrapped => state.progress.unwrapped += 1,
            End::KeyRefused => {
                state.keys.insert(member.key.clone());
                state.put_aside(member);
            }
            End::Unknown => {
                state.unknown += 1;
                state.progress.refused += 1;
            }
        }
        self.publish(state.progress);
    }

    fn publish(&self, progress: Progress) {
        metrics::warm_up_left(self.engine.ledger().upstream(), progress.left());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes `member` from among those that are asked for; false where it was forgotten meanwhile.
    fn take(&mut self, member: &Member) -> bool {
        let at = self.asking.iter().position(|other| other == member);
        at.map(|at| self.asking.swap_remove(at)).is_some()
    }

    fn put_aside(&mut self, member: Member) {
        self.progress.refused += 1;
        self.refused.push(member);
    }
}

/// How the asking for one ended, for good.
enum End {
    /// It is in the cache.
    Unwrapped,
    /// Its key is refused, to everyone or to us.
    KeyRefused,
    /// The KMS does not know such a ciphertext (any more).
    Unknown,
}

impl End {
    /// Nothing where it is worth asking again later: the KMS could not be asked, there was no room for the question here, or
    /// what came says nothing about this one.
    fn of(outcome: &Result<(), Fault>) -> Option<Self> {
        let Err(fault) = outcome else { return Some(Self::Unwrapped) };
        match (Evidence::of(fault), fault.origin()) {
            (Evidence::KeyRefused | Evidence::IdentityRefused | Evidence::AccountRefused, _) => Some(Self::KeyRefused),
            (Evidence::Nothing, Origin::Kms) => Some(Self::Unknown),
            (Evidence::Nothing, Origin::Caller | Origin::Proxy)
            | (Evidence::IdentityDoubted | Evidence::ScopeDoubted | Evidence::Silence, _) => None,
        }
    }
}

/// The file, and what is to be in it.
#[derive(Debug)]
pub struct Keeper {
    path: PathBuf,
    every: Duration,
    cache: Arc<Cache>,
    upstreams: Mutex<Upstreams>,
    written: Mutex<Option<Version>>,
}

#[derive(Debug, Default)]
struct Upstreams {
    warm_ups: Vec<Arc<WarmUp>>,
    /// What was cached of upstreams that there are not, or not yet: a reload may bring them (back). As many as the cache
    /// could hold.
    absent: Vec<Member>,
}

/// What the file was last written from.
type Version = (u64, usize, usize);

impl Keeper {
    /// Reads the file, and keeps it from now on. What is not a working set of ours is passed over, with a warning, and
    /// written over.
    #[must_use]
    pub fn open(path: PathBuf, every: Duration, cache: Arc<Cache>) -> Arc<Self> {
        let absent = working_set::read(&path).unwrap_or_else(|error: Refused| {
            warn!(file = %path.display(), %error, "the working set is not read; the cache starts cold");
            Vec::new()
        });
        let upstreams = Mutex::new(Upstreams { warm_ups: Vec::new(), absent });
        Arc::new(Self { path, every, cache, upstreams, written: Mutex::default() })
    }

    /// An upstream that begins, and what is to be unwrapped for it: to be run.
    #[must_use]
    pub fn admit(&self, engine: &Arc<Engine>) -> Arc<WarmUp> {
        let mut upstreams = self.upstreams();
        let theirs = |member: &mut Member| member.upstream == engine.ledger().upstream();
        let members: Vec<_> = upstreams.absent.extract_if(.., theirs).collect();
        let warm_up = WarmUp::new(Arc::clone(engine), &members);
        upstreams.warm_ups.push(Arc::clone(&warm_up));
        warm_up
    }

    /// Remembers what is cached of an upstream that ends or is about to be asked otherwise, and what was still to be
    /// unwrapped. To be called while it is cached.
    pub fn part(&self, upstream: &str) {
        let cached: Vec<_> = self.cached(|entry| entry.scope().upstream() == upstream).collect();
        let mut upstreams = self.upstreams();
        let theirs = |warm_up: &mut Arc<WarmUp>| warm_up.upstream() == upstream;
        let ended: Vec<_> = upstreams.warm_ups.extract_if(.., theirs).collect();
        ended.iter().for_each(|warm_up| warm_up.over.cancel());
        let left = ended.iter().flat_map(|warm_up| warm_up.left());
        upstreams.absent.splice(..0, cached.into_iter().chain(left));
        upstreams.absent.truncate(usize::try_from(self.cache.capacity()).unwrap_or(usize::MAX));
    }

    /// What is to be unwrapped, by upstream.
    #[must_use]
    pub fn warm_ups(&self) -> Vec<Arc<WarmUp>> {
        self.upstreams().warm_ups.clone()
    }

    /// How far all of them have come together.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.warm_ups().iter().map(|warm_up| warm_up.progress()).fold(Progress::default(), |sum, one| Progress {
            members: sum.members + one.members,
            unwrapped: sum.unwrapped + one.unwrapped,
            refused: sum.refused + one.refused,
        })
    }

    /// As [`WarmUp::forget`], in `upstream`.
    pub fn forget(&self, upstream: &str, target: &Target) {
        self.warm_ups()
            .iter()
            .filter(|warm_up| warm_up.upstream() == upstream)
            .for_each(|warm_up| warm_up.forget(target));
    }

    /// As [`WarmUp::forget`], in every upstream that there is not.
    pub fn forget_absent(&self, target: &Target) {
        let covered = |member: &Member| target.covers(&member.share, &member.key, member.call.ciphertext.bytes());
        self.upstreams().absent.retain(|member| !covered(member));
    }

    /// Writes the file now and then, where it would be another than before, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let keeper = Arc::clone(&self);
            // A walk of the cache and a write that waits for the disk.
            if tokio::task::spawn_blocking(move || keeper.save()).await.is_err() {
                warn!("writing the working set panicked, which is a defect");
            }
        }
    }

    /// Writes the file, where it would be another than before. That it cannot is said, and nothing else: the next start is
    /// a colder one.
    pub fn save(&self) {
        let version = (self.cache.changes(), self.progress().left(), self.upstreams().absent.len());
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if *written == Some(version) {
            return;
        }
        match self.write() {
            Ok(members) => {
                *written = Some(version);
                debug!(members, "the working set is written");
            }
            Err(error) => warn!(file = %self.path.display(), %error, "the working set cannot be written"),
        }
    }

    fn write(&self) -> io::Result<usize> {
        // Before the cache, so that nothing is in neither: what moves from one to the other meanwhile is in both.
        let mut left: Vec<Member> = self.warm_ups().iter().flat_map(|warm_up| warm_up.left()).collect();
        left.extend_from_slice(&self.upstreams().absent);
        let cached = self.cache.hottest();
        self.retain_distinct(&mut left, &cached);
        // Each is made when it is written, and is gone before the next: there may be a million.
        let cached = cached.iter().map(|entry| Cow::Owned(member(entry)));
        working_set::write(&self.path, cached.chain(left.iter().map(Cow::Borrowed)))
    }

    /// Leaves each of `left` once, and only those that are not among `cached`.
    fn retain_distinct(&self, left: &mut Vec<Member>, cached: &[Entry]) {
        let mut missing: HashSet<_> = left.iter().map(|member| fingerprint(&self.cache, member)).collect();
        for entry in cached.iter().take_while(|_| !left.is_empty()) {
            missing.remove(&entry.fingerprint());
        }
        left.retain(|member| missing.remove(&fingerprint(&self.cache, member)));
    }

    /// What is cached of those that are `wanted`, the most lately asked for first.
    fn cached(&self, wanted: impl Fn(&Entry) -> bool) -> impl Iterator<Item = Member> {
        let entries = self.cache.hottest().into_iter().filter(move |entry| wanted(entry));
        entries.map(|entry: Entry| member(&entry))
    }

    fn upstreams(&self) -> MutexGuard<'_, Upstreams> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn member(entry: &Entry) -> Member {
    Member {
        upstream: entry.scope().upstream().to_owned(),
        share: entry.share().clone(),
        key: entry.key().clone(),
        call: entry.call(),
    }
}

fn fingerprint(cache: &Cache, member: &Member) -> Fingerprint {
    cache.fingerprint(&member.upstream, &member.share, &member.call)
}

/// Questions of a warm-up at a time; the governor lets fewer through where the KMS takes fewer.
const AT_ONCE: usize = 64;
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
