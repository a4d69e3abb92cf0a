//! What our upstream sends, our face understands, and the other way round: the two are put against each other over a
//! real socket. Each must be the other's mirror, or a caller would see less of the KMS than the KMS said.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "mirror/given.rs"]
mod given;
#[path = "mirror/stage.rs"]
mod stage;
#[path = "mirror/ways.rs"]
mod ways;

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::Duration;

use kmsproxy::auth::Caller;
use kmsproxy::clock::Deadline;
use kmsproxy::engine::Respond;
use kmsproxy::fault::{Fault, Kind, Verbatim};
use kmsproxy::kms::{
    Action, Answer, Call, Ciphertext, Decrypt, Decrypted, Encrypt, Extra, KeyId, KeyName, KeyVersion, Reply, RequestId,
};
use kmsproxy::secret::Secret;
use kmsproxy::wire::aliyun::request;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use stage::{Recorder, Stage, any_fault};
use tokio::task::JoinSet;

#[test]
fn every_call_comes_out_as_it_went_in() {
    let stage = Stage::new(Recorder::default());
    let seen = RefCell::new(HashSet::new());
    for_each(given::call(), |call| {
        seen.borrow_mut().insert(call.action());
        let (heard, _) = stage.exchange(&call, Err(any_fault()));
        let forms = || heard.iter().map(form).collect::<Vec<_>>().join("\n");
        is(heard.iter().eq([&call]), || format!("sent: {}\nheard: {}", form(&call), forms()))
    });
    assert_eq!(*seen.borrow(), HashSet::from(Action::ALL));
    assert!(stage.brief() > 100, "past hyper: {}", stage.brief());
    assert!(stage.connections() <= KEPT_ALIVE, "{} connections", stage.connections());
}

#[test]
fn every_answer_comes_back_as_it_was_sent() {
    let stage = Stage::new(Recorder::default());
    for_each((given::call(), given::words()), |(call, words)| {
        let request_id = RequestId::new(&words.request_id);
        let sent = Answer { reply: words.reply_to(&call), request_id: request_id.clone() };
        let (_, back) = stage.exchange(&call, Ok(sent));
        let back = back.map(|answer| (answer.reply, answer.request_id));
        is(back == Ok((words.reply_to(&call), request_id)), || format!("call: {}\nback: {back:?}", form(&call)))
    });
    assert!(stage.connections() <= KEPT_ALIVE, "{} connections", stage.connections());
}

#[test]
fn what_the_kms_said_comes_back_word_for_word() {
    let stage = Stage::new(Recorder::default());
    let codes = prop::sample::select(KMS_CODES.to_vec());
    for_each((given::call(), given::verbatim(), codes, 400..600_u16), |(call, said, (code, kind), status)| {
        let said = Verbatim { status, code: code.to_owned(), ..said };
        let sent = Fault::said(kind, said);
        let back = stage.fault(&call, sent.clone());
        is(back == sent, || format!("sent: {sent:?}\nback: {back:?}"))
    });
    assert!(stage.connections() <= KEPT_ALIVE, "{} connections", stage.connections());
}

#[test]
fn a_code_that_the_table_does_not_know_comes_back_as_it_is_and_counts_by_its_status() {
    let stage = Stage::new(Recorder::default());
    let codes = "[A-Z][a-z]{1,8}Unheard(\\.[A-Z][a-z]{1,8})?";
    for_each((given::call(), given::verbatim(), codes, 400..600_u16), |(call, said, code, status)| {
        prop_assume!(status != 429);
        let kind = if status < 500 { Kind::Other } else { Kind::KmsFailure };
        let sent = Fault::said(kind, Verbatim { status, code, ..said });
        let back = stage.fault(&call, sent.clone());
        is(back == sent, || format!("sent: {sent:?}\nback: {back:?}"))
    });
}

#[test]
fn a_wrong_parameter_keeps_its_name_and_for_decrypt_a_wrong_blob_is_a_wrong_ciphertext() {
    let stage = Stage::new(Recorder::default());
    let invalid = |name: &str| Kind::InvalidParameter(name.into());
    for (code, name, at_decrypt, at_encrypt) in [
        ("InvalidParameter", "CiphertextBlob", Kind::InvalidCiphertext, invalid("CiphertextBlob")),
        ("InvalidParameter", "EncryptionContext", Kind::InvalidCiphertext, invalid("EncryptionContext")),
        ("InvalidParameter", "KeyId", invalid("KeyId"), invalid("KeyId")),
        ("InvalidParameter", "Unheard", Kind::InvalidCiphertext, invalid("")),
        ("ParseRequestParameterException", "DryRun", invalid("DryRun"), invalid("DryRun")),
        ("MissingParameter", "Plaintext", missing("Plaintext"), missing("Plaintext")),
    ] {
        for (call, kind) in [(decrypt(b"blob"), at_decrypt), (encrypt(), at_encrypt)] {
            let said = said(400, code, &format!("The specified parameter \"{name}\" is not what it should be."));
            let sent = Fault::said(kind, said);
            assert_eq!(stage.fault(&call, sent.clone()), sent);
        }
    }
}

