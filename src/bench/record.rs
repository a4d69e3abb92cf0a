//! What a run is written down as: the JSON of `--json`, which `docs/bench.md` describes, and what the pages are made of.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::face::Face;
use super::measured::Measured;

/// The name and version of this shape. Members may be added to a version; none is taken away or changes its meaning.
pub const SCHEMA: &str = "kmsproxy-bench/1";

/// One run.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: String,
    /// Of the `kmsproxy` that measured.
    pub version: String,
    /// `hit`, `storm`, …
    pub scenario: String,
    /// The command line.
    pub command: Vec<String>,
    /// When it began.
    pub at: Timestamp,
    /// Where.
    pub machine: Machine,
    /// What was measured: one, or two that were compared.
    pub targets: Vec<Target>,
    /// The first target against the second, where there are two.
    pub comparison: Option<Comparison>,
    /// What whoever reads the figures should know of them.
    pub notes: Vec<String>,
    /// Plaintexts that were compared and were right.
    pub verified: u64,
    /// Plaintexts that were wrong. One ends the run, and the command fails.
    pub wrong: u64,
    /// Whether somebody, or the time limit, ended it early.
    pub interrupted: bool,
}

/// The machine that ran client and servers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Machine {
    /// How many processors this process may use.
    pub processors: usize,
    /// What they call themselves.
    pub model: String,
    /// The kernel's release.
    pub kernel: String,
    /// Who had which processor.
    pub split: String,
    /// The load average of the last minute, when it began.
    pub load: f64,
}

/// One target and what was measured there.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Target {
    /// As the command line has it.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// What was spoken.
    pub face: Face,
    /// Loads, in the order of time.
    pub phases: Vec<Phase>,
}

/// One load.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Phase {
    /// What it is called in its scenario.
    pub name: String,
    /// From 1; with `--compare` there are several.
    pub round: u32,
    /// `open`: calls leave by schedule and latency counts from it. `closed`: the next call waits for the last one, so that
    /// a slow target is asked less, and its latencies flatter it.
    #[serde(rename = "loop")]
    pub kind: String,
    /// Calls a second that the schedule had; none in a closed loop.
    pub offered_per_second: Option<f64>,
    /// Callers of a closed loop.
    pub callers: Option<u32>,
    /// Connections, which are kept.
    pub connections: usize,
    /// When it began, in seconds from the start of the run.
    pub begun_seconds: f64,
    /// From the start to the last answer.
    pub seconds: f64,
    /// Calls answered well.
    pub answered: u64,
    /// Those, a second.
    pub per_second: f64,
    /// Of calls answered well; none where there were none.
    pub latency_us: Option<Latency>,
    /// Calls that failed, by the dialect's code or what happened to the connection.
    pub errors: BTreeMap<String, u64>,
    /// Their sum.
    pub failed: u64,
    /// Calls that the KMS was asked meanwhile, probes included; none where it cannot be known.
    pub remote_calls: Option<u64>,
    /// Probes and refreshes among them, as far as the daemon tells.
    pub probes: Option<u64>,
    /// Processor time of the target's process for each call answered, in microseconds.
    pub cpu_us_per_call: Option<f64>,
    /// Memory of the target's process at the end.
    pub rss_bytes: Option<u64>,
    /// The client's share of one processor for each of its threads, from 0 to 1. Where it looks in vain whether there is something to do,
    /// as it does while it has a processor for itself, it counts as idle.
    pub client_share: f64,
    /// In an open loop, how late the client was with 1 % of the calls for which a connection was free.
    pub client_lag_p99_us: Option<f64>,
    /// What the scenario itself is about, by name.
    pub figures: BTreeMap<String, f64>,
    /// Over time.
    pub timeline: Vec<Moment>,
    /// Percentiles and their latency in microseconds, for plots.
    pub curve: Vec<(f64, f64)>,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[allow(missing_docs, reason = "percentiles are called by their names")]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
    pub max: f64,
}

