//! The RAM role of the ECS instance that this runs on, by its metadata service (`credentials-go`, `ecs_ram_role.go`).

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde::Deserialize;
use std::borrow::Cow;

use crate::upstream::credentials::sts::Grant;
use crate::upstream::credentials::{
    Config, Credentials, Environment, Fetch, Fetching, Lack, METADATA_TIMEOUT, Ways, given, is_true,
};
use crate::upstream::transport::Received;
use crate::wire::aliyun::object;

/// Metadata v2 (with a session token), and v1 where v2 is not offered and v1 not disabled.
#[derive(Debug)]
pub struct Ecs {
    base: String,
    role: Option<String>,
    v2_only: bool,
    ways: Ways,
}

impl Ecs {
    /// From the configuration and `ALIBABA_CLOUD_ECS_METADATA` (the role), `ALIBABA_CLOUD_ECS_METADATA_DISABLED`,
    /// `ALIBABA_CLOUD_IMDSV1_DISABLED`.
    ///
    /// # Errors
    /// [`Lack::Absent`] where it is disabled; [`Lack::Failed`] for an address that is not on this machine.
    pub fn new(config: &Config, env: Environment<'_>, ways: &Ways) -> Result<Self, Lack> {
        if is_true(env("ALIBABA_CLOUD_ECS_METADATA_DISABLED").as_deref()) {
            return Err(Lack::absent("ALIBABA_CLOUD_ECS_METADATA_DISABLED is set"));
        }
        let base = config.metadata_endpoint.clone().unwrap_or_else(|| "http://100.100.100.200".into());
        let base = base.trim_end_matches('/').to_owned();
        ways.machine.address(&base)?;
        let role = given(config.role_name.as_ref(), env, "ALIBABA_CLOUD_ECS_METADATA");
        if role.as_deref().is_some_and(|role| !is_role_name(role)) {
            return Err(Lack::failed("the ECS role's name may hold letters, digits, '.', '_' and '-' only"));
        }
        let v2_only = config.disable_imdsv1 || is_true(env("ALIBABA_CLOUD_IMDSV1_DISABLED").as_deref());
        Ok(Self { base, role, v2_only, ways: ways.clone() })
    }

    async fn session(&self) -> Result<Option<HeaderValue>, Lack> {
        let mut headers = HeaderMap::new();
        headers.insert(TOKEN_LIFE, HeaderValue::from_static("21600"));
        let why = match self.ask(Method::PUT, "/latest/api/token", headers).await {
            Ok(received) if received.status == StatusCode::OK => {
                let token = HeaderValue::from_bytes(received.body.expose().trim_ascii());
                let mut token = token.map_err(|_| Lack::failed("the metadata service's token is not a token"))?;
                token.set_sensitive(true);
                return Ok(Some(token));
            }
            Ok(received) => format!("answered {} to a token request", received.status.as_u16()),
            Err(Lack::Absent(why) | Lack::Failed(why)) => why,
        };
        if self.v2_only {
            return Err(Lack::absent(format!("metadata v2 {why}, and v1 is disabled")));
        }
        Ok(None)
    }

    async fn read(&self, token: Option<&HeaderValue>, path: &str) -> Result<Received, Lack> {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(TOKEN, token.clone());
        }
        let received = self.ask(Method::GET, path, headers).await?;
        match received.status.as_u16() {
            200 => Ok(received),
            404 => Err(Lack::absent("the metadata service knows no such RAM role for this instance")),
            status => Err(Lack::failed(format!("the metadata service answered {status}"))),
        }
    }

    async fn ask(&self, method: Method, path: &str, headers: HeaderMap) -> Result<Received, Lack> {
        let uri = self.ways.machine.address(&format!("{}{path}", self.base))?;
        let received = self.ways.machine.send(method, &uri, headers, Bytes::new(), METADATA_TIMEOUT).await;
        received.map_err(|fault| Lack::absent(format!("the metadata service is {}", fault.kind().label())))
    }

    async fn obtain(&self) -> Result<Credentials, Lack> {
        let token = self.session().await?;
        let role = match &self.role {
            Some(role) => role.clone(),
            None => {
                let listed = self.read(token.as_ref(), ROLES).await?;
                let role = std::str::from_utf8(listed.body.expose().trim_ascii()).unwrap_or_default().to_owned();
                if !is_role_name(&role) {
                    return Err(Lack::failed("the metadata service did not name one RAM role"));
                }
                role
            }
        };
        let received = self.read(token.as_ref(), &format!("{ROLES}{role}")).await?;
        granted(&received, &role)
    }
}

impl Fetch for Ecs {
    fn fetch(&self) -> Fetching<'_> {
        Box::pin(self.obtain())
    }
}

/// Reads what the metadata service answered with 200 for `role`.
///
/// # Errors
/// [`Lack::Failed`] for everything but `"Code": "Success"` with whole credentials.
pub fn granted(received: &Received, role: &str) -> Result<Credentials, Lack> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Outcome<'a> {
        #[serde(borrow)]
        code: Cow<'a, str>,
    }
    let garbled = || Lack::failed("the metadata service answered 200 without credentials");
    let outcome: Outcome<'_> = object::read(received.body.expose()).ok_or_else(garbled)?;
    if outcome.code != "Success" {
        return Err(Lack::failed("the metadata service has no credentials for the role now"));
    }
    let grant: Grant<'_> = object::read(received.body.expose()).ok_or_else(garbled)?;
    grant.taken(role.into())
}

fn is_role_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && name.len() <= ROLE_NAME_BYTES_MAX && name.bytes().all(allowed)
}

const ROLES: &str = "/latest/meta-data/ram/security-credentials/";
const TOKEN_LIFE: HeaderName = HeaderName::from_static("x-aliyun-ecs-metadata-token-ttl-seconds");
const TOKEN: HeaderName = HeaderName::from_static("x-aliyun-ecs-metadata-token");
const ROLE_NAME_BYTES_MAX: usize = 64;
