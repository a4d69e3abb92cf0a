//! Stub: settings of credentials.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where credentials come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The chain.
    Default,
    /// Environment.
    Env,
    /// RRSA.
    Oidc,
    /// `AssumeRole`.
    Role,
    /// Metadata.
    Ecs,
    /// URI.
    Uri,
    /// Profile.
    Profile,
    /// Secret file.
    File,
}

/// The `credentials` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which.
    pub source: Source,
    /// Access key id.
    #[serde(default)]
    pub id: Option<String>,
    /// Secret.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// Secret.
    #[serde(default)]
    pub secret_env: Option<String>,
    /// Secret.
    #[serde(default)]
    pub secret_credential: Option<String>,
    /// Role.
    #[serde(default)]
    pub role_arn: Option<String>,
    /// Session.
    #[serde(default)]
    pub role_session_name: Option<String>,
    /// External id.
    #[serde(default)]
    pub external_id: Option<String>,
    /// Policy.
    #[serde(default)]
    pub policy: Option<String>,
    /// Provider.
    #[serde(default)]
    pub oidc_provider_arn: Option<String>,
    /// Token.
    #[serde(default)]
    pub oidc_token_file: Option<PathBuf>,
    /// Session length.
    #[serde(default)]
    pub duration_seconds: Option<u32>,
    /// ECS role.
    #[serde(default)]
    pub role_name: Option<String>,
    /// No v1.
    #[serde(default)]
    pub disable_imdsv1: bool,
    /// URI.
    #[serde(default)]
    pub uri: Option<String>,
    /// Profile.
    #[serde(default)]
    pub profile: Option<String>,
    /// Profile file.
    #[serde(default)]
    pub profile_file: Option<PathBuf>,
    /// STS.
    #[serde(default)]
    pub sts_endpoint: Option<String>,
    /// Metadata.
    #[serde(default)]
    pub metadata_endpoint: Option<String>,
}
