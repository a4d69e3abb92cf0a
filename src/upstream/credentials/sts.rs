//! The Security Token Service, version 2015-04-01 (`credentials-go`, `ram_role_arn.go` and `oidc.go`).

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::secret::Secret;
use crate::upstream::credentials::{Config, Credentials, Environment, Lack, STS_TIMEOUT, Ways, given, is_true};
use crate::upstream::transport::{Received, shared};
use crate::wire::aliyun::{object, signature};

/// The role to be, however one proves the right to it.
#[derive(Clone, Debug)]
pub struct Session {
    /// ARN of the role.
    pub role_arn: String,
    /// Name of the session.
    pub name: String,
    /// Session policy.
    pub policy: Option<String>,
    /// Life in seconds.
    pub seconds: u32,
}

impl Session {
    /// From the configuration and `ALIBABA_CLOUD_ROLE_ARN`, `ALIBABA_CLOUD_ROLE_SESSION_NAME`.
    ///
    /// # Errors
    /// [`Lack::Absent`] without a role; [`Lack::Failed`] for an impossible duration.
    pub fn new(config: &Config, env: Environment<'_>) -> Result<Self, Lack> {
        let role_arn = given(config.role_arn.as_ref(), env, "ALIBABA_CLOUD_ROLE_ARN")
            .ok_or_else(|| Lack::absent("no role_arn, and ALIBABA_CLOUD_ROLE_ARN is not set"))?;
        let name = given(config.role_session_name.as_ref(), env, "ALIBABA_CLOUD_ROLE_SESSION_NAME");
        let seconds = config.duration_seconds.unwrap_or(SESSION_SECONDS);
        if !(SESSION_SECONDS_MIN..=SESSION_SECONDS_MAX).contains(&seconds) {
            return Err(Lack::failed("duration_seconds must be 900 to 43200"));
        }
        Ok(Self { role_arn, name: name.unwrap_or_else(|| "kmsproxy".into()), policy: config.policy.clone(), seconds })
    }

    /// `AssumeRole`, signed (V1) with `key`.
    ///
    /// # Errors
    /// [`Lack::Failed`] with the status and code of STS, or why it could not be asked.
    pub async fn assume(&self, sts: &Sts, key: &Credentials, external_id: Option<&str>) -> Result<Credentials, Lack> {
        let seconds = self.seconds.to_string();
        let timestamp = wire_time(sts.ways.clock.wall());
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let token = key.token.as_ref().map(text_of).transpose()?;
        let mut form = vec![
            ("AccessKeyId", key.id.as_str()),
            ("Action", "AssumeRole"),
            ("DurationSeconds", &seconds),
            ("Format", "JSON"),
            ("RoleArn", &self.role_arn),
            ("RoleSessionName", &self.name),
            ("SignatureMethod", "HMAC-SHA1"),
            ("SignatureNonce", &nonce),
            ("SignatureVersion", "1.0"),
            ("Timestamp", &timestamp),
            ("Version", VERSION),
        ];
        form.extend(external_id.map(|id| ("ExternalId", id)));
        form.extend(self.policy.as_deref().map(|policy| ("Policy", policy)));
        form.extend(token.map(|token| ("SecurityToken", token)));
        let signature = signature::v1("POST", &form, &key.secret);
        form.push(("Signature", &signature));
        sts.ask("", &form, &self.role_arn).await
    }

    /// `AssumeRoleWithOIDC`: unsigned, the token is the proof.
    ///
    /// # Errors
    /// As [`Session::assume`].
    pub async fn assume_with_oidc(&self, sts: &Sts, provider_arn: &str, token: &Secret) -> Result<Credentials, Lack> {
        let seconds = self.seconds.to_string();
        let timestamp = encoded(&wire_time(sts.ways.clock.wall()));
        let query = format!("Version={VERSION}&Action=AssumeRoleWithOIDC&Format=JSON&Timestamp={timestamp}");
        let mut form = vec![
            ("RoleArn", self.role_arn.as_str()),
            ("OIDCProviderArn", provider_arn),
            ("OIDCToken", text_of(token)?),
            ("RoleSessionName", &self.name),
            ("DurationSeconds", &seconds),
        ];
        form.extend(self.policy.as_deref().map(|policy| ("Policy", policy)));
        sts.ask(&query, &form, &self.role_arn).await
    }
}

/// STS at one address.
#[derive(Clone, Debug)]
pub struct Sts {
    base: String,
    ways: Ways,
}

impl Sts {
    /// At `sts_endpoint`, or where `ALIBABA_CLOUD_STS_REGION` and `ALIBABA_CLOUD_VPC_ENDPOINT_ENABLED` say, or at
    /// `https://sts.aliyuncs.com`.
    ///
    /// # Errors
    /// [`Lack::Failed`] for an address that cannot be used.
    pub fn new(config: &Config, env: Environment<'_>, ways: &Ways) -> Result<Self, Lack> {
        let base = config.sts_endpoint.clone().unwrap_or_else(|| {
            let host = if is_true(env("ALIBABA_CLOUD_VPC_ENDPOINT_ENABLED").as_deref()) { "sts-vpc" } else { "sts" };
            match env("ALIBABA_CLOUD_STS_REGION").filter(|region| !region.is_empty()) {
                Some(region) => format!("https://{host}.{region}.aliyuncs.com"),
                None => "https://sts.aliyuncs.com".into(),
            }
        });
        let base = base.trim_end_matches('/').to_owned();
        ways.sts.address(&base)?;
        Ok(Self { base, ways: ways.clone() })
    }

