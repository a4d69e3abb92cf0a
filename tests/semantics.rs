//! The promises of SEMANTICS.md on the engine, each by a test of its number, on a clock that only the test moves.

#![allow(clippy::unwrap_used)]

#[path = "semantics/audit.rs"]
mod audit;
#[path = "semantics/contact.rs"]
mod contact;
#[path = "semantics/kms.rs"]
mod kms;
#[path = "semantics/panics.rs"]
mod panics;
#[path = "semantics/provider.rs"]
mod provider;
#[path = "semantics/purge.rs"]
mod purge;
#[path = "semantics/refresh.rs"]
mod refresh;
#[path = "semantics/reload.rs"]
mod reload;
#[path = "semantics/schedules.rs"]
mod schedules;
#[path = "semantics/sharing.rs"]
mod sharing;
#[path = "semantics/time.rs"]
mod time;
#[path = "semantics/versions.rs"]
mod versions;
#[path = "semantics/warm.rs"]
mod warm;

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use jiff::Timestamp;
use kmsproxy::audit::Audit;
use kmsproxy::auth::{Caller, CallerName, Door, Entry, Identity};
use kmsproxy::cache::{self, Cache};
use kmsproxy::claim::{Claim, ListenerName, Peer, PeerOrigin};
use kmsproxy::clock::{Clock, Deadline, Manual};
use kmsproxy::engine::{Engine, Parts, Respond};
use kmsproxy::fault::{Fault, Kind};
use kmsproxy::kms::{
    Action, Call, Ciphertext, Context, ContextForm, DataKeySize, Decrypt, Encrypt, Extra, GenerateDataKey, KeyId,
    KeyName, Read, Reply,
};
use kmsproxy::lease::Terms;
use kmsproxy::ledger::Ledger;
use kmsproxy::policy::{Grant, Policy, Rule};
use kmsproxy::secret::Secret;
use kmsproxy::watch::Watch;
use tokio_util::task::TaskTracker;

use kms::{KEY, Kms};

struct World {
    clock: Arc<Manual>,
    kms: Arc<Kms>,
    policy: Arc<Policy>,
    engine: Arc<Engine>,
    watch: Watch,
    cache: Arc<Cache>,
}

const LEASE: Duration = Duration::from_secs(30);

fn world() -> World {
    world_with(Terms::default(), cache::Config::default())
}

fn world_with(terms: Terms, config: cache::Config) -> World {
    world_audited(terms, config, Audit::off())
}

fn world_audited(terms: Terms, config: cache::Config, audit: Arc<Audit>) -> World {
    let clock = Arc::new(Manual::at("2026-01-02T03:04:05Z".parse::<Timestamp>().unwrap()));
    let grants = HashMap::from([grant("a", "a", &["*"]), grant("b", "b", &["*"])]);
    let policy = Policy::audited(grants, audit);
    let kms = Arc::new(Kms::default());
    let cache = Arc::new(Cache::new(&config, &[CallerName::new("a"), CallerName::new("b")]).unwrap());
    let tasks = TaskTracker::new();
    let engine = Engine::new(Parts {
        policy: Arc::clone(&policy),
        cache: Arc::clone(&cache),
        ledger: Ledger::new("test", terms, Arc::<Manual>::clone(&clock)),
        upstream: Arc::<Kms>::clone(&kms),
        clock: Arc::<Manual>::clone(&clock),
        timeout: Duration::from_secs(2),
        tasks: tasks.clone(),
    });
    let watch = Watch::new(Arc::clone(&engine), tasks);
    World { clock, kms, policy, engine, watch, cache }
}

fn grant(name: &str, share: &str, keys: &[&str]) -> (CallerName, Grant) {
    let keys = keys.iter().map(|&key| key.to_owned()).collect();
    let rules = vec![Rule { actions: Action::ALL.to_vec(), keys }];
    (CallerName::new(name), Grant { rules, share: CallerName::new(share) })
}

