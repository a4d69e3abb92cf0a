//! What one listener's flood costs another listener of the same upstream: counted in round trips of the KMS, in the
//! order in which it decided.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::flights::{ask, quiet};
use super::scene::{MACHINE, Scene, Setting, until};

#[tokio::test]
async fn cold_decrypts_behind_another_listeners_flood_are_decided_within_three_round_trips() {
    let _alone = MACHINE.write().await;
    let scene = Scene::new(Setting { timeout: "40s", lease: "90s", probe: "40s", ..Setting::default() });
    let other = scene.new_key().await;
    let flood = scene.ciphertexts(&scene.key(), FLOOD).await;
    let few = scene.ciphertexts(&other, FEW).await;
    scene.behave(&json!({ "latency": "20ms" })).await;
    let before = decided(&scene).await.len();
    // While the KMS stands still, the flood takes the window and fills the queue; then the few come.
    scene.emulator.signal("-STOP");
    let mut callers = JoinSet::new();
    let path: Arc<Path> = Path::new(scene.unix.address.strip_prefix("unix:").unwrap()).into();
    let heard = Arc::new(AtomicUsize::new(0));
    for blob in flood {
        let asking = ask(Arc::clone(&path), blob.into(), Arc::clone(&heard), scene.unix.page.clone());
        callers.spawn(async move { asking.await.0 });
    }
    until("the flood is there", async || (heard.load(Ordering::Relaxed) == FLOOD).then_some(())).await;
    quiet(scene.proxy.id()).await;
    for blob in few {
        let target = scene.tls.clone();
        callers.spawn(async move { target.call("Decrypt", &[("CiphertextBlob", &blob)]).await.0 });
    }
    quiet(scene.proxy.id()).await;
    scene.emulator.signal("-CONT");
    assert_eq!(callers.join_all().await, vec![200; FLOOD + FEW]);
    let decided = decided(&scene).await.split_off(before);
    let at: Vec<usize> = (0..decided.len()).filter(|&at| decided[at] == other).collect();
    eprintln!("behind {FLOOD} of another listener, window {WINDOW}: decided as {at:?}");
    assert_eq!((decided.len(), at.len()), (FLOOD + FEW, FEW));
    // One for what was in flight before, one for their own, and one because calls do not march in step.
    assert!(at[FEW - 1] < 3 * WINDOW, "{at:?}");
}

/// The keys of all Decrypts, in the order in which the KMS decided them.
async fn decided(scene: &Scene) -> Vec<String> {
    let all = scene.steer("GET", "/decisions", "").await;
    let decrypts = |it: &&Value| it["action"] == "Decrypt";
    let key = |it: &Value| it["key"].as_str().unwrap().to_owned();
    all["decisions"].as_array().unwrap().iter().filter(decrypts).map(key).collect()
}

const FLOOD: usize = 500;
const FEW: usize = 10;
/// The upstream's `max_in_flight`, by default.
const WINDOW: usize = 64;
