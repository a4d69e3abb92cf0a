//! A log that nobody reads any more.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::scene::{MACHINE, Scene, until};
use super::traffic::{Traffic, once};
use super::{DEADLINE, LEASE, SHORT, SLACK, emulator};

/// F13, at level `trace`, until more lines wait for the pipe than may, and for a lease after that.
#[tokio::test]
async fn f13_a_log_that_is_blocked_stops_no_call_is_counted_and_does_not_hold_up_the_end() {
    let _shared = MACHINE.read().await;
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("log").display().to_string();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Both ends, so that neither opening waits for the other; and without blocking, so that the reader can end.
    let mut reader = OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(&pipe).unwrap();
    let reading = Arc::new(AtomicBool::new(true));
    let read = Arc::clone(&reading);
    let drain = thread::spawn(move || {
        while read.load(Ordering::SeqCst) {
            if !matches!(reader.read(&mut [0; 65_536]), Ok(1..)) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        reader
    });
    let command = format!("exec \"$@\" 2>{pipe}");
    let (overseer, emulator) = emulator();
    let address = emulator.at("address").to_owned();
    let mut scene = Scene::started_by(&["sh", "-c", &command, "sh"], emulator, &address, SHORT).under(overseer);
    let blobs = scene.warmed(&scene.key(), 8).await;
    let baseline = Traffic::start(&scene.tls, &blobs).stop_at(Instant::now() + LEASE).await;

    reading.store(false, Ordering::SeqCst);
    let _full = drain.join().unwrap();
    sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    let traffic = Traffic::start(&scene.tls, &blobs);
    let lost = until("lost lines are counted", async || {
        // A handshake is told in some fifteen lines.
        for (blob, _) in &blobs {
            once(&scene.tls, blob).await;
        }
        scene.metric("kmsproxy_log_lines_lost_total").await.filter(|lost| *lost > 0.0)
    })
    .await;
    let blocked = traffic.stop_at(Instant::now() + LEASE).await;
    eprintln!(
        "F13: {} calls in {:.1?}, {:.2} % served, lost lines are counted ({lost}); p99 {:.2?}, with a reader {:.2?}",
        blocked.0.len(),
        begun.elapsed(),
        blocked.served() * 100.0,
        blocked.quantile(0.99),
        baseline.quantile(0.99)
    );
    assert_eq!(blocked.outcomes(begun, Instant::now()).len(), 1, "every call is served");
    assert!(blocked.longest() <= DEADLINE, "{:?}", blocked.longest());
    let asked = Instant::now();
    scene.proxy.signal("-TERM");
    let ended = until("it ends", async || scene.proxy.ended()).await;
    assert_eq!(ended.code(), Some(0));
    assert!(asked.elapsed() <= Duration::from_secs(2) + SLACK, "{:?}", asked.elapsed());
}

/// As in `fcntl.h`.
const O_NONBLOCK: i32 = 0o4000;
