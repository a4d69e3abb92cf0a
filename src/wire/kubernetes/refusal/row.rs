//! The table itself.

use super::Code;
use crate::fault::{Fault, Kind, Origin};

/// What one kind of fault is called here. In the texts, `{key}`, `{caller}` and `{listener}` stand for the subject,
/// `{detail}` for what the kind carries.
pub(super) struct Row {
    pub(super) code: Code,
    pub(super) what: &'static str,
    pub(super) remedy: &'static str,
}

/// The table. Where the KMS finds fault with what kmsproxy itself sends, it is not for the caller to mend.
pub(super) const fn row(fault: &Fault) -> &'static Row {
    let theirs = matches!(fault.origin(), Origin::Kms);
    match fault.kind() {
        Kind::AccountRefused => &ACCOUNT_REFUSED,
        Kind::AliasNotFound => &ALIAS_NOT_FOUND,
        Kind::BadSignature(_) | Kind::Unauthenticated | Kind::UnknownAccessKey if theirs => &CREDENTIALS,
        Kind::BadSignature(_) | Kind::Unauthenticated | Kind::UnknownAccessKey => &UNAUTHENTICATED,
        Kind::Credentials => &CREDENTIALS,
        Kind::DryRun | Kind::Other => &OTHER,
        Kind::Forbidden | Kind::NoPermission if theirs => &NO_PERMISSION,
        Kind::Forbidden | Kind::NoPermission => &FORBIDDEN,
        Kind::Garbled => &GARBLED,
        Kind::Internal => &INTERNAL,
        Kind::InvalidCiphertext => &INVALID_CIPHERTEXT,
        Kind::InvalidParameter(_) | Kind::Malformed(_) | Kind::MissingParameter(_) if theirs => &REFUSED_PARAMETER,
        Kind::InvalidParameter(_) => &INVALID_PARAMETER,
        Kind::KeyDisabled => &KEY_DISABLED,
        Kind::KeyNotFound if theirs => &KEY_NOT_FOUND,
        Kind::KeyNotFound => &FOREIGN,
        Kind::KeyPendingDeletion => &KEY_PENDING_DELETION,
        Kind::KeyPendingImport => &KEY_PENDING_IMPORT,
        Kind::KeyUnavailable => &KEY_UNAVAILABLE,
        Kind::KeyVersionNotFound => &KEY_VERSION_NOT_FOUND,
        Kind::KmsFailure => &KMS_FAILURE,
        Kind::Lapsed => &LAPSED,
        Kind::Malformed(_) => &MALFORMED,
        Kind::MissingParameter(_) => &MISSING_PARAMETER,
        Kind::NonceUsed | Kind::StaleTimestamp if theirs => &STALE,
        Kind::NonceUsed | Kind::StaleTimestamp => &UNAUTHENTICATED,
        Kind::Overloaded => &OVERLOADED,
        Kind::Throttled(_) => &THROTTLED,
        Kind::TimedOut => &TIMED_OUT,
        Kind::TooLarge if matches!(fault.origin(), Origin::Caller) => &REQUEST_TOO_LARGE,
        Kind::TooLarge => &ANSWER_TOO_LARGE,
        Kind::UnknownAction | Kind::Unsupported if theirs => &KEY_UNSUITED,
        Kind::UnknownAction => &UNKNOWN_METHOD,
        Kind::Unreachable => &UNREACHABLE,
        Kind::Unsupported => &COMPRESSED,
    }
}

