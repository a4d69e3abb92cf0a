//! Refusals: two tables, from our kinds to the words of the KMS and back. Sources: "Common error codes" and the error
//! tables of each API in the KMS reference; what clients do with them was seen by running them.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, RETRY_AFTER};
use serde::{Deserialize, Serialize};

use super::object;
use crate::fault::{Fault, Kind, Verbatim};
use crate::kms::{Action, RequestId};

/// Status and JSON body of a refusal. What the KMS said is handed on in its own words, with its own request id;
/// everything else gets ours and `request_id`.
///
/// Our own refusals are never 5xx. The SDK in ack-kms-plugin sends a 5xx again three times at once, which multiplies
/// the load in the very moment when the KMS is away; it leaves a 4xx alone, and kube-apiserver asks again by itself. So
/// where the door is closed because nobody could be asked ([`Kind::Lapsed`], [`Kind::Unreachable`],
/// [`Kind::TimedOut`], [`Kind::Garbled`], our own credentials or defects, an audit log that cannot be written) the answer is 409 `Rejected.Unavailable`, and
/// the message says which it is.
#[must_use]
pub fn encode(fault: &Fault, request_id: &RequestId) -> (StatusCode, Vec<u8>) {
    let (status, written) = match fault.verbatim() {
        Some(said) => (said.status, Written::verbatim(said)),
        None => {
            let (status, code) = code(fault.kind());
            (status, Written::ours(status, code, message(fault.kind()), request_id))
        }
    };
    let body = serde_json::to_vec(&written).expect("texts always have a JSON form");
    (StatusCode::from_u16(status).unwrap_or(StatusCode::CONFLICT), body)
}

/// The error object. All but `HttpStatus` must be strings or absent: the Go SDK panics on anything else.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Written<'f> {
    http_status: u16,
    code: &'f str,
    message: Cow<'f, str>,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_id: Option<&'f str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recommend: Option<&'f str>,
}

impl<'f> Written<'f> {
    fn verbatim(said: &'f Verbatim) -> Self {
        // The Python SDK v1 takes the part behind the first colon of this one message and fails where there is none.
        let colon = said.code == MISMATCH && !said.message.contains(':');
        let message = if colon { format!("{}: by the KMS", said.message).into() } else { said.message.as_str().into() };
        Self {
            http_status: said.status,
            code: &said.code,
            message,
            request_id: said.request_id.text().to_owned(),
            host_id: said.host_id.as_deref(),
            recommend: said.recommend.as_deref(),
        }
    }

    fn ours(http_status: u16, code: &'f str, message: Cow<'f, str>, request_id: &RequestId) -> Self {
        let request_id = request_id.text().to_owned();
        Self { http_status, code, message, request_id, host_id: Some(HOST_ID), recommend: None }
    }
}

const fn code(kind: &Kind) -> (u16, &'static str) {
    match kind {
        Kind::AliasNotFound => (404, "Forbidden.AliasNotFound"),
        Kind::BadSignature(None) => (400, "IncompleteSignature"),
        Kind::BadSignature(Some(_)) => (400, MISMATCH),
        Kind::DryRun => (400, "DryRunOperationError"),
        Kind::AccountRefused | Kind::Forbidden | Kind::NoPermission => (403, "Forbidden.NoPermission"),
        Kind::InvalidCiphertext | Kind::InvalidParameter(_) => (400, "InvalidParameter"),
        Kind::KeyDisabled => (409, "Rejected.Disabled"),
        Kind::KeyNotFound => (404, "Forbidden.KeyNotFound"),
        Kind::KeyPendingDeletion => (409, "Rejected.PendingDeletion"),
        Kind::KeyPendingImport => (409, "Rejected.PendingImport"),
        Kind::KeyVersionNotFound => (404, "Forbidden.KeyVersionNotFound"),
        Kind::Malformed(_) => (400, "ParseRequestParameterException"),
        Kind::MissingParameter(_) | Kind::Unauthenticated => (400, "MissingParameter"),
        Kind::NonceUsed => (400, "SignatureNonceUsed"),
        Kind::Overloaded | Kind::Throttled(_) => (429, "Rejected.Throttling"),
        Kind::StaleTimestamp => (400, "InvalidTimeStamp.Expired"),
        Kind::TooLarge => (413, "RequestTooLarge"),
        Kind::UnknownAccessKey => (404, "InvalidAccessKeyId.NotFound"),
        Kind::UnknownAction => (404, "InvalidApi.NotFound"),
        Kind::Unsupported => (400, "UnsupportedOperation"),
        Kind::Credentials
        | Kind::Garbled
        | Kind::Internal
        | Kind::KeyUnavailable
        | Kind::KmsFailure
        | Kind::Lapsed
        | Kind::Other
        | Kind::TimedOut
        | Kind::Unaudited
        | Kind::Unreachable => (409, "Rejected.Unavailable"),
    }
}