#[test]
fn the_text_that_was_signed_stays_behind_and_a_mismatch_always_has_its_colon() {
    let stage = Stage::new(Recorder::default());
    for (message, expected) in [
        ("Mismatch. server string to sign is:GET&%2F&Plaintext", "Mismatch. server string to sign is:"),
        ("Mismatch", "Mismatch: by the KMS"),
        ("Mismatch: as it is", "Mismatch: as it is"),
    ] {
        let sent = Fault::said(Kind::Credentials, said(400, "SignatureDoesNotMatch", message));
        let expected = Fault::said(Kind::Credentials, said(400, "SignatureDoesNotMatch", expected));
        assert_eq!(stage.fault(&decrypt(b"blob"), sent), expected);
    }
}

#[test]
fn every_fault_of_ours_comes_back_as_the_table_says() {
    let mut stage = Stage::new(Recorder::default());
    for (at, kind) in kinds().into_iter().enumerate() {
        for call in [decrypt(b"blob"), encrypt()] {
            let sent = [Fault::caller, Fault::proxy, Fault::kms][at % 3](kind.clone());
            let back = stage.fault(&call, sent);
            let (status, code, kind) = table(&kind, call.action());
            let said = back.verbatim().expect("the face always speaks").clone();
            assert_eq!(uuid_shape(&said.request_id.text()), "8-4-4-4-12", "{said:?}");
            assert!(said.message.len() > 10, "{said:?}");
            let host_id = Some("kmsproxy".to_owned());
            let expected = Verbatim { status, code: code.to_owned(), host_id, recommend: None, ..said };
            assert_eq!(back, Fault::said(kind, expected));
            if status == 429 {
                // It would wait now.
                stage.begin_anew();
            }
        }
    }
}

#[test]
fn every_way_to_say_too_many_comes_back_as_throttling() {
    let mut stage = Stage::new(Recorder::default());
    for (status, code) in [
        (429, "Rejected.Throttling"),
        (400, "Throttling"),
        (400, "Throttling.User"),
        (503, "Throttling.Api"),
        (429, "Unheard"),
    ] {
        let sent = Fault::said(Kind::Throttled(None), said(status, code, "QPS Limit Exceeded"));
        assert_eq!(stage.fault(&decrypt(b"blob"), sent.clone()), sent);
        stage.begin_anew();
    }
}

/// Unwraps by turning round, after a while, so that answers overtake each other.
struct Turner;

impl Respond for Turner {
    async fn respond(&self, _: &Caller, call: Call, _: Deadline) -> Result<Answer, Fault> {
        let Call::Decrypt(call) = call else { unreachable!("only Decrypt is asked") };
        tokio::time::sleep(Duration::from_millis(u64::from(call.ciphertext.bytes()[0] % 5))).await;
        let request_id = RequestId::new(&format!("for {:?}", call.ciphertext.bytes()));
        Ok(Answer { reply: turned(call.ciphertext.bytes()), request_id })
    }
}

#[test]
fn among_many_at_once_each_gets_its_own_answer() {
    let stage = std::sync::Arc::new(Stage::new(Turner));
    stage.block_on(async {
        let mut calls = JoinSet::new();
        for number in 0..CASES {
            let stage = std::sync::Arc::clone(&stage);
            calls.spawn(async move {
                let blob = number.to_le_bytes();
                let answer = stage.ask(&decrypt(&blob)).await.unwrap();
                assert_eq!((answer.reply, &*answer.request_id.text()), (turned(&blob), &*format!("for {blob:?}")));
            });
        }
        while let Some(ended) = calls.join_next().await {
            ended.unwrap();
        }
    });
    assert!(stage.connections() <= KEPT_ALIVE, "{} connections", stage.connections());
}

fn turned(blob: &[u8]) -> Reply {
    let plaintext = Secret::new(blob.iter().rev().copied().collect());
    Reply::Decrypted(Decrypted { plaintext, key: KeyId::new("key-1"), version: KeyVersion::new("v1") })
}

