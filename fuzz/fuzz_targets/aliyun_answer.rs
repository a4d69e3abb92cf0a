//! Answers of the KMS: garbage is neither consent nor refusal. A plaintext comes only out of a whole document in a 200;
//! a lease is only touched by a whole error document in a 4xx or 5xx, and only as its exact code says.
#![no_main]

use std::fmt;

use http::{HeaderMap, HeaderValue, StatusCode};
use kmsproxy::fault::Evidence;
use kmsproxy::fault::{Fault, Kind};
use kmsproxy::kms::{Action, Answer, Reply};
use kmsproxy::wire::aliyun::{answer, refusal};
use kmsproxy_fuzz::reference;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

fuzz_target!(|input: &[u8]| {
    let Some(([action, status, retry], body)) = input.split_first_chunk() else { return };
    let action = Action::ALL[usize::from(*action) % Action::ALL.len()];
    let status = STATUSES[usize::from(*status) % STATUSES.len()];
    let status = StatusCode::from_u16(status).expect("each is one");
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(&body[..body.len().min(usize::from(*retry >> 1))]) {
        headers.insert(if retry & 1 == 0 { "retry-after" } else { "x-acs-retry-after" }, value);
    }
    match answer::decode(action, status, &headers, body) {
        Ok(answer) => consent(action, status, body, &answer),
        Err(fault) => refused(action, status, body, &fault),
    }
});

/// A success says what the document says, all of it.
fn consent(action: Action, status: StatusCode, body: &[u8], answer: &Answer) {
    assert_eq!(status, StatusCode::OK);
    let members = Members::of(body).expect("an object");
    let text = |name: &str| members.text(name).unwrap_or_else(|| panic!("{name}, once, and a text"));
    let blob = |name: &str| {
        let bytes = reference::base64(text(name).as_bytes()).expect("base64");
        assert!(!bytes.is_empty(), "{name} is empty");
        bytes
    };
    assert_eq!(*answer.request_id.text(), text("RequestId"));
    assert!(!answer.request_id.text().is_empty());
    let named = |key: &str, version: &str| {
        assert_eq!((key, version), (&*text("KeyId"), &*text("KeyVersionId")));
        assert!(!key.is_empty());
    };
    match (&answer.reply, action) {
        (Reply::Decrypted(reply), Action::Decrypt) => {
            named(reply.key.as_str(), reply.version.as_str());
            assert_eq!(reply.plaintext.expose(), blob("Plaintext"));
        }
        (Reply::Encrypted(reply), Action::Encrypt) => {
            named(reply.key.as_str(), reply.version.as_str());
            assert_eq!(reply.ciphertext.bytes(), blob("CiphertextBlob"));
        }
        (Reply::DataKey(reply), Action::GenerateDataKey | Action::GenerateDataKeyWithoutPlaintext) => {
            named(reply.key.as_str(), reply.version.as_str());
            assert_eq!(reply.ciphertext.bytes(), blob("CiphertextBlob"));
            let plaintext = (action == Action::GenerateDataKey).then(|| blob("Plaintext"));
            assert_eq!(reply.plaintext.as_ref().map(|plaintext| plaintext.expose()), plaintext.as_deref());
        }
        (Reply::Document(reply), _) => {
            let whole: Value = serde_json::from_slice(body).expect("JSON");
            for (name, value) in &reply.members {
                assert_eq!(whole.get(name), Some(value));
            }
            assert_eq!(reply.described.is_some(), action == Action::DescribeKey);
            if let Some((key, state)) = &reply.described {
                let metadata = members.once("KeyMetadata").and_then(|text| Members::of(text.as_bytes()));
                let metadata = metadata.expect("an object, once");
                assert_eq!(metadata.text("KeyId").as_deref(), Some(key.as_str()));
                let said = metadata.text("KeyState").expect("a state, once, and a text");
                let known = ["Enabled", "Disabled", "PendingDeletion", "PendingImport"].contains(&&*said);
                assert_eq!(format!("{state:?}"), if known { &*said } else { "Unavailable" });
            }
        }
        (reply, _) => panic!("to {action:?} this is no answer: {reply:?}"),
    }
    let again = answer::decode(action, StatusCode::OK, &HeaderMap::new(), answer::encode(answer).expose());
    let again = again.expect("what we write is in the schema");
    assert_eq!((&again.reply, &again.request_id), (&answer.reply, &answer.request_id));
}

