//! Profiles that other tools wrote: the `aliyun` CLI's JSON (`credentials-go`, `cli_profile.go`) and the SDKs' ini file
//! (`profile.go`).

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use ini::Ini;
use serde::Deserialize;

use crate::secret::Secret;
use crate::stamp::Stamp;
use crate::upstream::credentials::ecs::Ecs;
use crate::upstream::credentials::file::{self, AccessKey};
use crate::upstream::credentials::oidc::Oidc;
use crate::upstream::credentials::role::Role;
use crate::upstream::credentials::{Config, Credentials, Environment, Fetch, Fetching, Lack, Ways};

/// How a profile file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `~/.aliyun/config.json`.
    Json,
    /// `ALIBABA_CLOUD_CREDENTIALS_FILE`, or `~/.alibabacloud/credentials`.
    Ini,
}

/// One profile of one file; the file is read again at each fetch.
#[derive(Debug)]
pub struct Profile {
    form: Form,
    file: PathBuf,
    name: Option<String>,
    config: Config,
    ways: Ways,
    seen: Mutex<Option<Stamp>>,
}

impl Profile {
    /// The profile of `profile_file`, or else of the CLI's file.
    ///
    /// # Errors
    /// [`Lack::Absent`] where there is no such file.
    pub fn new(config: &Config, env: Environment<'_>, ways: &Ways) -> Result<Self, Lack> {
        let Some(file) = config.profile_file.clone() else { return Self::of_form(Form::Json, config, env, ways) };
        let is_json = file.extension().is_some_and(|extension| extension == "json");
        Ok(Self::at(file, if is_json { Form::Json } else { Form::Ini }, config, env, ways))
    }

    /// The profile of the usual file of one form, `ALIBABA_CLOUD_PROFILE` or else the current or `default` one.
    ///
    /// # Errors
    /// [`Lack::Absent`] where no home directory is known.
    pub fn of_form(form: Form, config: &Config, env: Environment<'_>, ways: &Ways) -> Result<Self, Lack> {
        let named = match form {
            Form::Json => None,
            Form::Ini => env("ALIBABA_CLOUD_CREDENTIALS_FILE").filter(|path| !path.is_empty()),
        };
        let usual = match form {
            Form::Json => ".aliyun/config.json",
            Form::Ini => ".alibabacloud/credentials",
        };
        let at_home = || env("HOME").filter(|home| !home.is_empty()).map(|home| PathBuf::from(home).join(usual));
        let file = named.map(PathBuf::from).or_else(at_home).ok_or_else(|| Lack::absent("HOME is not set"))?;
        Ok(Self::at(file, form, config, env, ways))
    }

    fn at(file: PathBuf, form: Form, config: &Config, env: Environment<'_>, ways: &Ways) -> Self {
        let name = config.profile.clone().or_else(|| env("ALIBABA_CLOUD_PROFILE")).filter(|name| !name.is_empty());
        Self { form, file, name, config: config.clone(), ways: ways.clone(), seen: Mutex::default() }
    }

    async fn obtain(&self) -> Result<Credentials, Lack> {
        let stamp = Stamp::of(&self.file);
        let whole = file::read_private(&self.file, FILE_BYTES_MAX)?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamp;
        let text = std::str::from_utf8(whole.expose()).map_err(|_| self.failed("is not UTF-8"))?;
        let source = self.source_in(text)?;
        source.fetch().await
    }

    /// The source that the profile describes, if `text` is what the file holds.
    ///
    /// # Errors
    /// [`Lack::Failed`] where it is not a file of its form, has no such profile, or one that kmsproxy does not know;
    /// [`Lack::Absent`] where the profile lacks something.
    pub fn source_in(&self, text: &str) -> Result<Box<dyn Fetch>, Lack> {
        let (entries, current) = match self.form {
            Form::Json => self.entries_of_json(text)?,
            Form::Ini => self.entries_of_ini(text)?,
        };
        self.source(&entries, self.name.as_deref().unwrap_or(&current), PROFILE_DEPTH_MAX)
    }

    fn entries_of_json(&self, text: &str) -> Result<(Vec<Entry>, String), Lack> {
        #[derive(Deserialize)]
        struct Whole {
            current: Option<String>,
            #[serde(default)]
            profiles: Vec<Entry>,
        }
        // Not serde's own words: they may quote the file.
        let whole: Whole = serde_json::from_str(text).map_err(|_| self.failed("is not the CLI's JSON"))?;
        Ok((whole.profiles, whole.current.unwrap_or_else(|| "default".into())))
    }

    fn entries_of_ini(&self, text: &str) -> Result<(Vec<Entry>, String), Lack> {
        let ini = Ini::load_from_str(text).map_err(|_| self.failed("is not an ini file"))?;
        let entries = ini.iter().filter_map(|(section, values)| Some(Entry::of_ini(section?, values)));
        Ok((entries.collect(), "default".into()))
    }