fn caller(name: &str) -> Caller {
    let listener = ListenerName::new(name);
    let entry = Entry { name: CallerName::new(name), listener: listener.clone(), identity: Identity::Listener };
    let door = Door::new(vec![entry]).unwrap();
    let peer = Peer { listener, origin: PeerOrigin::Unix(None), certificate_names: Arc::from([]) };
    let clock = Manual::at(Timestamp::UNIX_EPOCH);
    door.admit(&peer, &Claim::Anonymous, clock.now(), clock.wall()).unwrap()
}

fn decrypt(blob: &[u8]) -> Call {
    Call::Decrypt(Decrypt {
        ciphertext: Ciphertext::new(blob.to_vec()),
        key: None,
        context: None,
        dry_run: false,
        extra: Extra::default(),
    })
}

fn with_context(blob: &[u8], value: &str) -> Call {
    let text = format!("{{\"ns\":\"{value}\"}}");
    let context = Context::new(ContextForm::Json, &text, vec![("ns".into(), value.into())]);
    let Call::Decrypt(call) = decrypt(blob) else { unreachable!() };
    Call::Decrypt(Decrypt { context, ..call })
}

fn encrypt() -> Call {
    Call::Encrypt(Encrypt {
        key: KeyName::new(KEY),
        plaintext: Secret::copied(b"dek"),
        context: None,
        dry_run: false,
        extra: Extra::default(),
    })
}

fn generate() -> Call {
    Call::GenerateDataKey(GenerateDataKey {
        key: KeyName::new(KEY),
        size: DataKeySize::Default,
        plaintext: true,
        context: None,
        dry_run: false,
        extra: Extra::default(),
    })
}

impl World {
    async fn ask(&self, who: &str, call: Call) -> Result<Vec<u8>, Kind> {
        let deadline = Deadline::after(self.clock.now(), Duration::from_secs(3));
        let answer = self.engine.respond(&caller(who), call, deadline).await;
        answer.map_err(|fault| fault.kind().clone()).map(|answer| match answer.reply {
            Reply::Decrypted(reply) => reply.plaintext.expose().to_vec(),
            Reply::DataKey(_) | Reply::Document(_) | Reply::Encrypted(_) => Vec::new(),
        })
    }

    /// One turn of the watch, and the end of the probes that it launched.
    async fn turn(&self) {
        self.watch.turn(self.clock.now());
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn promise_01_a_hit_wants_permit_lease_epoch_and_age() {
    let age = Duration::from_secs(25);
    let world = world_with(Terms::default(), cache::Config { capacity: 10, max_age: age });
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    assert_eq!(world.kms.calls(), 1, "the second Decrypt never left");

    world.policy.replace(HashMap::from([grant("a", "a", &["another-key"])]));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::Forbidden), "policy in force now, on every hit");
    assert_eq!(world.kms.calls(), 1);
    world.policy.replace(HashMap::from([grant("a", "a", &[KEY])]));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));

    world.clock.advance(age);
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    assert_eq!(world.kms.calls(), 2, "too old, though its lease is in force");
}

#[tokio::test]
async fn promise_02_a_refusal_closes_at_once_and_for_all_contexts_and_waiters() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.ask("a", with_context(b"2", "x")).await.unwrap();
    world.kms.refuse(Some(Kind::KeyDisabled));
    world.clock.advance(Duration::from_secs(10));
    world.turn().await;
    let calls = world.kms.calls();
    assert_eq!(world.ask("a", with_context(b"2", "x")).await, Err(Kind::KeyDisabled));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::KeyDisabled));
    assert!(world.kms.calls() <= calls + 2, "at most a trial for each scope");
}

