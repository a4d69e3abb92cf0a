//! Bad input on the real binary, from both sides: callers that lie, dawdle or babble, and a KMS that does. Each has a
//! stated answer, and the next good request on a new connection is served as if nothing had been.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "hostile/canaries.rs"]
mod canaries;
#[path = "hostile/downstream.rs"]
mod downstream;
#[path = "hostile/http.rs"]
mod http;
#[path = "hostile/kms.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod kms;
#[path = "daemon/process.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod process;
#[path = "leaks/provider.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod provider;
#[path = "hostile/signer.rs"]
mod signer;
#[path = "hostile/sockets.rs"]
mod sockets;
#[path = "hostile/stage.rs"]
mod stage;
#[path = "hostile/storms.rs"]
mod storms;
#[path = "hostile/upstream.rs"]
mod upstream;
