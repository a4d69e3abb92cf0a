//! How many remote calls equal Decrypts make: one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::client::Outcome;
use super::client::diary::Page;
use super::scene::{MACHINE, Scene, Setting, decrypts, until};

#[tokio::test]
async fn the_second_decrypt_of_a_ciphertext_never_leaves_the_machine() {
    let _shared = MACHINE.read().await;
    let scene = Scene::new(Setting::default());
    let blob = scene.ciphertext().await;
    let (status, mut first) = scene.tls.call("Decrypt", &[("CiphertextBlob", &blob)]).await;
    let (again, mut second) = scene.tls.call("Decrypt", &[("CiphertextBlob", &blob)]).await;
    assert_eq!((status, again), (200, 200), "{first} {second}");
    let (id, other) = (first["RequestId"].take(), second["RequestId"].take());
    assert_ne!(id, other, "each answer has its own request id");
    assert_eq!(first, second);
    assert_eq!(first["Plaintext"], "REVL0000");
    assert_eq!(scene.calls().await, decrypts(1));
}

#[tokio::test]
async fn ten_thousand_equal_cold_decrypts_make_one_remote_call_and_get_one_plaintext() {
    let _alone = MACHINE.write().await;
    let scene = crowded().await;
    let answers = crowd(&scene, &json!({ "latency": "200ms" })).await;
    let plaintexts = counted(answers.iter().map(|(status, body)| (*status, body["Plaintext"].to_string())));
    assert_eq!(plaintexts, BTreeMap::from([((200, "\"REVL0001\"".to_owned()), CALLERS)]));
    assert_eq!(scene.calls().await, decrypts(1));
    let shared = outcomes(&scene).await;
    eprintln!("10,000 equal cold Decrypts: {shared:?}");
    assert_eq!((shared["miss"], shared["coalesced"] + shared["hit"], shared["failed"]), (2, CALLERS - 1, 0));
    assert!(shared["coalesced"] > CALLERS * 9 / 10, "they were to overlap: {shared:?}");
}

#[tokio::test]
async fn ten_thousand_equal_cold_decrypts_of_a_kms_that_fails_make_one_remote_call_and_get_equal_errors() {
    let _alone = MACHINE.write().await;
    let scene = crowded().await;
    let answers = crowd(&scene, &json!({ "latency": "200ms", "error_rate": 1.0 })).await;
    let errors = counted(answers.iter().map(|(status, body)| (*status, body.to_string())));
    assert_eq!(errors.values().collect::<Vec<_>>(), [&CALLERS], "{errors:?}");
    let ((status, _), (_, body)) = (errors.keys().next().unwrap(), &answers[0]);
    assert_eq!((*status, &body["Code"]), (500, &json!("InternalFailure")), "{body}");
    let calls = scene.calls().await;
    assert_eq!(calls["outcomes"]["Decrypt"], json!({ "kms_failure": 1 }));
    assert_eq!(calls["remote_calls"], 1);
    let shared = outcomes(&scene).await;
    eprintln!("10,000 equal cold Decrypts that fail: {shared:?}");
    assert_eq!((shared["miss"], shared["failed"]), (1, CALLERS));
}

#[tokio::test]
async fn equal_decrypts_over_many_tls_connections_make_one_remote_call() {
    let _alone = MACHINE.write().await;
    let scene = Scene::new(Setting { timeout: "20s", ..Setting::default() });
    let blob = scene.ciphertext().await;
    scene.behave(&json!({ "latency": "500ms" })).await;
    let mut callers = JoinSet::new();
    for _ in 0..200 {
        let (target, blob) = (scene.tls.clone(), blob.clone());
        callers.spawn(async move { target.call("Decrypt", &[("CiphertextBlob", &blob)]).await });
    }
    let answers = callers.join_all().await;
    let plaintexts = counted(answers.iter().map(|(status, body)| (*status, body["Plaintext"].to_string())));
    assert_eq!(plaintexts, BTreeMap::from([((200, "\"REVL0000\"".to_owned()), 200)]));
    assert_eq!(scene.calls().await, decrypts(1));
}

