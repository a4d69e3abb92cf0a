//! Everything that a span can say.

use std::sync::Arc;

use crate::claim::ListenerName;
use crate::kms::KeyId;

/// One fact about a request or a call. There is no other way to put anything into a span, and no member here is made of
/// what a request holds: names are the configuration's and the KMS's own, words are of fixed lists.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// Who asked, by its configured name.
    Caller(Arc<str>),
    /// How gRPC calls the status that was answered.
    GrpcStatus(&'static str),
    /// The status that was answered or received.
    HttpStatus(u16),
    /// The key, as the KMS itself calls it.
    Key(KeyId),
    /// The code of the KMS's refusal, in its own dialect.
    KmsCode(Box<str>),
    /// What the KMS knows the call by that made the answer, or filled the cache entry that did.
    KmsRequest(Box<str>),
    /// Through which listener.
    Listener(ListenerName),
    /// What was asked for: an action or a method of the dialect.
    Method(&'static str),
    /// How it ended, as the audit log says it.
    Outcome(&'static str),
    /// Why it was refused, or why the call failed (a `Kind` label).
    Reason(&'static str),
    /// Which dialect.
    System(&'static str),
    /// Which upstream, by its configured name.
    Upstream(Box<str>),
}

/// What is said, as OTLP writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Text, at most `TEXT_BYTES_MAX` bytes.
    Text(&'a str),
    /// A number.
    Number(i64),
}

impl Attribute {
    /// Its name: OpenTelemetry's semantic conventions (1.41) where they have one.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Caller(_) => "kmsproxy.caller",
            Self::GrpcStatus(_) => "rpc.response.status_code",
            Self::HttpStatus(_) => "http.response.status_code",
            Self::Key(_) => "kmsproxy.key",
            Self::KmsCode(_) => "kmsproxy.kms.code",
            Self::KmsRequest(_) => "kmsproxy.kms.request_id",
            Self::Listener(_) => "kmsproxy.listener",
            Self::Method(_) => "rpc.method",
            Self::Outcome(_) => "kmsproxy.outcome",
            Self::Reason(_) => "error.type",
            Self::System(_) => "rpc.system.name",
            Self::Upstream(_) => "kmsproxy.upstream",
        }
    }

    /// What it says.
    #[must_use]
    pub fn value(&self) -> Value<'_> {
        match self {
            Self::Caller(name) => Value::Text(cut(name)),
            Self::GrpcStatus(word)
            | Self::Method(word)
            | Self::Outcome(word)
            | Self::Reason(word)
            | Self::System(word) => Value::Text(word),
            Self::HttpStatus(status) => Value::Number(i64::from(*status)),
            Self::Key(key) => Value::Text(cut(key.as_str())),
            Self::KmsCode(text) | Self::KmsRequest(text) | Self::Upstream(text) => Value::Text(cut(text)),
            Self::Listener(name) => Value::Text(cut(name.as_str())),
        }
    }
}

impl PartialEq for Attribute {
    fn eq(&self, other: &Self) -> bool {
        (self.name(), self.value()) == (other.name(), other.value())
    }
}

impl Eq for Attribute {}

/// What a KMS names is bounded only by what an answer may hold.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Bytes of a text in a span.
const TEXT_BYTES_MAX: usize = 256;
