//! Every metric's name, in one place, and the registry they are read from.
//!
//! Labels are bounded: listeners, upstreams and callers come from the configuration, actions and outcomes from closed
//! lists, and keys from the KMS (the first [`KEYS_MAX`] of an upstream). None is ever taken from a request. Handles are
//! fetched once and kept: looking one up costs fifteen times what counting does.

use std::fmt;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};

use crate::kms::Action;

/// The `[metrics]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where `/metrics`, `/livez` and `/readyz` are served, and nothing else. None: not at all.
    pub address: Option<String>,
}

/// Requests by face, action and outcome (`ok` or a `Kind` label).
pub const REQUESTS: &str = "kmsproxy_requests_total";
/// Seconds from the head of a request to its answer, by face.
pub const REQUEST_SECONDS: &str = "kmsproxy_request_seconds";
/// Decrypts by upstream and how they were answered: `hit`, `miss`, `coalesced`, `failed`.
pub const DECRYPTS: &str = "kmsproxy_decrypts_total";
/// Entries in the cache, about.
pub const ENTRIES: &str = "kmsproxy_cache_entries";
/// Entries thrown out because the cache was full.
pub const EVICTIONS: &str = "kmsproxy_cache_evictions_total";
/// 1 for the state that a key's lease is in, 0 for the others; by upstream, key and state.
pub const LEASE: &str = "kmsproxy_lease_state";
/// The share of its duration that is left of a key's lease, 0 where none is in force; by upstream and key.
pub const LEASE_LEFT: &str = "kmsproxy_lease_left_ratio";
/// 1 while a key is refused, by upstream, key and reason (a `Kind` label).
pub const KEY_REFUSED: &str = "kmsproxy_key_refused";
/// When our credentials end, as Unix time; 0 where they do not, or are still to be fetched; by upstream.
pub const CREDENTIALS_EXPIRE: &str = "kmsproxy_credentials_expire_timestamp_seconds";
/// 1 while credentials cannot be fetched, by upstream.
pub const CREDENTIALS_FAILING: &str = "kmsproxy_credentials_failing";
/// Attempts sent upstream, by upstream, action and outcome (`ok` or a `Kind` label).
pub const ATTEMPTS: &str = "kmsproxy_upstream_attempts_total";
/// Seconds that one attempt took, by upstream.
pub const ATTEMPT_SECONDS: &str = "kmsproxy_upstream_attempt_seconds";
/// Attempts after the first of a call, by upstream.
pub const RETRIES: &str = "kmsproxy_upstream_retries_total";
/// Probes by upstream and outcome (`ok` or a `Kind` label).
pub const PROBES: &str = "kmsproxy_probes_total";
/// Calls a second that an upstream may be asked now, by upstream and quota; 0 where no limit is known.
pub const QUOTA_LIMIT: &str = "kmsproxy_quota_limit";
/// Attempts let through, by upstream, quota and class.
pub const QUOTA_TAKEN: &str = "kmsproxy_quota_taken_total";
/// Calls that wait for their turn, by upstream, quota and class.
pub const QUOTA_WAITING: &str = "kmsproxy_quota_waiting";
/// Calls whose turn would have come, or came, too late, by upstream, quota and class.
pub const QUOTA_TURNED_AWAY: &str = "kmsproxy_quota_turned_away_total";
/// Log lines that were lost because standard error took no more.
pub const LINES_LOST: &str = "kmsproxy_log_lines_lost_total";
/// 1 for the memory that sealing keys live in: `memfd_secret`, `locked`, `unlocked`.
pub const GUARD: &str = "kmsproxy_sealed_memory";
/// Audit records written.
pub const AUDIT_RECORDS: &str = "kmsproxy_audit_records_total";
/// Audit records lost, because the log could not be written and was not required.
pub const AUDIT_DROPPED: &str = "kmsproxy_audit_dropped_total";
/// Times that the audit log's sink did not take what it was given.
pub const AUDIT_ERRORS: &str = "kmsproxy_audit_errors_total";
/// Audit records that wait to be written.
pub const AUDIT_QUEUE: &str = "kmsproxy_audit_queue_records";
/// The number of the last audit record written.
pub const AUDIT_SEQUENCE: &str = "kmsproxy_audit_sequence";
/// 1 while the audit log cannot be written.
pub const AUDIT_FAILING: &str = "kmsproxy_audit_failing";
/// DEKs that were cached before the start and are still to be unwrapped again, by upstream.
pub const WARM_UP_LEFT: &str = "kmsproxy_warm_up_left";
/// Reloads by outcome: `reloaded`, or why nothing changed: `mistaken`, `restart`, `impossible`.
pub const RELOADS: &str = "kmsproxy_reloads_total";
/// When the configuration in force was read, in seconds since 1970.
pub const RELOADED_AT: &str = "kmsproxy_config_read_timestamp_seconds";
/// Changes of certificates and authorities on disk, by whose they are (`listener.NAME`, `upstream.NAME`) and outcome:
/// `taken` or `refused`.
pub const CERTIFICATES: &str = "kmsproxy_certificate_changes_total";
/// 1 while what is on disk does not serve, and what was there before does.
pub const CERTIFICATES_REFUSED: &str = "kmsproxy_certificates_refused";
/// Spans that ended, by what became of them: `exported`, `lost` (no collector took them), `dropped` (there was no room).
pub const SPANS: &str = "kmsproxy_spans_total";
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
    describe_gauge!(LEASE_LEFT, "Share of its duration that is left of a key's lease, 0 where none is in force");
    describe_gauge!(KEY_REFUSED, "1 while the KMS refuses the key for this reason");
    describe_gauge!(CREDENTIALS_EXPIRE, "Unix time at which our credentials end, 0 for never");
    describe_gauge!(CREDENTIALS_FAILING, "1 while credentials cannot be fetched");
    describe_counter!(ATTEMPTS, "Attempts sent upstream by action and outcome");
    describe_histogram!(ATTEMPT_SECONDS, metrics::Unit::Seconds, "Time that one attempt took");
    describe_counter!(RETRIES, "Attempts after the first of a call");
    describe_gauge!(QUOTA_LIMIT, "Calls a second that the upstream may be asked now, 0 for no limit");
    describe_counter!(QUOTA_TAKEN, "Attempts let through by class");
    describe_gauge!(QUOTA_WAITING, "Calls that wait for their turn");
    describe_counter!(QUOTA_TURNED_AWAY, "Calls turned away because their turn would come too late");
    describe_counter!(PROBES, "Probes by outcome");
    describe_counter!(LINES_LOST, "Log lines lost because standard error took no more");
    describe_gauge!(GUARD, "1 for the memory that sealing keys live in");
    describe_counter!(AUDIT_RECORDS, "Audit records written");
    describe_counter!(AUDIT_DROPPED, "Audit records lost");
    describe_counter!(AUDIT_ERRORS, "Times that the audit log's sink did not take what it was given");
    describe_gauge!(AUDIT_QUEUE, "Audit records that wait to be written");
    describe_gauge!(AUDIT_SEQUENCE, "The number of the last audit record written");
    describe_gauge!(AUDIT_FAILING, "1 while the audit log cannot be written");
    describe_gauge!(WARM_UP_LEFT, "DEKs of the working set that are still to be unwrapped again");
    describe_counter!(RELOADS, "Reloads by outcome");
    describe_gauge!(RELOADED_AT, metrics::Unit::Seconds, "When the configuration in force was read");
    describe_counter!(CERTIFICATES, "Changes of certificates and authorities on disk");
    describe_gauge!(CERTIFICATES_REFUSED, "1 while the certificates on disk do not serve");
    describe_counter!(SPANS, "Spans by what became of them");
    describe_gauge!(BUILD, "1, with the version as label");
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    counter!(EVICTIONS).increment(0);
    counter!(LINES_LOST).increment(0);
    Ok(handle)
}