/// A scene that a crowd may enter, with a warm connection to the emulator.
async fn crowded() -> Scene {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    assert!(most > CALLERS as u64 + 2000, "raise the hard limit of open files (ulimit -Hn) above 12,000; it is {most}");
    setrlimit(Resource::Nofile, Rlimit { current: Some(most.min(20_000)), maximum: limit.maximum }).unwrap();
    Scene::new(Setting { timeout: "40s", lease: "90s", ..Setting::default() })
}

/// [`CALLERS`] connections, each with the same Decrypt, all of them before the KMS comes to answering the first: its
/// process is stopped until the daemon has heard everyone.
async fn crowd(scene: &Scene, behaviour: &Value) -> Vec<Outcome> {
    let blobs = scene.ciphertexts(&scene.key(), 2).await;
    let path: Arc<Path> = Path::new(scene.unix.address.strip_prefix("unix:").unwrap()).into();
    let page = scene.unix.page.as_ref();
    let (status, warm) = ask(Arc::clone(&path), blobs[0].as_str().into(), Arc::default(), page.cloned()).await;
    assert_eq!(status, 200, "{warm}");
    scene.behave(behaviour).await;
    scene.steer("POST", "/calls/reset", "").await;
    scene.emulator.signal("-STOP");
    let blob: Arc<str> = blobs[1].as_str().into();
    let (heard, mut callers) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for _ in 0..CALLERS {
        callers.spawn(ask(Arc::clone(&path), Arc::clone(&blob), Arc::clone(&heard), page.cloned()));
    }
    until("everyone has asked", async || (heard.load(Ordering::Relaxed) == CALLERS).then_some(())).await;
    quiet(scene.proxy.id()).await;
    assert_eq!(callers.try_join_next().map(Result::unwrap), None, "an answer while the KMS was stopped");
    scene.emulator.signal("-CONT");
    callers.join_all().await
}

/// One caller on a connection of its own.
pub(super) async fn ask(path: Arc<Path>, blob: Arc<str>, heard: Arc<AtomicUsize>, page: Option<Page>) -> Outcome {
    let asked = page.map(|page| page.asks("Decrypt", &[("CiphertextBlob", &blob)]));
    let mut stream = loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => break stream,
            // The socket's queue is full.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    };
    stream.write_all(request(&blob).as_bytes()).await.unwrap();
    heard.fetch_add(1, Ordering::Relaxed);
    let mut answer = String::new();
    timeout(Duration::from_secs(60), stream.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let outcome = (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}")));
    if let Some(asked) = asked {
        asked.hears(&outcome);
    }
    outcome
}

fn request(blob: &str) -> String {
    let blob = percent_encoding::utf8_percent_encode(blob, percent_encoding::NON_ALPHANUMERIC);
    format!(
        "GET /?Action=Decrypt&Version=2016-01-20&Format=JSON&CiphertextBlob={blob} HTTP/1.1\r\n\
         host: localhost\r\nconnection: close\r\n\r\n"
    )
}

/// Waits until a process has used no time for a while: it has dealt with all that it was sent.
pub(super) async fn quiet(process: u32) {
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let fields: Vec<u64> =
            stat.rsplit_once(") ").unwrap().1.split(' ').filter_map(|word| word.parse().ok()).collect();
        // After the parenthesis and the state: utime and stime are the 14th and 15th of all.
        fields[10] + fields[11]
    };
    let mut since = (used(), Instant::now());
    until("the daemon is quiet", async || {
        let now = used();
        if now > since.0 + 1 {
            since = (now, Instant::now());
        }
        (since.1.elapsed() > Duration::from_millis(500)).then_some(())
    })
    .await;
}

fn counted<T: Ord>(all: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    all.fold(BTreeMap::new(), |mut counts, one| {
        *counts.entry(one).or_default() += 1;
        counts
    })
}

/// `kmsproxy_decrypts_total` by outcome.
async fn outcomes(scene: &Scene) -> BTreeMap<&'static str, usize> {
    let mut found = BTreeMap::new();
    let text = scene.metrics().await;
    let seen: BTreeSet<&str> = text.lines().collect();
    for outcome in ["hit", "miss", "coalesced", "failed"] {
        let series = format!("kmsproxy_decrypts_total{{upstream=\"emulator\",outcome=\"{outcome}\"}} ");
        let value = seen.iter().find_map(|line| line.strip_prefix(&series)).unwrap();
        found.insert(outcome, value.parse().unwrap());
    }
    found
}

const CALLERS: usize = 10_000;
