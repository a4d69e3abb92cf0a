//! kube-apiserver's own code, of two eras, as the client of `kmsproxy serve` over its socket, with the emulator as KMS.
//!
//! The program that is driven lies beside this file and is built by it; Go fetches what it needs. Where Go or Python is
//! missing, its tests are skipped with a line that says so; with `CI=true` that is a failure.
#![allow(clippy::unwrap_used, reason = "a test may; clippy's own exception ends at the test function")]

#[path = "kubernetes/apiserver.rs"]
mod apiserver;
#[path = "daemon/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "machine/go.rs"]
mod go;
#[path = "daemon/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "kubernetes/stage.rs"]
mod stage;

#[path = "kubernetes/eight.rs"]
mod eight;
#[path = "kubernetes/eras.rs"]
mod eras;
#[path = "kubernetes/manifests.rs"]
mod manifests;
#[path = "kubernetes/objects.rs"]
mod objects;
#[path = "kubernetes/plugin.rs"]
mod plugin;
#[path = "kubernetes/refusals.rs"]
mod refusals;
#[path = "kubernetes/truth.rs"]
mod truth;

use std::process::Command;

fn must(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

fn skipped<T>(why: &str) -> Option<T> {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "skipped in CI: {why}");
    eprintln!("SKIPPED: {why}");
    None
}

/// Where the Go module and the Python script are.
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kubernetes");
/// A data encryption key of 32 bytes, in base64.
const SEED: &str = "YSBkYXRhIGVuY3J5cHRpb24ga2V5IG9mIDMyIGJ5dGU=";
