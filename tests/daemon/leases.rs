//! How long plaintexts go on leaving after the KMS has refused a key or fallen silent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::client::{Outcome, Target};
use super::scene::{MACHINE, Scene, Setting, until};

#[tokio::test]
async fn under_load_no_plaintext_comes_later_than_the_lease_after_a_key_is_disabled() {
    let _shared = MACHINE.read().await;
    let scene = Scene::new(SHORT);
    let (key, blobs) = warmed(&scene).await;
    for run in 1..=RUNS {
        let load = Load::start(&scene.tls, &blobs);
        load.has_plaintexts().await;
        scene.disable(&key).await;
        let disabled = Instant::now();
        let seen = load.stop_at(disabled + LEASE + BEYOND).await;
        let last = last_plaintext(&seen, disabled);
        eprintln!("lease 3s, probe 1s, load: run {run}: last plaintext {:.2} s after the disable", last.as_secs_f64());
        assert!(last <= LEASE, "{last:?}");
        assert_eq!(refusals(&seen, disabled + last), BTreeMap::from([((409, "Rejected.Disabled".to_owned()), ())]));
        reopened(&scene, &key, &blobs).await;
    }
}

#[tokio::test]
async fn without_traffic_the_first_decrypt_after_a_probe_gets_the_refusal_of_the_kms() {
    let _shared = MACHINE.read().await;
    let scene = Scene::new(SHORT);
    idle(&scene, "lease 3s, probe 1s").await;
}

#[tokio::test]
async fn by_the_default_terms_a_disabled_key_is_closed_without_traffic_within_a_probe() {
    let _shared = MACHINE.read().await;
    let scene = Scene::new(Setting::default());
    let asked = idle(&scene, "lease 30s, probe 10s").await;
    assert!(asked <= Duration::from_secs(10) + TURN, "{asked:?}");
}

#[tokio::test]
async fn no_plaintext_comes_later_than_the_lease_after_the_kms_died() {
    let _shared = MACHINE.read().await;
    cut_off("-KILL").await;
}

#[tokio::test]
async fn no_plaintext_comes_later_than_the_lease_after_the_kms_hung() {
    let _shared = MACHINE.read().await;
    cut_off("-STOP").await;
}

/// Decrypts once, disables the key, and waits without any request for as long as a probe takes to find out.
async fn idle(scene: &Scene, terms: &str) -> Duration {
    let (key, blobs) = warmed(scene).await;
    scene.disable(&key).await;
    let disabled = Instant::now();
    let refused = format!("kmsproxy_lease_state{{upstream=\"emulator\",key=\"{key}\",state=\"refused\"}}");
    until("the probe is refused", async || (scene.metric(&refused).await == Some(1.0)).then_some(())).await;
    let seen = disabled.elapsed();
    let asked = refused_after(&scene.steer("GET", "/decisions", "").await, &key);
    let (asked_s, seen_s) = (asked.as_secs_f64(), seen.as_secs_f64());
    eprintln!("{terms}, idle: asked and refused {asked_s:.2} s after the disable; in /metrics {seen_s:.2} s after");
    let (status, body) = scene.tls.call("Decrypt", &[("CiphertextBlob", &blobs[0])]).await;
    assert_eq!((status, &body["Code"], &body["Plaintext"]), (409, &"Rejected.Disabled".into(), &Value::Null), "{body}");
    reopened(scene, &key, &blobs).await;
    asked
}

/// By the emulator's own clock: from the disable of `key` to the first question that it refused for that.
fn refused_after(decisions: &Value, key: &str) -> Duration {
    let about = |decision: &&Value| decision["key"] == key;
    let all: Vec<&Value> = decisions["decisions"].as_array().unwrap().iter().filter(about).collect();
    let at =
        |what: &dyn Fn(&Value) -> bool| all.iter().find(|decision| what(decision)).unwrap()["at_ns"].as_u64().unwrap();
    let disabled = at(&|decision| decision["action"] == "DisableKey");
    let refused = at(&|decision| decision["action"] == "Decrypt" && decision["outcome"] == "key_disabled");
    Duration::from_nanos(refused - disabled)
}

/// Takes the KMS away under load: what was cached is served until the lease ends, and nothing after.
async fn cut_off(signal: &str) {
    let scene = Scene::new(SHORT);
    let (_, blobs) = warmed(&scene).await;
    let load = Load::start(&scene.tls, &blobs);
    load.has_plaintexts().await;
    scene.emulator.signal(signal);
    let cut = Instant::now();
    // Whoever asks a KMS that hangs waits for a second, and only then asks again.
    let seen = load.stop_at(cut + LEASE + BEYOND + Duration::from_secs(2)).await;
    let last = last_plaintext(&seen, cut);
    eprintln!("lease 3s, probe 1s, load: last plaintext {:.2} s after kill {signal}", last.as_secs_f64());
    assert!(last <= LEASE + TRANSIT, "{last:?}");
    // The last consent was a probe interval old at most, and the call that would have renewed it.
    assert!(last >= LEASE - Duration::from_millis(1500), "silence ends nothing before its time: {last:?}");
    let late = seen.iter().filter(|seen| seen.sent > cut + LEASE);
    let late: Vec<_> = late.map(|seen| (seen.outcome.0, seen.outcome.1["Code"].as_str())).collect();
    assert!(!late.is_empty());
    assert!(late.iter().all(|outcome| *outcome == (409, Some("Rejected.Unavailable"))), "{late:?}");
}

