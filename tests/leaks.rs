//! What another process finds in the daemon's memory, and in its core: 2,000 DEKs and all credentials are searched for in
//! every spelling, while they are cached, after the KMS has refused their key, after they have expired, and at the end.
//!
//! `cargo test --test leaks -- --nocapture` prints what is found, of what sort, and in whose buffer.
#![allow(clippy::unwrap_used, reason = "a test may; clippy's own exception ends at the test function")]

#[path = "daemon/client.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod client;
#[path = "leaks/memory.rs"]
mod memory;
#[path = "leaks/needles.rs"]
mod needles;
#[path = "leaks/phases.rs"]
mod phases;
#[path = "daemon/process.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod process;
#[path = "leaks/provider.rs"]
mod provider;
#[path = "leaks/stage.rs"]
mod stage;