fn message(kind: &Kind) -> Cow<'static, str> {
    match kind {
        Kind::AliasNotFound => "The specified Alias is not found.".into(),
        Kind::BadSignature(shown) => mismatch(shown.as_deref()),
        Kind::Credentials => "The request was rejected: the proxy has no credentials that the KMS accepts.".into(),
        Kind::DryRun => "The request would have succeeded, but DryRun is set.".into(),
        Kind::AccountRefused | Kind::Forbidden | Kind::NoPermission => {
            "This operation is forbidden by permission system.".into()
        }
        Kind::Garbled => "The request was rejected: the KMS did not answer in its own schema.".into(),
        Kind::Internal => "The request was rejected: internal failure of the proxy.".into(),
        Kind::InvalidCiphertext => not_valid("CiphertextBlob"),
        Kind::InvalidParameter(name) => not_valid(name),
        Kind::KeyDisabled => rejected("Disabled"),
        Kind::KeyNotFound => "The specified Key is not found.".into(),
        Kind::KeyPendingDeletion => rejected("PendingDeletion"),
        Kind::KeyPendingImport => rejected("PendingImport"),
        Kind::KeyUnavailable => rejected("Unavailable"),
        Kind::KeyVersionNotFound => "The specified Key version is not found.".into(),
        Kind::KmsFailure => "The request was rejected: the KMS failed.".into(),
        Kind::Lapsed => "The request was rejected: the KMS has not confirmed lately that the key may be used.".into(),
        Kind::Malformed(why) => format!("The request cannot be parsed: {why}.").into(),
        Kind::MissingParameter(name) => missing(name),
        Kind::NonceUsed => "Specified signature nonce was used already: sign each request anew.".into(),
        Kind::Other => "The request was rejected: the KMS refused it.".into(),
        Kind::Overloaded | Kind::Throttled(_) => "QPS Limit Exceeded".into(),
        Kind::StaleTimestamp => "Specified time stamp or date value is expired: it may be 15 minutes off.".into(),
        Kind::TimedOut => "The request was rejected: the KMS did not answer in time.".into(),
        Kind::TooLarge => "The request is larger than the proxy takes: 32 KiB of query, 64 KiB of body.".into(),
        Kind::Unaudited => "The request was rejected: the audit log of the proxy cannot be written.".into(),
        Kind::Unauthenticated => missing("AccessKeyId"),
        Kind::UnknownAccessKey => "The Access Key ID provided does not exist in our records.".into(),
        Kind::UnknownAction => "Specified api is not found, please check your url and method.".into(),
        Kind::Unreachable => "The request was rejected: the KMS cannot be reached.".into(),
        Kind::Unsupported => "This action is not supported.".into(),
    }
}

/// Where the string to sign is shown, SDKs look for it behind these very words and compare it with their own.
fn mismatch(shown: Option<&str>) -> Cow<'static, str> {
    match shown {
        Some(text) => format!("Specified signature is not matched with our calculation. {SHOWN}{text}").into(),
        None => {
            "The request signature does not conform to Aliyun standards: it is not what the proxy calculated.".into()
        }
    }
}

fn missing(name: &str) -> Cow<'static, str> {
    format!("The parameter \"{}\" is needed but not provided.", cut(name)).into()
}

fn not_valid(name: &str) -> Cow<'static, str> {
    format!("The specified parameter \"{}\" is not valid.", cut(name)).into()
}

fn rejected(state: &str) -> Cow<'static, str> {
    format!("The request was rejected because the key state is {state}.").into()
}

fn cut(name: &str) -> &str {
    (0..=NAME_BYTES_MAX).rev().find_map(|end| name.get(..end)).unwrap_or("")
}

