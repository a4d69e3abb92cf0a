//! The life of a daemon: reloaded, restarted, killed, with its clients at it all the while. On the real binary.
#![allow(clippy::unwrap_used, reason = "a test may; clippy's own exception ends at the test function")]

#[path = "daemon/client.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod client;
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

#[path = "lifecycle/certificates.rs"]
mod certificates;
#[path = "lifecycle/grpc.rs"]
mod grpc;
#[path = "lifecycle/reload.rs"]
mod reload;
#[path = "lifecycle/restart.rs"]
mod restart;
#[path = "lifecycle/stage.rs"]
mod stage;
#[path = "lifecycle/strict.rs"]
mod strict;
