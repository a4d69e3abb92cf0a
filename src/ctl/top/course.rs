//! What was heard of a daemon, one status after the other: rates are what came between two.

use std::collections::VecDeque;

use crate::admin::Status;
use crate::admin::status::Latency;
use crate::ctl::Error;

/// The last statuses, and whether the daemon was heard of last time.
#[derive(Debug, Default)]
pub(super) struct Course {
    heard: VecDeque<Status>,
    failure: Option<String>,
}

/// What came in a second, over the last while.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pace {
    /// Requests a second.
    pub(super) requests: f64,
    /// Of those, the ones that were not answered with what they asked for.
    pub(super) failed: f64,
    /// Attempts a second that a KMS had.
    pub(super) attempts: f64,
    /// Of a hundred Decrypts, how many were answered from memory.
    pub(super) hits: Option<f64>,
    /// From the heads of requests to their answers.
    pub(super) latency: Latency,
}

impl Course {
    pub(super) fn heard(&mut self, status: Status) {
        // Another daemon has other counts.
        if self.heard.back().is_some_and(|last| last.uptime_ms >= status.uptime_ms) {
            self.heard.clear();
        }
        if self.heard.len() == STATUSES_MAX {
            self.heard.pop_front();
        }
        self.heard.push_back(status);
        self.failure = None;
    }

    pub(super) fn failed(&mut self, error: &Error) {
        self.failure = Some(error.to_string().lines().next().unwrap_or_default().to_owned());
    }

    pub(super) fn last(&self) -> Option<&Status> {
        self.heard.back()
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The pace of the last `seconds`, or as far back as anything is known.
    pub(super) fn pace(&self, seconds: u64) -> Pace {
        let Some(last) = self.heard.back() else { return Pace::default() };
        let ago = last.uptime_ms.saturating_sub(seconds * 1000);
        let before = self.heard.iter().rfind(|status| status.uptime_ms <= ago).or_else(|| self.heard.front());
        before.map_or_else(Pace::default, |before| Pace::between(before, last))
    }

    /// Requests a second between each two statuses, the oldest first.
    pub(super) fn requests(&self) -> Vec<u64> {
        let pairs = self.heard.iter().zip(self.heard.iter().skip(1));
        // A rate is shown in whole requests.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rates = pairs.map(|(before, after)| Pace::between(before, after).requests.round() as u64);
        rates.collect()
    }
}

impl Pace {
    fn between(before: &Status, after: &Status) -> Self {
        let span = after.uptime_ms.saturating_sub(before.uptime_ms);
        if span == 0 {
            return Self::default();
        }
        // Exact up to 2^53.
        #[allow(clippy::cast_precision_loss)]
        let rate = |count: fn(&Status) -> u64| count(after).saturating_sub(count(before)) as f64 * 1000.0 / span as f64;
        let all = rate(|status| decrypts(status, None));
        Self {
            requests: rate(|status| status.requests.values().sum()),
            failed: rate(|status| {
                status.requests.iter().filter(|(word, _)| *word != crate::metrics::OK).map(|(_, count)| *count).sum()
            }),
            attempts: rate(|status| status.upstreams.iter().flat_map(|one| one.attempts.values()).sum()),
            hits: (all > 0.0).then(|| rate(|status| decrypts(status, Some("hit"))) * 100.0 / all),
            latency: after.latency.since(&before.latency),
        }
    }
}

fn decrypts(status: &Status, outcome: Option<&str>) -> u64 {
    let all = status.upstreams.iter().flat_map(|upstream| &upstream.decrypts);
    all.filter(|(word, _)| outcome.is_none_or(|outcome| *word == outcome)).map(|(_, count)| count).sum()
}

/// At one a second, two minutes.
const STATUSES_MAX: usize = 121;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::admin::status::Upstream;

    fn status(uptime_ms: u64, ok: u64, failed: u64, hits: u64) -> Status {
        let count = |word: &str, count: u64| (word.to_owned(), count);
        Status {
            uptime_ms,
            requests: BTreeMap::from([count("ok", ok), count("forbidden", failed)]),
            upstreams: vec![Upstream {
                decrypts: BTreeMap::from([count("hit", hits), count("miss", ok - hits)]),
                attempts: BTreeMap::from([count("ok", ok - hits)]),
                ..Upstream::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    fn a_pace_is_what_came_between_two_statuses() {
        let mut course = Course::default();
        for at in 0..20 {
            course.heard(status(at * 1000, at * 100, at * 2, at * 99));
        }
        let pace = course.pace(10);
        assert_eq!((pace.requests, pace.failed, pace.attempts, pace.hits), (102.0, 2.0, 1.0, Some(99.0)));
        assert_eq!(course.requests(), [102; 19]);
    }

    #[test]
    fn a_daemon_that_was_started_anew_has_no_pace_yet() {
        let mut course = Course::default();
        course.heard(status(60_000, 1000, 0, 0));
        course.heard(status(61_000, 2000, 0, 0));
        course.heard(status(500, 10, 0, 0));
        assert_eq!(course.pace(10), Pace::default());
        assert_eq!(course.requests(), Vec::<u64>::new());
    }
}
