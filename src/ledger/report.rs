//! How leases stand, in words for people, metrics and logs.

use std::sync::Arc;
use std::time::Duration;

use super::{Ledger, Scope};
use crate::clock::Moment;
use crate::kms::KeyId;
use crate::lease::Standing;

/// One scope as `status`, metrics and tests see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The key.
    pub key: KeyId,
    /// What its lease is worth now.
    pub standing: Standing,
    /// How much longer it is in force, if nothing is heard.
    pub left: Duration,
    /// How much is left of what the KMS consented to, grace not counted; none where nobody probes it, so that it has to end.
    pub consented: Option<Duration>,
    /// How many entries name it, of all epochs.
    pub entries: usize,
}

impl Ledger {
    /// All scopes at `now`, for people and metrics.
    #[must_use]
    pub fn report(&self, now: Moment) -> Vec<Report> {
        let view = |scope: &Arc<Scope>| Report {
            key: scope.key().clone(),
            standing: scope.standing(now),
            left: scope.left(now),
            consented: scope.consented(now),
            entries: scope.entries(),
        };
        self.all().iter().map(view).collect()
    }
}

/// A fixed word for a standing, for logs and metrics.
#[must_use]
pub const fn word(standing: &Standing) -> &'static str {
    match standing {
        Standing::Lapsed => "lapsed",
        Standing::Refused(_) => "refused",
        Standing::Serving => "serving",
        Standing::ServingByGrace => "serving_by_grace",
        Standing::Suspended => "suspended",
        Standing::Unknown => "unknown",
    }
}
