//! Every error of the KMS's reference, with the message that is documented for it; and the answers that are none.

use http::{HeaderMap, StatusCode};
use kmsproxy::fault::{Fault, Kind};
use kmsproxy::kms::Action;
use kmsproxy::wire::aliyun::answer;

use super::classes::Class::{self, *};

/// One answer of the KMS, and what it must be taken for.
pub(crate) struct Code {
    /// As the table shows it.
    pub(crate) shown: &'static str,
    pub(crate) status: u16,
    pub(crate) code: &'static str,
    pub(crate) message: &'static str,
    pub(crate) class: Class,
    pub(crate) grpc: &'static str,
}

impl Code {
    /// What comes of its document, read as the answer to `action`.
    pub(crate) fn said_to(&self, action: Action) -> Fault {
        let body = format!(
            r#"{{"HttpStatus":{},"Code":"{}","Message":"{}","RequestId":"{REQUEST_ID}","HostId":"kms.aliyuncs.com"}}"#,
            self.status, self.code, self.message
        );
        heard(action, self.status, &body)
    }

    /// Whether `action` can be answered with it: a ciphertext is in a Decrypt alone.
    pub(crate) fn suits(&self, action: Action) -> bool {
        action == Action::Decrypt || !self.message.contains("CiphertextBlob")
    }
}

