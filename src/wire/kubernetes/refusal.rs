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
//! | 7 `PermissionDenied` | `[[caller]]` does not allow it, or the KMS denies it to kmsproxy or to the whole account |
//! | 8 `ResourceExhausted` | kmsproxy has no room, the KMS throttles, or a message is too large |
//! | 9 `FailedPrecondition` | the key is disabled, waits for deletion or import, or cannot do this at all |
//! | 12 `Unimplemented` | no such method, or the message is compressed |
//! | 13 `Internal` | a defect of kmsproxy, or a refusal by the KMS that no table knows |
//! | 14 `Unavailable` | the KMS is silent or ill, or cannot be asked: its address, our credentials, our clock |
//! | 16 `Unauthenticated` | no `[[caller]]` fits who asks |

mod row;

use std::fmt::Write;

use http::HeaderValue;

use self::row::row;
use crate::fault::{Fault, Kind};

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
            let id = said.request_id.text();
            let (code, request_id) = (cut(&said.code), cut(&id));
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

    /// The name, as the gRPC specification spells it.
    #[must_use]
    pub const fn constant(self) -> &'static str {
        match self {
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Internal => "INTERNAL",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::NotFound => "NOT_FOUND",
            Self::Ok => "OK",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unimplemented => "UNIMPLEMENTED",
        }
    }

    /// Whether OpenTelemetry counts it as a failure of the server, and not of whoever asked.
    #[must_use]
    pub const fn is_of_the_server(self) -> bool {
        match self {
            Self::DeadlineExceeded | Self::Internal | Self::Unavailable | Self::Unimplemented => true,
            Self::FailedPrecondition
            | Self::InvalidArgument
            | Self::NotFound
            | Self::Ok
            | Self::PermissionDenied
            | Self::ResourceExhausted
            | Self::Unauthenticated => false,
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
        Kind::AccountRefused
        | Kind::AliasNotFound
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
        | Kind::Unaudited
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

/// More than our longest text with three names in it.
const MESSAGE_BYTES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fault::Verbatim;
    use crate::kms::RequestId;

    const SUBJECT: Subject<'_> = Subject { listener: "kube", caller: Some("apiserver"), key: Some("alias/k8s") };

    /// Every kind, with the code it gets where it is the caller's or ours, and where it is the KMS's.
    fn table() -> Vec<(Kind, Code, Code)> {
        use Code::*;
        let name = || "plaintext".into();
        vec![
            (Kind::AccountRefused, PermissionDenied, PermissionDenied),
            (Kind::AliasNotFound, NotFound, NotFound),
            (Kind::BadSignature(Some("GET&%2F&".to_owned())), Unauthenticated, Unavailable),
            (Kind::Credentials, Unavailable, Unavailable),
            (Kind::DryRun, Internal, Internal),
            (Kind::Forbidden, PermissionDenied, PermissionDenied),
            (Kind::Garbled, Unavailable, Unavailable),
            (Kind::Internal, Internal, Internal),
            (Kind::InvalidCiphertext, InvalidArgument, InvalidArgument),
            (Kind::InvalidParameter(name()), InvalidArgument, InvalidArgument),
            (Kind::KeyDisabled, FailedPrecondition, FailedPrecondition),
            (Kind::KeyNotFound, NotFound, NotFound),
            (Kind::KeyPendingDeletion, FailedPrecondition, FailedPrecondition),
            (Kind::KeyPendingImport, FailedPrecondition, FailedPrecondition),
            (Kind::KeyUnavailable, FailedPrecondition, FailedPrecondition),
            (Kind::KeyVersionNotFound, NotFound, NotFound),
            (Kind::KmsFailure, Unavailable, Unavailable),
            (Kind::Lapsed, Unavailable, Unavailable),
            (Kind::Malformed("why"), InvalidArgument, InvalidArgument),
            (Kind::MissingParameter(name()), InvalidArgument, InvalidArgument),
            (Kind::NoPermission, PermissionDenied, PermissionDenied),
            (Kind::NonceUsed, Unauthenticated, Unavailable),
            (Kind::Other, Internal, Internal),
            (Kind::Overloaded, ResourceExhausted, ResourceExhausted),
            (Kind::StaleTimestamp, Unauthenticated, Unavailable),
            (Kind::Throttled(None), ResourceExhausted, ResourceExhausted),
            (Kind::TimedOut, DeadlineExceeded, DeadlineExceeded),
            (Kind::TooLarge, ResourceExhausted, ResourceExhausted),
            (Kind::Unauthenticated, Unauthenticated, Unavailable),
            (Kind::UnknownAccessKey, Unauthenticated, Unavailable),
            (Kind::UnknownAction, Unimplemented, FailedPrecondition),
            (Kind::Unaudited, Unavailable, Unavailable),
            (Kind::Unreachable, Unavailable, Unavailable),
            (Kind::Unsupported, Unimplemented, FailedPrecondition),
        ]
    }

    fn said(kind: Kind, code: &str) -> Fault {
        let (message, request_id) = ("hunter2".to_owned(), RequestId::new("1234"));
        let (code, host_id, recommend) = (code.to_owned(), Some("hunter2".to_owned()), Some("hunter2".to_owned()));
        Fault::said(kind, Verbatim { status: 409, code, message, request_id, host_id, recommend })
    }

    #[test]
    fn every_kind_has_its_code_by_whose_fault_it_is() {
        for (kind, ours, theirs) in table() {
            let code = |fault: Fault| Refusal::of(&fault, &SUBJECT).code;
            let codes = [Fault::caller(kind.clone()), Fault::proxy(kind.clone()), Fault::kms(kind.clone())].map(code);
            assert_eq!(codes, [ours, ours, theirs], "{kind:?}");
        }
    }

    #[test]
    fn a_message_names_the_key_what_the_kms_said_and_the_remedy() {
        let shown = |fault: &Fault, subject: &Subject<'_>| Refusal::of(fault, subject).message;
        assert_eq!(
            shown(&said(Kind::KeyDisabled, "Rejected.Disabled"), &SUBJECT),
            "key alias/k8s is disabled (the KMS: Rejected.Disabled, request 1234): enable it at the KMS; nothing it \
             unwrapped is served until then"
        );
        assert_eq!(
            shown(&Fault::proxy(Kind::Forbidden), &SUBJECT),
            "kmsproxy does not allow caller apiserver at listener kube to do this with key alias/k8s: if it should, \
             write so under `allow` of its [[caller]]"
        );
        assert_eq!(
            shown(&Fault::proxy(Kind::Overloaded), &Subject { caller: None, key: None, ..SUBJECT }),
            "kmsproxy has no room for another request of the caller at listener kube: kube-apiserver asks again by \
             itself; if it lasts, raise the limits of the listener or of its upstream"
        );
        assert_eq!(
            shown(&Fault::caller(Kind::MissingParameter("cipher".into())), &SUBJECT),
            "the field `cipher` of the request is empty: see that nothing but kube-apiserver asks at listener kube, \
             and nothing changed what lies in etcd"
        );
    }

    #[test]
    fn no_message_quotes_the_kms_or_leaves_a_gap_or_is_cut() {
        let long = "n".repeat(999);
        let longest = Subject { listener: &long, caller: Some(&long), key: Some(&long) };
        for (kind, _, _) in table() {
            for fault in [Fault::caller(kind.clone()), Fault::proxy(kind.clone()), said(kind.clone(), &long)] {
                for subject in [SUBJECT, longest] {
                    let message = Refusal::of(&fault, &subject).message;
                    assert!(!message.contains(['{', '}']) && !message.contains("``"), "{message}");
                    assert!(!message.contains("hunter2") && !message.contains("GET&"), "{message}");
                    assert_eq!(grpc_message(&message).len(), message.len(), "{message}");
                }
            }
        }
    }

    #[test]
    fn what_the_kms_calls_a_parameter_is_not_said_for_it_stood_in_its_message() {
        for kind in [Kind::InvalidParameter("hunter2".into()), Kind::MissingParameter("hunter2".into())] {
            let message = Refusal::of(&Fault::kms(kind), &SUBJECT).message;
            assert!(!message.contains("hunter2") && message.contains("key alias/k8s"), "{message}");
        }
    }

    #[test]
    fn the_table_of_the_documentation_has_every_code_that_is_answered() {
        let documented: Vec<_> = include_str!("refusal.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | ")?.split(" |").next()?.split_once(' '))
            .collect();
        let mut codes = Code::ALL.map(|code| (code.number(), format!("`{}`", code.name()))).to_vec();
        codes.retain(|(number, _)| *number != "0");
        codes.sort_by_key(|(number, _)| number.parse::<u8>().unwrap());
        assert_eq!(documented, codes.iter().map(|(number, name)| (*number, name.as_str())).collect::<Vec<_>>());
        let answered = |code| table().iter().any(|&(_, ours, theirs)| ours == code || theirs == code);
        assert!(Code::ALL.into_iter().all(|code| answered(code) != (code == Code::Ok)));
    }

    #[test]
    fn a_long_grpc_message_is_cut_between_characters() {
        assert_eq!(grpc_message(&"a".repeat(1025)), "a".repeat(1024));
        assert_eq!(grpc_message(&"默".repeat(999)), "%E9%BB%98".repeat(113));
        assert_eq!(grpc_message(&"默".repeat(999)).len(), 1017);
    }

    proptest! {
        #[test]
        fn a_grpc_message_is_decoded_to_the_beginning_of_what_it_was(message in ".{0,500}") {
            let encoded = grpc_message(&message);
            prop_assert!(encoded.len() <= 1024);
            let decoded = percent_encoding::percent_decode(encoded.as_bytes()).decode_utf8().unwrap();
            prop_assert!(message.starts_with(&*decoded));
            prop_assert!(decoded == message || encoded.len() > 1024 - 12);
        }
    }
}