#[tokio::test]
async fn promise_02_a_describe_that_says_disabled_closes_and_one_that_says_enabled_renews_nothing() {
    let world = world();
    let describe =
        || Call::Read(Read { action: Action::DescribeKey, key: Some(KeyName::new(KEY)), extra: Extra::default() });
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.clock.advance(LEASE / 2);
    world.ask("a", describe()).await.unwrap();
    world.clock.advance(LEASE / 2);
    world.kms.silence(Some(Kind::Unreachable));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::Unreachable), "Describe did not renew");

    world.kms.silence(None);
    world.clock.advance(Duration::from_secs(1));
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.describe_as_disabled(true);
    world.ask("a", describe()).await.unwrap();
    world.kms.refuse(Some(Kind::KeyDisabled));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::KeyDisabled), "Describe did shorten");
}

#[tokio::test]
async fn promise_03_while_refused_one_trial_a_second_goes_up_and_the_first_answer_comes_from_the_kms() {
    let world = world();
    for blob in [b"1", b"2", b"3"] {
        world.ask("a", decrypt(blob)).await.unwrap();
    }
    world.kms.refuse(Some(Kind::KeyDisabled));
    world.clock.advance(Duration::from_secs(10));
    world.turn().await;
    let calls = world.kms.calls();
    for _ in 0..50 {
        for blob in [b"1", b"2", b"3"] {
            assert_eq!(world.ask("a", decrypt(blob)).await, Err(Kind::KeyDisabled));
        }
    }
    assert_eq!(world.kms.calls(), calls + 1);

    world.kms.refuse(None);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.ask("a", decrypt(b"2")).await, Ok(Kms::plaintext(b"2")));
    assert_eq!(world.kms.calls(), calls + 2);
    assert_eq!(world.ask("a", decrypt(b"3")).await, Ok(Kms::plaintext(b"3")));
    assert_eq!(world.kms.calls(), calls + 3, "what was cached before the refusal is lost");
}

#[tokio::test]
async fn promise_04_a_fill_from_before_a_refusal_neither_answers_nor_inserts_nor_renews() {
    let world = Arc::new(world());
    world.ask("a", decrypt(b"known")).await.unwrap();
    let gate = world.kms.hold();
    let slow = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.ask("a", decrypt(b"slow")).await })
    };
    world.kms.asked(2).await;
    world.kms.release();
    world.kms.refuse(Some(Kind::KeyDisabled));
    assert_eq!(world.ask("a", encrypt()).await, Err(Kind::KeyDisabled));
    gate.add_permits(1);
    assert_eq!(slow.await.unwrap(), Err(Kind::KeyDisabled), "the waiter fails with the refusal");
    assert_eq!(world.ask("a", decrypt(b"slow")).await, Err(Kind::KeyDisabled));
    assert_eq!(world.ask("a", decrypt(b"known")).await, Err(Kind::KeyDisabled));
}

#[tokio::test]
async fn promise_04_a_refusal_between_landing_and_waking_reaches_the_waiter() {
    let world = world();
    let gate = world.kms.hold();
    // Not a task of its own: it wakes when it is awaited, and no sooner.
    let mut waiter = Box::pin(world.ask("a", decrypt(b"1")));
    let waits = std::future::poll_fn(|context| Poll::Ready(waiter.as_mut().poll(context).is_pending()));
    assert!(waits.await);
    world.kms.asked(1).await;
    gate.add_permits(1);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    world.cache.sweep(world.clock.now());
    assert_eq!(world.cache.len(), 1, "the flight has landed");
    world.engine.ledger().refuse(&KeyId::new(KEY), &Fault::kms(Kind::KeyDisabled));
    assert_eq!(waiter.await, Err(Kind::KeyDisabled));
}

#[tokio::test]
async fn promise_05_silence_closes_when_the_lease_ends() {
    for silence in [Kind::Unreachable, Kind::TimedOut, Kind::KmsFailure, Kind::Throttled(None), Kind::Garbled] {
        let world = world();
        world.ask("a", decrypt(b"1")).await.unwrap();
        world.kms.silence(Some(silence.clone()));
        for _ in 0..29 {
            world.clock.advance(Duration::from_secs(1));
            world.turn().await;
            assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
        }
        world.clock.advance(Duration::from_secs(1));
        assert_eq!(world.ask("a", decrypt(b"1")).await, Err(silence));
        world.kms.silence(None);
        world.clock.advance(Duration::from_secs(6));
        assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    }
}