/// How many DEKs of the working set of `upstream` are still to be unwrapped again.
pub fn warm_up_left(upstream: &str, left: usize) {
    // Exact up to 2^53.
    #[allow(clippy::cast_precision_loss)]
    gauge!(WARM_UP_LEFT, "upstream" => upstream.to_owned()).set(left as f64);
}

/// One face's requests.
pub struct Requests {
    face: &'static str,
    answered: Box<[(&'static str, Counter)]>,
    seconds: Histogram,
}

impl Requests {
    /// The handles for `face`, which answers `actions`.
    #[must_use]
    pub fn of(face: &'static str, actions: &[&'static str]) -> Self {
        let answered = actions.iter().map(|&action| (action, requests(face, action, OK))).collect();
        Self { face, answered, seconds: histogram!(REQUEST_SECONDS, "face" => face) }
    }

    /// Counts one request that ended as `outcome`; `action` is none where it was refused before that was known.
    pub fn record(&self, action: Option<&'static str>, outcome: &'static str, took: Duration) {
        self.seconds.record(took.as_secs_f64());
        let known = action.filter(|_| outcome == OK);
        match known.and_then(|action| self.answered.iter().find(|(other, _)| *other == action)) {
            Some((_, answered)) => answered.increment(1),
            None => requests(self.face, action.unwrap_or("unknown"), outcome).increment(1),
        }
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Requests({})", self.face)
    }
}

fn requests(face: &'static str, action: &'static str, outcome: &'static str) -> Counter {
    counter!(REQUESTS, "face" => face, "action" => action, "outcome" => outcome)
}

/// One upstream's attempts.
pub struct Attempts {
    upstream: Box<str>,
    retries: Counter,
    seconds: Histogram,
}

impl Attempts {
    /// The handles for `upstream`.
    #[must_use]
    pub fn of(upstream: &str) -> Self {
        let name = || upstream.to_owned();
        let retries = counter!(RETRIES, "upstream" => name());
        let seconds = histogram!(ATTEMPT_SECONDS, "upstream" => name());
        Self { upstream: upstream.into(), retries, seconds }
    }