const ACCOUNT_REFUSED: Row = Row {
    code: Code::PermissionDenied,
    what: "the KMS refuses the whole account, so {key} cannot be used",
    remedy: "look at the account's bills, and at whether it has the service, for the upstream of {listener}",
};
const ALIAS_NOT_FOUND: Row = Row {
    code: Code::NotFound,
    what: "the KMS knows no {key}",
    remedy: "create the alias there, or correct `key` of {listener}",
};
const ANSWER_TOO_LARGE: Row = Row {
    code: Code::ResourceExhausted,
    what: "what {key} makes of the plaintext is longer than kube-apiserver takes",
    remedy: "use a key whose ciphertexts are shorter: 1,024 bytes at most for v2, 65,535 for v1",
};
const COMPRESSED: Row = Row {
    code: Code::Unimplemented,
    what: "the message is compressed",
    remedy: "send it as it is, with `grpc-encoding: identity` or none",
};
const CREDENTIALS: Row = Row {
    code: Code::Unavailable,
    what: "kmsproxy has no credentials that the KMS accepts, so {key} cannot be used",
    remedy: "look at the credentials of the upstream of {listener}; `kmsproxy status` says what is wrong with them",
};
const FORBIDDEN: Row = Row {
    code: Code::PermissionDenied,
    what: "kmsproxy does not allow {caller} at {listener} to do this with {key}",
    remedy: "if it should, write so under `allow` of its [[caller]]",
};
const FOREIGN: Row = Row {
    code: Code::NotFound,
    what: "the `key_id` was never one of {listener}, whose key is {key}",
    remedy: "what another provider or key wrote is read by that one: keep it in the EncryptionConfiguration, or allow \
             {caller} the key under its [[caller]]",
};
const GARBLED: Row = Row {
    code: Code::Unavailable,
    what: "what answered in place of the KMS does not speak like it, so {key} cannot be used",
    remedy: "look for a proxy or a portal on the way, and at the endpoint of the upstream of {listener}",
};
const INTERNAL: Row = Row {
    code: Code::Internal,
    what: "kmsproxy failed, through a defect of its own",
    remedy: "try again, and report what its log says",
};
const INVALID_CIPHERTEXT: Row = Row {
    code: Code::InvalidArgument,
    what: "the ciphertext is not one that {key} made for {caller}, or it has been altered",
    remedy: "what another key or provider wrote is read by that one: keep it in the EncryptionConfiguration",
};
const INVALID_PARAMETER: Row = Row {
    code: Code::InvalidArgument,
    what: "the field `{detail}` of the request has a value that cannot be",
    remedy: "see that nothing but kube-apiserver asks at {listener}, and nothing changed what lies in etcd",
};
const KEY_DISABLED: Row = Row {
    code: Code::FailedPrecondition,
    what: "{key} is disabled",
    remedy: "enable it at the KMS; nothing it unwrapped is served until then",
};
const KEY_NOT_FOUND: Row = Row {
    code: Code::NotFound,
    what: "{key} is not there",
    remedy: "correct `key` of {listener}, or the upstream's region; what a deleted key wrote is lost",
};
const KEY_PENDING_DELETION: Row = Row {
    code: Code::FailedPrecondition,
    what: "{key} waits to be deleted",
    remedy: "cancel the deletion at the KMS while that is possible; nothing it unwrapped is served until then",
};
const KEY_PENDING_IMPORT: Row = Row {
    code: Code::FailedPrecondition,
    what: "{key} has no material",
    remedy: "import it at the KMS; nothing the key unwrapped is served until then",
};
const KEY_UNAVAILABLE: Row = Row {
    code: Code::FailedPrecondition,
    what: "the KMS says that {key} cannot be used",
    remedy: "look at its state there; nothing it unwrapped is served until then",
};
const KEY_UNSUITED: Row = Row {
    code: Code::FailedPrecondition,
    what: "the KMS does not offer this for {key}",
    remedy: "use a symmetric key made to encrypt and decrypt, and look at the endpoint of the upstream of {listener}",
};
const KEY_VERSION_NOT_FOUND: Row = Row {
    code: Code::NotFound,
    what: "the version of {key} that made the ciphertext is not there",
    remedy: "look at the key's versions at the KMS; what a deleted version wrote is lost",
};
const KMS_FAILURE: Row = Row {
    code: Code::Unavailable,
    what: "the KMS is ill, so {key} cannot be used",
    remedy: "kube-apiserver asks again by itself; if it lasts, take it up with the KMS",
};
const LAPSED: Row = Row {
    code: Code::Unavailable,
    what: "the KMS has not confirmed of late that {key} may be used",
    remedy: "restore the way to the KMS of {listener}; nothing the key unwrapped is served until it answers",
};
const MALFORMED: Row = Row {
    code: Code::InvalidArgument,
    what: "the request cannot be read ({detail})",
    remedy: "see that nothing but kube-apiserver asks at {listener}",
};
const MISSING_PARAMETER: Row = Row {
    code: Code::InvalidArgument,
    what: "the field `{detail}` of the request is empty",
    remedy: "see that nothing but kube-apiserver asks at {listener}, and nothing changed what lies in etcd",
};
const NO_PERMISSION: Row = Row {
    code: Code::PermissionDenied,
    what: "the KMS does not allow kmsproxy to use {key}",
    remedy: "grant that to the identity of the upstream of {listener}",
};
const OTHER: Row = Row {
    code: Code::Internal,
    what: "the KMS refused for a reason that kmsproxy does not know, so {key} cannot be used",
    remedy: "look the code up in the reference of the KMS, and ask its support about the request",
};
const OVERLOADED: Row = Row {
    code: Code::ResourceExhausted,
    what: "kmsproxy has no room for another request of {caller} at {listener}",
    remedy: "kube-apiserver asks again by itself; if it lasts, raise the limits of the listener or of its upstream",
};
const REFUSED_PARAMETER: Row = Row {
    code: Code::InvalidArgument,
    what: "the KMS does not take the request for {key}",
    remedy: "look at `key` of {listener} and, for Encrypt, at how long a plaintext the KMS takes",
};
const REQUEST_TOO_LARGE: Row = Row {
    code: Code::ResourceExhausted,
    what: "the request is larger than any of this API",
    remedy: "see that nothing but kube-apiserver asks at {listener}",
};
const STALE: Row = Row {
    code: Code::Unavailable,
    what: "the KMS takes what kmsproxy signs for old, so {key} cannot be used",
    remedy: "set the clock of this machine",
};
const THROTTLED: Row = Row {
    code: Code::ResourceExhausted,
    what: "the KMS throttles, so {key} cannot be used just now",
    remedy: "kube-apiserver asks again by itself; if it lasts, have the quota of the account raised",
};
const TIMED_OUT: Row = Row {
    code: Code::DeadlineExceeded,
    what: "the KMS did not answer for {key} in time",
    remedy: "look at the way to the upstream of {listener}, and at `timeout` there and in the EncryptionConfiguration",
};
const UNAUTHENTICATED: Row = Row {
    code: Code::Unauthenticated,
    what: "nobody whom kmsproxy knows asks at {listener}",
    remedy: "give whoever runs kube-apiserver a [[caller]] for that listener, by its user id or with none",
};
const UNKNOWN_METHOD: Row = Row {
    code: Code::Unimplemented,
    what: "there is no such method at {listener}",
    remedy: "use /v2.KeyManagementService or /v1beta1.KeyManagementService, and see `api` of the listener",
};
const UNREACHABLE: Row = Row {
    code: Code::Unavailable,
    what: "the KMS cannot be reached, so {key} cannot be used",
    remedy: "look at DNS, routes and TLS towards the upstream of {listener}",
};
