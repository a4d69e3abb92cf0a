//! What follows from a fault: for leases, for whoever asked, and for who asks the same next. One row for each [`Kind`], and
//! one table from rows to effects; SEMANTICS.md prints both, and `tests/errors.rs` walks them.

use std::time::Duration;

use super::{Fault, Kind, Origin};

/// The row of one fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consequence {
    /// What it says about leases.
    pub evidence: Evidence,
    /// Whether the upstream asks again before it hands the fault on.
    pub retry: Retry,
    /// How long an equal Decrypt of the same caller is answered with it, without asking; most deserve a moment, so that
    /// those who just missed a flight need not launch another.
    pub remembered: Option<Duration>,
}

/// What an error of the KMS says about leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// The account as a whole is refused, and so each key of it; or another account's was, where the key is not ours.
    AccountRefused,
    /// Our credentials are in doubt: suspend everything that was allowed to them.
    IdentityDoubted,
    /// This key refuses this identity. Where it is not known which key, the identity is in doubt.
    IdentityRefused,
    /// The key refuses everyone.
    KeyRefused,
    /// Nothing: the request itself was at fault, or the fault is ours.
    Nothing,
    /// An answer that we do not understand, or a fault found with a question that was answered before.
    ScopeDoubted,
    /// The KMS could not be asked.
    Silence,
}

/// Whether the KMS is asked again, while the caller waits. Who is told of a fault by us is never told to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// A little later, within the deadline, the configured attempts and the lane's budget; after the pause that all make,
    /// where the KMS throttles.
    Later,
    /// Not for this request.
    Never,
    /// Once and at once, with other credentials, where there are any.
    Renewed,
}

/// What a question was about, as far as is known when its answer is weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum About {
    /// A key by its own id: Encrypt, `GenerateDataKey`, reads.
    Id,
    /// A read that names no key.
    List,
    /// A key by an alias or an ARN, which may mean another one than it did.
    Name,
    /// A Decrypt in a scope that we know: a probe, a refresh, or what was answered before.
    Scope,
    /// A Decrypt of a ciphertext whose key we do not know.
    Stranger,
}

/// What is done to leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// All leases end within moments unless the KMS consents anew; all keys are probed at once. Once a probe interval.
    DoubtAll,
    /// None.
    Nothing,
    /// All keys are probed at once, at most every half probe interval.
    ProbeAll,
    /// The key is refused in every context.
    RefuseKey,
    /// The scope is refused.
    RefuseScope,
    /// The scope is refused, and all keys are probed as by [`Effect::ProbeAll`].
    RefuseScopeProbeAll,
    /// Nothing is renewed; the scope's outage grace counts.
    Silence,
    /// All leases are suspended, where any is in force, and probed at once.
    SuspendAll,
    /// The scope is suspended.
    SuspendScope,
}

impl Consequence {
    /// The row of `fault`. Only what comes from the KMS says anything about leases.
    #[must_use]
    pub const fn of(fault: &Fault) -> Self {
        let row = row(fault.kind());
        if matches!(fault.origin(), Origin::Kms) { row } else { Self { evidence: Evidence::Nothing, ..row } }
    }
}

impl Evidence {
    /// Reads `fault`.
    #[must_use]
    pub const fn of(fault: &Fault) -> Self {
        Consequence::of(fault).evidence
    }
}

impl Effect {
    /// What `evidence` does where the question was about `about`.
    #[must_use]
    pub const fn of(evidence: Evidence, about: About) -> Self {
        match (evidence, about) {
            (Evidence::AccountRefused, About::Scope) => Self::RefuseScopeProbeAll,
            // Its key may be of another account, so each of ours is asked for itself.
            (Evidence::AccountRefused, About::Id | About::List | About::Name)
            // Some key is refused and the answer does not say which.
            | (Evidence::KeyRefused, About::List | About::Stranger)
            // What an alias means may have changed, and an ARN may be of another account.
            | (Evidence::KeyRefused, About::Name) => Self::ProbeAll,
            (Evidence::AccountRefused | Evidence::IdentityRefused, About::Stranger) => Self::DoubtAll,
            (Evidence::IdentityDoubted, _) => Self::SuspendAll,
            (Evidence::IdentityRefused, About::Scope) => Self::RefuseScope,
            (Evidence::KeyRefused, About::Id | About::Scope) => Self::RefuseKey,
            (Evidence::ScopeDoubted, About::Scope) => Self::SuspendScope,
            (Evidence::Silence, About::Scope) => Self::Silence,
            // A right to Encrypt or to list that is missing says nothing of the right to Decrypt.
            (Evidence::IdentityRefused, About::Id | About::List | About::Name)
            | (Evidence::Nothing, _)
            | (
                Evidence::ScopeDoubted | Evidence::Silence,
                About::Id | About::List | About::Name | About::Stranger,
            ) => Self::Nothing,
        }
    }
}

