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
        let way =
            |reach, connect| Arc::new(Transport::new(platform.clone(), reach, connect, Arc::clone(clock)).unpooled());
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
        Source::Role => Box::new(role::Role::new(config, env, ways, assuming(config, env, ways)?)?),
        Source::Ecs => Box::new(ecs::Ecs::new(config, env, ways)?),
        Source::Uri => Box::new(uri::Uri::new(config, env, ways)?),
        Source::Profile => Box::new(profile::Profile::new(config, env, ways)?),
        Source::File => Box::new(file::AccessKey::from_config(config, env)?),
    })
}

/// What a role is assumed with: the access key of the table if it names one, else what the default chain finds.
fn assuming(config: &Config, env: Environment<'_>, ways: &Ways) -> Result<Box<dyn Fetch>, Lack> {
    Ok(match config.id {
        Some(_) => Box::new(file::AccessKey::from_config(config, env)?),
        None => {
            // What the role is to be is not what whoever assumes it is: RRSA would ask for the wrong role.
            let (role_arn, role_session_name, external_id) = (None, None, None);
            let (policy, duration_seconds) = (None, None);
            let own = Config { role_arn, role_session_name, external_id, policy, duration_seconds, ..config.clone() };
            Box::new(chain::Chain::new(&own, env, ways))
        }
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;
    use crate::clock::Manual;
    use crate::upstream::rehearsal::{Act, Asked, Server, answer};
    use crate::wire::aliyun::signature;

    const END: &str = "2026-01-02T00:00:00Z";

    /// A source, set up in an environment of nothing but `env`, and what it brings.
    async fn fetched(config: &Config, env: &[(&str, &str)]) -> Result<Credentials, Lack> {
        let env: HashMap<&str, &str> = env.iter().copied().collect();
        let env = |name: &str| env.get(name).map(|value| (*value).to_owned());
        let clock: Arc<dyn Clock> = Arc::new(Manual::at("2026-01-01T00:00:00Z".parse().unwrap()));
        source(config, &env, &Ways::new(&Trust::nobody(), true, &clock))?.fetch().await
    }

    fn of(source: Source) -> Config {
        Config { source, ..Config::default() }
    }

    fn key(id: &str, secret: &str) -> Credentials {
        let secret = Secret::copied(secret.as_bytes());
        Credentials { id: id.into(), secret, token: None, expires: None, principal: id.into() }
    }

    fn session(principal: &str) -> Credentials {
        Credentials {
            token: Some(Secret::copied(b"tok+en==")),
            expires: Some(END.parse().unwrap()),
            principal: principal.into(),
            ..key("STS.id", "stssecret")
        }
    }

    fn grant() -> String {
        format!(
            r#""AccessKeyId":"STS.id","AccessKeySecret":"stssecret","SecurityToken":"tok+en==","Expiration":"{END}""#
        )
    }

    fn sts_grant(_: usize, _: &Asked) -> Act {
        answer(200, "", &format!(r#"{{"RequestId":"R","Credentials":{{{}}}}}"#, grant()))
    }

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn decoded(text: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let [first, tail @ ..] = rest {
            if *first == b'%' {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
                rest = &tail[2..];
            } else {
                bytes.push(*first);
                rest = tail;
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    /// Whether a form is signed (V1) with `secret`.
    fn is_signed(asked: &Asked, secret: &str) -> bool {
        let pairs: Vec<(String, String)> = asked
            .body
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        let (signatures, signed): (Vec<_>, Vec<_>) = pairs.iter().partition(|(name, _)| name == "Signature");
        let signed: Vec<(&str, &str)> = signed.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        signatures[0].1 == signature::v1("POST", &signed, &Secret::copied(secret.as_bytes()))
    }

    #[tokio::test]
    async fn env_gives_a_key_or_a_session_and_says_which_variable_is_missing() {
        let id = ("ALIBABA_CLOUD_ACCESS_KEY_ID", "LTAI");
        let secret = ("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "s");
        assert_eq!(fetched(&of(Source::Env), &[id, secret]).await, Ok(key("LTAI", "s")));
        let token = ("ALIBABA_CLOUD_SECURITY_TOKEN", "t");
        let expected = Credentials { token: Some(Secret::copied(b"t")), ..key("LTAI", "s") };
        assert_eq!(fetched(&of(Source::Env), &[id, secret, token]).await, Ok(expected));
        let lack = Lack::absent("ALIBABA_CLOUD_ACCESS_KEY_SECRET is not set");
        assert_eq!(fetched(&of(Source::Env), &[id]).await, Err(lack));
    }

    #[tokio::test]
    async fn a_secret_comes_from_a_file_a_variable_or_a_systemd_credential_but_from_one_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kms");
        write(&path, "s3cret\n");
        let base = Config { id: Some("LTAI".into()), ..of(Source::File) };
        let by_file = Config { secret_file: Some(path.clone()), ..base.clone() };
        assert_eq!(fetched(&by_file, &[]).await, Ok(key("LTAI", "s3cret")));
        let by_variable = Config { secret_env: Some("KMS_SECRET".into()), ..base.clone() };
        assert_eq!(fetched(&by_variable, &[("KMS_SECRET", "v")]).await, Ok(key("LTAI", "v")));
        let by_systemd = Config { secret_credential: Some("kms".into()), ..base.clone() };
        let credentials = ("CREDENTIALS_DIRECTORY", directory.path().to_str().unwrap());
        assert_eq!(fetched(&by_systemd, &[credentials]).await, Ok(key("LTAI", "s3cret")));
        let escaping = Config { secret_credential: Some("../kms".into()), ..base.clone() };
        assert!(matches!(fetched(&escaping, &[credentials]).await, Err(Lack::Failed(_))));
        let both = Config { secret_env: Some("KMS_SECRET".into()), ..by_file };
        assert!(matches!(fetched(&both, &[("KMS_SECRET", "v")]).await, Err(Lack::Absent(_))));
        assert!(matches!(fetched(&base, &[]).await, Err(Lack::Absent(_))));
    }

    #[tokio::test]
    async fn a_secret_file_that_others_can_read_or_that_holds_more_than_a_secret_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let config = Config { id: Some("LTAI".into()), secret_file: Some(path.clone()), ..of(Source::File) };
        for text in ["", "\n", "two words", "ü", &"x".repeat(5000)] {
            write(&path, text);
            assert!(matches!(fetched(&config, &[]).await, Err(Lack::Failed(_))), "{text:?}");
        }
        write(&path, "s");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let expected = Lack::failed(format!("{}: others can read it; chmod o-rwx", path.display()));
        assert_eq!(fetched(&config, &[]).await, Err(expected));
    }

    #[tokio::test]
    async fn a_secret_file_that_is_swapped_is_seen_as_changed_until_it_is_fetched() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("secret"), directory.path().join("other"));
        write(&path, "one");
        let config = Config { id: Some("LTAI".into()), secret_file: Some(path.clone()), ..of(Source::File) };
        let source = file::AccessKey::from_config(&config, &|_| None).unwrap();
        assert!(!source.changed());
        write(&other, "two");
        std::fs::rename(&other, &path).unwrap();
        assert!(source.changed());
        assert_eq!(source.fetch().await, Ok(key("LTAI", "two")));
        assert!(!source.changed());
    }

    #[tokio::test]
    async fn oidc_posts_the_token_unsigned_and_reads_it_anew_each_time() {
        let sts = Server::play(sts_grant).await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let env = [
            ("ALIBABA_CLOUD_ROLE_ARN", "acs:ram::1:role/r"),
            ("ALIBABA_CLOUD_OIDC_PROVIDER_ARN", "acs:ram::1:oidc-provider/p"),
            ("ALIBABA_CLOUD_OIDC_TOKEN_FILE", path.to_str().unwrap()),
        ];
        let config = Config { sts_endpoint: Some(sts.url()), ..of(Source::Oidc) };
        for token in ["e30.one", "e30.two"] {
            std::fs::write(&path, token).unwrap();
            assert_eq!(fetched(&config, &env).await, Ok(session("acs:ram::1:role/r")));
            let asked = sts.asked().pop().unwrap();
            let query = "Version=2015-04-01&Action=AssumeRoleWithOIDC&Format=JSON&Timestamp=2026-01-01T00%3A00%3A00Z";
            assert_eq!(asked.line, format!("POST /?{query} HTTP/1.1"));
            let form = format!(
                "RoleArn=acs%3Aram%3A%3A1%3Arole%2Fr&OIDCProviderArn=acs%3Aram%3A%3A1%3Aoidc-provider%2Fp\
                 &OIDCToken={token}&RoleSessionName=kmsproxy&DurationSeconds=3600"
            );
            assert_eq!(asked.body, form);
        }
    }

    #[tokio::test]
    async fn a_role_is_assumed_with_a_signed_form() {
        let sts = Server::play(sts_grant).await;
        let config = Config {
            id: Some("LTAI".into()),
            secret_env: Some("SECRET".into()),
            role_arn: Some("acs:ram::1:role/r".into()),
            role_session_name: Some("node-1".into()),
            external_id: Some("ex id".into()),
            duration_seconds: Some(900),
            sts_endpoint: Some(sts.url()),
            ..of(Source::Role)
        };
        assert_eq!(fetched(&config, &[("SECRET", "s")]).await, Ok(session("acs:ram::1:role/r")));
        let asked = sts.asked().pop().unwrap();
        assert_eq!(asked.line, "POST / HTTP/1.1");
        let named = |name| asked.parameter(name).map(decoded);
        assert_eq!(named("Action").as_deref(), Some("AssumeRole"));
        assert_eq!(named("AccessKeyId").as_deref(), Some("LTAI"));
        assert_eq!(named("RoleArn").as_deref(), Some("acs:ram::1:role/r"));
        assert_eq!(named("RoleSessionName").as_deref(), Some("node-1"));
        assert_eq!(named("ExternalId").as_deref(), Some("ex id"));
        assert_eq!(named("DurationSeconds").as_deref(), Some("900"));
        assert!(is_signed(&asked, "s"));
        assert!(!is_signed(&asked, "other"));
    }

    #[tokio::test]
    async fn a_role_is_assumed_by_whom_the_chain_finds_and_nothing_of_it_is_asked_for_them() {
        let sts = Server::play(sts_grant).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "e30").unwrap();
        let env = [
            ("ALIBABA_CLOUD_ROLE_ARN", "acs:ram::1:role/pod"),
            ("ALIBABA_CLOUD_OIDC_PROVIDER_ARN", "p"),
            ("ALIBABA_CLOUD_OIDC_TOKEN_FILE", file.path().to_str().unwrap()),
        ];
        let config = Config {
            role_arn: Some("acs:ram::2:role/kms".into()),
            role_session_name: Some("node-1".into()),
            policy: Some("{}".into()),
            duration_seconds: Some(900),
            sts_endpoint: Some(sts.url()),
            ..of(Source::Role)
        };
        assert_eq!(fetched(&config, &env).await, Ok(session("acs:ram::2:role/kms")));
        let asked = sts.asked();
        let seen = |name: &str| asked.iter().map(|asked| asked.parameter(name).map(decoded)).collect::<Vec<_>>();
        let both = |one: &str, other: &str| vec![Some(one.to_owned()), Some(other.to_owned())];
        assert_eq!(seen("Action"), both("AssumeRoleWithOIDC", "AssumeRole"));
        assert_eq!(seen("RoleArn"), both("acs:ram::1:role/pod", "acs:ram::2:role/kms"));
        assert_eq!(seen("RoleSessionName"), both("kmsproxy", "node-1"));
        assert_eq!(seen("DurationSeconds"), both("3600", "900"));
        assert_eq!(seen("Policy"), [None, Some("{}".to_owned())]);
        assert!(is_signed(&asked[1], "stssecret"));
    }

    #[tokio::test]
    async fn what_sts_refuses_is_told_by_status_and_code_alone() {
        let sts = Server::play(|_, _| {
            answer(403, "", r#"{"Code":"NoPermission","Message":"not for AKSECRET","RequestId":"R"}"#)
        })
        .await;
        let config = Config {
            id: Some("LTAI".into()),
            secret_env: Some("SECRET".into()),
            role_arn: Some("acs:ram::1:role/r".into()),
            sts_endpoint: Some(sts.url()),
            ..of(Source::Role)
        };
        let lack = Lack::failed("STS answered 403 NoPermission");
        assert_eq!(fetched(&config, &[("SECRET", "s")]).await, Err(lack));
        let impossible = Config { duration_seconds: Some(60), ..config };
        assert!(matches!(fetched(&impossible, &[("SECRET", "s")]).await, Err(Lack::Failed(_))));
    }

    #[tokio::test]
    async fn ecs_metadata_is_read_with_a_session_token_and_the_role_is_asked_for() {
        let metadata = Server::play(|_, asked| match asked.line.split(' ').nth(1).unwrap() {
            "/latest/api/token" => answer(200, "", "t0ken"),
            "/latest/meta-data/ram/security-credentials/" => answer(200, "", "node-role\n"),
            _ => answer(200, "", &format!(r#"{{"Code":"Success",{}}}"#, grant())),
        })
        .await;
        let config = Config { metadata_endpoint: Some(metadata.url()), ..of(Source::Ecs) };
        assert_eq!(fetched(&config, &[]).await, Ok(session("node-role")));
        let asked = metadata.asked();
        let lines: Vec<&str> = asked.iter().map(|it| it.line.as_str()).collect();
        assert_eq!(
            lines,
            [
                "PUT /latest/api/token HTTP/1.1",
                "GET /latest/meta-data/ram/security-credentials/ HTTP/1.1",
                "GET /latest/meta-data/ram/security-credentials/node-role HTTP/1.1",
            ]
        );
        assert_eq!(asked[0].header("x-aliyun-ecs-metadata-token-ttl-seconds"), Some("21600"));
        assert_eq!(asked[1].header("x-aliyun-ecs-metadata-token"), Some("t0ken"));
        assert_eq!(asked[2].header("x-aliyun-ecs-metadata-token"), Some("t0ken"));
    }

    #[tokio::test]
    async fn ecs_metadata_falls_back_to_version_1_unless_that_is_disabled() {
        let v1 = |_: usize, asked: &Asked| match asked.line.starts_with("PUT") {
            true => answer(403, "", ""),
            false => answer(200, "", &format!(r#"{{"Code":"Success",{}}}"#, grant())),
        };
        let metadata = Server::play(v1).await;
        let config =
            Config { metadata_endpoint: Some(metadata.url()), role_name: Some("node-role".into()), ..of(Source::Ecs) };
        assert_eq!(fetched(&config, &[]).await, Ok(session("node-role")));
        assert_eq!(metadata.asked()[1].header("x-aliyun-ecs-metadata-token"), None);
        let lack = Lack::absent("metadata v2 answered 403 to a token request, and v1 is disabled");
        let strict = Config { disable_imdsv1: true, ..config.clone() };
        assert_eq!(fetched(&strict, &[]).await, Err(lack.clone()));
        assert_eq!(fetched(&config, &[("ALIBABA_CLOUD_IMDSV1_DISABLED", "true")]).await, Err(lack));
        let disabled = fetched(&config, &[("ALIBABA_CLOUD_ECS_METADATA_DISABLED", "true")]).await;
        assert_eq!(disabled, Err(Lack::absent("ALIBABA_CLOUD_ECS_METADATA_DISABLED is set")));
    }

    #[tokio::test]
    async fn metadata_that_is_not_what_it_should_be_is_no_credential() {
        for body in ["<html>", "{}", r#"{"Code":"Failed"}"#, r#"{"Code":"Success","AccessKeyId":"a"}"#] {
            let metadata = Server::play(move |_, _| answer(200, "", body)).await;
            let config =
                Config { metadata_endpoint: Some(metadata.url()), role_name: Some("r".into()), ..of(Source::Ecs) };
            assert!(matches!(fetched(&config, &[]).await, Err(Lack::Failed(_))), "{body}");
        }
        let elsewhere = Config { metadata_endpoint: Some("http://10.0.0.1".into()), ..of(Source::Ecs) };
        assert!(matches!(fetched(&elsewhere, &[]).await, Err(Lack::Failed(_))));
        let climbing = Config { role_name: Some("../../user-data".into()), ..of(Source::Ecs) };
        assert!(matches!(fetched(&climbing, &[]).await, Err(Lack::Failed(_))));
    }

    #[tokio::test]
    async fn a_uri_on_this_machine_hands_out_a_session_and_one_elsewhere_is_not_asked() {
        let server = Server::play(|_, _| answer(200, "", &format!("{{{}}}", grant()))).await;
        let address = format!("{}/c?token=hush", server.url());
        let env = ("ALIBABA_CLOUD_CREDENTIALS_URI", address.as_str());
        assert_eq!(fetched(&of(Source::Uri), &[env]).await, Ok(session("credentials-uri")));
        let elsewhere = Config { uri: Some("http://10.0.0.1/?token=hush".into()), ..of(Source::Uri) };
        let lack = fetched(&elsewhere, &[]).await.unwrap_err();
        assert!(matches!(&lack, Lack::Failed(text) if !text.contains("hush")), "{lack}");
    }

    #[tokio::test]
    async fn a_session_without_an_end_is_refused() {
        let body = r#"{"AccessKeyId":"STS.a","AccessKeySecret":"s","SecurityToken":"t"}"#;
        let server = Server::play(move |_, _| answer(200, "", body)).await;
        let config = Config { uri: Some(server.url()), ..of(Source::Uri) };
        let lack = Lack::failed("the credentials handed out are a session without Expiration");
        assert_eq!(fetched(&config, &[]).await, Err(lack));
    }

    async fn profile(name: &str, sts: &Server) -> Result<Credentials, Lack> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        let json = r#"{"current":"ak","meta_path":"","profiles":[
            {"name":"ak","mode":"AK","access_key_id":"LTAI","access_key_secret":"s","region_id":"cn-hangzhou"},
            {"name":"sts","mode":"StsToken","access_key_id":"STS.a","access_key_secret":"s","sts_token":"t"},
            {"name":"role","mode":"RamRoleArn","access_key_id":"LTAI","access_key_secret":"s",
             "ram_role_arn":"acs:ram::1:role/r","ram_session_name":"n","expired_seconds":900},
            {"name":"chain","mode":"ChainableRamRoleArn","source_profile":"role","ram_role_arn":"acs:ram::2:role/q"},
            {"name":"loop","mode":"ChainableRamRoleArn","source_profile":"loop","ram_role_arn":"acs:ram::2:role/q"},
            {"name":"sso","mode":"CloudSSO"}]}"#;
        write(&path, json);
        let config = Config {
            profile: Some(name.to_owned()).filter(|name| !name.is_empty()),
            profile_file: Some(path),
            sts_endpoint: Some(sts.url()),
            ..of(Source::Profile)
        };
        fetched(&config, &[]).await
    }

    #[tokio::test]
    async fn the_cli_s_profiles_give_what_their_mode_says() {
        let sts = Server::play(sts_grant).await;
        assert_eq!(profile("", &sts).await, Ok(key("LTAI", "s")), "the current one");
        let expected = Credentials { token: Some(Secret::copied(b"t")), ..key("STS.a", "s") };
        assert_eq!(profile("sts", &sts).await, Ok(expected));
        assert_eq!(profile("role", &sts).await, Ok(session("acs:ram::1:role/r")));
        assert!(is_signed(&sts.asked()[0], "s"));
        assert_eq!(profile("chain", &sts).await, Ok(session("acs:ram::2:role/q")));
        assert!(is_signed(&sts.asked()[2], "stssecret"));
        assert_eq!(sts.asked()[2].parameter("SecurityToken"), Some("tok%2Ben%3D%3D"));
        for wrong in ["sso", "loop", "nobody"] {
            assert!(matches!(profile(wrong, &sts).await, Err(Lack::Failed(_))), "{wrong}");
        }
    }

    #[tokio::test]
    async fn an_ini_file_gives_what_its_type_says() {
        let sts = Server::play(sts_grant).await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        write(
            &path,
            "[default]\ntype = access_key\naccess_key_id = LTAI\naccess_key_secret = s\n\n[role]\ntype = ram_role_arn\n\
             access_key_id = LTAI\naccess_key_secret = s\nrole_arn = acs:ram::1:role/r\nrole_session_name = n\n",
        );
        let config = Config { profile_file: Some(path), sts_endpoint: Some(sts.url()), ..of(Source::Profile) };
        assert_eq!(fetched(&config, &[]).await, Ok(key("LTAI", "s")));
        let role = fetched(&config, &[("ALIBABA_CLOUD_PROFILE", "role")]).await;
        assert_eq!(role, Ok(session("acs:ram::1:role/r")));
    }

    #[tokio::test]
    async fn the_default_chain_says_what_each_link_lacked() {
        let metadata = Server::play(|_, _| answer(404, "", "")).await;
        let home = tempfile::tempdir().unwrap();
        let config = Config { metadata_endpoint: Some(metadata.url()), ..of(Source::Default) };
        let home = home.path().to_str().unwrap();
        let expected = format!(
            "no credentials found: env: ALIBABA_CLOUD_ACCESS_KEY_ID is not set; \
             oidc: no role_arn, and ALIBABA_CLOUD_ROLE_ARN is not set; \
             profile: {home}/.aliyun/config.json is not there; ini: {home}/.alibabacloud/credentials is not there; \
             ecs: the metadata service knows no such RAM role for this instance; \
             uri: ALIBABA_CLOUD_CREDENTIALS_URI is not set"
        );
        assert_eq!(fetched(&config, &[("HOME", home)]).await, Err(Lack::Failed(expected)));
    }

    #[tokio::test]
    async fn the_default_chain_takes_the_first_that_is_there_and_stops_at_one_that_fails() {
        let refusing = Server::play(|_, _| answer(403, "", r#"{"Code":"NoPermission"}"#)).await;
        let metadata = Server::play(|_, _| answer(200, "", &format!(r#"{{"Code":"Success",{}}}"#, grant()))).await;
        let config = Config {
            metadata_endpoint: Some(metadata.url()),
            sts_endpoint: Some(refusing.url()),
            role_name: Some("node-role".into()),
            ..of(Source::Default)
        };
        assert_eq!(fetched(&config, &[]).await, Ok(session("node-role")));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "e30").unwrap();
        let env = [
            ("ALIBABA_CLOUD_ROLE_ARN", "acs:ram::1:role/r"),
            ("ALIBABA_CLOUD_OIDC_PROVIDER_ARN", "p"),
            ("ALIBABA_CLOUD_OIDC_TOKEN_FILE", file.path().to_str().unwrap()),
        ];
        let before = metadata.asked().len();
        let lack = Lack::failed("oidc: STS answered 403 NoPermission");
        assert_eq!(fetched(&config, &env).await, Err(lack));
        std::fs::remove_file(file.path()).unwrap();
        let lack = Lack::failed(format!("oidc: {} is not there", file.path().display()));
        assert_eq!(fetched(&config, &env).await, Err(lack));
        assert_eq!(metadata.asked().len(), before, "no other identity was tried");
    }

    #[test]
    fn debug_of_credentials_shows_no_secret() {
        let shown = format!("{:?}", session("role"));
        assert!(!shown.contains("stssecret") && !shown.contains("tok+en"), "{shown}");
    }
}
