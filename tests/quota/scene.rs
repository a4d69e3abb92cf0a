//! A daemon's parts around an embedded KMS with a quota, and those who ask.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use kmsproxy::auth::{Caller, CallerName, Door, Entry, Identity};
use kmsproxy::cache::{self, Cache};
use kmsproxy::claim::{Claim, ListenerName, Peer, PeerOrigin};
use kmsproxy::clock::{Clock, Deadline, Moment};
use kmsproxy::engine::{Engine, Parts, Respond};
use kmsproxy::fault::{Fault, Kind, Retry};
use kmsproxy::governor::{Class, Governor, Limits, Priority, Quota, Tally, jittered};
use kmsproxy::kms::{Action, Call, Ciphertext, Decrypt, Encrypt, Extra, KeyName, Reply};
use kmsproxy::lease::{Standing, Terms};
use kmsproxy::ledger::Ledger;
use kmsproxy::policy::{Grant, Held, Permit, Policy, Rule};
use kmsproxy::secret::Secret;
use kmsproxy::upstream::local::{Behaviour, Decision, Local, NewKey};
use kmsproxy::upstream::{Asking, Upstream};
use kmsproxy::watch::Watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a scene is to be like.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    /// What the KMS grants a second.
    pub(crate) granted: Option<u32>,
    /// What the configuration says of it.
    pub(crate) quota: Option<u32>,
    /// Those who ask for the cold DEKs, each for one after the other.
    pub(crate) workers: usize,
}

impl Default for Setting {
    fn default() -> Self {
        Self { granted: None, quota: None, workers: 150 }
    }
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Drained {
    /// From the first decision of the KMS to the last plaintext.
    pub(crate) took: Duration,
    /// Decisions of the KMS, and how many of them were to throttle.
    pub(crate) decided: usize,
    pub(crate) throttled: usize,
    /// Of any second, however it is cut.
    pub(crate) busiest_second: usize,
    pub(crate) probes: u64,
    pub(crate) longest_probe: Duration,
    /// Seconds in which a lease that lives by probes alone was not in force.
    pub(crate) lapses: usize,
    /// Of another caller, one Decrypt and one Encrypt a second: the longest wait for the pass, and those refused.
    pub(crate) longest_other: Duration,
    pub(crate) refused_others: usize,
    /// Of those who asked for the cold DEKs: how many the governor refused at once, and how many after they had waited.
    pub(crate) refused_at_once: usize,
    pub(crate) refused_late: usize,
    tally: Tally,
}

impl Drained {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    pub(crate) fn throttled_share(&self) -> f64 {
        self.throttled as f64 / self.decided as f64
    }

    pub(crate) fn turned(&self, class: Class) -> u64 {
        self.tally.turned[class as usize]
    }
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} % throttled, {self:?}", 100.0 * self.throttled_share())
    }
}

/// Time as tokio's tests see it.
#[derive(Debug)]
struct Paused(Instant);

impl Clock for Paused {
    fn now(&self) -> Moment {
        Moment::BOOT + Duration::from_secs(3600) + self.0.elapsed()
    }

    fn wall(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH.saturating_add(self.0.elapsed()).unwrap()
    }
}

/// The embedded KMS behind a governor, asked as `upstream::aliyun` asks.
#[derive(Debug)]
struct Governed {
    governor: Governor<CallerName>,
    kms: Arc<Local>,
    clock: Arc<dyn Clock>,
    waits: Mutex<Waits>,
}

#[derive(Debug, Default)]
struct Waits {
    probe: Duration,
    other: Duration,
    refused_at_once: usize,
    refused_late: usize,
}

impl Governed {
    async fn relay(&self, permit: &Permit, call: &Call, deadline: Deadline) -> Result<Held, Fault> {
        let lane = lane(permit);
        self.governor.called(&lane);
        let (mut last, mut retries) = (None, 2);
        loop {
            let came = self.clock.now();
            let admitted = self.governor.admit(&lane, deadline).await;
            self.note(&lane, admitted.is_ok(), self.clock.now().since(came));
            let pass = match admitted {
                Ok(pass) => pass,
                Err(fault) => return Err(last.unwrap_or(fault)),
            };
            let outcome = self.kms.ask(permit, call, deadline).await;
            let fault = match outcome {
                Ok(held) => {
                    pass.answered();
                    return Ok(held);
                }
                Err(fault) => fault,
            };
            if let Kind::Throttled(after) = fault.kind() {
                pass.throttled(*after);
            }
            if fault.consequence().retry != Retry::Later || retries == 0 || !self.governor.may_retry(&lane) {
                return Err(fault);
            }
            retries -= 1;
            sleep(jittered(Duration::from_millis(50)).max(self.governor.pause())).await;
            last = Some(fault);
        }
    }

