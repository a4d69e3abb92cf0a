//! What happened, as far as anybody wrote it down. All instants are nanoseconds of the boot clock.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// One run of a test.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) terms: Terms,
    /// Each is in force until the next. Without any, everything is allowed and nobody shares.
    pub(crate) policies: Vec<Policy>,
    pub(crate) decisions: Vec<Decision>,
    pub(crate) told: Vec<Told>,
    /// What the proxy heard of the KMS, where the test stands between them.
    pub(crate) heard: Vec<Heard>,
    /// When the proxy lost all that it knew.
    pub(crate) restarts: Vec<u64>,
    /// When the wall clock was set by more than two seconds.
    pub(crate) steps: Vec<u64>,
}

/// What was configured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) lease: Duration,
    pub(crate) probe: Duration,
    pub(crate) outage_grace: Duration,
    pub(crate) max_age: Duration,
    /// Calls at the KMS that one flight may cost: 1 and its retries, twice that where leases are suspended meanwhile.
    pub(crate) calls_per_flight: usize,
    /// The longest that an answer may have been under way from the proxy to a client, where that is known.
    pub(crate) transit: Option<Duration>,
}

impl Default for Terms {
    /// The daemon's own defaults.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            probe: Duration::from_secs(10),
            outage_grace: Duration::ZERO,
            max_age: Duration::from_secs(24 * 3600),
            calls_per_flight: 3,
            transit: None,
        }
    }
}

/// The grants in force from an instant on, by caller.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) from_ns: u64,
    pub(crate) grants: BTreeMap<String, Grant>,
}

/// What one caller may do, and with whom it shares.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) share: String,
    pub(crate) actions: Vec<String>,
    /// Ids, or `*`.
    pub(crate) keys: Vec<String>,
}

/// A line of what the embedded KMS writes down (`--decisions`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Decision {
    /// After the question was sent, before its answer was.
    pub(crate) at_ns: u64,
    pub(crate) action: String,
    pub(crate) identity: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) context: Option<String>,
    pub(crate) ciphertext: Option<String>,
    pub(crate) plaintext: Option<String>,
    pub(crate) outcome: String,
}

/// What a client was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) caller: String,
    pub(crate) action: &'static str,
    pub(crate) sent_ns: u64,
    pub(crate) received_ns: u64,
    /// When the proxy let it go, where the test stands there.
    pub(crate) released_ns: Option<u64>,
    /// The id in the answer, or the one that was named.
    pub(crate) key: Option<String>,
    pub(crate) context: Option<String>,
    /// Given or made.
    pub(crate) ciphertext: Option<String>,
    pub(crate) plaintext: Option<String>,
    /// `ok`, or the refusal by kmsproxy's own word for it.
    pub(crate) outcome: String,
}

/// What the proxy was told by the KMS. A read that says that a key is not to be used counts as that refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// For whom it asked; none for its own upkeep, and for what is not shared.
    pub(crate) share: Option<String>,
    pub(crate) action: &'static str,
    pub(crate) sent_ns: u64,
    pub(crate) received_ns: u64,
    /// The id in the answer, or the one that was named.
    pub(crate) key: Option<String>,
    pub(crate) context: Option<String>,
    pub(crate) ciphertext: Option<String>,
    pub(crate) outcome: String,
}

impl Decision {
    /// A plaintext that the KMS let go.
    pub(crate) fn is_consent(&self) -> bool {
        self.action == DECRYPT && self.outcome == OK
    }
}

impl Told {
    /// Whether a plaintext was unwrapped for it.
    pub(crate) fn is_decrypted(&self) -> bool {
        self.action == DECRYPT && self.plaintext.is_some()
    }

    /// Whether something was made for it.
    pub(crate) fn made(&self) -> bool {
        self.action != DECRYPT && self.outcome == OK && self.ciphertext.is_some()
    }

    /// The earliest instant at which the proxy may have let it go.
    pub(crate) fn earliest(&self, terms: &Terms) -> u64 {
        let under_way = terms.transit.map_or(0, |transit| self.received_ns.saturating_sub(nanos(transit)));
        self.released_ns.unwrap_or(self.sent_ns).max(under_way)
    }

    /// The latest instant at which the proxy may have let it go.
    pub(crate) fn latest(&self) -> u64 {
        self.released_ns.unwrap_or(self.received_ns)
    }
}

#[allow(dead_code, reason = "a simulation has them at hand")]
/// The decisions in a file that the embedded KMS wrote.
pub(crate) fn decisions(file: &Path) -> Vec<Decision> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    // A line that was being written when the KMS was killed has no end, and nobody has heard of its decision.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// What stands for bytes in a history, as the embedded KMS writes it.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex(Sha256::new().chain_update(bytes))
}

/// The same for a context; names in ascending order.
pub(crate) fn context_digest<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut whole = Sha256::new();
    for text in pairs.into_iter().flat_map(|(name, value)| [name, value]) {
        whole.update((text.len() as u64).to_be_bytes());
        whole.update(text.as_bytes());
    }
    hex(whole)
}

fn hex(whole: Sha256) -> String {
    whole.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) const DECRYPT: &str = "Decrypt";
pub(crate) const OK: &str = "ok";
