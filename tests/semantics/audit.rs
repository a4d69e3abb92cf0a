//! Promise 12: what is released is recorded, before it is.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, io};

use kmsproxy::audit::{Audit, Destination, Keys, Meters, Sink, Terms};
use kmsproxy::clock::System;
use kmsproxy::lease;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use super::*;

/// A file of its own, and a world whose policy writes to it.
struct Audited {
    world: World,
    audit: Arc<Audit>,
    path: PathBuf,
    _folder: TempDir,
}

const SECRET: &[u8] = b"a secret of at least 32 bytes...";

fn audited() -> Audited {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let terms = terms(&path);
    let audit = Audit::open(terms, Arc::new(System), Meters::none()).unwrap();
    let world = world_audited(lease::Terms::default(), cache::Config::default(), Arc::clone(&audit));
    Audited { world, audit, path, _folder: folder }
}

fn terms(path: &Path) -> Terms {
    let secret = Some(Secret::copied(SECRET));
    Terms { destination: Destination::File(path.to_owned()), required: true, queue: 1000, secret }
}

impl Audited {
    /// Ends the log and reads it: the members named, of every answer and refusal.
    fn records<const N: usize>(&self, members: [&str; N]) -> Vec<[Value; N]> {
        self.audit.close();
        let text = fs::read_to_string(&self.path).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let calls = lines.filter(|line| line.get("caller").is_some());
        calls.map(|line| members.map(|member| line.get(member).cloned().unwrap_or_default())).collect()
    }

    /// The request id of the answer to `call`.
    async fn asked(&self, who: &str, call: Call) -> String {
        let deadline = Deadline::after(self.world.clock.now(), Duration::from_secs(3));
        let answer = self.world.engine.respond(&caller(who), call, deadline).await.unwrap();
        answer.request_id.text().to_owned()
    }
}

#[tokio::test]
async fn promise_12_every_answer_has_its_record_with_its_outcome_and_the_call_that_filled_it() {
    let scene = Arc::new(audited());
    let miss = scene.asked("a", decrypt(b"1")).await;
    let hit = scene.asked("a", decrypt(b"1")).await;
    assert_ne!(hit, miss, "the answer from memory is a request of its own");
    let gate = scene.world.kms.hold();
    let waiters: Vec<_> = (0..2)
        .map(|_| {
            let scene = Arc::clone(&scene);
            tokio::spawn(async move { scene.asked("b", decrypt(b"2")).await })
        })
        .collect();
    scene.world.kms.asked(2).await;
    gate.add_permits(1);
    let mut shared = Vec::new();
    for waiter in waiters {
        shared.push(waiter.await.unwrap());
    }
    scene.world.kms.release();
    let encrypted = scene.asked("a", encrypt()).await;
    let generated = scene.asked("a", generate()).await;
    let Call::Decrypt(odd) = decrypt(b"3") else { unreachable!() };
    let passed = scene.asked("a", Call::Decrypt(Decrypt { dry_run: true, ..odd })).await;

    let keys = Keys::of(Some(&Secret::copied(SECRET))).unwrap();
    let digest = |blob: &[u8]| Value::from(keys.digest(blob).to_string());
    let row = |who: &str, action: &str, outcome: &str, ours: &str, theirs: &str, digest: Value| {
        [who, action, outcome, ours, theirs, KEY, "1"].map(Value::from).into_iter().chain([digest]).collect::<Vec<_>>()
    };
    let mut records: Vec<Vec<Value>> = scene
        .records([
            "caller",
            "action",
            "outcome",
            "request_id",
            "kms_request_id",
            "key",
            "key_version",
            "ciphertext_digest",
        ])
        .into_iter()
        .map(|record| record.to_vec())
        .collect();
    // Which of two waiters is served first is nobody's affair.
    records[2..4].sort_by_key(|record| record[2].to_string());
    assert_eq!(
        records,
        [
            row("a", "Decrypt", "miss", &miss, &miss, digest(b"1")),
            row("a", "Decrypt", "hit", &hit, &miss, digest(b"1")),
            row("b", "Decrypt", "coalesced", &shared[0], &shared[0], digest(b"2")),
            row("b", "Decrypt", "miss", &shared[1], &shared[1], digest(b"2")),
            row("a", "Encrypt", "encrypted", &encrypted, &encrypted, Value::Null),
            row("a", "GenerateDataKey", "generated", &generated, &generated, Value::Null),
            row("a", "Decrypt", "passed", &passed, &passed, digest(b"3")),
        ]
    );
}

