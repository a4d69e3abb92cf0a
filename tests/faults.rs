//! Faults on the real binary: F1 to F16 and F18 to F23 of `tests/faults/README.md`, each with the line that it has to
//! pass. Times are scaled down to a lease of three seconds; each test says by how much. What it measured is printed
//! with `--nocapture`.
#![allow(clippy::unwrap_used, reason = "a test may; clippy's own exception ends at the test function")]

#[path = "daemon/client.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod client;
#[path = "hostile/http.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod http;
#[path = "hostile/kms.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod kms;
#[path = "oracle/checker.rs"]
mod oracle;
#[path = "daemon/overseer.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod overseer;
#[path = "daemon/process.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod process;
#[path = "daemon/scene.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod scene;
#[path = "hostile/signer.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod signer;
#[path = "hostile/stage.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod stage;

#[path = "faults/line.rs"]
mod line;
#[path = "faults/rig.rs"]
mod rig;
#[path = "lifecycle/strict.rs"]
mod strict;
#[path = "faults/traffic.rs"]
mod traffic;
#[path = "faults/vitals.rs"]
mod vitals;

#[path = "faults/clocks.rs"]
mod clocks;
#[path = "faults/credentials.rs"]
mod credentials;
#[path = "faults/crowds.rs"]
mod crowds;
#[path = "faults/cuts.rs"]
mod cuts;
#[path = "faults/deaths.rs"]
mod deaths;
#[path = "faults/floods.rs"]
mod floods;
#[path = "faults/keys.rs"]
mod keys;
#[path = "faults/names.rs"]
mod names;
#[path = "faults/reloads.rs"]
mod reloads;
#[path = "faults/silence.rs"]
mod silence;
#[path = "faults/sink.rs"]
mod sink;
#[path = "faults/storms.rs"]
mod storms;
#[path = "faults/threads.rs"]
mod threads;
#[path = "faults/trust.rs"]
mod trust;

use std::process::{Command, Stdio};
use std::time::Duration;

use overseer::Overseer;
use process::Daemon;
use scene::{Scene, Setting};
use traffic::{Wrapped, once};

/// The terms of these tests: a tenth of the defaults, and a deadline of half.
const SHORT: Setting = Setting { lease: "3s", probe: "1s", retries: 0, timeout: "1s", upstream: "", audit: "" };
const LEASE: Duration = Duration::from_secs(3);
const PROBE: Duration = Duration::from_secs(1);
/// Of a request, and of a question to the KMS.
const DEADLINE: Duration = Duration::from_secs(1);
/// From the daemon's decision to our reading, on a machine that has much else to do. The strict bound of a lease is
/// held by what was sent after its end.
const SLACK: Duration = Duration::from_secs(1);

/// An emulator, and who holds what it decides against what the clients of a scene are told.
fn emulator() -> (Overseer, Daemon) {
    let overseer = Overseer::new(SHORT);
    let emulator = Daemon::emulator(&["--decisions", overseer.file().to_str().unwrap()]);
    (overseer, emulator)
}

impl Scene {
    /// So many ciphertexts under `key`, which the daemon has in its cache.
    async fn warmed(&self, key: &str, count: usize) -> Vec<Wrapped> {
        let blobs = self.wrapped(key, count).await;
        for (blob, plaintext) in &blobs {
            let (outcome, _) = once(&self.tls, blob).await;
            assert_eq!((outcome.0, &outcome.1["Plaintext"]), (200, &plaintext.as_str().into()), "{}", outcome.1);
        }
        blobs
    }

    /// So many ciphertexts under `key`, which the daemon has never seen.
    async fn wrapped(&self, key: &str, count: usize) -> Vec<Wrapped> {
        let blobs = self.ciphertexts(key, count).await;
        blobs.into_iter().enumerate().map(|(number, blob)| (blob, format!("REVL{number:04}"))).collect()
    }
}

/// Whether `program` can be run. Says so if not; where nothing may be skipped, that is a failure.
fn have(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let ran = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success()) || skipped(&format!("{program} {arguments:?} does not run here"))
}

fn skipped(why: &str) -> bool {
    eprintln!("SKIPPED: {why}");
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "nothing may be skipped in CI");
    false
}