#[tokio::test]
async fn promise_05_grace_lengthens_an_outage_and_a_refusal_beats_it() {
    let terms = Terms { outage_grace: Duration::from_secs(60), ..Terms::default() };
    let world = world_with(terms, cache::Config::default());
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.silence(Some(Kind::Unreachable));
    world.clock.advance(Duration::from_secs(15));
    world.turn().await;
    world.clock.advance(Duration::from_secs(70));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    world.kms.silence(None);
    world.kms.refuse(Some(Kind::KeyDisabled));
    world.turn().await;
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::KeyDisabled));
}

#[tokio::test]
async fn promise_05_probes_keep_an_idle_lease_in_force() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    for _ in 0..600 {
        world.clock.advance(Duration::from_secs(1));
        world.turn().await;
    }
    let probes = world.kms.calls() - 1;
    assert!((60..=80).contains(&probes), "{probes} probes in ten minutes");
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    assert_eq!(world.kms.calls() - 1, probes, "still a hit");
}

#[tokio::test]
async fn promise_06_a_step_of_the_wall_clock_suspends_and_lengthens_nothing() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    for wall in ["2026-01-02T02:04:05Z", "2026-01-03T03:04:05Z"] {
        let calls = world.kms.calls();
        world.clock.advance(Duration::from_secs(1));
        world.clock.step_wall(wall.parse().unwrap());
        assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
        assert_eq!(world.kms.calls(), calls + 1, "asked again before it was served");
    }
    world.kms.silence(Some(Kind::Unreachable));
    world.clock.advance(Duration::from_secs(2));
    world.clock.step_wall("2025-01-01T00:00:00Z".parse().unwrap());
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::Unreachable));
}

#[tokio::test]
async fn promise_07_equal_cold_decrypts_make_one_call_and_share_answer_or_failure() {
    for refusal in [None, Some(Kind::KmsFailure)] {
        let world = Arc::new(world());
        world.kms.silence(refusal.clone());
        let gate = world.kms.hold();
        let waiters: Vec<_> = (0..10_000)
            .map(|_| {
                let world = Arc::clone(&world);
                tokio::spawn(async move { world.ask("a", decrypt(b"1")).await })
            })
            .collect();
        world.kms.asked(1).await;
        gate.add_permits(1);
        let expected = refusal.map_or_else(|| Ok(Kms::plaintext(b"1")), Err);
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), expected);
        }
        assert_eq!(world.kms.calls(), 1);
    }
}

/// Whoever missed the cache before a flight landed, and boards after, must find its answer: 8 callers on two threads and
/// more race for each of many ciphertexts.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn promise_07_no_second_call_slips_in_as_a_flight_lands() {
    let world = Arc::new(world());
    let blobs: u32 = 5000;
    for blob in 0..blobs {
        let racers = (0..8).map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.ask("a", decrypt(&blob.to_be_bytes())).await })
        });
        for racer in racers.collect::<Vec<_>>() {
            assert_eq!(racer.await.unwrap(), Ok(Kms::plaintext(&blob.to_be_bytes())));
        }
    }
    assert_eq!(world.kms.calls(), blobs as usize);
}

#[tokio::test(start_paused = true)]
async fn promise_07_each_waits_no_longer_than_its_own_deadline() {
    let world = Arc::new(world());
    let gate = world.kms.hold();
    let patient = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.ask("a", decrypt(b"1")).await })
    };
    world.kms.asked(1).await;
    let hasty = Deadline::after(world.clock.now(), Duration::from_millis(10));
    let refused = world.engine.respond(&caller("a"), decrypt(b"1"), hasty).await.map(|_| ());
    assert_eq!(refused, Err(Fault::kms(Kind::TimedOut)));
    gate.add_permits(1);
    assert_eq!(patient.await.unwrap(), Ok(Kms::plaintext(b"1")));
}

