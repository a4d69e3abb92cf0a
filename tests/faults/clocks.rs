//! Time that passes while the daemon stands still, and clocks that jump. Suspend and jumps of the boot clock are in
//! `tests/semantics.rs` (promise 6), on a clock that the test moves.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::client::Target;
use super::overseer::Overseer;
use super::process::Daemon;
use super::scene::{MACHINE, Scene, Setting, until};
use super::traffic::{History, Traffic, once, word};
use super::{DEADLINE, LEASE, SHORT, SLACK, skipped};

/// F9, two leases of standing still, during which the key is disabled.
#[tokio::test]
async fn f09_stopped_for_two_leases_it_hands_out_nothing_of_a_key_that_was_disabled_meanwhile() {
    let _shared = MACHINE.read().await;
    let scene = Scene::new(SHORT);
    let key = scene.new_key().await;
    let (history, late, stopped) = stand_still(&scene, &key, async || scene.disable(&key).await).await;
    assert_eq!(late.iter().filter(|outcome| **outcome == (409, "Rejected.Disabled".to_owned())).count(), late.len());
    assert_eq!(served_after(&history, stopped), 0);
}

/// F9, the same before a KMS that stands still as well, so that nobody could have consented.
#[tokio::test]
async fn f09_stopped_for_two_leases_it_hands_out_nothing_on_resume_before_a_kms_that_says_nothing() {
    let _shared = MACHINE.read().await;
    let scene = Scene::new(SHORT);
    let key = scene.new_key().await;
    let (history, late, stopped) = stand_still(&scene, &key, async || scene.emulator.signal("-STOP")).await;
    assert_eq!(late.iter().filter(|(status, _)| *status == 200).count(), 0, "{late:?}");
    assert_eq!(served_after(&history, stopped), 0);
    scene.emulator.signal("-CONT");
}

/// F9, the same before a KMS that is well: plaintexts come again, and by its new consent.
#[tokio::test]
async fn f09_stopped_for_two_leases_it_asks_the_kms_before_it_hands_out_anything() {
    let _shared = MACHINE.read().await;
    let scene = Scene::new(SHORT);
    let key = scene.new_key().await;
    let (history, late, stopped) = stand_still(&scene, &key, async || {
        scene.steer("POST", "/calls/reset", "").await;
    })
    .await;
    assert!(late.iter().all(|(status, _)| *status == 200), "{late:?}");
    assert!(served_after(&history, stopped) > 0 && scene.counted("Decrypt", "ok").await > 0);
}

/// Stops the daemon under load for two leases, and does `meanwhile`. Returns what the load got; what those got who came
/// during the stop; and when it began.
async fn stand_still(
    scene: &Scene,
    key: &str,
    meanwhile: impl AsyncFnOnce(),
) -> (History, Vec<(u16, String)>, Instant) {
    let blobs = scene.warmed(key, 8).await;
    let traffic = Traffic::start(&scene.tls, &blobs);
    traffic.flows().await;
    scene.proxy.signal("-STOP");
    // The signal has been sent; each thread stops when it next comes by.
    while !stands_still(scene.proxy.id()) {
        sleep(Duration::from_millis(1)).await;
    }
    let stopped = Instant::now();
    meanwhile().await;
    let mut late = JoinSet::new();
    for (blob, _) in &blobs {
        // Over connections that nobody accepts yet, too.
        let (target, blob) = (scene.tls.clone(), blob.clone());
        late.spawn(async move { word(&once(&target, &blob).await.0) });
        sleep(LEASE / 8).await;
    }
    sleep_until(stopped + 2 * LEASE).await;
    scene.proxy.signal("-CONT");
    let resumed = Instant::now();
    let history = traffic.stop_at(resumed + DEADLINE * 2).await;
    let late = late.join_all().await;
    let after = served_after(&history, stopped);
    let calls = history.0.iter().filter(|seen| seen.received > resumed).count();
    let served = late.iter().filter(|(status, _)| *status == 200).count();
    eprintln!(
        "F9: stopped for {:.2?}: of {calls} answers after, {after} plaintexts; of {} sent meanwhile, {served}",
        resumed - stopped,
        late.len()
    );
    (history, late, stopped)
}

/// Whether every thread of a process is stopped.
fn stands_still(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('T')
    })
}

/// Plaintexts for what was sent after the stop. An answer that was decided before and only had to be written is out of
/// reach of any clock.
fn served_after(history: &History, stopped: Instant) -> usize {
    history.0.iter().filter(|seen| seen.sent > stopped && seen.is_served()).count()
}

/// F9, steps of the wall clock by an hour and a day, either way, through libfaketime; the boot clock goes on. The lease
/// is the default one, thirty seconds.
#[tokio::test]
async fn f09_a_step_of_the_wall_clock_suspends_every_lease_within_a_second() {
    let Some(library) = libfaketime() else { return };
    let _shared = MACHINE.read().await;
    let folder = tempfile::tempdir().unwrap();
    let time = folder.path().join("time");
    fs::write(&time, "+0").unwrap();
    let prefix = [
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", time.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    // Both, so that signatures are in time.
    let setting = Setting { timeout: "1s", ..Setting::default() };
    let overseer = Overseer::new(setting);
    let decisions = ["--decisions", overseer.file().to_str().unwrap()].map(str::to_owned);
    let decisions: Vec<&str> = decisions.iter().map(String::as_str).collect();
    let emulator = Daemon::emulator_on(&prefix, &folder.path().join("state"), &decisions);
    let address = emulator.at("address").to_owned();
    let scene = Scene::started_by(&prefix, emulator, &address, setting).under(overseer);
    let unsigned = Target { access_key: String::new(), ..scene.unix.clone() };
    let blobs = scene.warmed(&scene.key(), 8).await;
    for (blob, _) in &blobs {
        assert_eq!(once(&unsigned, blob).await.0.0, 200);
    }
    for offset in ["+3600", "-3600", "+86400", "-86400"] {
        let traffic = Traffic::start(&unsigned, &blobs);
        traffic.flows().await;
        scene.emulator.signal("-STOP");
        sleep(DEADLINE / 2).await;
        fs::write(&time, offset).unwrap();
        let stepped = Instant::now();
        scene.overseer.as_ref().unwrap().clock_is_set();
        sleep(Duration::from_secs(4)).await;
        let end = Instant::now();
        scene.emulator.signal("-CONT");
        fs::write(&time, "+0").unwrap();
        let history = traffic.stop_at(end + DEADLINE).await;
        let last = history.last_plaintext(stepped, end);
        eprintln!("F9: wall clock {offset} s: last plaintext {last:.2?} after, of a lease of 30 s");
        assert!(last <= DEADLINE + SLACK, "{offset}: {last:?}");
        until("served again", async || (once(&unsigned, &blobs[0].0).await.0.0 == 200).then_some(())).await;
    }
}

/// Where Debian and its like have it.
fn libfaketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let library = |folder: PathBuf| folder.join("faketime/libfaketimeMT.so.1");
    let found = folders.map(library).find(|library| Path::exists(library));
    if found.is_none() {
        skipped("libfaketime is not installed");
    }
    found
}
