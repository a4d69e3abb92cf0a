//! Refusals: one table from our kinds to gRPC's codes, with what went wrong and what to do about it.
//!
//! kube-apiserver logs the message and labels its metric with the code's name; it never tries again by code. So a code
//! is chosen for who reads it: whose turn it is to act.
//!
//! | code | when |
//! |---|---|
//! | 3 `InvalidArgument` | the request cannot be read, breaks a limit or lacks a field; the ciphertext is not the key's; annotations are lost or altered |
//! | 4 `DeadlineExceeded` | the KMS did not answer within the caller's deadline |
//! | 5 `NotFound` | the `key_id` was never ours; the key, its version or its alias is not there |
//! | 7 `PermissionDenied` | `[[caller]]` does not allow it, or the KMS denies it to kmsproxy |
//! | 8 `ResourceExhausted` | kmsproxy has no room, the KMS throttles, or a message is too large |
//! | 9 `FailedPrecondition` | the key is disabled, waits for deletion or import, or cannot do this at all |
//! | 12 `Unimplemented` | no such method, or the message is compressed |
//! | 13 `Internal` | a defect of kmsproxy, or a refusal by the KMS that no table knows |
//! | 14 `Unavailable` | the KMS is silent or ill, or cannot be asked: its address, our credentials, our clock |
//! | 16 `Unauthenticated` | no `[[caller]]` fits who asks |

use std::fmt::Write;

use http::HeaderValue;

use crate::fault::{Fault, Kind, Origin};

/// Whom and what a refusal is about, by the names of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'n> {
    /// The listener.
    pub listener: &'n str,
    /// The caller, where it is known.
    pub caller: Option<&'n str>,
    /// The key, where it is known.
    pub key: Option<&'n str>,
}

/// What a refused call ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `grpc-status`.
    pub code: Code,
    /// `grpc-message`, not encoded yet: see [`grpc_message`].
    pub message: String,
}

impl Refusal {
    /// The code and the words for `fault`. The words name the subject and the remedy; of what the KMS said only its code
    /// and request id, for its message may quote the request.
    #[must_use]
    pub fn of(fault: &Fault, subject: &Subject<'_>) -> Self {
        let row = row(fault);
        let mut message = String::new();
        fill(row.what, fault, subject, &mut message);
        if let Some(said) = fault.verbatim() {
            let (code, request_id) = (cut(&said.code), cut(said.request_id.as_str()));
            write!(message, " (the KMS: {code}, request {request_id})").expect("a string takes everything");
        }
        message.push_str(": ");
        fill(row.remedy, fault, subject, &mut message);
        Self { code: row.code, message }
    }
}

/// gRPC's codes, as far as they are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// 4.
    DeadlineExceeded,
    /// 9.
    FailedPrecondition,
    /// 13.
    Internal,
    /// 3.
    InvalidArgument,
    /// 5.
    NotFound,
    /// 0.
    Ok,
    /// 7.
    PermissionDenied,
    /// 8.
    ResourceExhausted,
    /// 16.
    Unauthenticated,
    /// 14.
    Unavailable,
    /// 12.
    Unimplemented,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 11] = [
        Self::DeadlineExceeded,
        Self::FailedPrecondition,
        Self::Internal,
        Self::InvalidArgument,
        Self::NotFound,
        Self::Ok,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::Unauthenticated,
        Self::Unavailable,
        Self::Unimplemented,
    ];

    /// The number, in decimal, as `grpc-status` has it.
    #[must_use]
    pub const fn number(self) -> &'static str {
        match self {
            Self::DeadlineExceeded => "4",
            Self::FailedPrecondition => "9",
            Self::Internal => "13",
            Self::InvalidArgument => "3",
            Self::NotFound => "5",
            Self::Ok => "0",
            Self::PermissionDenied => "7",
            Self::ResourceExhausted => "8",
            Self::Unauthenticated => "16",
            Self::Unavailable => "14",
            Self::Unimplemented => "12",
        }
    }

    /// The name, as grpc-go and kube-apiserver's metrics spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::FailedPrecondition => "FailedPrecondition",
            Self::Internal => "Internal",
            Self::InvalidArgument => "InvalidArgument",
            Self::NotFound => "NotFound",
            Self::Ok => "OK",
            Self::PermissionDenied => "PermissionDenied",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::Unauthenticated => "Unauthenticated",
            Self::Unavailable => "Unavailable",
            Self::Unimplemented => "Unimplemented",
        }
    }

    /// The value of `grpc-status`.
    #[must_use]
    pub const fn status(self) -> HeaderValue {
        HeaderValue::from_static(self.number())
    }
}