#[tokio::test]
async fn promise_07_failures_are_remembered_briefly_by_class() {
    let world = world();
    for (kind, span) in [(Kind::InvalidCiphertext, 5000), (Kind::KmsFailure, 250), (Kind::Throttled(None), 250)] {
        world.kms.silence(Some(kind.clone()));
        let calls = world.kms.calls();
        for _ in 0..3 {
            assert_eq!(world.ask("a", decrypt(b"bad")).await, Err(kind.clone()));
        }
        assert_eq!(world.kms.calls(), calls + 1);
        world.clock.advance(Duration::from_millis(span));
        assert_eq!(world.ask("a", decrypt(b"bad")).await, Err(kind));
        assert_eq!(world.kms.calls(), calls + 2);
        world.clock.advance(Duration::from_secs(6));
    }
}

#[tokio::test]
async fn promise_08_nothing_is_shared_between_callers_unless_configured() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.ask("b", decrypt(b"1")).await.unwrap();
    assert_eq!(world.kms.calls(), 2);
    world.cache.divide(&[CallerName::new("both")], world.clock.now());
    world.policy.replace(HashMap::from([grant("a", "both", &["*"]), grant("b", "both", &["*"])]));
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.ask("b", decrypt(b"1")).await.unwrap();
    assert_eq!(world.kms.calls(), 3);
}

#[tokio::test]
async fn promise_08_context_and_ciphertext_are_told_apart_and_ambiguous_calls_are_never_kept() {
    let world = world();
    world.ask("a", with_context(b"1", "x")).await.unwrap();
    assert_eq!(world.ask("a", with_context(b"1", "y")).await.unwrap(), Kms::plaintext(b"1"));
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.ask("a", decrypt(b"2")).await.unwrap();
    assert_eq!(world.kms.calls(), 4);
    for odd in [
        |call: Decrypt| Decrypt { dry_run: true, ..call },
        |call: Decrypt| Decrypt { extra: Extra(vec![("Recipient".into(), "x".into())]), ..call },
        |call: Decrypt| Decrypt { context: Context::new(ContextForm::Flattened, "{}", vec![]), ..call },
    ] {
        let calls = world.kms.calls();
        for _ in 0..2 {
            let Call::Decrypt(call) = decrypt(b"1") else { unreachable!() };
            world.ask("a", Call::Decrypt(odd(call))).await.unwrap();
        }
        assert_eq!(world.kms.calls(), calls + 2);
    }
}

#[tokio::test]
async fn promise_08_a_key_outside_policy_is_refused_before_or_after_asking_and_never_released() {
    let world = world();
    world.policy.replace(HashMap::from([grant("a", "a", &["another-key"])]));
    assert_eq!(world.ask("a", encrypt()).await, Err(Kind::Forbidden));
    assert_eq!(world.kms.calls(), 0, "a named key is refused before asking");
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::Forbidden));
    assert_eq!(world.kms.calls(), 1, "whose ciphertext it is only the KMS can say");
    assert_eq!(world.ask("nobody", decrypt(b"1")).await, Err(Kind::Forbidden));
}

#[tokio::test]
async fn promise_09_errors_of_the_kms_reach_the_caller_as_they_are() {
    let world = world();
    let said = Kms::says(Kind::KeyDisabled, 409, "Rejected.Disabled");
    world.kms.say(Some(said.clone()));
    let deadline = Deadline::after(world.clock.now(), Duration::from_secs(3));
    let refused = world.engine.respond(&caller("a"), decrypt(b"1"), deadline).await.map(|_| ());
    assert_eq!(refused, Err(said));
}

#[tokio::test]
async fn promise_10_rotation_invalidates_nothing() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.rotate();
    world.ask("a", decrypt(b"2")).await.unwrap();
    world.ask("a", decrypt(b"1")).await.unwrap();
    assert_eq!(world.kms.calls(), 2);
}