    fn note(&self, lane: &Priority<CallerName>, admitted: bool, waited: Duration) {
        let mut waits = self.waits.lock().unwrap();
        let kept = match lane {
            Priority::Probe => &mut waits.probe,
            Priority::Call(caller) | Priority::Write(caller) if caller.as_str() == OTHER => &mut waits.other,
            Priority::Call(_) if !admitted => {
                let refused = if waited.is_zero() { &mut waits.refused_at_once } else { &mut waits.refused_late };
                *refused += 1;
                return;
            }
            Priority::Call(_) | Priority::Write(_) | Priority::Refresh | Priority::WarmUp => return,
        };
        *kept = waited.max(*kept);
    }
}

impl Upstream for Governed {
    fn ask<'a>(&'a self, permit: &'a Permit, call: &'a Call, deadline: Deadline) -> Asking<'a> {
        Box::pin(self.relay(permit, call, deadline))
    }

    fn identity(&self) -> Arc<str> {
        "somebody".into()
    }
}

fn lane(permit: &Permit) -> Priority<CallerName> {
    match (permit.share(), permit.action()) {
        (Some(share), Action::Encrypt) => Priority::Write(share.clone()),
        (Some(share), _) => Priority::Call(share.clone()),
        (None, _) if permit.is_urgent() => Priority::Probe,
        (None, _) => Priority::Refresh,
    }
}

struct Scene {
    clock: Arc<dyn Clock>,
    policy: Arc<Policy>,
    kms: Arc<Local>,
    upstream: Arc<Governed>,
    engine: Arc<Engine>,
    stop: CancellationToken,
}

