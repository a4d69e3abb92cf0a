//! What is delivered: the Debian package, in a Debian made for it, and the container image.
//!
//! What tries the package takes root, and minutes where that Debian is still to be made; so it runs where `KMSPROXY_PACKAGE`
//! is set: to the package to try, to `build` for one around the binary of this build, or to `release` for what is delivered.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "daemon/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "package/image.rs"]
mod image;
#[path = "daemon/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "machine/tool.rs"]
mod tool;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

#[test]
fn it_installs_checks_serves_upgrades_and_goes_as_its_own_user() {
    tried("try", &["mmdebstrap", "curl", "python3", "unshare"]);
}

#[test]
fn under_systemd_it_is_activated_sandboxed_watched_and_restarted() {
    tried("boot", &["mmdebstrap", "curl", "python3", "systemd-nspawn", "nsenter"]);
}

fn tried(script: &str, tools: &[&str]) {
    let Some(package) = package() else {
        return eprintln!("SKIPPED: KMSPROXY_PACKAGE is not set; it takes minutes");
    };
    if !is_root() {
        return;
    }
    for tool in tools {
        let there = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap().status.success();
        if !there {
            return eprintln!("SKIPPED: there is no {tool} on this machine");
        }
    }
    let mut trying = Command::new(here().join("systemd/debian").join(script));
    // To kmsproxy, which runs there, it would be a setting.
    let output = trying.arg(package).env_remove("KMSPROXY_PACKAGE").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    eprintln!("{said}");
}

/// Whether this is root. Says so if not; where nothing may be skipped, that is a failure.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: this takes root");
        assert_ne!(env::var("CI").as_deref(), Ok("true"), "nothing may be skipped in CI");
    }
    root
}

fn package() -> Option<&'static Path> {
    static PACKAGE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let made = PACKAGE.get_or_init(|| match env::var("KMSPROXY_PACKAGE").ok()?.as_str() {
        "" => None,
        "build" => Some(make(&["--binary", env!("CARGO_BIN_EXE_kmsproxy")])),
        "release" => Some(make(&[])),
        path => Some(PathBuf::from(path)),
    });
    made.as_deref()
}

fn make(arguments: &[&str]) -> PathBuf {
    let output = Command::new(here().join("systemd/debian/package")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    here().join(said.lines().last().unwrap())
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