#[tokio::test]
async fn promise_11_encrypt_and_generate_always_reach_the_kms_and_renew_nothing() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.clock.advance(LEASE / 2);
    for n in 1..=5 {
        world.ask("a", encrypt()).await.unwrap();
        world.ask("a", generate()).await.unwrap();
        assert_eq!(world.kms.calls(), 1 + 2 * n);
    }
    world.clock.advance(LEASE / 2);
    world.ask("a", decrypt(b"1")).await.unwrap();
    assert_eq!(world.kms.calls(), 12, "the lease ended in spite of ten successful calls");
}

#[tokio::test]
async fn promise_11_an_encrypt_that_is_refused_ends_the_lease_and_one_that_succeeds_restores_nothing() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.refuse(Some(Kind::KeyDisabled));
    assert_eq!(world.ask("a", encrypt()).await, Err(Kind::KeyDisabled));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::KeyDisabled));
    world.kms.refuse(None);
    world.clock.advance(Duration::from_secs(2));
    world.ask("a", encrypt()).await.unwrap();
    let calls = world.kms.calls();
    world.ask("a", decrypt(b"1")).await.unwrap();
    assert_eq!(world.kms.calls(), calls + 1);
}

#[tokio::test]
async fn promise_13_word_is_given_once_when_deks_are_lost_and_never_for_a_key_that_callers_make_up() {
    let world = world();
    let mut wipes = world.engine.ledger().wipes();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.say_once(Fault::kms(Kind::KeyNotFound));
    let Call::Encrypt(made_up) = encrypt() else { unreachable!() };
    let made_up = Call::Encrypt(Encrypt { key: KeyName::new("made-up"), ..made_up });
    assert_eq!(world.ask("a", made_up).await, Err(Kind::KeyNotFound));
    assert!(!wipes.has_changed().unwrap());

    world.kms.refuse(Some(Kind::KeyDisabled));
    for expected in [true, false] {
        world.clock.advance(Duration::from_secs(10));
        world.turn().await;
        assert_eq!(wipes.has_changed().unwrap(), expected);
        wipes.mark_unchanged();
    }
}

#[tokio::test]
async fn promise_13_no_secret_shows_in_debug() {
    let world = world();
    world.ask("a", with_context(b"canary-ciphertext", "canary-context")).await.unwrap();
    let shown = format!("{:?} {:?} {:?}", world.cache, world.engine, with_context(b"canary", "canary"));
    assert!(!shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn entries_are_asked_about_again_before_they_are_too_old() {
    let max_age = Duration::from_secs(1000);
    let world = world_with(Terms::default(), cache::Config { capacity: 100, max_age });
    for blob in 0..20_u8 {
        world.ask("a", decrypt(&[blob])).await.unwrap();
    }
    let calls = world.kms.calls();
    for second in 0..1010 {
        world.clock.advance(Duration::from_secs(1));
        world.turn().await;
        if second < 950 {
            world.engine.refresh(64).await;
        }
    }
    let upkeep = world.kms.calls() - calls;
    for blob in 0..20_u8 {
        assert_eq!(world.ask("a", decrypt(&[blob])).await, Ok(Kms::plaintext(&[blob])));
    }
    assert_eq!(world.kms.calls() - calls, upkeep, "all were still warm");
}

#[tokio::test]
async fn garbage_that_the_kms_denies_costs_the_others_no_hit_while_it_answers_probes() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    for _ in 0..10 {
        world.clock.advance(Duration::from_secs(10));
        let gate = world.kms.hold();
        gate.add_permits(1);
        world.kms.say_once(Kms::says(Kind::NoPermission, 403, "Forbidden.NoPermission"));
        assert_eq!(world.ask("b", decrypt(b"garbage")).await, Err(Kind::NoPermission));
        world.turn().await;
        let calls = world.kms.calls();
        assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")), "while the probe is under way");
        assert_eq!(world.kms.calls(), calls, "and that was a hit");
        gate.add_permits(10);
        world.kms.release();
        world.turn().await;
    }
}

#[tokio::test]
async fn after_a_denial_for_an_unknown_ciphertext_a_kms_that_falls_silent_is_believed_for_two_seconds() {
    let grace = Duration::from_secs(600);
    let world = world_with(Terms { outage_grace: grace, ..Terms::default() }, cache::Config::default());
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.say_once(Kms::says(Kind::NoPermission, 403, "Forbidden.NoPermission"));
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.ask("a", decrypt(b"foreign")).await, Err(Kind::NoPermission));
    world.kms.silence(Some(Kind::Unreachable));
    world.turn().await;
    world.clock.advance(Duration::from_millis(1999));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::Unreachable), "no grace either");
}