/// Status and code that the face gives a fault of this kind, and the kind that the upstream takes them for.
fn table(kind: &Kind, action: Action) -> (u16, &'static str, Kind) {
    let invalid = |name: &str| match (action, name) {
        (Action::Decrypt, "CiphertextBlob") => Kind::InvalidCiphertext,
        _ => Kind::InvalidParameter(name.into()),
    };
    match kind {
        Kind::AliasNotFound => (404, "Forbidden.AliasNotFound", Kind::AliasNotFound),
        Kind::BadSignature(None) => (400, "IncompleteSignature", Kind::Credentials),
        Kind::BadSignature(Some(_)) => (400, "SignatureDoesNotMatch", Kind::Credentials),
        Kind::DryRun => (400, "DryRunOperationError", Kind::DryRun),
        Kind::AccountRefused | Kind::Forbidden | Kind::NoPermission => {
            (403, "Forbidden.NoPermission", Kind::NoPermission)
        }
        Kind::InvalidCiphertext => (400, "InvalidParameter", invalid("CiphertextBlob")),
        Kind::InvalidParameter(name) => (400, "InvalidParameter", invalid(name)),
        Kind::KeyDisabled => (409, "Rejected.Disabled", Kind::KeyDisabled),
        Kind::KeyNotFound => (404, "Forbidden.KeyNotFound", Kind::KeyNotFound),
        Kind::KeyPendingDeletion => (409, "Rejected.PendingDeletion", Kind::KeyPendingDeletion),
        Kind::KeyPendingImport => (409, "Rejected.PendingImport", Kind::KeyPendingImport),
        Kind::KeyVersionNotFound => (404, "Forbidden.KeyVersionNotFound", Kind::KeyVersionNotFound),
        Kind::Malformed(_) => (400, "ParseRequestParameterException", unnamed(action)),
        Kind::MissingParameter(name) => (400, "MissingParameter", missing(name)),
        Kind::NonceUsed => (400, "SignatureNonceUsed", Kind::NonceUsed),
        Kind::Overloaded | Kind::Throttled(_) => (429, "Rejected.Throttling", Kind::Throttled(None)),
        Kind::StaleTimestamp => (400, "InvalidTimeStamp.Expired", Kind::StaleTimestamp),
        Kind::TooLarge => (413, "RequestTooLarge", Kind::Other),
        Kind::Unauthenticated => (400, "MissingParameter", missing("")),
        Kind::UnknownAccessKey => (404, "InvalidAccessKeyId.NotFound", Kind::Credentials),
        Kind::UnknownAction => (404, "InvalidApi.NotFound", Kind::UnknownAction),
        Kind::Unsupported => (400, "UnsupportedOperation", Kind::Unsupported),
        Kind::Credentials
        | Kind::Garbled
        | Kind::Internal
        | Kind::KeyUnavailable
        | Kind::KmsFailure
        | Kind::Lapsed
        | Kind::Other
        | Kind::TimedOut
        | Kind::Unaudited
        | Kind::Unreachable => (409, "Rejected.Unavailable", Kind::KeyUnavailable),
    }
}

/// What a wrong request without a parameter's name in its message is taken for.
fn unnamed(action: Action) -> Kind {
    if action == Action::Decrypt { Kind::InvalidCiphertext } else { Kind::InvalidParameter("".into()) }
}

fn kinds() -> Vec<Kind> {
    vec![
        Kind::AccountRefused,
        Kind::AliasNotFound,
        Kind::BadSignature(None),
        Kind::BadSignature(Some("POST&%2F&what we signed".to_owned())),
        Kind::Credentials,
        Kind::DryRun,
        Kind::Forbidden,
        Kind::Garbled,
        Kind::Internal,
        Kind::InvalidCiphertext,
        Kind::InvalidParameter("CiphertextBlob".into()),
        Kind::InvalidParameter("KeySpec".into()),
        Kind::KeyDisabled,
        Kind::KeyNotFound,
        Kind::KeyPendingDeletion,
        Kind::KeyPendingImport,
        Kind::KeyUnavailable,
        Kind::KeyVersionNotFound,
        Kind::KmsFailure,
        Kind::Lapsed,
        Kind::Malformed("of a sentence"),
        Kind::MissingParameter("KeyId".into()),
        Kind::NoPermission,
        Kind::NonceUsed,
        Kind::Other,
        Kind::Overloaded,
        Kind::StaleTimestamp,
        Kind::Throttled(None),
        Kind::Throttled(Some(Duration::from_secs(300))),
        Kind::TimedOut,
        Kind::TooLarge,
        Kind::Unauthenticated,
        Kind::UnknownAccessKey,
        Kind::UnknownAction,
        Kind::Unaudited,
        Kind::Unreachable,
        Kind::Unsupported,
    ]
}