/// What happened in one moment of a load.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Moment {
    /// Its middle, from the start.
    pub seconds: f64,
    /// Calls answered well, a second.
    pub per_second: f64,
    /// Calls that failed, a second.
    pub failed_per_second: f64,
    /// Latencies in microseconds; none where nothing was answered.
    pub p50_us: Option<f64>,
    /// The same.
    pub p99_us: Option<f64>,
    /// The same.
    pub max_us: Option<f64>,
}

/// The first target against the second, by phase and measure.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Comparison {
    /// The first target.
    pub of: String,
    /// The second: what the first is divided by.
    pub to: String,
    /// Rounds that count.
    pub rounds: u32,
    /// One for each phase and measure.
    pub ratios: Vec<Ratio>,
}

/// A measure of both, and their ratio.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Ratio {
    /// The phase.
    pub phase: String,
    /// Which measure.
    pub measure: String,
    /// Median of the rounds, of the first target.
    pub of: f64,
    /// Median of the rounds, of the second.
    pub to: f64,
    /// Median of the rounds' ratios.
    pub median: f64,
    /// The least of them.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// Whether the rounds differ so much among themselves that the ratio says nothing: fewer than three, or
    /// one whose ratio is above one and a half times another's.
    pub noisy: bool,
}

impl Phase {
    /// What `measured` comes to.
    pub(super) fn of(name: &str, measured: &Measured, threads: u32) -> Self {
        let seconds = measured.took.as_secs_f64();
        let curve = CURVE.iter().filter_map(|&at| Some((at, measured.percentile(at)?))).collect();
        let errors = measured.errors.iter().map(|(class, count)| (class.to_string(), *count)).collect();
        Self {
            name: name.to_owned(),
            round: 1,
            kind: String::new(),
            offered_per_second: None,
            callers: None,
            connections: 0,
            begun_seconds: 0.0,
            seconds,
            answered: measured.answered(),
            per_second: if seconds > 0.0 { measured.answered() as f64 / seconds } else { 0.0 },
            latency_us: latency(measured),
            errors,
            failed: measured.failures(),
            remote_calls: None,
            probes: None,
            cpu_us_per_call: None,
            rss_bytes: None,
            client_share: if seconds > 0.0 {
                measured.client_cpu.as_secs_f64() / seconds / f64::from(threads)
            } else {
                0.0
            },
            client_lag_p99_us: (!measured.lag.is_empty())
                .then(|| measured.lag.value_at_percentile(99.0) as f64 / 1000.0),
            figures: BTreeMap::new(),
            timeline: timeline(measured),
            curve,
        }
    }
}

fn latency(measured: &Measured) -> Option<Latency> {
    let at = |percent| measured.percentile(percent);
    Some(Latency {
        p50: at(50.0)?,
        p90: at(90.0)?,
        p99: at(99.0)?,
        p999: at(99.9)?,
        p9999: at(99.99)?,
        max: measured.longest()?,
    })
}

fn timeline(measured: &Measured) -> Vec<Moment> {
    let (windows, span) = measured.windows();
    let width = span.as_secs_f64();
    let moment = |(at, window): (usize, &super::measured::Window)| {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let some = !window.latency.is_empty();
        let percentile = |percent| some.then(|| micros(window.latency.value_at_percentile(percent)));
        Moment {
            seconds: (at as f64 + 0.5) * width,
            per_second: window.latency.len() as f64 / width,
            failed_per_second: window.errors as f64 / width,
            p50_us: percentile(50.0),
            p99_us: percentile(99.0),
            max_us: some.then(|| micros(window.latency.max())),
        }
    };
    windows.iter().enumerate().map(moment).collect()
}

/// Percentiles of a curve: evenly spread where it is drawn, which is by the number of nines.
const CURVE: [f64; 24] = [
    0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 92.5, 95.0, 97.5, 98.0, 99.0, 99.5, 99.75,
    99.9, 99.95, 99.99, 99.999, 100.0,
];
/// The figure of a storm: when all were answered, less what the KMS takes for one call.
pub(super) const BEYOND: &str = "beyond the KMS's own time, ms";