    async fn ask(&self, query: &str, form: &[(&str, &str)], role_arn: &str) -> Result<Credentials, Lack> {
        let separator = if query.is_empty() { "" } else { "?" };
        let uri = self.ways.sts.address(&format!("{}/{separator}{query}", self.base))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert("accept", HeaderValue::from_static("application/json"));
        let body: Bytes = shared(form_of(form));
        let received = self.ways.sts.post(&uri, headers, body, STS_TIMEOUT).await;
        let received = received.map_err(|fault| Lack::failed(format!("STS: {}", fault.kind().label())))?;
        granted(&received, role_arn)
    }
}

/// Reads one answer of STS.
///
/// # Errors
/// [`Lack::Failed`] for everything but a 200 with whole credentials.
pub fn granted(received: &Received, role_arn: &str) -> Result<Credentials, Lack> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Granted<'a> {
        #[serde(borrow)]
        credentials: &'a RawValue,
    }
    if received.status.as_u16() != 200 {
        let code = refusal_code(received.body.expose());
        return Err(Lack::failed(format!("STS answered {} {code}", received.status.as_u16())));
    }
    let granted: Option<Granted<'_>> = object::read(received.body.expose());
    let grant = granted.and_then(|granted| object::read::<Grant<'_>>(granted.credentials.get().as_bytes()));
    grant.ok_or_else(|| Lack::failed("STS answered 200 without credentials"))?.taken(Arc::from(role_arn))
}

/// Temporary credentials as STS, the metadata service and credential URIs write them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Grant<'a> {
    #[serde(borrow)]
    access_key_id: Cow<'a, str>,
    #[serde(borrow)]
    access_key_secret: Cow<'a, str>,
    #[serde(borrow)]
    security_token: Option<Cow<'a, str>>,
    expiration: Option<Timestamp>,
}

impl Grant<'_> {
    /// As credentials of `principal`. A session without an end is refused: it would be kept for ever.
    pub(super) fn taken(self, principal: Arc<str>) -> Result<Credentials, Lack> {
        let token = self.security_token.filter(|token| !token.is_empty());
        if self.access_key_id.is_empty() || self.access_key_secret.is_empty() {
            return Err(Lack::failed("the credentials handed out are empty"));
        }
        if token.is_some() && self.expiration.is_none() {
            return Err(Lack::failed("the credentials handed out are a session without Expiration"));
        }
        Ok(Credentials {
            id: self.access_key_id.into_owned(),
            secret: Secret::copied(self.access_key_secret.as_bytes()),
            token: token.map(|token| Secret::copied(token.as_bytes())),
            expires: self.expiration,
            principal,
        })
    }
}

/// The `Code` of a refusal, if it looks like one: it goes into logs.
fn refusal_code(body: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Refusal<'a> {
        #[serde(borrow)]
        code: Cow<'a, str>,
    }
    let plain = |code: &str| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    object::read::<Refusal<'_>>(body)
        .filter(|refusal| plain(&refusal.code))
        .map_or_else(|| "without a code".into(), |refusal| refusal.code.into_owned())
}

pub(super) fn text_of(secret: &Secret) -> Result<&str, Lack> {
    std::str::from_utf8(secret.expose()).map_err(|_| Lack::failed("a token is not text"))
}

fn wire_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn form_of(parameters: &[(&str, &str)]) -> Secret {
    let room = parameters.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let mut form = String::with_capacity(room);
    for (name, value) in parameters {
        if !form.is_empty() {
            form.push('&');
        }
        push_encoded(&mut form, name);
        form.push('=');
        push_encoded(&mut form, value);
    }
    Secret::new(form.into_bytes())
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(3 * text.len());
    push_encoded(&mut out, text);
    out
}

fn push_encoded(out: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

const VERSION: &str = "2015-04-01";
const SESSION_SECONDS: u32 = 3600;
const SESSION_SECONDS_MIN: u32 = 900;
const SESSION_SECONDS_MAX: u32 = 43_200;

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn credentials_are_read_out_of_an_object_and_not_out_of_a_list() {
        let answered = |body: &str| {
            let (headers, body) = (HeaderMap::new(), Secret::copied(body.as_bytes()));
            granted(&Received { status: StatusCode::OK, headers, body }, "acs:ram::1:role/r").map(|got| got.id)
        };
        assert_eq!(answered(r#"{"Credentials":{"AccessKeyId":"i","AccessKeySecret":"s"}}"#), Ok("i".to_owned()));
        for listed in [r#"{"Credentials":["i","s",null,null]}"#, r#"[{"AccessKeyId":"i","AccessKeySecret":"s"}]"#] {
            assert_eq!(answered(listed), Err(Lack::failed("STS answered 200 without credentials")), "{listed}");
        }
    }
}
