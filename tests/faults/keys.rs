//! Keys and permissions that come and go.
//! What is served after a key is enabled again is counted in `tests/daemon/leases.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::kms::{Kms, honest, said};
use super::rig::{Plan, Rig, ciphertexts};
use super::scene::{MACHINE, Scene, Setting};
use super::traffic::{Traffic, once};
use super::{DEADLINE, LEASE, PROBE, SHORT, SLACK};

/// F10, ten times in place of 360, every 2.5 s in place of 5 s.
#[tokio::test]
async fn f10_a_key_that_is_disabled_again_and_again_stops_each_time_and_comes_back_each_time() {
    let _shared = MACHINE.read().await;
    let scene = Scene::new(Setting { probe: "500ms", ..SHORT });
    let key = scene.new_key().await;
    let blobs = scene.warmed(&key, 8).await;
    let traffic = Traffic::start(&scene.tls, &blobs);
    let mut turns = Vec::new();
    for _ in 0..TOGGLES {
        traffic.flows().await;
        scene.disable(&key).await;
        let disabled = Instant::now();
        sleep_until(disabled + HALF).await;
        let enabling = Instant::now();
        scene.enable(&key).await;
        turns.push((disabled, enabling, Instant::now()));
        sleep_until(enabling + HALF).await;
    }
    let history = traffic.stop().await;
    let (mut stops, mut starts) = (Vec::new(), Vec::new());
    for (disabled, enabling, enabled) in turns {
        stops.push(history.last_plaintext(disabled, enabling));
        starts.push(history.first_plaintext(enabled));
        // A refusal closes the connections that may have carried the key's DEKs; whoever met that has asked again.
        let refused = history.outcomes(disabled + *stops.last().unwrap(), enabling - SLACK / 4);
        assert_eq!(refused.keys().collect::<Vec<_>>(), [&(409, "Rejected.Disabled".to_owned())], "{refused:?}");
    }
    stops.sort();
    starts.sort();
    eprintln!(
        "F10: {TOGGLES} times: last plaintext {:.2?} (median), {:.2?} (longest) after the disable; first {:.2?}, {:.2?} \
         after the enable",
        stops[TOGGLES / 2],
        stops[TOGGLES - 1],
        starts[TOGGLES / 2],
        starts[TOGGLES - 1],
    );
    assert!(stops[TOGGLES - 1] <= PROBE / 2 + SLACK, "{stops:?}");
    assert!(starts[TOGGLES - 1] <= TRIAL + SLACK, "{starts:?}");
}

/// F11, for a lease and a half: one KMS, one key, two identities of ours.
#[tokio::test]
async fn f11_access_denied_to_one_identity_stops_that_one_alone() {
    let _shared = MACHINE.read().await;
    let mut rig = Rig::new(Kms::plain(), &Plan { callers: &[("a", "a"), ("b", "b")], ..Plan::default() });
    let (a, b) = (rig.caller("a"), rig.caller("b"));
    let blobs = ciphertexts("key-1", "both", 8);
    for (blob, _) in &blobs {
        assert_eq!((once(&a, blob).await.0.0, once(&b, blob).await.0.0), (200, 200));
    }
    let denied = Arc::new(AtomicBool::new(false));
    let deny = Arc::clone(&denied);
    rig.kms.plays(move |asked| {
        let refused = deny.load(Ordering::SeqCst) && asked.access_key == "LTAIa";
        if refused { said(403, "Forbidden.NoPermission") } else { honest(asked) }
    });
    let (first, second) = (Traffic::start(&a, &blobs), Traffic::start(&b, &blobs));
    first.flows().await;
    denied.store(true, Ordering::SeqCst);
    let from = Instant::now();
    sleep_until(from + LEASE * 3 / 2).await;
    denied.store(false, Ordering::SeqCst);
    let until = Instant::now();
    let (first, second) = (first.stop_at(until + LEASE).await, second.stop_at(until + LEASE).await);
    let (last, back) = (first.last_plaintext(from, until), first.first_plaintext(until));
    eprintln!(
        "F11: the denied: last plaintext {last:.2?} after, first {back:.2?} after the end; the other: {} calls, {:.2} % \
         served",
        second.0.len(),
        second.served() * 100.0
    );
    assert!(last <= PROBE + DEADLINE + SLACK, "{last:?}");
    assert!(back <= TRIAL + PROBE + SLACK, "{back:?}");
    assert_eq!(second.outcomes(from - LEASE, Instant::now()).len(), 1, "the other is served throughout");
}

const TOGGLES: usize = 10;
const HALF: Duration = Duration::from_millis(2500);
/// How often a refused key is tried.
const TRIAL: Duration = Duration::from_secs(1);