/// The table.
const fn row(kind: &Kind) -> Consequence {
    use Evidence::{AccountRefused, IdentityDoubted, IdentityRefused, KeyRefused, Nothing, ScopeDoubted, Silence};
    use Retry::{Later, Never, Renewed};
    match kind {
        Kind::KeyDisabled
        | Kind::KeyNotFound
        | Kind::KeyPendingDeletion
        | Kind::KeyPendingImport
        | Kind::KeyUnavailable => all(KeyRefused, Never, REFUSED),
        Kind::AccountRefused => all(AccountRefused, Never, REFUSED),
        Kind::NoPermission => all(IdentityRefused, Never, REFUSED),
        Kind::Credentials => all(IdentityDoubted, Renewed, SILENT),
        // To a question that the KMS answered before, none of these is an answer. One about a stranger closes nothing.
        Kind::AliasNotFound
        | Kind::DryRun
        | Kind::KeyVersionNotFound
        | Kind::MissingParameter(_)
        | Kind::Other
        | Kind::UnknownAction
        | Kind::Unsupported => all(ScopeDoubted, Never, REFUSED),
        Kind::InvalidParameter(_) => all(ScopeDoubted, Never, WRONG),
        Kind::InvalidCiphertext => all(Nothing, Never, WRONG),
        Kind::KmsFailure | Kind::Unreachable => all(Silence, Later, SILENT),
        Kind::Throttled(after) => Consequence { evidence: Silence, retry: Later, remembered: Some(throttled(*after)) },
        // Our clock or our nonces displease it: it has not said anything of the key.
        Kind::Garbled | Kind::NonceUsed | Kind::StaleTimestamp | Kind::TimedOut => all(Silence, Never, SILENT),
        Kind::Lapsed => Consequence { evidence: Silence, retry: Never, remembered: None },
        // These no KMS says: they are our own words to a caller.
        Kind::BadSignature(_)
        | Kind::Forbidden
        | Kind::Internal
        | Kind::Malformed(_)
        | Kind::Overloaded
        | Kind::TooLarge
        | Kind::Unauthenticated
        | Kind::UnknownAccessKey => Consequence { evidence: Nothing, retry: Never, remembered: None },
    }
}

const fn all(evidence: Evidence, retry: Retry, remembered: Duration) -> Consequence {
    Consequence { evidence, retry, remembered: Some(remembered) }
}

/// As long as the KMS says, within reason.
const fn throttled(after: Option<Duration>) -> Duration {
    match after {
        Some(after) if after.as_millis() < REMEMBERED_MAX.as_millis() => after,
        Some(_) => REMEMBERED_MAX,
        None => SILENT,
    }
}

/// The longest time that any failure is remembered.
pub const REMEMBERED_MAX: Duration = Duration::from_secs(5);
/// The same bytes will be as wrong again.
const WRONG: Duration = REMEMBERED_MAX;
const REFUSED: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kms_gives_evidence() {
        assert_eq!(Evidence::of(&Fault::kms(Kind::KeyDisabled)), Evidence::KeyRefused);
        for fault in [Fault::proxy(Kind::KeyDisabled), Fault::caller(Kind::KeyDisabled)] {
            assert_eq!(Evidence::of(&fault), Evidence::Nothing);
        }
        assert_eq!(Evidence::of(&Fault::kms(Kind::Garbled)), Evidence::Silence);
        assert_eq!(Evidence::of(&Fault::kms(Kind::InvalidCiphertext)), Evidence::Nothing);
    }

    #[test]
    fn throttling_is_remembered_as_long_as_the_kms_says_and_five_seconds_at_most() {
        let remembered = |millis: Option<u64>| {
            let kind = Kind::Throttled(millis.map(Duration::from_millis));
            Consequence::of(&Fault::kms(kind)).remembered.unwrap()
        };
        assert_eq!(remembered(None), Duration::from_millis(250));
        assert_eq!(remembered(Some(40)), Duration::from_millis(40));
        assert_eq!(remembered(Some(90_000)), Duration::from_secs(5));
    }
}
