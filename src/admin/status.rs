//! What `GET /status` tells: which keys, in which state, and under which of their versions DEKs were asked for.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, Unit};
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Moment};
use crate::engine::Engine;
use crate::kms::{KeyId, KeyVersion};
use crate::ledger::{KeyTally, Tally, Verdict, word};
use crate::watch::rank;

/// What a daemon has seen since it started. It knows of nothing before that, and of no other kmsproxy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// When it started. All times are wall-clock times, to the second, worked out when this was asked.
    pub started_at: Timestamp,
    /// When this was asked.
    pub at: Timestamp,
    /// Each upstream.
    pub upstreams: Vec<Upstream>,
}

/// One upstream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Upstream {
    /// As the configuration names it.
    pub name: String,
    /// How many versions are not counted any more, because there were more than 1,024.
    pub forgotten_versions: u64,
    /// The keys that were seen, by id.
    pub keys: Vec<Key>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Key {
    /// Its id.
    pub key: String,
    /// The state of its lease; of its leases in several contexts, the worst: `refused`, `suspended`, `lapsed`,
    /// `serving_by_grace`, `serving` or `unknown`.
    pub lease: String,
    /// How many DEKs are cached, in all contexts.
    pub entries: usize,
    /// The version that encrypts, where anything was encrypted here since the start.
    pub primary: Option<String>,
    /// When that version was first seen to encrypt after another had. None: no rotation was seen since the start.
    pub rotated_at: Option<Timestamp>,
    /// What was seen of all other versions together.
    pub old: Old,
    /// Every version that was seen: the primary first, then the one that was used last.
    pub versions: Vec<Version>,
}

/// Whether anything was seen under a version that is not the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Old {
    /// Something was, since the rotation; where none was seen here, since the start.
    Seen,
    /// Which version is primary is not known.
    Unknown,
    /// Nothing was.
    Unseen,
}

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Version {
    /// As the KMS names it.
    pub version: String,
    /// `primary`, `asked` (old, and asked for since the rotation), `unasked` (old, and not), `still_encrypts` (old, and
    /// seen to encrypt since the rotation) or `unknown` (nothing was encrypted here, so which version is old is not
    /// known).
    pub verdict: Verdict,
    /// When a caller first asked for a DEK under it. What kmsproxy asks the KMS on its own account never counts.
    pub first_asked_at: Option<Timestamp>,
    /// When a caller last did.
    pub last_asked_at: Option<Timestamp>,
    /// When it was last seen to encrypt.
    pub last_encrypted_at: Option<Timestamp>,
    /// How many DEKs under it are cached; for callers that do not share, one for each.
    pub cached: usize,
    /// How many of them were asked for since the rotation; where none was seen here, since the start.
    pub asked_since_rotation: usize,
}

impl Status {
    /// Asks `engines`, of a daemon that has run since `started`. Walks the whole cache, once for each.
    #[must_use]
    pub fn of(engines: &[std::sync::Arc<Engine>], started: Moment, clock: &dyn Clock) -> Self {
        let times = Times { now: clock.now(), wall: clock.wall() };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: times.of(started),
            at: times.of(times.now),
            upstreams: engines.iter().map(|engine| Upstream::of(engine, times)).collect(),
        }
    }
}

impl Upstream {
    fn of(engine: &Engine, times: Times) -> Self {
        let ledger = engine.ledger();
        let mut keys: BTreeMap<KeyId, Key> = BTreeMap::new();
        for report in ledger.report(times.now) {
            let key = keys.entry(report.key).or_insert_with_key(Key::unseen);
            key.entries += report.entries;
            let state = word(&report.standing);
            if rank(state) < rank(&key.lease) {
                state.clone_into(&mut key.lease);
            }
        }
        for tally in engine.versions() {
            keys.entry(tally.key.clone()).or_insert_with_key(Key::unseen).take(tally, times);
        }
        Self {
            name: ledger.upstream().to_owned(),
            forgotten_versions: ledger.versions().forgotten(),
            keys: keys.into_values().collect(),
        }
    }
}

impl Key {
    fn unseen(key: &KeyId) -> Self {
        Self {
            key: key.as_str().to_owned(),
            lease: word(&crate::lease::Standing::Unknown).to_owned(),
            entries: 0,
            primary: None,
            rotated_at: None,
            old: Old::Unknown,
            versions: Vec::new(),
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
struct Times {
    now: Moment,
    wall: Timestamp,
}

impl Times {
    fn of(self, moment: Moment) -> Timestamp {
        let ago = SignedDuration::try_from(self.now.since(moment)).unwrap_or(SignedDuration::MAX);
        let at = self.wall.checked_sub(ago).unwrap_or(Timestamp::MIN);
        at.round(Unit::Second).unwrap_or(at)
    }
}

fn text(version: &KeyVersion) -> String {
    version.as_str().to_owned()
}