/// Enabled again, each ciphertext is answered by the KMS first: nothing that was cached before has survived.
async fn reopened(scene: &Scene, key: &str, blobs: &[String]) {
    scene.steer("POST", "/calls/reset", "").await;
    scene.enable(key).await;
    let mut client = scene.tls.connect().await;
    for (number, blob) in blobs.iter().enumerate() {
        let before = scene.counted("Decrypt", "ok").await;
        until("a plaintext again", async || {
            let (status, body) = client.call("Decrypt", &[("CiphertextBlob", blob)]).await;
            (status == 200).then(|| assert_eq!(body["Plaintext"], format!("REVL{number:04}")))
        })
        .await;
        assert!(scene.counted("Decrypt", "ok").await > before, "an answer from before the refusal");
    }
}

/// A key with ciphertexts that the daemon has in its cache.
async fn warmed(scene: &Scene) -> (String, Vec<String>) {
    let key = scene.new_key().await;
    let blobs = scene.ciphertexts(&key, 8).await;
    let mut client = scene.tls.connect().await;
    for blob in &blobs {
        let (status, body) = client.call("Decrypt", &[("CiphertextBlob", blob)]).await;
        assert_eq!(status, 200, "{body}");
    }
    (key, blobs)
}

/// One Decrypt under load.
struct Seen {
    sent: Instant,
    received: Instant,
    outcome: Outcome,
}

/// Connections that decrypt without end.
struct Load {
    stop: Arc<AtomicBool>,
    warm: Arc<AtomicBool>,
    callers: JoinSet<Vec<Seen>>,
}

impl Load {
    fn start(target: &Target, blobs: &[String]) -> Self {
        let (stop, warm) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut callers = JoinSet::new();
        for first in 0..CONNECTIONS {
            let (target, blobs) = (target.clone(), blobs.to_vec());
            let (stop, warm) = (Arc::clone(&stop), Arc::clone(&warm));
            callers.spawn(async move {
                let mut client = target.connect().await;
                let mut pace = interval(PACE);
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut seen = Vec::new();
                for blob in blobs.iter().cycle().skip(first) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    pace.tick().await;
                    let sent = Instant::now();
                    let outcome = client.call("Decrypt", &[("CiphertextBlob", blob)]).await;
                    let received = Instant::now();
                    warm.fetch_or(outcome.0 == 200, Ordering::Relaxed);
                    seen.push(Seen { sent, received, outcome });
                }
                seen
            });
        }
        Self { stop, warm, callers }
    }

    async fn has_plaintexts(&self) {
        until("a plaintext under load", async || self.warm.load(Ordering::Relaxed).then_some(())).await;
    }

    async fn stop_at(self, end: Instant) -> Vec<Seen> {
        sleep_until(end).await;
        self.stop.store(true, Ordering::Relaxed);
        self.callers.join_all().await.into_iter().flatten().collect()
    }
}

/// How long after `start` the last plaintext arrived.
fn last_plaintext(seen: &[Seen], start: Instant) -> Duration {
    let plaintexts = seen.iter().filter(|seen| seen.outcome.1["Plaintext"].is_string());
    plaintexts.map(|seen| seen.received.saturating_duration_since(start)).max().expect("a plaintext")
}

/// As what calls ended that were sent after `start`.
fn refusals(seen: &[Seen], start: Instant) -> BTreeMap<(u16, String), ()> {
    let after = seen.iter().filter(|seen| seen.sent > start);
    after.map(|seen| ((seen.outcome.0, seen.outcome.1["Code"].as_str().unwrap_or("none").to_owned()), ())).collect()
}

const SHORT: Setting = Setting { lease: "3s", probe: "1s", retries: 0, timeout: "1s", upstream: "", audit: "" };
const LEASE: Duration = Duration::from_secs(3);
const BEYOND: Duration = Duration::from_millis(700);
const RUNS: usize = 3;
const CONNECTIONS: usize = 8;
const PACE: Duration = Duration::from_millis(5);
/// From the daemon's decision to our reading, on a machine that has much else to do. The strict bound is held by what
/// was sent after it.
const TRANSIT: Duration = Duration::from_millis(250);
/// How late a probe may be that is due: the watch looks five times a second, on a machine that has much else to do.
const TURN: Duration = Duration::from_secs(1);