#[tokio::test]
async fn promise_12_what_policy_lease_or_kms_refuse_is_recorded_in_a_fixed_word() {
    let scene = audited();
    let world = &scene.world;
    world.ask("a", decrypt(b"1")).await.unwrap();
    world.policy.replace(HashMap::from([grant("a", "a", &["another-key"])]));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::Forbidden));
    assert_eq!(world.ask("a", encrypt()).await, Err(Kind::Forbidden));
    assert_eq!(world.ask("nobody", decrypt(b"1")).await, Err(Kind::Forbidden));
    world.policy.replace(HashMap::from([grant("a", "a", &["*"])]));
    world.kms.silence(Some(Kind::Unreachable));
    world.clock.advance(LEASE);
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::Unreachable));
    world.clock.advance(Duration::from_secs(10));
    world.kms.say(Some(Kms::says(Kind::KeyDisabled, 409, "Rejected.Disabled")));
    assert_eq!(world.ask("a", decrypt(b"1")).await, Err(Kind::KeyDisabled));
    let row = |who: &str, reason: &str, named: Value, kms: Value| [who.into(), reason.into(), named, kms];
    assert_eq!(
        scene.records(["caller", "reason", "key_named", "kms_request_id"])[1..],
        [
            row("a", "forbidden", Value::Null, Value::Null),
            row("a", "forbidden", KEY.into(), Value::Null),
            row("nobody", "forbidden", Value::Null, Value::Null),
            row("a", "unreachable", Value::Null, Value::Null),
            row("a", "key_disabled", Value::Null, "r-1".into()),
        ]
    );
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..1000 {
        if holds().await {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain");
}

/// A sink that can be told to fail.
#[derive(Clone, Default)]
struct Failing(Arc<AtomicBool>, Arc<Mutex<Vec<u8>>>);

impl Sink for Failing {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.0.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.1.lock().unwrap().extend_from_slice(lines);
        Ok(lines.len())
    }
}

#[tokio::test]
async fn promise_12_nothing_is_released_while_a_required_log_fails_and_what_was_cached_is_still_there() {
    let sink = Failing::default();
    let audit = Audit::into_sink(Box::new(sink.clone()), &terms(Path::new("/")), Arc::new(System)).unwrap();
    let world = world_audited(lease::Terms::default(), cache::Config::default(), Arc::clone(&audit));
    world.ask("a", decrypt(b"1")).await.unwrap();
    sink.0.store(true, Ordering::SeqCst);
    // One record finds out that there is no room; from then on none is accepted.
    until(async || world.ask("a", decrypt(b"1")).await == Err(Kind::Unaudited)).await;
    let calls = world.kms.calls();
    for call in [decrypt(b"1"), decrypt(b"2"), encrypt(), generate()] {
        assert_eq!(world.ask("a", call).await, Err(Kind::Unaudited));
    }
    assert_eq!(world.kms.calls(), calls, "and nobody was asked in vain");
    world.clock.advance(LEASE / 2);
    world.turn().await;
    assert!(world.kms.calls() > calls, "leases are renewed meanwhile");
    let calls = world.kms.calls();

    sink.0.store(false, Ordering::SeqCst);
    until(async || world.ask("a", decrypt(b"1")).await == Ok(Kms::plaintext(b"1"))).await;
    assert_eq!(world.kms.calls(), calls, "what was cached before was kept");
}

#[tokio::test]
async fn promise_12_a_full_queue_releases_nothing_more_of_a_flight_than_it_took_records() {
    let sink = Failing::default();
    sink.0.store(true, Ordering::SeqCst);
    let terms = Terms { queue: 3, ..terms(Path::new("/")) };
    let audit = Audit::into_sink(Box::new(sink.clone()), &terms, Arc::new(System)).unwrap();
    let world = Arc::new(world_audited(lease::Terms::default(), cache::Config::default(), Arc::clone(&audit)));
    let waiters: Vec<_> = (0..50)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.ask("a", decrypt(b"1")).await })
        })
        .collect();
    let mut released = 0;
    for waiter in waiters {
        released += usize::from(waiter.await.unwrap().is_ok());
    }
    sink.0.store(false, Ordering::SeqCst);
    audit.close();
    let text = String::from_utf8(sink.1.lock().unwrap().clone()).unwrap();
    assert_eq!(text.matches("\"answer\"").count(), released, "{text}");
    assert!(released <= 6, "{released} of a queue of 3, and of what the writer had in hand");
}
