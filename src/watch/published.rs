//! What is told of leases once a second: to metrics, and to the log where time alone has changed them.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::warn;

use crate::clock::Moment;
use crate::kms::KeyId;
use crate::lease::Standing;
use crate::ledger::{Ledger, Report, word};
use crate::metrics;

/// What was last told of the leases of one upstream.
#[derive(Debug, Default)]
pub(super) struct Published {
    at: Option<Moment>,
    keys: BTreeMap<KeyId, Key>,
}

/// One key: of its scopes, what stands highest in [`STATES`], and the lease that ends first.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Key {
    state: usize,
    refusal: Option<&'static str>,
    left: Option<f64>,
}

impl Published {
    pub(super) fn is_older_than(&self, age: Duration, now: Moment) -> bool {
        self.at.is_none_or(|at| now.since(at) >= age)
    }

    /// Tells how `ledger` stands at `now`, of its first [`metrics::KEYS_MAX`] keys. A change that came by time alone is
    /// logged, too; other changes are logged as they are made.
    pub(super) fn renew(&mut self, ledger: &Ledger, now: Moment) {
        let (upstream, keys) = (ledger.upstream(), keys(ledger, now));
        for (name, key) in &keys {
            let before = self.keys.get(name);
            key.show(upstream, name, before.copied());
            if before.map(|key| key.state) != Some(key.state) && BY_TIME.contains(&STATES[key.state]) {
                warn!(upstream, key = %name, state = STATES[key.state], "the KMS has not renewed the lease");
            }
        }
        // A key that holds nothing any more is in no state; left as it was, it would be taken for one that is.
        for (name, key) in self.keys.iter().filter(|(name, _)| !keys.contains_key(*name)) {
            key.hide(upstream, name);
        }
        *self = Self { at: Some(now), keys };
    }

    /// Tells of no key any more.
    pub(super) fn withdraw(&self, upstream: &str) {
        for (name, key) in &self.keys {
            key.hide(upstream, name);
        }
    }
}

fn keys(ledger: &Ledger, now: Moment) -> BTreeMap<KeyId, Key> {
    let mut keys = BTreeMap::new();
    for report in ledger.report(now) {
        let key = Key::of(&report, ledger.terms().duration);
        keys.entry(report.key).and_modify(|worst: &mut Key| worst.take(key)).or_insert(key);
    }
    while keys.len() > metrics::KEYS_MAX {
        keys.pop_last();
    }
    keys
}

impl Key {
    fn of(report: &Report, duration: Duration) -> Self {
        let refusal = match &report.standing {
            Standing::Refused(fault) => Some(fault.kind().label()),
            Standing::Lapsed
            | Standing::Serving
            | Standing::ServingByGrace
            | Standing::Suspended
            | Standing::Unknown => None,
        };
        let in_force = report.standing == Standing::Serving;
        let left = report.consented.filter(|_| in_force).map(|left| left.as_secs_f64() / duration.as_secs_f64());
        Self { state: rank(word(&report.standing)), refusal, left }
    }

    fn take(&mut self, other: Self) {
        self.state = self.state.min(other.state);
        self.refusal = self.refusal.or(other.refusal);
        self.left = self.left.into_iter().chain(other.left).reduce(f64::min);
    }

    fn show(self, upstream: &str, name: &KeyId, before: Option<Self>) {
        for (at, state) in STATES.into_iter().enumerate() {
            metrics::lease(upstream, name.as_str(), state).set(if at == self.state { 1.0 } else { 0.0 });
        }
        metrics::lease_left(upstream, name.as_str()).set(self.left.unwrap_or(0.0));
        let over = before.and_then(|before| before.refusal).filter(|&reason| self.refusal != Some(reason));
        for (reason, value) in [(over, 0.0), (self.refusal, 1.0)] {
            if let Some(reason) = reason {
                metrics::key_refused(upstream, name.as_str(), reason).set(value);
            }
        }
    }

    fn hide(self, upstream: &str, name: &KeyId) {
        for state in STATES {
            metrics::lease(upstream, name.as_str(), state).set(0.0);
        }
        metrics::lease_left(upstream, name.as_str()).set(0.0);
        if let Some(reason) = self.refusal {
            metrics::key_refused(upstream, name.as_str(), reason).set(0.0);
        }
    }
}

/// Where the word of a lease's state stands, from what an operator must see to what is as it should be.
#[must_use]
pub fn rank(state: &str) -> usize {
    STATES.iter().position(|&other| other == state).unwrap_or(STATES.len() - 1)
}

