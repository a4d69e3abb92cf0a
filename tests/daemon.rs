//! The daemon as it is run: the real binary over real sockets, `serve` in front of `emulator` and `dev` alone, and how
//! many of the calls reach the KMS.
#![allow(clippy::unwrap_used, reason = "a test may; clippy's own exception ends at the test function")]

#[path = "daemon/client.rs"]
mod client;
#[path = "oracle/checker.rs"]
mod oracle;
#[path = "daemon/overseer.rs"]
mod overseer;
#[path = "daemon/process.rs"]
mod process;
#[path = "daemon/scene.rs"]
mod scene;
#[path = "daemon/tap.rs"]
mod tap;

#[path = "daemon/admin.rs"]
mod admin;
#[path = "daemon/audit.rs"]
mod audit;
#[path = "daemon/ending.rs"]
mod ending;
#[path = "daemon/errors.rs"]
mod errors;
#[path = "daemon/fairness.rs"]
mod fairness;
#[path = "daemon/flights.rs"]
mod flights;
#[path = "daemon/leases.rs"]
mod leases;
#[path = "daemon/observed.rs"]
mod observed;
#[path = "daemon/page.rs"]
mod page;
#[path = "daemon/posture.rs"]
mod posture;
#[path = "daemon/quota.rs"]
mod quota;
#[path = "daemon/state.rs"]
mod state;
#[path = "daemon/status.rs"]
mod status;
#[path = "daemon/top.rs"]
mod top;
#[path = "daemon/warm.rs"]
mod warm;