    /// Counts one attempt that ended as `outcome`. Cheap beside the attempt itself.
    pub fn record(&self, action: Action, outcome: &'static str, took: Duration) {
        self.seconds.record(took.as_secs_f64());
        let upstream = self.upstream.to_string();
        counter!(ATTEMPTS, "upstream" => upstream, "action" => action.name(), "outcome" => outcome).increment(1);
    }

    /// Counts an attempt that is not a call's first.
    pub fn retried(&self) {
        self.retries.increment(1);
    }
}

impl fmt::Debug for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attempts({})", self.upstream)
    }
}

/// One queue before an upstream, with the `N` classes of what waits there.
pub struct Queue<const N: usize> {
    limit: Gauge,
    classes: [(Gauge, Counter, Counter); N],
}

impl<const N: usize> Queue<N> {
    /// The handles for the queue of `quota` before `upstream`.
    #[must_use]
    pub fn of(upstream: &str, quota: &'static str, classes: [&'static str; N]) -> Self {
        let name = || upstream.to_owned();
        let class = |class: &'static str| {
            (
                gauge!(QUOTA_WAITING, "upstream" => name(), "quota" => quota, "class" => class),
                counter!(QUOTA_TAKEN, "upstream" => name(), "quota" => quota, "class" => class),
                counter!(QUOTA_TURNED_AWAY, "upstream" => name(), "quota" => quota, "class" => class),
            )
        };
        let limit = gauge!(QUOTA_LIMIT, "upstream" => name(), "quota" => quota);
        Self { limit, classes: classes.map(class) }
    }

    /// Tells how it stands, each by class: who waits now, and who was let through or turned away since the start.
    pub fn record(&self, limit: Option<f64>, waiting: [usize; N], taken: [u64; N], turned_away: [u64; N]) {
        self.limit.set(limit.unwrap_or(0.0));
        for (class, (handles, waiting)) in self.classes.iter().zip(waiting).enumerate() {
            let (waits, goes, turns) = handles;
            // Exact up to 2^53.
            #[allow(clippy::cast_precision_loss)]
            waits.set(waiting as f64);
            goes.absolute(taken[class]);
            turns.absolute(turned_away[class]);
        }
    }
}

impl<const N: usize> fmt::Debug for Queue<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queue")
    }
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

impl fmt::Debug for Decrypts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decrypts")
    }
}

/// The gauge of one key's lease in one state.
pub fn lease(upstream: &str, key: &str, state: &'static str) -> Gauge {
    gauge!(LEASE, "upstream" => upstream.to_owned(), "key" => key.to_owned(), "state" => state)
}

/// The gauge of the share that is left of one key's lease.
pub fn lease_left(upstream: &str, key: &str) -> Gauge {
    gauge!(LEASE_LEFT, "upstream" => upstream.to_owned(), "key" => key.to_owned())
}

/// The gauge of one key that is refused for one reason.
pub fn key_refused(upstream: &str, key: &str, reason: &'static str) -> Gauge {
    gauge!(KEY_REFUSED, "upstream" => upstream.to_owned(), "key" => key.to_owned(), "reason" => reason)
}

/// How the credentials of one upstream stand.
pub struct Credentials {
    expire: Gauge,
    failing: Gauge,
}

impl Credentials {
    /// The handles for `upstream`.
    #[must_use]
    pub fn of(upstream: &str) -> Self {
        let of = |name: &'static str| gauge!(name, "upstream" => upstream.to_owned());
        let (expire, failing) = (of(CREDENTIALS_EXPIRE), of(CREDENTIALS_FAILING));
        expire.set(0.0);
        failing.set(0.0);
        Self { expire, failing }
    }

    /// They were fetched, and end at this Unix time, or never.
    pub fn fetched(&self, expire: Option<i64>) {
        // Exact up to 2^53 seconds.
        #[allow(clippy::cast_precision_loss)]
        self.expire.set(expire.unwrap_or(0) as f64);
        self.failing.set(0.0);
    }

    /// They could not be fetched; those of before, if any, go on to their end.
    pub fn failed(&self) {
        self.failing.set(1.0);
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// The outcome of what was answered.
pub const OK: &str = "ok";

const SECONDS_BUCKETS: [f64; 14] =
    [0.00001, 0.000_025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];
