//! What one load came to.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Counts and latencies of one load; those of several threads add up.
#[derive(Clone)]
pub(super) struct Measured {
    /// Of calls that were answered well, in nanoseconds.
    latency: Histogram<u64>,
    /// In the order of time, each [`Measured::span`] long.
    windows: Vec<Window>,
    span: Duration,
    pub(super) errors: BTreeMap<Cow<'static, str>, u64>,
    /// Plaintexts that were not what had been put in.
    pub(super) wrong: u64,
    /// When the last plaintext came.
    pub(super) last_good: Option<Duration>,
    /// When the last answer came.
    pub(super) took: Duration,
    /// How late the client itself was with calls for which there was a place, in nanoseconds.
    pub(super) lag: Histogram<u64>,
    /// Processor time of the client's threads.
    pub(super) client_cpu: Duration,
}

/// A moment of the load.
#[derive(Clone)]
pub(super) struct Window {
    pub(super) latency: Histogram<u32>,
    pub(super) errors: u64,
}

impl Measured {
    pub(super) fn new(span: Duration) -> Self {
        Self {
            latency: histogram(),
            windows: Vec::new(),
            span: span.max(Duration::from_millis(1)),
            errors: BTreeMap::new(),
            wrong: 0,
            last_good: None,
            took: Duration::ZERO,
            lag: histogram(),
            client_cpu: Duration::ZERO,
        }
    }

    /// Notes an answer that came at `now` and had been due since `planned`.
    pub(super) fn good(&mut self, planned: Duration, now: Duration) {
        let nanos = nanos(now.saturating_sub(planned));
        self.latency.saturating_record(nanos);
        self.window(now).latency.saturating_record(nanos);
        self.last_good = Some(now);
        self.took = now;
    }

    /// Notes a failure.
    pub(super) fn failed(&mut self, class: Cow<'static, str>, now: Duration) {
        let room = self.errors.len() < CLASSES_MAX || self.errors.contains_key(&class);
        *self.errors.entry(if room { class } else { "other".into() }).or_default() += 1;
        self.window(now).errors += 1;
        self.took = now;
    }

    fn window(&mut self, now: Duration) -> &mut Window {
        let at = usize::try_from(now.as_nanos() / self.span.as_nanos()).unwrap_or(0).min(WINDOWS_MAX - 1);
        while self.windows.len() <= at {
            self.windows.push(Window { latency: coarse(), errors: 0 });
        }
        &mut self.windows[at]
    }

    /// Adds what another thread measured in the same time.
    pub(super) fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("the same bounds");
        self.lag.add(&other.lag).expect("the same bounds");
        for (class, count) in &other.errors {
            *self.errors.entry(class.clone()).or_default() += count;
        }
        while self.windows.len() < other.windows.len() {
            self.windows.push(Window { latency: coarse(), errors: 0 });
        }
        for (own, theirs) in self.windows.iter_mut().zip(&other.windows) {
            own.latency.add(&theirs.latency).expect("the same bounds");
            own.errors += theirs.errors;
        }
        self.wrong += other.wrong;
        self.last_good = self.last_good.max(other.last_good);
        self.took = self.took.max(other.took);
        self.client_cpu += other.client_cpu;
    }

    /// Calls answered well.
    pub(super) fn answered(&self) -> u64 {
        self.latency.len()
    }

    /// Calls that failed.
    pub(super) fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// A latency in microseconds; none where nothing was answered.
    pub(super) fn percentile(&self, percent: f64) -> Option<f64> {
        (!self.latency.is_empty()).then(|| self.latency.value_at_percentile(percent) as f64 / 1000.0)
    }

    /// The longest latency in microseconds.
    pub(super) fn longest(&self) -> Option<f64> {
        (!self.latency.is_empty()).then(|| self.latency.max() as f64 / 1000.0)
    }

    pub(super) fn windows(&self) -> (&[Window], Duration) {
        (&self.windows, self.span)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NANOS, 3).expect("bounds in order, three digits")
}

fn coarse() -> Histogram<u32> {
    Histogram::new_with_bounds(1000, LATENCY_MAX_NANOS, 2).expect("bounds in order, two digits")
}

pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Longer ones count as this long.
const LATENCY_MAX_NANOS: u64 = 120_000_000_000;
const WINDOWS_MAX: usize = 1000;
const CLASSES_MAX: usize = 64;