/// What the KMS said to `action` with a 4xx or 5xx: a [`Fault`] that carries its words, or [`Kind::Garbled`] where
/// they are not in its schema (a portal, a proxy, a truncated body), which is no refusal by the KMS.
///
/// The code decides. The status counts only for codes that the table does not know.
#[must_use]
pub fn decode(action: Action, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Fault {
    let Some(said) = object::read::<Said>(body) else { return Fault::kms(Kind::Garbled) };
    if said.code.is_empty() || said.request_id.is_empty() {
        return Fault::kms(Kind::Garbled);
    }
    let kind = kind(action, status, &said).unwrap_or_else(|| Kind::Throttled(retry_after(headers)));
    Fault::said(kind, said.verbatim(status))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    code: String,
    message: String,
    request_id: String,
    host_id: Option<String>,
    recommend: Option<String>,
}

impl Said {
    /// The words, without the string that the KMS signed: it holds what we sent.
    fn verbatim(mut self, status: StatusCode) -> Verbatim {
        if let Some(at) = self.message.find(SHOWN) {
            self.message.truncate(at + SHOWN.len());
        }
        Verbatim {
            status: status.as_u16(),
            code: self.code,
            message: self.message,
            request_id: RequestId::new(&self.request_id),
            host_id: self.host_id,
            recommend: self.recommend,
        }
    }
}

/// The table. `None` is throttling, which the headers say more about.
fn kind(action: Action, status: StatusCode, said: &Said) -> Option<Kind> {
    Some(match said.code.as_str() {
        "Rejected.Disabled" => Kind::KeyDisabled,
        "Rejected.PendingDeletion" => Kind::KeyPendingDeletion,
        "Rejected.PendingImport" => Kind::KeyPendingImport,
        "Rejected.Unavailable" => Kind::KeyUnavailable,
        "Forbidden.KeyNotFound" => Kind::KeyNotFound,
        "Forbidden.KeyVersionNotFound" => Kind::KeyVersionNotFound,
        "Forbidden.AliasNotFound" => Kind::AliasNotFound,
        "MissingParameter" => Kind::MissingParameter(named(&said.message)),
        "InvalidParameter" | "ParseRequestParameterException" => invalid(action, &said.message),
        "Forbidden.NoPermission" => Kind::NoPermission,
        "Forbidden.InDebt"
        | "Forbidden.InDebtOverdue"
        | "Forbidden.KmsServiceNotEnabled"
        | "Forbidden.ProhibitedByRiskControl" => Kind::AccountRefused,
        "InvalidAccessKeyId.NotFound"
        | "InvalidAccessKeyId.Inactive"
        | "Forbidden.AccessKey"
        | "InvalidSecurityToken.Expired"
        | "InvalidSecurityToken.Malformed"
        | "InvalidSecurityToken.MismatchWithAccessKey"
        | "MissingSecurityToken"
        | "IncompleteSignature"
        | MISMATCH => Kind::Credentials,
        "InvalidTimeStamp.Expired" | "InvalidTimeStamp.Format" | "IllegalTimestamp" => Kind::StaleTimestamp,
        "SignatureNonceUsed" => Kind::NonceUsed,
        "InvalidApi.NotFound" => Kind::UnknownAction,
        "UnsupportedOperation" | "Rejected.UnsupportedOperation" => Kind::Unsupported,
        // With DryRun the KMS answers nothing but these, and never otherwise.
        "DryRunOperationError" | "ValidationError" | "AccessDeniedError" => Kind::DryRun,
        "Rejected.Throttling" | "Throttling" => return None,
        "InternalFailure"
        | "ServiceUnavailableTemporary"
        | "SerivceUnvailableTemporary"
        | "SerivceUnavailableTemporary" => Kind::KmsFailure,
        "Rejected.StateModifiedFailed"
        | "InvalidProtocol.NeedSsl"
        | "Rejected.LimitExceeded"
        | "Rejected.ResourceExist"
        | "AliasAlreadyExists" => Kind::Other,
        code if code.starts_with("Throttling.") => return None,
        _ if status == StatusCode::TOO_MANY_REQUESTS => return None,
        _ if status.is_server_error() => Kind::KmsFailure,
        _ => Kind::Other,
    })
}

/// There is no code of its own for a wrong ciphertext or context. A `Decrypt` has no other parameter that could be
/// wrong but `DryRun` and those that we do not know.
fn invalid(action: Action, message: &str) -> Kind {
    let name = named(message);
    match (action, &*name) {
        (Action::Decrypt, "CiphertextBlob" | "EncryptionContext" | "") => Kind::InvalidCiphertext,
        _ => Kind::InvalidParameter(name),
    }
}

fn named(message: &str) -> Box<str> {
    let mut words = message.split(|c: char| !c.is_ascii_alphanumeric());
    words.find(|word| NAMES.contains(word)).unwrap_or("").into()
}

/// `x-acs-retry-after` in milliseconds, or `Retry-After` in seconds; at most five minutes.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name| single(headers, name).and_then(|text| text.parse().ok());
    let milliseconds = number(X_ACS_RETRY_AFTER).map(Duration::from_millis);
    let after = milliseconds.or_else(|| number(RETRY_AFTER).map(Duration::from_secs))?;
    Some(after.min(RETRY_AFTER_MAX))
}