/// The value of `grpc-message`: `message` percent-encoded as gRPC has it, and cut between characters so that it is no
/// longer than 1 KiB. Source: "gRPC over HTTP2", `Status-Message`.
#[must_use]
pub fn grpc_message(message: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(message.len().min(MESSAGE_BYTES_MAX));
    for c in message.chars() {
        let whole = encoded.len();
        for &byte in c.encode_utf8(&mut [0; 4]).as_bytes() {
            match byte {
                b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
                _ => write!(encoded, "%{byte:02X}").expect("a string takes everything"),
            }
        }
        if encoded.len() > MESSAGE_BYTES_MAX {
            encoded.truncate(whole);
            break;
        }
    }
    HeaderValue::try_from(encoded).expect("what is left is printable ASCII")
}

/// What one kind of fault is called here. In the texts, `{key}`, `{caller}` and `{listener}` stand for the subject,
/// `{detail}` for what the kind carries.
struct Row {
    code: Code,
    what: &'static str,
    remedy: &'static str,
}

/// The table. Where the KMS finds fault with what kmsproxy itself sends, it is not for the caller to mend.
const fn row(fault: &Fault) -> &'static Row {
    let theirs = matches!(fault.origin(), Origin::Kms);
    match fault.kind() {
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
        Kind::KeyNotFound => &KEY_NOT_FOUND,
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

fn fill(text: &str, fault: &Fault, subject: &Subject<'_>, message: &mut String) {
    let mut rest = text;
    while let Some((before, (name, after))) =
        rest.split_once('{').and_then(|(before, place)| Some((before, place.split_once('}')?)))
    {
        message.push_str(before);
        match name {
            "caller" => named("caller", "the caller", subject.caller, message),
            "detail" => message.push_str(detail(fault.kind())),
            "key" => named("key", "the key", subject.key, message),
            _ => named("listener", "the listener", Some(subject.listener), message),
        }
        rest = after;
    }
    message.push_str(rest);
}

fn named(what: &str, unknown: &str, name: Option<&str>, message: &mut String) {
    match name {
        Some(name) => write!(message, "{what} {}", cut(name)).expect("a string takes everything"),
        None => message.push_str(unknown),
    }
}

/// What a kind carries that may be said to anyone.
fn detail(kind: &Kind) -> &str {
    match kind {
        Kind::InvalidParameter(name) | Kind::MissingParameter(name) => cut(name),
        Kind::Malformed(why) => why,
        Kind::AliasNotFound
        | Kind::BadSignature(_)
        | Kind::Credentials
        | Kind::DryRun
        | Kind::Forbidden
        | Kind::Garbled
        | Kind::Internal
        | Kind::InvalidCiphertext
        | Kind::KeyDisabled
        | Kind::KeyNotFound
        | Kind::KeyPendingDeletion
        | Kind::KeyPendingImport
        | Kind::KeyUnavailable
        | Kind::KeyVersionNotFound
        | Kind::KmsFailure
        | Kind::Lapsed
        | Kind::NoPermission
        | Kind::NonceUsed
        | Kind::Other
        | Kind::Overloaded
        | Kind::StaleTimestamp
        | Kind::Throttled(_)
        | Kind::TimedOut
        | Kind::TooLarge
        | Kind::Unauthenticated
        | Kind::UnknownAccessKey
        | Kind::UnknownAction
        | Kind::Unreachable
        | Kind::Unsupported => "",
    }
}

fn cut(name: &str) -> &str {
    (0..=NAME_BYTES_MAX).rev().find_map(|end| name.get(..end)).unwrap_or("")
}

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
    remedy: "grant that to the identity of the upstream of {listener}, and look at the account's bills and services",
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

/// More than our longest text with three names in it.
const MESSAGE_BYTES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 128;
