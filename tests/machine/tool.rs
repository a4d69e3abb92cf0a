//! Programs of the machine that a test needs.

use std::env;
use std::process::{Command, Stdio};

/// Whether `tool` is there. Says so if not; where nothing may be skipped, that is a failure.
pub(crate) fn have(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if !there {
        eprintln!("SKIPPED: there is no {tool} on this machine");
        assert_ne!(env::var("CI").as_deref(), Ok("true"), "nothing may be skipped in CI");
    }
    there
}
