//! A KMS that fails, always or half of the time, and one that has no quota left but for probes.
//! `tests/hostile/storms.rs` counts the attempts of a storm that hits cold calls alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::kms::{Kms, honest, said};
use super::rig::{Plan, Rig, ciphertexts};
use super::scene::{MACHINE, Scene, Setting};
use super::traffic::{Traffic, once, word};
use super::{DEADLINE, LEASE, SHORT, SLACK};

/// F5, two leases of failures in place of five minutes, and ten seconds of half of them in place of half an hour.
#[tokio::test]
async fn f05_failures_neither_end_a_lease_nor_renew_it_and_are_not_multiplied() {
    let _shared = MACHINE.read().await;
    let scene = Scene::new(Setting { retries: 2, ..SHORT });
    let blobs = scene.warmed(&scene.key(), 8).await;
    let traffic = Traffic::start(&scene.tls, &blobs);
    traffic.flows().await;
    scene.steer("POST", "/calls/reset", "").await;
    scene.behave(&json!({ "error_rate": 1.0 })).await;
    let ill = Instant::now();
    let calls = encrypts(&scene, ill + 2 * LEASE).await;
    let attempts = scene.counted("Encrypt", "kms_failure").await;
    let well = Instant::now();
    scene.behave(&json!({})).await;
    let history = traffic.stop_at(well + LEASE).await;
    let (last, first) = (history.last_plaintext(ill, well), history.first_plaintext(well));
    #[allow(clippy::cast_precision_loss)]
    let amplified = attempts as f64 / calls as f64;
    eprintln!(
        "F5: all fail: last plaintext {last:.2?} after (lease {LEASE:?}), first {first:.2?} after the end; {calls} \
         Encrypts, {attempts} attempts ({amplified:.2})"
    );
    assert!(last <= LEASE + SLACK && last >= LEASE / 2, "{last:?}");
    assert!(!history.outcomes(ill + LEASE, well - DEADLINE).keys().any(|(status, _)| *status == 200));
    assert!(!history.outcomes(ill, well).keys().any(|(_, code)| code == "Rejected.Disabled"), "no refusal is invented");
    assert!(first <= Duration::from_secs(2), "{first:?}");
    assert!(calls >= 300 && attempts <= calls * 6 / 5 + SPARE, "{attempts} attempts for {calls} calls");

    scene.behave(&json!({ "error_rate": 0.5 })).await;
    let half = Traffic::start(&scene.tls, &blobs).stop_at(Instant::now() + Duration::from_secs(10)).await;
    eprintln!("F5: half fail: {} hits, {:.3} % served", half.0.len(), half.served() * 100.0);
    assert!(half.served() >= 0.999, "{:?}", half.outcomes(ill, Instant::now()));
}

/// Encrypts until `end`, which always go to the KMS: how many there were.
async fn encrypts(scene: &Scene, end: Instant) -> u64 {
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (target, key) = (scene.tls.clone(), scene.key());
        callers.spawn(async move {
            let (mut client, mut count) = (target.connect().await, 0);
            while Instant::now() < end {
                client.call("Encrypt", &[("KeyId", &key), ("Plaintext", "aGVsbG8=")]).await;
                count += 1;
                sleep(Duration::from_millis(10)).await;
            }
            count
        });
    }
    callers.join_all().await.into_iter().sum()
}

/// F6, three leases. The KMS answers whom the probes ask about, and throttles everybody else.
#[tokio::test]
async fn f06_what_is_left_of_the_quota_keeps_the_leases_and_the_rest_is_turned_away_in_time() {
    let _shared = MACHINE.read().await;
    let mut rig = Rig::new(Kms::plain(), &Plan::default());
    let caller = rig.caller("one");
    let (warm, cold) = (ciphertexts("key-1", "warm", 8), ciphertexts("key-1", "cold", 450));
    for (blob, _) in &warm {
        assert_eq!(once(&caller, blob).await.0.0, 200);
    }
    let known: BTreeSet<_> = warm.iter().map(|(blob, _)| blob.clone()).collect();
    let (throttled, probes) = (Arc::<Mutex<BTreeMap<_, _>>>::default(), Arc::new(AtomicUsize::new(0)));
    let (turned, probed) = (Arc::clone(&throttled), Arc::clone(&probes));
    rig.kms.plays(move |asked| {
        let blob = &asked.form["CiphertextBlob"];
        if known.contains(blob) {
            probed.fetch_add(1, Ordering::SeqCst);
            return honest(asked);
        }
        *turned.lock().unwrap().entry(blob.clone()).or_insert(0) += 1;
        said(429, "Rejected.Throttling")
    });
    let begun = Instant::now();
    let traffic = Traffic::start(&caller, &warm);
    let mut misses = JoinSet::new();
    for (blob, _) in cold {
        let caller = caller.clone();
        misses.spawn(async move { once(&caller, &blob).await });
        sleep(3 * LEASE / 450).await;
    }
    let misses = misses.join_all().await;
    let history = traffic.stop_at(begun + 3 * LEASE).await;
    let mut spans: Vec<_> = misses.iter().map(|(_, took)| *took).collect();
    spans.sort();
    let (throttled, probes) = (throttled.lock().unwrap(), probes.load(Ordering::SeqCst));
    eprintln!(
        "F6: {} hits, {:.2} % served by {probes} probes; {} misses, {} of them asked, turned away after \
         {:.2?} (median), {:.2?} (longest)",
        history.0.len(),
        history.served() * 100.0,
        misses.len(),
        throttled.len(),
        spans[spans.len() / 2],
        spans[spans.len() - 1],
    );
    assert_eq!(history.outcomes(begun, Instant::now()).len(), 1, "every hit is served, for three leases");
    let expected = [(429, "Rejected.Throttling".to_owned()), (409, "Rejected.Unavailable".to_owned())];
    assert!(misses.iter().all(|(outcome, _)| expected.contains(&word(outcome))));
    assert!(spans[spans.len() - 1] <= DEADLINE + SLACK, "{:?}", spans[spans.len() - 1]);
    assert!(throttled.len() >= 10 && throttled.values().all(|times| *times == 1), "none is asked twice: {throttled:?}");
}

/// What the retry budget holds at the start, and earns while the storm lasts.
const SPARE: u64 = 20;
