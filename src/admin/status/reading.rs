//! How a status is come by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};

use super::super::figures::Figures;
use super::{Fill, Key, Listening, Old, Quota, Refused, Status, Upstream, Version};
use crate::clock::{Clock, Moment};
use crate::engine::{Engine, Refusal};
use crate::guard;
use crate::kms::{KeyId, KeyVersion};
use crate::lease::Standing;
use crate::ledger::{KeyTally, Report, Tally, Verdict, word};
use crate::listener::Census;
use crate::metrics;
use crate::verbosity;
use crate::watch::rank;

/// Whether to look into what takes a walk of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The versions of keys as well.
    Whole,
    /// All but those: what may be asked for every second.
    Light,
}

/// Whom a status is of.
pub(in super::super) struct Subject<'s> {
    pub(in super::super) engines: &'s [Arc<Engine>],
    pub(in super::super) listeners: &'s [Counted],
    pub(in super::super) figures: &'s Figures,
    pub(in super::super) obstacles: Vec<String>,
    pub(in super::super) started: Moment,
}

/// A listener, and who counts its connections.
#[derive(Clone, Debug)]
pub struct Counted {
    /// As the configuration names it.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// The upstream that answers there.
    pub upstream: String,
    /// How many may be connected.
    pub max_connections: usize,
    /// Who is.
    pub census: Census,
}

impl Status {
    /// Looks at `subject` by `clock`.
    pub(in super::super) fn of(subject: Subject<'_>, depth: Depth, clock: &dyn Clock) -> Self {
        let Subject { engines, listeners, figures, obstacles, started } = subject;
        let times = Times { now: clock.now(), wall: clock.wall() };
        let (entries, capacity) = engines.first().map(|engine| engine.fill_level()).unwrap_or_default();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: times.of(started),
            at: times.of(times.now),
            uptime_ms: millis(times.now.since(started)),
            obstacles,
            log: verbosity::level(),
            memory: guard::backend().label().to_owned(),
            cache: Fill { entries, capacity, evictions: figures.sum(metrics::EVICTIONS, &[]) },
            warm_up_left: figures.sum(metrics::WARM_UP_LEFT, &[]),
            requests: figures.by(metrics::REQUESTS, &[], "outcome"),
            latency: figures.latency(metrics::REQUEST_SECONDS, &[]),
            listeners: listeners.iter().map(Listening::of).collect(),
            upstreams: engines.iter().map(|engine| Upstream::of(engine, figures, depth, times)).collect(),
        }
    }
}

impl Listening {
    fn of(counted: &Counted) -> Self {
        let Counted { name, address, max_connections, census, upstream: _ } = counted;
        let (connections, in_flight) = census.count();
        let (name, address) = (name.clone(), address.clone());
        Self { name, address, connections, max_connections: *max_connections, in_flight }
    }
}

impl Upstream {
    fn of(engine: &Engine, figures: &Figures, depth: Depth, times: Times) -> Self {
        let ledger = engine.ledger();
        let mut keys: BTreeMap<KeyId, Key> = BTreeMap::new();
        for report in ledger.report(times.now) {
            keys.entry(report.key.clone()).or_insert_with_key(Key::unseen).stand(&report);
        }
        let tallies = if depth == Depth::Whole { engine.versions() } else { Vec::new() };
        for tally in tallies {
            keys.entry(tally.key.clone()).or_insert_with_key(Key::unseen).take(tally, times);
        }
        let (contact, ours) = (engine.contact(), [("upstream", ledger.upstream())]);
        Self {
            name: ledger.upstream().to_owned(),
            credentials: !engine.identity().is_empty(),
            health: contact.is_good().map_or("unasked", |good| if good { "answering" } else { "silent" }).to_owned(),
            answered_at: contact.answered.map(|at| times.of(at)),
            failed_at: contact.failed.as_ref().map(|(at, _)| times.of(*at)),
            failure: contact.failed.map(|(_, fault)| fault.to_string()),
            decrypts: figures.by(metrics::DECRYPTS, &ours, "outcome"),
            attempts: figures.by(metrics::ATTEMPTS, &ours, "outcome"),
            latency: figures.latency(metrics::ATTEMPT_SECONDS, &ours),
            quotas: Quota::all(figures, ledger.upstream()),
            refusals: engine.refusals().iter().map(|refusal| Refused::of(refusal, times)).collect(),
            forgotten_versions: ledger.versions().forgotten(),
            keys: keys.into_values().collect(),
        }
    }
}