fn decrypt(blob: &[u8]) -> Call {
    let ciphertext = Ciphertext::new(blob.to_vec());
    Call::Decrypt(Decrypt { ciphertext, key: None, context: None, dry_run: false, extra: Extra::default() })
}

fn encrypt() -> Call {
    let (key, plaintext) = (KeyName::new("key-1"), Secret::copied(b"dek"));
    Call::Encrypt(Encrypt { key, plaintext, context: None, dry_run: false, extra: Extra::default() })
}

fn said(status: u16, code: &str, message: &str) -> Verbatim {
    let (request_id, message) = (RequestId::new("R"), message.to_owned());
    Verbatim { status, code: code.to_owned(), message, request_id, host_id: None, recommend: None }
}

fn missing(name: &str) -> Kind {
    Kind::MissingParameter(name.into())
}

/// The lengths of the hexadecimal, upper-case pieces between the hyphens; something else where they are not.
fn uuid_shape(text: &str) -> String {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    let length = |piece: &str| if piece.bytes().all(is_digit) { piece.len().to_string() } else { "?".to_owned() };
    text.split('-').map(length).collect::<Vec<_>>().join("-")
}

/// The call as its form body, for messages: `Debug` hides what is confidential.
fn form(call: &Call) -> String {
    format!("{} {}", call.action().name(), String::from_utf8_lossy(request::encode(call).expose()))
}

fn for_each<S: Strategy>(given: S, check: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&given, check).unwrap_or_else(|failure| panic!("{failure}"));
}

fn is(so: bool, else_say: impl FnOnce() -> String) -> Result<(), TestCaseError> {
    if so { Ok(()) } else { Err(TestCaseError::fail(else_say())) }
}

const CASES: u32 = 1000;
/// Connections for so many calls, of which 32 are under way at most. A call may find the connection of the one before
/// not yet back in the pool; few do.
const KEPT_ALIVE: usize = 100;
/// Every code of the KMS that means one thing whatever its message and its status are.
const KMS_CODES: [(&str, Kind); 39] = [
    ("Rejected.Disabled", Kind::KeyDisabled),
    ("Rejected.PendingDeletion", Kind::KeyPendingDeletion),
    ("Rejected.PendingImport", Kind::KeyPendingImport),
    ("Rejected.Unavailable", Kind::KeyUnavailable),
    ("Forbidden.KeyNotFound", Kind::KeyNotFound),
    ("Forbidden.KeyVersionNotFound", Kind::KeyVersionNotFound),
    ("Forbidden.AliasNotFound", Kind::AliasNotFound),
    ("Forbidden.NoPermission", Kind::NoPermission),
    ("Forbidden.InDebt", Kind::AccountRefused),
    ("Forbidden.InDebtOverdue", Kind::AccountRefused),
    ("Forbidden.KmsServiceNotEnabled", Kind::AccountRefused),
    ("Forbidden.ProhibitedByRiskControl", Kind::AccountRefused),
    ("InvalidAccessKeyId.NotFound", Kind::Credentials),
    ("InvalidAccessKeyId.Inactive", Kind::Credentials),
    ("Forbidden.AccessKey", Kind::Credentials),
    ("InvalidSecurityToken.Expired", Kind::Credentials),
    ("InvalidSecurityToken.Malformed", Kind::Credentials),
    ("InvalidSecurityToken.MismatchWithAccessKey", Kind::Credentials),
    ("MissingSecurityToken", Kind::Credentials),
    ("IncompleteSignature", Kind::Credentials),
    ("InvalidTimeStamp.Expired", Kind::StaleTimestamp),
    ("InvalidTimeStamp.Format", Kind::StaleTimestamp),
    ("IllegalTimestamp", Kind::StaleTimestamp),
    ("SignatureNonceUsed", Kind::NonceUsed),
    ("InvalidApi.NotFound", Kind::UnknownAction),
    ("UnsupportedOperation", Kind::Unsupported),
    ("Rejected.UnsupportedOperation", Kind::Unsupported),
    ("DryRunOperationError", Kind::DryRun),
    ("ValidationError", Kind::DryRun),
    ("AccessDeniedError", Kind::DryRun),
    ("InternalFailure", Kind::KmsFailure),
    ("ServiceUnavailableTemporary", Kind::KmsFailure),
    ("SerivceUnvailableTemporary", Kind::KmsFailure),
    ("SerivceUnavailableTemporary", Kind::KmsFailure),
    ("Rejected.StateModifiedFailed", Kind::Other),
    ("InvalidProtocol.NeedSsl", Kind::Other),
    ("Rejected.LimitExceeded", Kind::Other),
    ("Rejected.ResourceExist", Kind::Other),
    ("AliasAlreadyExists", Kind::Other),
];
