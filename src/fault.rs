//! The one error of the request path: what went wrong, whose fault it is, and what follows from that.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::kms::RequestId;

mod consequence;

pub use consequence::{About, Consequence, Effect, Evidence, REMEMBERED_MAX, Retry};

/// What went wrong, in no dialect. Each dialect maps every kind to its own words, and its words to these, in one
/// exhaustive table each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The KMS refuses the account as a whole: a debt, a service not bought, risk control.
    AccountRefused,
    /// The alias names no key.
    AliasNotFound,
    /// The signature is wrong. Carries what we signed, for the caller alone, where its dialect shows it.
    BadSignature(Option<String>),
    /// Our own credentials were refused by the KMS, or none could be had.
    Credentials,
    /// The KMS answered a dry run, as it answers every dry run: with an error.
    DryRun,
    /// Local policy, or the door, says no to this caller.
    Forbidden,
    /// The KMS's answer was not in its own schema: a portal, a proxy, a truncated body, another key than asked for.
    Garbled,
    /// A defect of ours; the request may be tried again.
    Internal,
    /// The ciphertext or its context is wrong, says the KMS. Which of the two it does not say.
    InvalidCiphertext,
    /// A parameter has a value that cannot be; its name as in the dialect.
    InvalidParameter(Box<str>),
    /// The key is disabled.
    KeyDisabled,
    /// The key, or its last trace, is gone.
    KeyNotFound,
    /// The key waits to be destroyed.
    KeyPendingDeletion,
    /// The key's material was never imported.
    KeyPendingImport,
    /// The key cannot be used for a reason of the KMS's own.
    KeyUnavailable,
    /// The key version is not there.
    KeyVersionNotFound,
    /// The key's lease has ended and the KMS did not answer: closed because silence is not consent.
    Lapsed,
    /// The request is not one of this dialect at all; says why.
    Malformed(&'static str),
    /// A required parameter is absent; its name as in the dialect.
    MissingParameter(Box<str>),
    /// The KMS denies us (not the local caller) the use of the key.
    NoPermission,
    /// The nonce was seen before: a replay.
    NonceUsed,
    /// This daemon has no room for the request now.
    Overloaded,
    /// Any other refusal by the KMS, in its schema, that the table does not know: treated as the worst of its status.
    Other,
    /// The signed timestamp is more than 15 minutes away, or is not a timestamp.
    StaleTimestamp,
    /// The KMS is ill: its 5xx, in its schema.
    KmsFailure,
    /// Too many requests, says the KMS; after how long it wants to be asked again, if it said.
    Throttled(Option<Duration>),
    /// Nobody answered within the deadline.
    TimedOut,
    /// Body, query or headers are over the limit.
    TooLarge,
    /// The audit log is required and cannot be written: nothing is released.
    Unaudited,
    /// The dialect demands a signature or a certificate, and there was none.
    Unauthenticated,
    /// No such action, or not one that we relay.
    UnknownAction,
    /// No caller has this access key.
    UnknownAccessKey,
    /// The KMS could not be reached: DNS, TCP, TLS.
    Unreachable,
    /// The operation does not exist for this key or this upstream.
    Unsupported,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The caller's: the same request will fail again.
    Caller,
    /// The KMS's or the way to it.
    Kms,
    /// Ours.
    Proxy,
}

/// A KMS's error in its own words, to be handed on unchanged to callers of the same dialect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Verbatim {
    /// HTTP status.
    pub status: u16,
    /// The dialect's code, such as `Rejected.Disabled`.
    pub code: String,
    /// The dialect's message. May name keys, never material.
    pub message: String,
    /// The KMS's request id.
    pub request_id: RequestId,
    /// `HostId`, where the gateway gave one.
    pub host_id: Option<String>,
    /// `Recommend`, where the gateway gave one.
    pub recommend: Option<String>,
}

/// The one error. Cheap to clone, because a failed flight is shared by all who waited for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    kind: Kind,
    origin: Origin,
    verbatim: Option<Arc<Verbatim>>,
}

impl Fault {
    /// The caller's own fault.
    #[must_use]
    pub const fn caller(kind: Kind) -> Self {
        Self { kind, origin: Origin::Caller, verbatim: None }
    }

    /// The fault of this daemon, or its decision.
    #[must_use]
    pub const fn proxy(kind: Kind) -> Self {
        Self { kind, origin: Origin::Proxy, verbatim: None }
    }

    /// The fault of the KMS or of the way to it, where it did not speak.
    #[must_use]
    pub const fn kms(kind: Kind) -> Self {
        Self { kind, origin: Origin::Kms, verbatim: None }
    }

    /// What the KMS itself said.
    #[must_use]
    pub fn said(kind: Kind, verbatim: Verbatim) -> Self {
        Self { kind, origin: Origin::Kms, verbatim: Some(Arc::new(verbatim)) }
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Whose fault it is.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// What the KMS said, if it said it.
    #[must_use]
    pub fn verbatim(&self) -> Option<&Verbatim> {
        self.verbatim.as_deref()
    }

    /// What follows from it.
    #[must_use]
    pub const fn consequence(&self) -> Consequence {
        Consequence::of(self)
    }
}

impl fmt::Display for Fault {
    /// For logs: kind, and the KMS's code and request id; never its message, which may quote the request.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.label())?;
        if let Some(said) = self.verbatim() {
            write!(f, " ({} {}, request {})", said.status, said.code, &*said.request_id.text())?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

impl Kind {
    /// A fixed word for metrics and logs.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::AccountRefused => "account_refused",
            Self::AliasNotFound => "alias_not_found",
            Self::BadSignature(_) => "bad_signature",
            Self::Credentials => "credentials",
            Self::DryRun => "dry_run",
            Self::Forbidden => "forbidden",
            Self::Garbled => "garbled",
            Self::Internal => "internal",
            Self::InvalidCiphertext => "invalid_ciphertext",
            Self::InvalidParameter(_) => "invalid_parameter",
            Self::KeyDisabled => "key_disabled",
            Self::KeyNotFound => "key_not_found",
            Self::KeyPendingDeletion => "key_pending_deletion",
            Self::KeyPendingImport => "key_pending_import",
            Self::KeyUnavailable => "key_unavailable",
            Self::KeyVersionNotFound => "key_version_not_found",
            Self::KmsFailure => "kms_failure",
            Self::Lapsed => "lapsed",
            Self::Malformed(_) => "malformed",
            Self::MissingParameter(_) => "missing_parameter",
            Self::NoPermission => "no_permission",
            Self::NonceUsed => "nonce_used",
            Self::Other => "other",
            Self::Overloaded => "overloaded",
            Self::StaleTimestamp => "stale_timestamp",
            Self::Throttled(_) => "throttled",
            Self::TimedOut => "timed_out",
            Self::TooLarge => "too_large",
            Self::Unaudited => "unaudited",
            Self::Unauthenticated => "unauthenticated",
            Self::UnknownAccessKey => "unknown_access_key",
            Self::UnknownAction => "unknown_action",
            Self::Unreachable => "unreachable",
            Self::Unsupported => "unsupported",
        }
    }
}
