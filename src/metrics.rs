//! Every metric's name, in one place, and the registry they are read from.
//!
//! Labels are bounded: listeners, upstreams and callers come from the configuration, actions and outcomes from closed
//! lists, and keys from the KMS (the first [`KEYS_MAX`] of an upstream). None is ever taken from a request. Handles are
//! fetched once and kept: looking one up costs fifteen times what counting does.

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};

/// The `[metrics]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where `/metrics`, `/livez` and `/readyz` are served, and nothing else. None: not at all.
    pub address: Option<String>,
}

/// Requests by face, action and outcome (a `Kind` label, `hit`, `miss`, `coalesced` or `passed`).
pub const REQUESTS: &str = "kmsproxy_requests_total";
/// Seconds from the decoded request to its answer, by face and outcome class (`hit`, `other`).
pub const REQUEST_SECONDS: &str = "kmsproxy_request_seconds";
/// Decrypts by upstream and how they were answered: `hit`, `miss`, `coalesced`, `failed`.
pub const DECRYPTS: &str = "kmsproxy_decrypts_total";
/// Entries in the cache, about.
pub const ENTRIES: &str = "kmsproxy_cache_entries";
/// Entries thrown out because the cache was full.
pub const EVICTIONS: &str = "kmsproxy_cache_evictions_total";
/// 1 for the state that a key's lease is in, 0 for the others; by upstream, key and state.
pub const LEASE: &str = "kmsproxy_lease_state";
/// Attempts sent upstream, by upstream, action and outcome (`ok` or a `Kind` label).
pub const ATTEMPTS: &str = "kmsproxy_upstream_attempts_total";
/// Seconds that one attempt took, by upstream.
pub const ATTEMPT_SECONDS: &str = "kmsproxy_upstream_attempt_seconds";
/// Attempts after the first of a call, by upstream.
pub const RETRIES: &str = "kmsproxy_upstream_retries_total";
/// Probes by upstream and outcome (`ok` or a `Kind` label).
pub const PROBES: &str = "kmsproxy_probes_total";
/// 1 for the memory that sealing keys live in: `memfd_secret`, `locked`, `unlocked`.
pub const GUARD: &str = "kmsproxy_sealed_memory";
/// 1, with the version as label.
pub const BUILD: &str = "kmsproxy_build_info";

/// Keys per upstream that get a series of their own.
pub const KEYS_MAX: usize = 256;

/// Sets up the process-wide registry.
///
/// # Errors
/// Where one was set up before.
pub fn install() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    let handle = PrometheusBuilder::new().set_buckets(&SECONDS_BUCKETS)?.install_recorder()?;
    describe_counter!(REQUESTS, "Requests by face, action and outcome");
    describe_histogram!(REQUEST_SECONDS, metrics::Unit::Seconds, "Time from the decoded request to its answer");
    describe_counter!(DECRYPTS, "Decrypts by upstream and how they were answered");
    describe_gauge!(ENTRIES, "Sealed DEKs in the cache");
    describe_counter!(EVICTIONS, "Entries thrown out because the cache was full");
    describe_gauge!(LEASE, "1 for the state that a key's lease is in");
    describe_counter!(ATTEMPTS, "Attempts sent upstream by action and outcome");
    describe_histogram!(ATTEMPT_SECONDS, metrics::Unit::Seconds, "Time that one attempt took");
    describe_counter!(RETRIES, "Attempts after the first of a call");
    describe_counter!(PROBES, "Probes by outcome");
    describe_gauge!(GUARD, "1 for the memory that sealing keys live in");
    describe_gauge!(BUILD, "1, with the version as label");
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    counter!(EVICTIONS).increment(0);
    Ok(handle)
}

/// How one upstream's Decrypts were answered.
#[derive(Clone)]
pub struct Decrypts {
    /// From the cache.
    pub hit: Counter,
    /// By a question of its own.
    pub miss: Counter,
    /// By an equal question that was under way.
    pub coalesced: Counter,
    /// Not at all.
    pub failed: Counter,
}

impl Decrypts {
    /// The handles for `upstream`.
    #[must_use]
    pub fn of(upstream: &str) -> Self {
        let of = |outcome: &'static str| counter!(DECRYPTS, "upstream" => upstream.to_owned(), "outcome" => outcome);
        Self { hit: of("hit"), miss: of("miss"), coalesced: of("coalesced"), failed: of("failed") }
    }
}

impl std::fmt::Debug for Decrypts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decrypts")
    }
}

/// One upstream's attempts.
#[must_use]
pub fn attempts(upstream: &str, action: &'static str, outcome: &'static str) -> Counter {
    counter!(ATTEMPTS, "upstream" => upstream.to_owned(), "action" => action, "outcome" => outcome)
}

/// One upstream's attempt times.
#[must_use]
pub fn attempt_seconds(upstream: &str) -> Histogram {
    histogram!(ATTEMPT_SECONDS, "upstream" => upstream.to_owned())
}

/// The gauge of one key's lease in one state.
#[must_use]
pub fn lease(upstream: &str, key: &str, state: &'static str) -> Gauge {
    gauge!(LEASE, "upstream" => upstream.to_owned(), "key" => key.to_owned(), "state" => state)
}

const SECONDS_BUCKETS: [f64; 14] =
    [0.00001, 0.000_025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];