/// What is no error document: as the table shows it, and what must come of it.
pub(crate) fn silence() -> Vec<(&'static str, Fault, Class, &'static str)> {
    let garbled =
        [(403, "<html>Sign in to continue</html>"), (409, r#"{"Code":"Rejected.Disabled","Message":"#), (200, "{}")];
    let mut all: Vec<_> = garbled
        .into_iter()
        .map(|(status, body)| {
            (
                "no answer in its schema (HTML, cut or contradictory JSON)",
                heard(Action::Decrypt, status, body),
                Silent,
                "Unavailable",
            )
        })
        .collect();
    all.push(("no connection (DNS, TCP, TLS)", Fault::kms(Kind::Unreachable), SilentAskedAgain, "Unavailable"));
    all.push(("no answer in time", Fault::kms(Kind::TimedOut), Silent, "DeadlineExceeded"));
    all
}

fn heard(action: Action, status: u16, body: &str) -> Fault {
    answer::decode(action, StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes()).unwrap_err()
}

const fn code(status: u16, code: &'static str, message: &'static str, class: Class, grpc: &'static str) -> Code {
    Code { shown: "", status, code, message, class, grpc }
}

const fn shown(shown: &'static str, other: Code) -> Code {
    Code { shown, ..other }
}

pub(crate) const REQUEST_ID: &str = "207596a2-36d3-4840-b1bd-f87044699bd7";

/// Sources: the KMS reference (common error codes, the error tables of each API, quotas), and the common codes of the
/// gateway before it, which other products document. Alibaba documents no code for a ciphertext or context that is wrong.
pub(crate) const CODES: &[Code] = &[
    code(
        409,
        "Rejected.Disabled",
        "The request was rejected because the key state is Disabled.",
        KeyRefused,
        "FailedPrecondition",
    ),
    code(
        409,
        "Rejected.PendingDeletion",
        "The request was rejected because the key state is PendingDeletion.",
        KeyRefused,
        "FailedPrecondition",
    ),
    code(
        409,
        "Rejected.PendingImport",
        "The request was rejected because the key state is PendingImport.",
        KeyRefused,
        "FailedPrecondition",
    ),
    code(
        409,
        "Rejected.Unavailable",
        "The request was rejected because the key state is Unavailable.",
        KeyRefused,
        "FailedPrecondition",
    ),
    code(404, "Forbidden.KeyNotFound", "The specified Key is not found.", KeyRefused, "NotFound"),
    code(403, "Forbidden.InDebt", "Your account is in debt.", AccountRefused, "PermissionDenied"),
    code(403, "Forbidden.InDebtOverdue", "Your account is overdue.", AccountRefused, "PermissionDenied"),
    code(403, "Forbidden.KmsServiceNotEnabled", "The service is not enabled.", AccountRefused, "PermissionDenied"),
    code(403, "Forbidden.ProhibitedByRiskControl", "Prohibited by risk control.", AccountRefused, "PermissionDenied"),
    code(
        403,
        "Forbidden.NoPermission",
        "This operation is forbidden by permission system.",
        IdentityRefused,
        "PermissionDenied",
    ),
    code(
        400,
        "Forbidden.NoPermission",
        "This operation for acs:kms:cn-hangzhou:1:key/k is forbidden by permission system.",
        IdentityRefused,
        "PermissionDenied",
    ),
    code(
        404,
        "InvalidAccessKeyId.NotFound",
        "The Access Key ID provided does not exist in our records.",
        IdentityDoubted,
        "Unavailable",
    ),
    code(400, "InvalidAccessKeyId.Inactive", "This AccessKey is not enabled.", IdentityDoubted, "Unavailable"),
    code(403, "Forbidden.AccessKey", "This AccessKey is not enabled.", IdentityDoubted, "Unavailable"),
    code(400, "InvalidSecurityToken.Expired", "Specified SecurityToken is expired.", IdentityDoubted, "Unavailable"),
    code(403, "InvalidSecurityToken.Expired", "Specified SecurityToken is expired.", IdentityDoubted, "Unavailable"),
    code(
        400,
        "InvalidSecurityToken.Malformed",
        "Specified SecurityToken is malformed.",
        IdentityDoubted,
        "Unavailable",
    ),
    code(
        400,
        "InvalidSecurityToken.MismatchWithAccessKey",
        "Specified SecurityToken mismatch with the AccessKey.",
        IdentityDoubted,
        "Unavailable",
    ),
    code(400, "MissingSecurityToken", "SecurityToken is mandatory for this action.", IdentityDoubted, "Unavailable"),
    code(
        400,
        "SignatureDoesNotMatch",
        "Specified signature is not matched with our calculation. server string to sign is:POST&%2F&x",
        IdentityDoubted,
        "Unavailable",
    ),
    code(
        400,
        "IncompleteSignature",
        "The request signature does not conform to Aliyun standards.",
        IdentityDoubted,
        "Unavailable",
    ),
    shown(
        "`InvalidParameter` of the ciphertext or its context",
        code(
            400,
            "InvalidParameter",
            "The specified parameter CiphertextBlob is not valid.",
            CiphertextWrong,
            "InvalidArgument",
        ),
    ),
    shown(
        "`InvalidParameter` of another parameter",
        code(
            400,
            "InvalidParameter",
            r#"The specified parameter \"KeySpec\" is not valid."#,
            ParameterWrong,
            "InvalidArgument",
        ),
    ),
    shown(
        "`ParseRequestParameterException` of another parameter",
        code(
            400,
            "ParseRequestParameterException",
            "The specified parameter NumberOfBytes is not valid.",
            ParameterWrong,
            "InvalidArgument",
        ),
    ),
    code(
        400,
        "MissingParameter",
        r#"The parameter \"KeyId\" is needed but not provided."#,
        NotUnderstood,
        "InvalidArgument",
    ),
    code(404, "Forbidden.KeyVersionNotFound", "The specified Key version is not found.", NotUnderstood, "NotFound"),
    code(404, "Forbidden.AliasNotFound", "The specified Alias is not found.", NotUnderstood, "NotFound"),
    code(
        404,
        "InvalidApi.NotFound",
        "Specified api is not found, please check your url and method.",
        NotUnderstood,
        "FailedPrecondition",
    ),
    code(400, "UnsupportedOperation", "This action is not supported.", NotUnderstood, "FailedPrecondition"),
    code(400, "Rejected.UnsupportedOperation", "This action is not supported.", NotUnderstood, "FailedPrecondition"),
    code(409, "Rejected.StateModifiedFailed", "Keystate modified failed.", NotUnderstood, "Internal"),
    code(404, "InvalidProtocol.NeedSsl", "Your request is denied because SSL is required.", NotUnderstood, "Internal"),
    code(400, "Rejected.LimitExceeded", "Quota exceeded.", NotUnderstood, "Internal"),
    code(409, "Rejected.ResourceExist", "The resource exists.", NotUnderstood, "Internal"),
    code(400, "AliasAlreadyExists", "The alias exists.", NotUnderstood, "Internal"),
    code(
        400,
        "DryRunOperationError",
        "The request would have succeeded, but DryRun is set.",
        NotUnderstood,
        "Internal",
    ),
    code(400, "ValidationError", "The request would not have succeeded.", NotUnderstood, "Internal"),
    code(403, "AccessDeniedError", "The request would have been denied.", NotUnderstood, "Internal"),
    shown("any other code with a 4xx", code(418, "Unheard.Of", "A refusal.", NotUnderstood, "Internal")),
    code(429, "Rejected.Throttling", "QPS Limit Exceeded", SilentAskedAgain, "ResourceExhausted"),
    code(400, "Throttling", "Request was denied due to request throttling.", SilentAskedAgain, "ResourceExhausted"),
    code(400, "Throttling.User", "Request was denied due to user flow control.", SilentAskedAgain, "ResourceExhausted"),
    code(400, "Throttling.Api", "Request was denied due to api flow control.", SilentAskedAgain, "ResourceExhausted"),
    shown("any other code with a 429", code(429, "Unheard.Of", "Slow down.", SilentAskedAgain, "ResourceExhausted")),
    code(500, "InternalFailure", "Internal Failure.", SilentAskedAgain, "Unavailable"),
    code(503, "ServiceUnavailableTemporary", "Service Unavailable Temporary.", SilentAskedAgain, "Unavailable"),
    code(503, "SerivceUnavailableTemporary", "Service Unavailable Temporary.", SilentAskedAgain, "Unavailable"),
    code(503, "SerivceUnvailableTemporary", "Service Unavailable Temporary.", SilentAskedAgain, "Unavailable"),
    shown("any other code with a 5xx", code(502, "Unheard.Of", "Bad gateway.", SilentAskedAgain, "Unavailable")),
    code(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.", Silent, "Unavailable"),
    code(
        400,
        "InvalidTimeStamp.Format",
        "Specified time stamp or date value is not well formatted.",
        Silent,
        "Unavailable",
    ),
    code(400, "IllegalTimestamp", "The input parameter Timestamp is not valid.", Silent, "Unavailable"),
    code(400, "SignatureNonceUsed", "Specified signature nonce was used already.", Silent, "Unavailable"),
];