impl Scene {
    fn new(quota: Option<u32>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(Paused(Instant::now()));
        let policy = Policy::new(HashMap::from([FLOOD, OTHER].map(grant)));
        let kms = Local::in_memory(Arc::clone(&clock));
        let limits = Limits { in_flight: 64, queued: 16_384, quota: quota.map(Quota::per_second) };
        let governor = Governor::new(limits, Arc::clone(&clock));
        let (kms_, clock_) = (Arc::clone(&kms), Arc::clone(&clock));
        let upstream = Arc::new(Governed { governor, kms: kms_, clock: clock_, waits: Mutex::default() });
        let names = [FLOOD, OTHER].map(CallerName::new);
        let tasks = TaskTracker::new();
        let engine = Engine::new(Parts {
            policy: Arc::clone(&policy),
            cache: Arc::new(Cache::new(&cache::Config::default(), &names).unwrap()),
            ledger: Ledger::new("quota", Terms::default(), Arc::clone(&clock)),
            upstream: Arc::<Governed>::clone(&upstream),
            clock: Arc::clone(&clock),
            timeout: Duration::from_secs(2),
            tasks: tasks.clone(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(Watch::new(Arc::clone(&engine), tasks).run(stop.clone()));
        Self { clock, policy, kms, upstream, engine, stop }
    }

    /// `count` ciphertexts of one new key.
    async fn wrapped(&self, count: usize) -> Vec<Ciphertext> {
        let key = self.kms.create_key(&NewKey::default()).unwrap();
        let call = encrypt(KeyName::new(key.as_str()));
        let permit = self.policy.permit(&caller(FLOOD), &call).unwrap();
        let mut made = Vec::new();
        for _ in 0..count {
            let held = self.kms.ask(&permit, &call, self.within(60)).await.unwrap();
            made.push(held.encrypted().unwrap().ciphertext.clone());
        }
        made
    }

    fn within(&self, seconds: u64) -> Deadline {
        Deadline::after(self.clock.now(), Duration::from_secs(seconds))
    }

    async fn ask(&self, who: &Caller, call: Call) -> Result<(), Fault> {
        let deadline = Deadline::after(self.clock.now(), Duration::from_millis(2500));
        let answer = self.engine.respond(who, call, deadline).await?;
        match answer.reply {
            Reply::Decrypted(reply) => assert_eq!(reply.plaintext.expose(), DEK),
            Reply::DataKey(_) | Reply::Document(_) | Reply::Encrypted(_) => {}
        }
        Ok(())
    }

    /// Asks until there is an answer, as kube-apiserver does.
    async fn insist(&self, who: &Caller, ciphertext: &Ciphertext) {
        while let Err(fault) = self.ask(who, decrypt(ciphertext)).await {
            assert!(matches!(fault.kind(), Kind::Throttled(_) | Kind::Overloaded), "{fault}");
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// Leases that should be in force and are not.
    fn lapsed(&self) -> usize {
        let report = self.engine.ledger().report(self.clock.now());
        report.iter().filter(|scope| scope.entries > 0 && scope.standing != Standing::Serving).count()
    }
}

/// Has `deks` cold ones asked for, beside one key whose lease lives by probes alone and a caller that asks for little.
pub(crate) async fn drain(setting: Setting, deks: u32) -> Drained {
    let scene = Arc::new(Scene::new(setting.quota));
    let (cold, idle) = (Arc::new(scene.wrapped(usize::try_from(deks).unwrap()).await), scene.wrapped(1).await);
    let others = scene.wrapped(1000).await;
    scene.ask(&caller(FLOOD), decrypt(&idle[0])).await.unwrap();
    let latency = Duration::from_millis(20);
    scene.kms.behave(Behaviour { latency, quota: setting.granted, ..Behaviour::default() });
    // What was asked until now belongs to another second.
    sleep(Duration::from_secs(3)).await;
    let before = scene.kms.decisions().len();
    let begun = scene.clock.now();

    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..setting.workers {
        let (scene, cold, next, who) = (Arc::clone(&scene), Arc::clone(&cold), Arc::clone(&next), caller(FLOOD));
        workers.spawn(async move {
            while let Some(ciphertext) = cold.get(next.fetch_add(1, Ordering::Relaxed)) {
                scene.insist(&who, ciphertext).await;
            }
        });
    }
    let aside = tokio::spawn(aside(Arc::clone(&scene), others));
    workers.join_all().await;
    let took = scene.clock.now().since(begun);
    scene.stop.cancel();
    let (lapses, refused_others) = aside.await.unwrap();

    let decisions = scene.kms.decisions().split_off(before);
    let tally = scene.upstream.governor.tally();
    let waits = std::mem::take(&mut *scene.upstream.waits.lock().unwrap());
    Drained {
        took,
        decided: decisions.len(),
        throttled: decisions.iter().filter(|it| it.outcome == "throttled").count(),
        busiest_second: busiest_second(&decisions),
        probes: tally.taken[Class::Probe as usize],
        longest_probe: waits.probe,
        lapses,
        longest_other: waits.other,
        refused_others,
        refused_at_once: waits.refused_at_once,
        refused_late: waits.refused_late,
        tally,
    }
}

/// Once a second, until the watch ends: counts leases that are not in force, and asks as another caller.
async fn aside(scene: Arc<Scene>, others: Vec<Ciphertext>) -> (usize, usize) {
    let (mut lapses, mut refused) = (0, 0);
    let (who, key) = (caller(OTHER), KeyName::new("alias/kmsproxy-dev"));
    scene.kms.ensure_default_key().unwrap();
    for ciphertext in others {
        if scene.stop.run_until_cancelled(sleep(Duration::from_secs(1))).await.is_none() {
            break;
        }
        lapses += scene.lapsed();
        let (read, write) = tokio::join!(scene.ask(&who, decrypt(&ciphertext)), scene.ask(&who, encrypt(key.clone())));
        // What the KMS throttles, it throttles for all; what we refuse, we refuse by caller.
        let ours = |outcome: Result<(), Fault>| {
            outcome.is_err_and(|fault| matches!(fault.kind(), Kind::Throttled(Some(_)) | Kind::Overloaded))
        };
        refused += usize::from(ours(read)) + usize::from(ours(write));
    }
    (lapses, refused)
}

fn busiest_second(decisions: &[Decision]) -> usize {
    let mut at: Vec<u64> = decisions.iter().map(|decision| decision.at_ns).collect();
    at.sort_unstable();
    let until = |from: u64| at.partition_point(|&at| at < from + 1_000_000_000);
    at.iter().enumerate().map(|(index, &from)| until(from) - index).max().unwrap_or(0)
}

fn grant(name: &str) -> (CallerName, Grant) {
    let rules = vec![Rule { actions: Action::ALL.to_vec(), keys: vec!["*".to_owned()] }];
    (CallerName::new(name), Grant { rules, share: CallerName::new(name) })
}

fn caller(name: &str) -> Caller {
    let listener = ListenerName::new(name);
    let entry = Entry { name: CallerName::new(name), listener: listener.clone(), identity: Identity::Listener };
    let peer = Peer { listener, origin: PeerOrigin::Unix(None), certificate_names: Arc::from([]) };
    let door = Door::new(vec![entry]).unwrap();
    door.admit(&peer, &Claim::Anonymous, Moment::BOOT, Timestamp::UNIX_EPOCH).unwrap()
}

fn decrypt(ciphertext: &Ciphertext) -> Call {
    let ciphertext = ciphertext.clone();
    Call::Decrypt(Decrypt { ciphertext, key: None, context: None, dry_run: false, extra: Extra::default() })
}

fn encrypt(key: KeyName) -> Call {
    let plaintext = Secret::copied(DEK);
    Call::Encrypt(Encrypt { key, plaintext, context: None, dry_run: false, extra: Extra::default() })
}

const DEK: &[u8] = b"thirty-two bytes of a data key..";
const FLOOD: &str = "flood";
const OTHER: &str = "other";