/// The value of a header that occurs once and is visible ASCII.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value.trim_ascii())
}

const HOST_ID: &str = "kmsproxy";
const MISMATCH: &str = "SignatureDoesNotMatch";
const NAMES: [&str; 9] = [
    "CiphertextBlob",
    "DryRun",
    "EncryptionContext",
    "KeyId",
    "KeySpec",
    "KeyVersionId",
    "NumberOfBytes",
    "PageSize",
    "Plaintext",
];
const NAME_BYTES_MAX: usize = 128;
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
const SHOWN: &str = "server string to sign is:";
const X_ACS_RETRY_AFTER: HeaderName = HeaderName::from_static("x-acs-retry-after");

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::{Value, json};

    use super::*;

    fn written(fault: &Fault) -> (u16, Value) {
        let (status, body) = encode(fault, &RequestId::new("OURS"));
        (status.as_u16(), serde_json::from_slice(&body).unwrap())
    }

    fn heard(action: Action, status: u16, code: &str, message: &str) -> Kind {
        let body = json!({ "Code": code, "Message": message, "RequestId": "r" }).to_string();
        let fault = decode(action, StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes());
        fault.kind().clone()
    }

    fn every_kind() -> Vec<Kind> {
        let text = || "name".into();
        vec![
            Kind::AccountRefused,
            Kind::AliasNotFound,
            Kind::BadSignature(None),
            Kind::BadSignature(Some("GET&%2F&".to_owned())),
            Kind::Credentials,
            Kind::DryRun,
            Kind::Forbidden,
            Kind::Garbled,
            Kind::Internal,
            Kind::InvalidCiphertext,
            Kind::InvalidParameter(text()),
            Kind::KeyDisabled,
            Kind::KeyNotFound,
            Kind::KeyPendingDeletion,
            Kind::KeyPendingImport,
            Kind::KeyUnavailable,
            Kind::KeyVersionNotFound,
            Kind::KmsFailure,
            Kind::Lapsed,
            Kind::Malformed("why"),
            Kind::MissingParameter(text()),
            Kind::NoPermission,
            Kind::NonceUsed,
            Kind::Other,
            Kind::Overloaded,
            Kind::StaleTimestamp,
            Kind::Throttled(None),
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

    #[test]
    fn no_refusal_of_ours_makes_a_client_try_again() {
        for kind in every_kind() {
            let (status, body) = written(&Fault::proxy(kind.clone()));
            assert!((400..500).contains(&status), "{kind:?}: {status}");
            assert_eq!(body["HttpStatus"], status, "{kind:?}");
        }
    }

    #[test]
    fn every_member_that_the_go_sdk_reads_is_a_string_or_absent() {
        for kind in every_kind() {
            let (_, body) = written(&Fault::proxy(kind.clone()));
            for name in ["RequestId", "HostId", "Code", "Recommend", "Message"] {
                assert!(body.get(name).is_none_or(Value::is_string), "{kind:?}: {name}");
            }
        }
    }

    #[test]
    fn a_wrong_signature_is_answered_with_a_colon_in_the_message() {
        for (shown, code) in [(None, "IncompleteSignature"), (Some("GET&%2F&"), MISMATCH)] {
            let (status, body) = written(&Fault::caller(Kind::BadSignature(shown.map(str::to_owned))));
            let message = body["Message"].as_str().unwrap();
            assert_eq!((status, body["Code"].as_str().unwrap()), (400, code));
            assert!(message.contains(':'), "{message}");
            assert_eq!(message.split(SHOWN).nth(1), shown);
        }
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let (_, body) = written(&Fault::caller(Kind::InvalidParameter("默".repeat(99).into())));
        let expected = format!("The specified parameter \"{}\" is not valid.", "默".repeat(42));
        assert_eq!(body["Message"], expected);
    }

    #[test]
    fn what_the_kms_said_comes_out_as_it_went_in() {
        let body = json!({
            "HttpStatus": 409, "Code": "Rejected.Disabled", "Message": "The key state is Disabled.",
            "RequestId": "THEIRS", "HostId": "kms.cn-hangzhou.aliyuncs.com", "Recommend": "https://example.com",
        });
        let fault = decode(Action::Decrypt, StatusCode::CONFLICT, &HeaderMap::new(), body.to_string().as_bytes());
        assert_eq!(fault.kind(), &Kind::KeyDisabled);
        assert_eq!(written(&fault), (409, body));
    }

    #[test]
    fn a_mismatch_that_the_kms_reports_loses_what_it_signed_and_keeps_its_colon() {
        for message in ["No match. server string to sign is:POST&secret", "No match."] {
            let body = json!({ "Code": MISMATCH, "Message": message, "RequestId": "r" }).to_string();
            let fault = decode(Action::Encrypt, StatusCode::BAD_REQUEST, &HeaderMap::new(), body.as_bytes());
            let (_, body) = written(&fault);
            let message = body["Message"].as_str().unwrap();
            assert!(message.contains(':') && !message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn each_code_of_the_reference_has_its_kind() {
        let table = [
            (409, "Rejected.Disabled", Kind::KeyDisabled),
            (409, "Rejected.PendingDeletion", Kind::KeyPendingDeletion),
            (409, "Rejected.PendingImport", Kind::KeyPendingImport),
            (409, "Rejected.Unavailable", Kind::KeyUnavailable),
            (409, "Rejected.StateModifiedFailed", Kind::Other),
            (404, "Forbidden.KeyNotFound", Kind::KeyNotFound),
            (404, "Forbidden.KeyVersionNotFound", Kind::KeyVersionNotFound),
            (404, "Forbidden.AliasNotFound", Kind::AliasNotFound),
            (403, "Forbidden.NoPermission", Kind::NoPermission),
            (400, "Forbidden.NoPermission", Kind::NoPermission),
            (403, "Forbidden.InDebt", Kind::AccountRefused),
            (403, "Forbidden.InDebtOverdue", Kind::AccountRefused),
            (403, "Forbidden.KmsServiceNotEnabled", Kind::AccountRefused),
            (403, "Forbidden.ProhibitedByRiskControl", Kind::AccountRefused),
            (404, "InvalidAccessKeyId.NotFound", Kind::Credentials),
            (400, "InvalidAccessKeyId.Inactive", Kind::Credentials),
            (403, "Forbidden.AccessKey", Kind::Credentials),
            (400, "InvalidSecurityToken.Expired", Kind::Credentials),
            (403, "InvalidSecurityToken.Expired", Kind::Credentials),
            (400, "InvalidSecurityToken.Malformed", Kind::Credentials),
            (400, "InvalidSecurityToken.MismatchWithAccessKey", Kind::Credentials),
            (400, "MissingSecurityToken", Kind::Credentials),
            (400, "SignatureDoesNotMatch", Kind::Credentials),
            (400, "IncompleteSignature", Kind::Credentials),
            (400, "InvalidTimeStamp.Expired", Kind::StaleTimestamp),
            (400, "InvalidTimeStamp.Format", Kind::StaleTimestamp),
            (400, "IllegalTimestamp", Kind::StaleTimestamp),
            (400, "SignatureNonceUsed", Kind::NonceUsed),
            (404, "InvalidProtocol.NeedSsl", Kind::Other),
            (404, "InvalidApi.NotFound", Kind::UnknownAction),
            (400, "UnsupportedOperation", Kind::Unsupported),
            (400, "Rejected.UnsupportedOperation", Kind::Unsupported),
            (429, "Rejected.Throttling", Kind::Throttled(None)),
            (400, "Throttling", Kind::Throttled(None)),
            (400, "Throttling.User", Kind::Throttled(None)),
            (400, "Throttling.Api", Kind::Throttled(None)),
            (400, "Rejected.LimitExceeded", Kind::Other),
            (409, "Rejected.ResourceExist", Kind::Other),
            (400, "AliasAlreadyExists", Kind::Other),
            (500, "InternalFailure", Kind::KmsFailure),
            (503, "ServiceUnavailableTemporary", Kind::KmsFailure),
            (503, "SerivceUnvailableTemporary", Kind::KmsFailure),
            (503, "SerivceUnavailableTemporary", Kind::KmsFailure),
            (400, "DryRunOperationError", Kind::DryRun),
            (400, "ValidationError", Kind::DryRun),
            (403, "AccessDeniedError", Kind::DryRun),
            (418, "Unheard.Of", Kind::Other),
            (429, "Unheard.Of", Kind::Throttled(None)),
            (502, "Unheard.Of", Kind::KmsFailure),
            (500, "Rejected.Disabled", Kind::KeyDisabled),
        ];
        for (status, code, kind) in table {
            assert_eq!(heard(Action::Decrypt, status, code, "m"), kind, "{status} {code}");
        }
    }

    #[test]
    fn a_decrypt_with_a_bad_ciphertext_or_context_is_told_from_other_bad_parameters() {
        let not_valid = |name: &str| format!("The specified parameter {name} is not valid.");
        let kind = |action, name: &str| heard(action, 400, "InvalidParameter", &not_valid(name));
        assert_eq!(kind(Action::Decrypt, "CiphertextBlob"), Kind::InvalidCiphertext);
        assert_eq!(kind(Action::Decrypt, "\"EncryptionContext\""), Kind::InvalidCiphertext);
        assert_eq!(kind(Action::Decrypt, ""), Kind::InvalidCiphertext);
        assert_eq!(kind(Action::Decrypt, "DryRun"), Kind::InvalidParameter("DryRun".into()));
        assert_eq!(kind(Action::Encrypt, "EncryptionContext"), Kind::InvalidParameter("EncryptionContext".into()));
        let missing = heard(Action::Encrypt, 400, "MissingParameter", "The parameter \"KeyId\" is needed.");
        assert_eq!(missing, Kind::MissingParameter("KeyId".into()));
    }

    #[test]
    fn a_refusal_that_is_not_in_the_schema_of_the_kms_is_none() {
        let bodies = [
            "",
            "<html>403 Forbidden</html>",
            "[]",
            r#"["Rejected.Disabled","m","r",null,null]"#,
            r#"{"Code":"Rejected.Disabled","Message":"m"}"#,
            r#"{"Code":"Rejected.Disabled","Message":"m","RequestId":""}"#,
            r#"{"Message":"m","RequestId":"r"}"#,
            r#"{"Code":7,"Message":"m","RequestId":"r"}"#,
            r#"{"Code":"Rejected.Disabled","Code":"Rejected.Disabled","Message":"m","RequestId":"r"}"#,
            r#"{"Code":"Rejected.Disabled","Message":"m","RequestId":"r""#,
        ];
        for body in bodies {
            let fault = decode(Action::Decrypt, StatusCode::CONFLICT, &HeaderMap::new(), body.as_bytes());
            assert_eq!(fault, Fault::kms(Kind::Garbled), "{body}");
        }
    }

    #[test]
    fn throttling_says_how_long_to_wait_in_either_header_and_within_reason() {
        let body = br#"{"Code":"Rejected.Throttling","Message":"m","RequestId":"r"}"#;
        let cases = [
            ("x-acs-retry-after", "1500", Some(Duration::from_millis(1500))),
            ("retry-after", "2", Some(Duration::from_secs(2))),
            ("retry-after", "99999", Some(RETRY_AFTER_MAX)),
            ("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT", None),
            ("date", "1", None),
        ];
        for (name, value, expected) in cases {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))]);
            let fault = decode(Action::Decrypt, StatusCode::TOO_MANY_REQUESTS, &headers, body);
            assert_eq!(fault.kind(), &Kind::Throttled(expected), "{name}: {value}");
        }
    }
}
