//! Killed and started again: the real binary, its working set on disk, and the emulator's own count of questions.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::time::sleep;

use super::client::{Target, get};
use super::process::Daemon;
use super::scene::{Scene, Setting, config, until};

const DEKS: usize = 300;

/// The daemon of `scene`, with a working set in `file`.
fn serve(scene: &Scene, file: &Path) -> Daemon {
    let config = config(&scene.emulator, scene.emulator.at("address"), Setting::default());
    let table = format!("[working_set]\nfile = \"{}\"\nsave = \"100ms\"\n", file.display());
    Daemon::serve(&(config + &table), &[("secret", "localsecret")])
}

/// What it says once it is ready: it listens before it has credentials.
async fn ready(daemon: &Daemon) -> String {
    let ready = async || {
        let (status, text) = get(daemon.at("metrics_address"), "/readyz").await;
        (status == 200).then(|| text.as_str().unwrap().to_owned())
    };
    until("ready", ready).await
}

/// Its TLS port.
fn target(scene: &Scene, daemon: &Daemon) -> Target {
    let address = daemon.ready["listeners"]["tls"].as_str().unwrap().to_owned();
    Target { address, page: None, ..scene.tls.clone() }
}

async fn ask_all(target: Target, blobs: &[String]) -> Vec<String> {
    let mut line = target.connect().await;
    let mut plaintexts = Vec::new();
    for blob in blobs {
        let (status, body) = line.call("Decrypt", &[("CiphertextBlob", blob)]).await;
        assert_eq!(status, 200, "{body}");
        plaintexts.push(body["Plaintext"].as_str().unwrap().to_owned());
    }
    plaintexts
}

#[tokio::test]
async fn a_daemon_that_was_killed_is_warm_again_without_being_asked_and_its_file_holds_no_plaintext() {
    let scene = Scene::new(Setting::default());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("working-set");
    let blobs = scene.ciphertexts(&scene.key(), DEKS).await;
    let first = serve(&scene, &file);
    let plaintexts = ask_all(target(&scene, &first), &blobs).await;
    until("all are in the file", async || (members(&file) == DEKS).then_some(())).await;
    first.stop("-KILL");

    let written = std::fs::read(&file).unwrap();
    for plaintext in &plaintexts {
        let bare = BASE64_STANDARD.decode(plaintext).unwrap();
        let found = |needle: &[u8]| written.windows(needle.len()).any(|window| window == needle);
        assert!(!found(plaintext.as_bytes()) && !found(&bare));
    }

    scene.steer("POST", "/calls/reset", "").await;
    scene.behave(&serde_json::json!({ "latency": "100ms" })).await;
    let second = serve(&scene, &file);
    assert!(ready(&second).await.starts_with("ok, warming up: "), "it says how far it is");
    until("it is warm", async || (ready(&second).await == "ok\n").then_some(())).await;
    assert_eq!(scene.counted("Decrypt", "ok").await, DEKS as u64);
    assert_eq!(ask_all(target(&scene, &second), &blobs).await, plaintexts);
    assert_eq!(scene.counted("Decrypt", "ok").await, DEKS as u64, "every one was a hit");
}

#[tokio::test]
async fn a_working_set_under_a_key_that_is_disabled_meanwhile_serves_nobody() {
    let scene = Scene::new(Setting::default());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("working-set");
    let blobs = scene.ciphertexts(&scene.key(), DEKS).await;
    let first = serve(&scene, &file);
    ask_all(target(&scene, &first), &blobs).await;
    // In an orderly end it is written whatever the clock says.
    first.stop("-TERM");
    assert_eq!(members(&file), DEKS);
    scene.disable(&scene.key()).await;
    scene.steer("POST", "/calls/reset", "").await;
    let second = serve(&scene, &file);
    until("it has given up", async || (ready(&second).await == "ok\n").then_some(())).await;
    let asked = scene.calls().await["remote_calls"].as_u64().unwrap();
    assert!(asked < DEKS as u64 / 2, "{asked} questions about a key that is refused");
    let (status, body) = target(&scene, &second).call("Decrypt", &[("CiphertextBlob", &blobs[0])]).await;
    assert_eq!((status, &body["Code"]), (409, &"Rejected.Disabled".into()));
    sleep(Duration::from_millis(300)).await;
    second.stop("-TERM");
    assert_eq!(members(&file), DEKS, "none is forgotten");
}

/// How many DEKs are in the file.
fn members(file: &Path) -> usize {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|line| line.contains("\"ciphertext\"")).count()
}