#[tokio::test]
async fn promise_04_what_was_asked_before_a_doubt_does_not_lift_it() {
    let world = Arc::new(world());
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    let gate = world.kms.hold();
    let early = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.ask("a", decrypt(b"2")).await })
    };
    world.kms.asked(2).await;
    world.kms.release();
    world.kms.say_once(Kms::says(Kind::NoPermission, 403, "Forbidden.NoPermission"));
    assert_eq!(world.ask("a", decrypt(b"foreign")).await, Err(Kind::NoPermission));
    let calls = world.kms.calls();
    world.kms.silence(Some(Kind::Unreachable));
    gate.add_permits(1);
    assert_eq!(early.await.unwrap(), Err(Kind::Unreachable), "asked once more");
    assert_eq!(world.kms.calls(), calls + 1);
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::Unreachable));
}

#[tokio::test]
async fn a_denial_for_an_unknown_ciphertext_is_a_doubt_at_most_once_a_probe_interval() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.say_once(Kms::says(Kind::NoPermission, 403, "Forbidden.NoPermission"));
    assert_eq!(world.ask("a", decrypt(b"foreign")).await, Err(Kind::NoPermission));
    world.turn().await;
    let calls = world.kms.calls();
    assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")), "the probe renewed it");
    for n in 0..100_u32 {
        world.kms.say_once(Kms::says(Kind::NoPermission, 403, "Forbidden.NoPermission"));
        let _ = world.ask("a", decrypt(&n.to_be_bytes())).await;
        assert_eq!(world.ask("a", decrypt(b"1")).await, Ok(Kms::plaintext(b"1")));
    }
    assert_eq!(world.kms.calls(), calls + 100, "and no further probe went up");
}

#[tokio::test]
async fn a_change_of_our_identity_suspends_what_was_allowed_to_the_old_one() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.sign_as("another");
    world.watch.turn(world.clock.now());
    let calls = world.kms.calls();
    world.ask("a", decrypt(b"1")).await.unwrap();
    assert!(world.kms.calls() > calls, "asked again");
}

#[tokio::test]
async fn what_was_allowed_to_another_identity_is_lost_even_if_the_new_one_is_allowed_it() {
    let world = world();
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.kms.sign_as("another");
    world.turn().await;
    world.turn().await;
    let calls = world.kms.calls();
    assert_eq!(calls, 2, "the probe of the new identity succeeded");
    world.ask("a", decrypt(b"1")).await.unwrap();
    assert_eq!(world.kms.calls(), calls + 1);
}

#[tokio::test]
async fn contexts_beyond_the_limit_live_one_lease_only() {
    let world = world();
    for n in 0..70 {
        world.ask("a", with_context(b"1", &n.to_string())).await.unwrap();
    }
    for _ in 0..40 {
        world.clock.advance(Duration::from_secs(1));
        world.turn().await;
    }
    let calls = world.kms.calls();
    world.ask("a", with_context(b"1", "0")).await.unwrap();
    assert_eq!(world.kms.calls(), calls, "probed, and still served");
    world.ask("a", with_context(b"1", "69")).await.unwrap();
    assert_eq!(world.kms.calls(), calls + 1, "not probed, and not served");
}
