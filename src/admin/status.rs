//! What `GET /status` tells: how the daemon and each KMS are; which keys, in which state, and under which of their
//! versions DEKs were asked for. Never a ciphertext, a plaintext or a credential.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use super::figures::Latency;
use crate::ledger::Verdict;

mod reading;

pub use reading::{Counted, Depth};
pub(super) use reading::{Subject, Times, millis};

/// What a daemon has seen since it started. It knows of nothing before that, and of no other kmsproxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// When it started. All times are wall-clock times, to the second, worked out when this was asked.
    pub started_at: Timestamp,
    /// When this was asked.
    pub at: Timestamp,
    /// How long it has run, in milliseconds by the boot clock: rates are what came between two of these.
    #[serde(default)]
    pub uptime_ms: u64,
    /// What keeps it from being ready; nothing where it is.
    #[serde(default)]
    pub obstacles: Vec<String>,
    /// How much it logs.
    #[serde(default)]
    pub log: Option<String>,
    /// The memory that sealing keys are in: `memfd_secret`, `locked` or `unlocked`.
    #[serde(default)]
    pub memory: String,
    /// The cache.
    #[serde(default)]
    pub cache: Fill,
    /// DEKs from before the start that are still to be unwrapped again.
    #[serde(default)]
    pub warm_up_left: u64,
    /// Requests by outcome: `ok`, or a word for the failure.
    #[serde(default)]
    pub requests: BTreeMap<String, u64>,
    /// From the heads of requests to their answers.
    #[serde(default)]
    pub latency: Latency,
    /// Each listener.
    #[serde(default)]
    pub listeners: Vec<Listening>,
    /// Each upstream.
    pub upstreams: Vec<Upstream>,
}

/// How full the cache is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Fill {
    /// DEKs in it.
    pub entries: u64,
    /// DEKs of 1 KiB that it may hold.
    pub capacity: u64,
    /// DEKs that were thrown out because it was full.
    pub evictions: u64,
}

/// One listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Listening {
    /// As the configuration names it.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Who is connected.
    pub connections: usize,
    /// How many may be.
    pub max_connections: usize,
    /// Requests that wait for their answers.
    pub in_flight: usize,
}

/// One upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Upstream {
    /// As the configuration names it.
    pub name: String,
    /// Whether there are credentials to ask it with.
    #[serde(default)]
    pub credentials: bool,
    /// `answering`, `silent`, or `unasked` where nothing was asked of it yet.
    #[serde(default)]
    pub health: String,
    /// When it last answered, be it with a refusal.
    #[serde(default)]
    pub answered_at: Option<Timestamp>,
    /// When it last did not, or could not be asked.
    #[serde(default)]
    pub failed_at: Option<Timestamp>,
    /// How that showed.
    #[serde(default)]
    pub failure: Option<String>,
    /// Shareable Decrypts by how they were answered: `hit`, `miss`, `coalesced`, `failed`.
    #[serde(default)]
    pub decrypts: BTreeMap<String, u64>,
    /// Attempts sent to it by outcome: `ok`, or a word for the failure.
    #[serde(default)]
    pub attempts: BTreeMap<String, u64>,
    /// How long those took.
    #[serde(default)]
    pub latency: Latency,
    /// What may be asked of it, and is.
    #[serde(default)]
    pub quotas: Vec<Quota>,
    /// Who was refused what, the last first; up to 32 that differ.
    #[serde(default)]
    pub refusals: Vec<Refused>,
    /// How many versions are not counted any more, because there were more than 1,024.
    pub forgotten_versions: u64,
    /// The keys that were seen, by id.
    pub keys: Vec<Key>,
}

/// What the KMS counts apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Quota {
    /// `cryptography` or `reads`.
    pub quota: String,
    /// Calls a second that it may be asked now; 0 where no limit is known.
    pub limit: u64,
    /// Attempts let through since the start, by class.
    pub taken: BTreeMap<String, u64>,
    /// Calls that wait for their turn, by class.
    pub waiting: BTreeMap<String, u64>,
    /// Calls whose turn would have come too late, since the start, by class.
    pub turned_away: BTreeMap<String, u64>,
}

/// One refusal, or several that are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Refused {
    /// When, the last time.
    pub at: Timestamp,
    /// How often.
    pub times: u64,
    /// Who asked.
    pub caller: String,
    /// For what.
    pub action: String,
    /// With which key, where the call named one that is known here.
    pub key: Option<String>,
    /// Why not, in one word and with the KMS's code and request id where it spoke.
    pub why: String,
}

/// One key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Key {
    /// Its id.
    pub key: String,
    /// The state of its lease; of its leases in several contexts, the worst: `refused`, `suspended`, `lapsed`,
    /// `serving_by_grace`, `serving` or `unknown`.
    pub lease: String,
    /// How much longer that lease is in force, in milliseconds, if the KMS says nothing more.
    #[serde(default)]
    pub lease_left_ms: u64,
    /// In what words the KMS refused it, where it did.
    #[serde(default)]
    pub refusal: Option<String>,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Old {
    /// Something was, since the rotation; where none was seen here, since the start.
    Seen,
    /// Which version is primary is not known.
    #[default]
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
