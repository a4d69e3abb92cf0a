//! Ten thousand callers at once who want one DEK that nobody has, without sockets: what the flight itself costs.
//!
//! ```console
//! $ cargo bench --bench storm                    # 10,000 waiters, 20 storms
//! $ cargo bench --bench storm -- --waiters 1000
//! ```
//!
//! Engine, cache, ledger, policy and flights are the daemon's, on a runtime of as many threads as there are processors. The
//! KMS is a timer of 20 ms: no governor, no TLS, nothing to decode. Each waiter is a task, as a connection is one, and
//! compares its plaintext. The figure is from the instant at which the KMS has answered to that at which the last waiter has
//! its plaintext in hand; `kmsproxy bench storm` measures the same from outside, with all that sockets and two dialects cost.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may")]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kmsproxy::auth::{Caller, CallerName, Door, Entry, Identity};
use kmsproxy::cache::{self, Cache};
use kmsproxy::claim::{Claim, ListenerName, Peer, PeerOrigin, UnixPeer};
use kmsproxy::clock::{Clock as _, Deadline, System};
use kmsproxy::engine::{Engine, Parts, Respond as _};
use kmsproxy::fault::{Fault, Kind};
use kmsproxy::kms::{Action, Answer, Call, Ciphertext, Decrypt, Decrypted, Extra, KeyId, KeyVersion, Reply, RequestId};
use kmsproxy::lease::Terms;
use kmsproxy::ledger::Ledger;
use kmsproxy::policy::{Grant, Held, Permit, Policy, Rule};
use kmsproxy::secret::Secret;
use kmsproxy::upstream::{Asking, Upstream};
use tokio::sync::Barrier;
use tokio_util::task::TaskTracker;

/// As in the binary: what is freed is wiped.
#[global_allocator]
static ALLOCATOR: kmsproxy::Allocator = kmsproxy::ALLOCATOR;

/// Takes its time, and notes when it has answered.
#[derive(Debug, Default)]
struct Kms {
    calls: AtomicU32,
    answered: Mutex<Option<Instant>>,
}

impl Upstream for Kms {
    fn ask<'a>(&'a self, _: &'a Permit, call: &'a Call, _: Deadline) -> Asking<'a> {
        Box::pin(async move {
            let Call::Decrypt(_) = call else { return Err(Fault::kms(Kind::UnknownAction)) };
            self.calls.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(LATENCY).await;
            *self.answered.lock().unwrap() = Some(Instant::now());
            let (plaintext, key, version) = (Secret::copied(&PLAINTEXT), KeyId::new("key"), KeyVersion::new("1"));
            let request_id = RequestId::new("5c6ef6d9-1b2c-4a83-8a2a-0f2f3f1e7c55");
            Ok(Held::new(Answer { reply: Reply::Decrypted(Decrypted { plaintext, key, version }), request_id }))
        })
    }

    fn identity(&self) -> Arc<str> {
        "somebody".into()
    }
}

/// What one storm took.
struct Took {
    /// Until all had boarded, from when they were let go.
    boarded: Duration,
    /// From the KMS's answer to the last plaintext.
    landed: Duration,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let waiters = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => 10_000,
        ["--waiters", number] => number.parse().expect("--waiters N"),
        _ => panic!("none of these is an option: {arguments:?}"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    let mut storms: Vec<Took> = (0..STORMS).map(|number| runtime.block_on(storm(waiters, number))).collect();
    storms.sort_by_key(|took| took.landed);
    let (first, middle, last) = (&storms[0], &storms[STORMS as usize / 2], &storms[STORMS as usize - 1]);
    let threads = runtime.metrics().num_workers();
    println!("{waiters} waiters on one cold DEK, one call to a KMS of {LATENCY:?}, {threads} threads, {STORMS} storms");
    println!("from the KMS's answer to the last plaintext (median, least to most):");
    println!("  {:.1?}, {:.1?} to {:.1?}", middle.landed, first.landed, last.landed);
    println!("until the last of them had asked, in the median storm: {:.1?}", middle.boarded);
}

async fn storm(waiters: u32, number: u32) -> Took {
    let (engine, kms) = engine();
    let (caller, barrier) = (Arc::new(caller()), Arc::new(Barrier::new(waiters as usize + 1)));
    let tasks: Vec<_> = (0..waiters)
        .map(|_| {
            let (engine, caller, barrier) = (Arc::clone(&engine), Arc::clone(&caller), Arc::clone(&barrier));
            tokio::spawn(async move {
                let ciphertext = Ciphertext::new(number.to_be_bytes().repeat(24));
                let call = Decrypt { ciphertext, key: None, context: None, dry_run: false, extra: Extra::default() };
                barrier.wait().await;
                let asked = Instant::now();
                let deadline = Deadline::after(System.now(), Duration::from_secs(30));
                let answer = engine.respond(&caller, Call::Decrypt(call), deadline).await.unwrap();
                let Reply::Decrypted(reply) = answer.reply else { panic!("another answer") };
                assert_eq!(reply.plaintext.expose(), PLAINTEXT);
                (asked, Instant::now())
            })
        })
        .collect();
    barrier.wait().await;
    let begun = Instant::now();
    let (mut asked, mut done) = (begun, begun);
    for task in tasks {
        let (when, then) = task.await.unwrap();
        (asked, done) = (asked.max(when), done.max(then));
    }
    assert_eq!(kms.calls.load(Ordering::Relaxed), 1, "calls to the KMS");
    let answered = kms.answered.lock().unwrap().unwrap();
    Took { boarded: asked - begun, landed: done.saturating_duration_since(answered) }
}

fn engine() -> (Arc<Engine>, Arc<Kms>) {
    let (clock, kms) = (Arc::new(System), Arc::new(Kms::default()));
    let rules = vec![Rule { actions: Action::ALL.to_vec(), keys: vec!["*".to_owned()] }];
    let engine = Engine::new(Parts {
        policy: Policy::new([(name(), Grant { rules, share: name() })].into()),
        cache: Arc::new(Cache::new(&cache::Config::default(), &[name()]).unwrap()),
        ledger: Ledger::new("kms", Terms::default(), Arc::<System>::clone(&clock)),
        upstream: Arc::<Kms>::clone(&kms),
        clock,
        timeout: Duration::from_secs(2),
        tasks: TaskTracker::new(),
    });
    (engine, kms)
}

fn caller() -> Caller {
    let listener = ListenerName::new("storm");
    let identity = Identity::Unix { uid: 0 };
    let door = Door::new(vec![Entry { name: name(), listener: listener.clone(), identity }]).unwrap();
    let origin = PeerOrigin::Unix(Some(UnixPeer { uid: 0, gid: 0 }));
    let peer = Peer { listener, origin, certificate_names: Arc::from([]) };
    door.admit(&peer, &Claim::Anonymous, System.now(), System.wall()).unwrap()
}

fn name() -> CallerName {
    CallerName::new("storm")
}

const LATENCY: Duration = Duration::from_millis(20);
const STORMS: u32 = 20;
const PLAINTEXT: [u8; 32] = *b"the DEK of an object of thirty-2";