/// A fault weighs what its exact code weighs, and nothing where it is not a whole error document.
fn refused(action: Action, status: StatusCode, body: &[u8], fault: &Fault) {
    let evidence = Evidence::of(fault);
    let error = status.is_client_error() || status.is_server_error();
    let said = Members::of(body).and_then(|members| {
        let whole = ["HostId", "Recommend"].iter().all(|name| members.optional(name));
        let said = (members.text("Code")?, members.text("Message")?, members.text("RequestId")?);
        (error && whole && !said.0.is_empty() && !said.2.is_empty()).then_some(said)
    });
    let Some((code, message, request_id)) = said else {
        assert_eq!((fault.kind(), evidence), (&Kind::Garbled, Evidence::Silence));
        assert_eq!(fault.verbatim(), None);
        return;
    };
    assert_eq!(evidence, weight(&code, status, fault.kind()), "{code} {status}");
    let words = fault.verbatim().expect("it carries its words");
    assert_eq!((&*words.code, &*words.request_id.text(), words.status), (&*code, &*request_id, status.as_u16()));
    assert!(message.starts_with(&*words.message));
    let (again, body) = refusal::encode(fault, &words.request_id);
    assert_eq!(again, status);
    let again = refusal::decode(action, status, &HeaderMap::new(), &body);
    assert_eq!(Evidence::of(&again), evidence);
}

/// "Common error codes" and the error tables of each API in the KMS reference, read for what they say of a lease.
fn weight(code: &str, status: StatusCode, kind: &Kind) -> Evidence {
    match code {
        "Rejected.Disabled"
        | "Rejected.PendingDeletion"
        | "Rejected.PendingImport"
        | "Rejected.Unavailable"
        | "Forbidden.KeyNotFound" => Evidence::KeyRefused,
        "Forbidden.NoPermission" => Evidence::IdentityRefused,
        "Forbidden.InDebt"
        | "Forbidden.InDebtOverdue"
        | "Forbidden.KmsServiceNotEnabled"
        | "Forbidden.ProhibitedByRiskControl" => Evidence::AccountRefused,
        "InvalidAccessKeyId.NotFound"
        | "InvalidAccessKeyId.Inactive"
        | "Forbidden.AccessKey"
        | "InvalidSecurityToken.Expired"
        | "InvalidSecurityToken.Malformed"
        | "InvalidSecurityToken.MismatchWithAccessKey"
        | "MissingSecurityToken"
        | "IncompleteSignature"
        | "SignatureDoesNotMatch" => Evidence::IdentityDoubted,
        // Of the ciphertext or its context, which the message tells, it says nothing of the key.
        "InvalidParameter" | "ParseRequestParameterException" if *kind == Kind::InvalidCiphertext => Evidence::Nothing,
        "InvalidTimeStamp.Expired"
        | "InvalidTimeStamp.Format"
        | "IllegalTimestamp"
        | "SignatureNonceUsed"
        | "Rejected.Throttling"
        | "Throttling"
        | "InternalFailure"
        | "ServiceUnavailableTemporary"
        | "SerivceUnvailableTemporary"
        | "SerivceUnavailableTemporary" => Evidence::Silence,
        "InvalidParameter"
        | "ParseRequestParameterException"
        | "MissingParameter"
        | "Forbidden.AliasNotFound"
        | "InvalidApi.NotFound"
        | "Forbidden.KeyVersionNotFound"
        | "UnsupportedOperation"
        | "Rejected.UnsupportedOperation"
        | "DryRunOperationError"
        | "ValidationError"
        | "AccessDeniedError"
        | "Rejected.StateModifiedFailed"
        | "InvalidProtocol.NeedSsl"
        | "Rejected.LimitExceeded"
        | "Rejected.ResourceExist"
        | "AliasAlreadyExists" => Evidence::ScopeDoubted,
        _ if code.starts_with("Throttling.") || status.as_u16() == 429 || status.is_server_error() => Evidence::Silence,
        _ => Evidence::ScopeDoubted,
    }
}

/// The members of an object as they came, doubles and all.
struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    fn of(body: &[u8]) -> Option<Self> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        let mut reader = serde_json::Deserializer::from_slice(body);
        let members = serde::Deserializer::deserialize_map(&mut reader, Visitor).ok()?;
        reader.end().ok()?;
        Some(members)
    }

    /// The value of a member that is there once.
    fn once(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(known, _)| known == name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value.get())
    }

    /// As [`Members::once`], of a text.
    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.once(name)?).ok()
    }

    /// Whether a member is a text, null, or not there; and not there twice.
    fn optional(&self, name: &str) -> bool {
        self.0.iter().all(|(known, _)| known != name) || self.once(name) == Some("null") || self.text(name).is_some()
    }
}

const STATUSES: [u16; 16] = [200, 200, 200, 400, 403, 404, 409, 429, 500, 503, 302, 204, 201, 100, 418, 304];
