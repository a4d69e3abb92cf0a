//! As whom kmsproxy asks Alibaba Cloud: where credentials come from, and keeping them fresh.
//!
//! Sources and their inputs are those of `credentials-go` (`credentials/providers/*.go`), so that what works for other
//! tools on a machine works here.

use std::fmt::Debug;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::secret::Secret;
use crate::upstream::transport::{self, Reach, Transport, Trust};

pub mod chain;
pub mod ecs;
pub mod file;
pub mod keeper;
pub mod oidc;
pub mod profile;
pub mod role;
pub mod sts;
pub mod uri;

pub use keeper::Keeper;

/// Where credentials come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The first that is there of: environment, OIDC, the CLI's profile, the ini profile, ECS metadata, URI.
    #[default]
    Default,
    /// `ALIBABA_CLOUD_ACCESS_KEY_ID`, `…_ACCESS_KEY_SECRET` and, for a session, `…_SECURITY_TOKEN`.
    Env,
    /// `AssumeRoleWithOIDC` with a token file: RRSA in ACK.
    Oidc,
    /// `AssumeRole`, signed with the access key of this table or else with what the default chain finds.
    Role,
    /// The RAM role of the ECS instance, by its metadata service.
    Ecs,
    /// A local HTTP endpoint that hands out credentials.
    Uri,
    /// A profile of the `aliyun` CLI (JSON), or an ini file.
    Profile,
    /// An access key whose secret is in a file, an environment variable or a systemd credential.
    File,
}

/// The `credentials` table of an upstream. What is absent is taken from the environment variable that
/// `credentials-go` reads for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where from.
    pub source: Source,
    /// Access key id, for `file` and `role`.
    pub id: Option<String>,
    /// File with the access key secret; re-read when it changes.
    pub secret_file: Option<PathBuf>,
    /// Environment variable with the access key secret.
    pub secret_env: Option<String>,
    /// Name of a systemd credential with the access key secret.
    pub secret_credential: Option<String>,
    /// ARN of the role, for `role` and `oidc`.
    pub role_arn: Option<String>,
    /// Session name, seen in `ActionTrail`; default `kmsproxy`.
    pub role_session_name: Option<String>,
    /// External id that the role's trust policy demands, for `role`.
    pub external_id: Option<String>,
    /// A session policy that narrows the role, as JSON text.
    pub policy: Option<String>,
    /// ARN of the OIDC provider, for `oidc`.
    pub oidc_provider_arn: Option<String>,
    /// File with the OIDC token, re-read at each refresh, for `oidc`.
    pub oidc_token_file: Option<PathBuf>,
    /// Life of an assumed role's session in seconds, 900 to 43200; default 3600.
    pub duration_seconds: Option<u32>,
    /// The instance's role, for `ecs`; asked of the metadata service where absent.
    pub role_name: Option<String>,
    /// Whether to refuse metadata without a session token, for `ecs`.
    #[serde(default)]
    pub disable_imdsv1: bool,
    /// Address, for `uri`: https, or http on this machine.
    pub uri: Option<String>,
    /// Profile name; default the CLI's current one, or `default` in an ini file.
    pub profile: Option<String>,
    /// Profile file; `~/.aliyun/config.json` by default. Anything not ending in `.json` is read as ini.
    pub profile_file: Option<PathBuf>,
    /// STS instead of `https://sts.aliyuncs.com`.
    pub sts_endpoint: Option<String>,
    /// Metadata service instead of `http://100.100.100.200`.
    pub metadata_endpoint: Option<String>,
}

/// Credentials as they were handed out: never changed, only replaced whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Access key id.
    pub id: String,
    /// Access key secret.
    pub secret: Secret,
    /// Session token, for temporary credentials.
    pub token: Option<Secret>,
    /// When they end; `None` for a long-lived access key.
    pub expires: Option<Timestamp>,
    /// Whose they are, the same over refreshes: the role, or the access key id where there is no role. Safe to log.
    pub principal: Arc<str>,
}

/// Why a source gave nothing. For logs and for `check`: names inputs and status codes, never their values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// The source is not set up here; the default chain goes on to the next.
    #[error("{0}")]
    Absent(String),
    /// The source is set up, and failed. The default chain stops here: another source may be another identity, and
    /// a passing failure must not change who we are.
    #[error("{0}")]
    Failed(String),
}

impl Lack {
    fn absent(text: impl Into<String>) -> Self {
        Self::Absent(text.into())
    }

    fn failed(text: impl Into<String>) -> Self {
        Self::Failed(text.into())
    }
}

impl From<transport::Error> for Lack {
    fn from(error: transport::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Credentials on their way.
pub type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Credentials, Lack>> + Send + 'a>>;

/// A place to fetch credentials from.
pub trait Fetch: Debug + Send + Sync {
    /// Fetches them anew. Bounded in time by its own timeouts.
    fn fetch(&self) -> Fetching<'_>;

    /// Whether there is something new to fetch although nothing expired: a file changed. Cheap.
    fn changed(&self) -> bool {
        false
    }
}

/// The process environment, as a function, so that it is read where configuration is read and nowhere else.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What every source needs of the outside.
#[derive(Clone, Debug)]
pub struct Ways {
    /// To STS and to https URIs: the platform's roots only, for a KMS instance's private CA has no say over STS.
    pub sts: Arc<Transport>,
    /// To the metadata service and to URIs on this machine.
    pub machine: Arc<Transport>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Ways {
    /// The ways out of this machine. With `insecure`, STS may be plain HTTP on loopback.
    #[must_use]
    pub fn new(platform: &Trust, insecure: bool, clock: &Arc<dyn Clock>) -> Self {
        let reach = if insecure { Reach::VerifiedOrLoopback } else { Reach::Verified };
        let way = |reach, connect| Arc::new(Transport::new(platform.clone(), reach, connect, Arc::clone(clock)));
        Self {
            sts: way(reach, STS_CONNECT_TIMEOUT),
            machine: way(Reach::VerifiedOrMachine, METADATA_TIMEOUT),
            clock: Arc::clone(clock),
        }
    }
}

/// Sets up the source that `config` names.
///
/// # Errors
/// What it lacks, as far as that can be told without asking anybody.
pub fn source(config: &Config, env: Environment<'_>, ways: &Ways) -> Result<Box<dyn Fetch>, Lack> {
    Ok(match config.source {
        Source::Default => Box::new(chain::Chain::new(config, env, ways)),
        Source::Env => Box::new(file::AccessKey::from_environment(env)?),
        Source::Oidc => Box::new(oidc::Oidc::new(config, env, ways)?),
        Source::Role => Box::new(role::Role::new(config, env, ways)?),
        Source::Ecs => Box::new(ecs::Ecs::new(config, env, ways)?),
        Source::Uri => Box::new(uri::Uri::new(config, env, ways)?),
        Source::Profile => Box::new(profile::Profile::new(config, env, ways)?),
        Source::File => Box::new(file::AccessKey::from_config(config, env)?),
    })
}

/// A configured value, or else that of an environment variable that is set and not empty.
fn given(configured: Option<&String>, env: Environment<'_>, name: &str) -> Option<String> {
    configured.cloned().or_else(|| env(name)).filter(|value| !value.is_empty())
}

fn is_true(value: Option<&str>) -> bool {
    value.is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
}

/// `credentials-go`: one second to connect and one to read.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
const STS_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const STS_TIMEOUT: Duration = Duration::from_secs(10);
