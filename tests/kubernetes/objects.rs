//! What is written through the transformers of kube-apiserver is read back, and at what price.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::SEED;
use super::apiserver::{Apiserver, Era};
use super::process::Daemon;
use super::stage::{BRISK, QUIET, Stage, until};

#[tokio::test]
async fn ten_thousand_objects_of_v1_are_read_cold_and_once_more_without_the_kms() {
    let Some(mut writer) = Era::Latest.start() else { return };
    let mut stage = Stage::new(QUIET);
    let etcd = stage.file("etcd");
    serve(&mut writer, &[("secrets", "v1", &stage.socket("k8s"))]).await;
    writer.write("secrets", &etcd, OBJECTS).ok();
    stage.stop();
    stage.start();

    assert_eq!(cold(&stage, "v1", &etcd).await, all_well(OBJECTS));
    let first = stage.counted("Decrypt").await;
    // One for each object; its health's own, and the daemon's at each of its starts.
    assert!((OBJECTS..OBJECTS + 6).contains(&first), "{first} Decrypts");

    assert_eq!(cold(&stage, "v1", &etcd).await, all_well(OBJECTS));
    let second = stage.counted("Decrypt").await - first;
    // Its health's own: kube-apiserver encrypts "ping" and decrypts that.
    assert!(second <= 1, "{second} Decrypts");
}

#[tokio::test]
async fn apiservers_of_1_31_and_of_today_read_what_the_other_wrote() {
    let stage = Stage::new(QUIET);
    let socket = stage.socket("k8s");
    for (one, other) in [(Era::Kube1_31, Era::Latest), (Era::Latest, Era::Kube1_31)] {
        let (Some(mut writer), Some(mut reader)) = (one.start(), other.start()) else { return };
        for server in [&mut writer, &mut reader] {
            serve(server, &[("secrets", "v1", &socket), ("configmaps", "v2", &socket)]).await;
        }
        for resource in ["secrets", "configmaps"] {
            let etcd = stage.file(&format!("{resource}-{one:?}"));
            writer.write(resource, &etcd, 50).ok();
            assert_eq!(reader.read(resource, &etcd), all_well(50), "{resource} written by {one:?}");
        }
    }
}

#[tokio::test]
async fn after_a_rotation_the_apiserver_seals_anew_by_itself_and_reads_what_is_old() {
    let Some(mut server) = Era::Latest.start() else { return };
    let mut stage = Stage::new(BRISK);
    let (socket, etcd) = (stage.socket("k8s"), stage.file("etcd"));
    serve(&mut server, &[("secrets", "v2", &socket)]).await;
    server.open("v2", "v2", &socket);
    server.write("secrets", &etcd, 20).ok();
    let old = server.encrypt("v2", SEED).ok();
    assert_eq!(old["key_id"], server.key_id("v2"));

    stage.rotate("alias/kmsproxy-dev").await;
    let (new, _) = until("Status shows the new version", ROTATION, || {
        Some(server.key_id("v2")).filter(|shown| *shown != old["key_id"]).ok_or("the old key_id".into())
    })
    .await;
    assert_eq!(server.encrypt("v2", SEED).ok()["key_id"], new);
    assert_eq!(server.decrypt("v2", &old).ok(), SEED, "of before the rotation");

    // The apiserver keeps a good answer of Status for 20 s.
    until("the apiserver seals under the new key", Duration::from_secs(30), || {
        assert_eq!(server.complaints(), json!({}));
        let seen = server.read("secrets", &etcd);
        if seen["stale"] == 20 { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;
    server.write("secrets", &etcd, 20).ok();
    assert_eq!(server.read("secrets", &etcd), with_stale(40, 20));

    // The daemon remembers nothing of the old version, nor does this apiserver.
    stage.stop();
    stage.start();
    assert_eq!(cold(&stage, "v2", &etcd).await, with_stale(40, 20));
    assert_eq!(server.decrypt("v2", &old).ok(), SEED, "of before the rotation and the restart");
}

#[tokio::test]
async fn a_client_outlives_a_restart_of_the_daemon_and_finds_the_same_key_id() {
    let Some(mut server) = Era::Latest.start() else { return };
    let mut stage = Stage::new(BRISK);
    for version in ["v1", "v2"] {
        server.open(version, version, &stage.socket("k8s"));
    }
    let (before, _) = until("Status", READY, || said(&mut server)).await;
    let made = [("v1", server.encrypt("v1", SEED).ok()), ("v2", server.encrypt("v2", SEED).ok())];
    for _ in 0..2 {
        stage.stop();
        // A call in between waits for the daemon.
        let waiting = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| server.decrypt("v1", &made[0].1));
            stage.start();
            waiting.join().unwrap()
        });
        assert_eq!(waiting.ok(), SEED);
        let (after, _) = until("Status", READY, || said(&mut server)).await;
        assert_eq!(after, before);
        for (name, made) in &made {
            assert_eq!(server.decrypt(name, made).ok(), SEED, "{name}");
        }
        assert_eq!(server.encrypt("v2", SEED).ok()["key_id"], before["key_id"]);
    }
}

#[tokio::test]
async fn kmsproxy_dev_is_a_provider_of_both_versions() {
    let Some(mut server) = Era::Latest.start() else { return };
    let dev = Daemon::dev(&[]);
    let socket = Path::new(dev.at("kubernetes_socket"));
    serve(&mut server, &[("secrets", "v1", socket), ("configmaps", "v2", socket)]).await;
    for resource in ["secrets", "configmaps"] {
        let etcd = dev.dir.path().join(resource);
        server.write(resource, &etcd, 20).ok();
        assert_eq!(server.read(resource, &etcd), all_well(20), "{resource}");
    }
}

/// Loads the providers and waits until the apiserver finds them healthy.
pub(crate) async fn serve(server: &mut Apiserver, providers: &[(&str, &str, &Path)]) {
    server.load(providers);
    until("the apiserver finds its providers healthy", READY, || match server.complaints() {
        complaints if complaints == json!({}) => Ok(()),
        complaints => Err(complaints.to_string()),
    })
    .await;
}

/// What an apiserver that has just started reads of `etcd`.
async fn cold(stage: &Stage, version: &str, etcd: &Path) -> Value {
    let mut reader = Era::Latest.start().unwrap();
    serve(&mut reader, &[("secrets", version, &stage.socket("k8s"))]).await;
    reader.read("secrets", etcd)
}

/// What Status says apart from how long it took, or that it fails.
fn said(server: &mut Apiserver) -> Result<Value, String> {
    let status = server.status("v2");
    match status.code() {
        None => Ok(json!({ "healthz": status.ok()["healthz"], "key_id": status.ok()["key_id"] })),
        Some(_) => Err(status.message().to_owned()),
    }
}

pub(crate) fn all_well(objects: u64) -> Value {
    with_stale(objects, 0)
}

fn with_stale(objects: u64, stale: u64) -> Value {
    json!({ "objects": objects, "stale": stale, "failed": 0, "altered": 0 })
}

const OBJECTS: u64 = 10_000;
const ROTATION: Duration = Duration::from_secs(15);
pub(crate) const READY: Duration = Duration::from_secs(20);
