//! Spans of `kmsproxy serve`, with the emulator as KMS, as the OpenTelemetry Collector's own receiver reads them; and what a
//! collector cannot do to callers.
//!
//! The receiver lies beside this file and is built by Go, which fetches what it needs. Where Go is missing, its tests are
//! skipped with a line that says so; with `CI=true` that is a failure.
#![allow(clippy::unwrap_used, reason = "a test may; clippy's own exception ends at the test function")]

#[path = "daemon/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "tracing/collector.rs"]
mod collector;
#[path = "machine/go.rs"]
mod go;
#[path = "tracing/grpc.rs"]
mod grpc;
#[path = "daemon/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "tracing/scene.rs"]
mod scene;
#[path = "tracing/sink.rs"]
mod sink;

#[path = "tracing/contents.rs"]
mod contents;
#[path = "tracing/endings.rs"]
mod endings;
#[path = "tracing/secrets.rs"]
mod secrets;
#[path = "tracing/trouble.rs"]
mod trouble;