    fn source(&self, entries: &[Entry], name: &str, depth: u32) -> Result<Box<dyn Fetch>, Lack> {
        let entry = entries.iter().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| self.failed(&format!("has no profile {name:?}")))?;
        let config = self.config_of(entry);
        let nothing: Environment<'_> = &|_| None;
        let role = |with| Ok::<_, Lack>(Box::new(Role::new(&config, nothing, &self.ways, with)?));
        match entry.mode.as_str() {
            "AK" | "access_key" => self.access_key(entry, None),
            "StsToken" | "sts" => self.access_key(entry, Some(self.need("sts_token", entry.sts_token.as_ref())?)),
            "RamRoleArn" | "ram_role_arn" => Ok(role(self.access_key(entry, entry.sts_token.as_ref())?)?),
            "EcsRamRole" | "ecs_ram_role" => Ok(Box::new(Ecs::new(&config, nothing, &self.ways)?)),
            "OIDC" | "oidc_role_arn" => Ok(Box::new(Oidc::new(&config, nothing, &self.ways)?)),
            "ChainableRamRoleArn" if depth > 0 => {
                let source = self.need("source_profile", entry.source_profile.as_ref())?;
                Ok(role(self.source(entries, source, depth - 1)?)?)
            }
            "ChainableRamRoleArn" => Err(self.failed("has a chain of profiles that is too long")),
            other => Err(self.failed(&format!(
                "profile {name:?} has mode {other:?}; kmsproxy knows AK, StsToken, RamRoleArn, EcsRamRole, OIDC and \
                 ChainableRamRoleArn"
            ))),
        }
    }

    fn config_of(&self, entry: &Entry) -> Config {
        let region = entry.sts_region.as_ref().filter(|region| !region.is_empty());
        let regional = region.map(|region| format!("https://sts.{region}.aliyuncs.com"));
        Config {
            role_arn: entry.ram_role_arn.clone(),
            role_session_name: entry.ram_session_name.clone().filter(|name| !name.is_empty()),
            external_id: entry.external_id.clone().filter(|id| !id.is_empty()),
            policy: entry.policy.clone().filter(|policy| !policy.is_empty()),
            oidc_provider_arn: entry.oidc_provider_arn.clone(),
            oidc_token_file: entry.oidc_token_file.clone(),
            duration_seconds: entry.expired_seconds.filter(|seconds| *seconds > 0),
            role_name: entry.ram_role_name.clone(),
            disable_imdsv1: self.config.disable_imdsv1,
            sts_endpoint: self.config.sts_endpoint.clone().or(regional),
            metadata_endpoint: self.config.metadata_endpoint.clone(),
            ..Config::default()
        }
    }

    fn access_key(&self, entry: &Entry, token: Option<&String>) -> Result<Box<dyn Fetch>, Lack> {
        let id = self.need("access_key_id", entry.access_key_id.as_ref())?;
        let secret = self.need("access_key_secret", entry.access_key_secret.as_ref())?;
        let token = token.filter(|token| !token.is_empty()).map(|token| Secret::copied(token.as_bytes()));
        Ok(Box::new(AccessKey::fixed(id, &Secret::copied(secret.as_bytes()), token.as_ref())?))
    }

    fn need<'a>(&self, name: &str, value: Option<&'a String>) -> Result<&'a String, Lack> {
        let lack = || Lack::absent(format!("{} has no {name} in its profile", self.file.display()));
        value.filter(|value| !value.is_empty()).ok_or_else(lack)
    }

    fn failed(&self, why: &str) -> Lack {
        Lack::failed(format!("{} {why}", self.file.display()))
    }
}

impl Fetch for Profile {
    fn fetch(&self) -> Fetching<'_> {
        Box::pin(self.obtain())
    }

    fn changed(&self) -> bool {
        Stamp::of(&self.file) != *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One profile as written, by the JSON names. Holds secrets for the moment of a fetch; what it frees is wiped.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    name: String,
    mode: String,
    access_key_id: Option<String>,
    access_key_secret: Option<String>,
    sts_token: Option<String>,
    ram_role_name: Option<String>,
    ram_role_arn: Option<String>,
    ram_session_name: Option<String>,
    expired_seconds: Option<u32>,
    sts_region: Option<String>,
    oidc_token_file: Option<PathBuf>,
    oidc_provider_arn: Option<String>,
    source_profile: Option<String>,
    external_id: Option<String>,
    policy: Option<String>,
}

impl Entry {
    fn of_ini(section: &str, values: &ini::Properties) -> Self {
        let value = |name: &str| values.get(name).map(str::to_owned);
        Self {
            name: section.to_owned(),
            mode: value("type").unwrap_or_default(),
            access_key_id: value("access_key_id"),
            access_key_secret: value("access_key_secret"),
            sts_token: value("security_token"),
            ram_role_name: value("role_name"),
            ram_role_arn: value("role_arn"),
            ram_session_name: value("role_session_name"),
            expired_seconds: value("session_expiration").and_then(|seconds| seconds.parse().ok()),
            sts_region: value("sts_region"),
            oidc_token_file: value("oidc_token_file_path").map(PathBuf::from),
            oidc_provider_arn: value("oidc_provider_arn"),
            source_profile: None,
            external_id: value("external_id"),
            policy: value("policy"),
        }
    }
}

const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Profiles that a `ChainableRamRoleArn` may go through.
const PROFILE_DEPTH_MAX: u32 = 4;