impl Quota {
    fn all(figures: &Figures, upstream: &str) -> Vec<Self> {
        let limits = figures.by(metrics::QUOTA_LIMIT, &[("upstream", upstream)], "quota");
        let each = limits.into_iter().map(|(quota, limit)| {
            let by_class = |name| figures.by(name, &[("upstream", upstream), ("quota", quota.as_str())], "class");
            let [taken, waiting, turned_away] =
                [metrics::QUOTA_TAKEN, metrics::QUOTA_WAITING, metrics::QUOTA_TURNED_AWAY].map(by_class);
            Self { quota, limit, taken, waiting, turned_away }
        });
        each.collect()
    }
}

impl Refused {
    fn of(refusal: &Refusal, times: Times) -> Self {
        Self {
            at: times.of(refusal.at),
            times: refusal.times,
            caller: refusal.caller.as_str().to_owned(),
            action: refusal.action.name().to_owned(),
            key: refusal.key.as_ref().map(|key| key.as_str().to_owned()),
            why: refusal.fault.to_string(),
        }
    }
}

impl Key {
    fn unseen(key: &KeyId) -> Self {
        Self { key: key.as_str().to_owned(), lease: word(&Standing::Unknown).to_owned(), ..Self::default() }
    }

    /// Of its leases in several contexts, the worst is told.
    fn stand(&mut self, report: &Report) {
        self.entries += report.entries;
        let state = word(&report.standing);
        if rank(state) < rank(&self.lease) || (state == self.lease && self.lease_left_ms == 0) {
            state.clone_into(&mut self.lease);
            self.lease_left_ms = millis(report.left);
        } else if state == self.lease {
            self.lease_left_ms = self.lease_left_ms.min(millis(report.left));
        }
        if let Standing::Refused(fault) = &report.standing {
            self.refusal = Some(fault.to_string());
        }
    }

    fn take(&mut self, tally: KeyTally, times: Times) {
        self.primary = tally.primary.as_ref().map(text);
        self.rotated_at = tally.rotated.map(|moment| times.of(moment));
        self.old = Old::of(&tally);
        self.versions = tally.versions.into_iter().map(|tally| Version::of(&tally, times)).collect();
    }
}

impl Old {
    fn of(tally: &KeyTally) -> Self {
        let seen = |tally: &Tally| matches!(tally.verdict, Verdict::Asked | Verdict::StillEncrypts);
        match &tally.primary {
            None => Self::Unknown,
            Some(_) if tally.versions.iter().any(seen) => Self::Seen,
            Some(_) => Self::Unseen,
        }
    }
}

impl Version {
    fn of(tally: &Tally, times: Times) -> Self {
        let at = |moment: Option<Moment>| moment.map(|moment| times.of(moment));
        Self {
            version: text(&tally.version),
            verdict: tally.verdict,
            first_asked_at: at(tally.first_asked),
            last_asked_at: at(tally.last_asked),
            last_encrypted_at: at(tally.last_encrypted),
            cached: tally.cached,
            asked_since_rotation: tally.asked_since,
        }
    }
}

/// Both clocks at one instant, to tell people when a moment was.
#[derive(Clone, Copy)]
pub(in super::super) struct Times {
    pub(in super::super) now: Moment,
    pub(in super::super) wall: Timestamp,
}

impl Times {
    pub(in super::super) fn of(self, moment: Moment) -> Timestamp {
        let ago = SignedDuration::try_from(self.now.since(moment)).unwrap_or(SignedDuration::MAX);
        let at = self.wall.checked_sub(ago).unwrap_or(Timestamp::MIN);
        at.round(Unit::Second).unwrap_or(at)
    }
}

pub(in super::super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn text(version: &KeyVersion) -> String {
    version.as_str().to_owned()
}