/// From what an operator must see to what is as it should be.
const STATES: [&str; 6] = ["refused", "suspended", "lapsed", "serving_by_grace", "serving", "unknown"];
/// Those that come by the clock and not by an answer.
const BY_TIME: [&str; 2] = ["lapsed", "serving_by_grace"];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

    use super::*;
    use crate::clock::{Clock, Manual};
    use crate::fault::{Fault, Kind};
    use crate::kms::{Ciphertext, Decrypt, Extra};
    use crate::lease::Terms;
    use crate::ledger::{Mark, Scope};

    struct Scene {
        clock: Arc<Manual>,
        ledger: Ledger,
        recorder: PrometheusRecorder,
        published: Published,
    }

    impl Scene {
        fn new() -> Self {
            let clock = Arc::new(Manual::at(jiff::Timestamp::UNIX_EPOCH));
            let ledger = Ledger::new("kms", Terms::default(), Arc::<Manual>::clone(&clock));
            let recorder = PrometheusBuilder::new().build_recorder();
            Self { clock, ledger, recorder, published: Published::default() }
        }

        /// The KMS consents to the use of `key`, and something is cached under it for as long as the mark lives.
        fn consent(&self, key: &str) -> Mark<Arc<Scope>> {
            let scope = self.ledger.scope(&KeyId::new(key), None);
            let ciphertext = Ciphertext::new(b"blob".to_vec());
            let sample = Decrypt { ciphertext, key: None, context: None, dry_run: false, extra: Extra::default() };
            scope.renew(self.ledger.ask(), sample).unwrap();
            Mark::of(scope)
        }

        /// What is told a second later, of `key` and above zero.
        fn told(&mut self, key: &str) -> Vec<String> {
            self.clock.advance(Duration::from_secs(1));
            let now = self.clock.now();
            self.ledger.reap();
            ::metrics::with_local_recorder(&self.recorder, || self.published.renew(&self.ledger, now));
            let text = self.recorder.handle().render();
            let mark = format!("key=\"{key}\"");
            let mut told: Vec<_> = text
                .lines()
                .filter(|line| line.contains(&mark) && !line.ends_with(" 0"))
                .map(|line| line.replace("upstream=\"kms\",", "").replace(&format!("{mark},"), "").replace(&mark, ""))
                .collect();
            told.sort();
            told
        }
    }

    #[test]
    fn a_lease_is_told_with_what_is_left_of_it_until_it_lapses() {
        let mut scene = Scene::new();
        let _cached = scene.consent("k");
        let serving = "kmsproxy_lease_state{state=\"serving\"} 1";
        scene.clock.advance(Duration::from_secs(5));
        assert_eq!(scene.told("k"), ["kmsproxy_lease_left_ratio{} 0.8", serving]);
        scene.clock.advance(Duration::from_secs(8));
        assert_eq!(scene.told("k"), ["kmsproxy_lease_left_ratio{} 0.5", serving]);
        scene.clock.advance(Duration::from_secs(20));
        assert_eq!(scene.told("k"), ["kmsproxy_lease_state{state=\"lapsed\"} 1"]);
    }

    #[test]
    fn a_key_under_which_nothing_is_cached_any_more_is_in_no_state() {
        let mut scene = Scene::new();
        let cached = scene.consent("k");
        scene.clock.advance(Duration::from_secs(40));
        assert_eq!(scene.told("k"), ["kmsproxy_lease_state{state=\"lapsed\"} 1"]);
        drop(cached);
        assert_eq!(scene.told("k"), [""; 0]);
    }

    #[test]
    fn a_refusal_is_told_with_its_reason_for_as_long_as_it_lasts() {
        let mut scene = Scene::new();
        let _cached = scene.consent("k");
        let refused = "kmsproxy_lease_state{state=\"refused\"} 1";
        for (kind, reason) in [(Kind::KeyDisabled, "key_disabled"), (Kind::KeyPendingDeletion, "key_pending_deletion")]
        {
            scene.ledger.refuse(&KeyId::new("k"), &Fault::kms(kind));
            assert_eq!(scene.told("k"), [&format!("kmsproxy_key_refused{{reason=\"{reason}\"}} 1"), refused]);
        }
        let _again = scene.consent("k");
        let serving = "kmsproxy_lease_state{state=\"serving\"} 1";
        assert_eq!(scene.told("k")[1..], [serving], "and no refusal");
    }

    #[test]
    fn no_more_keys_are_told_of_than_there_may_be_series() {
        let mut scene = Scene::new();
        let _cached: Vec<_> = (0..metrics::KEYS_MAX + 2).map(|at| scene.consent(&format!("k{at:04}"))).collect();
        scene.told("k0000");
        assert_eq!(scene.published.keys.len(), metrics::KEYS_MAX);
    }
}
