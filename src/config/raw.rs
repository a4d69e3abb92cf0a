//! The configuration as written: every value of the right type, nothing looked up, nothing compared.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::admin;
use crate::audit;
use crate::cache;
use crate::exporter;
use crate::guard;
use crate::lease;
use crate::listener;
use crate::metrics;
use crate::policy;
use crate::upstream::{aliyun, local};
use crate::working_set;

/// Every setting, defaults filled in. It must not contain a secret: only where secrets are. That is why it can be
/// printed, and why inline secrets are refused on reading.
#[derive(Debug, Default)]
pub struct Config {
    pub(super) upstreams: BTreeMap<String, Upstream>,
    /// By position; one that could not be read is absent, the positions of the others stay.
    pub(super) listeners: BTreeMap<usize, listener::Config>,
    /// As for listeners.
    pub(super) callers: BTreeMap<usize, Caller>,
    pub(super) cache: cache::Config,
    pub(super) metrics: metrics::Config,
    pub(super) memory: guard::Config,
    pub(super) admin: admin::Config,
    pub(super) audit: audit::Config,
    pub(super) working_set: working_set::Config,
    pub(super) tracing: exporter::Config,
    /// Every name that is written, also of what could not be read: a reference to it is not a second mistake.
    pub(super) named: Named,
}

impl Config {
    /// The effective configuration in the form of the file. It reads back to the same configuration.
    ///
    /// # Errors
    /// Never for a configuration that was read from TOML: a value that TOML cannot express.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(&self.tables()?)
    }

    pub(super) fn tables(&self) -> Result<toml::Table, toml::ser::Error> {
        let upstreams = self.upstreams.iter().map(|(name, upstream)| Ok((name.clone(), upstream.table()?.into())));
        let mut whole = toml::Table::new();
        whole.insert("upstream".to_owned(), toml::Value::Table(upstreams.collect::<Result<_, toml::ser::Error>>()?));
        whole.insert("listener".to_owned(), list(self.listeners.values())?);
        whole.insert("caller".to_owned(), list(self.callers.values())?);
        whole.insert("cache".to_owned(), toml::Value::try_from(self.cache)?);
        whole.insert("metrics".to_owned(), toml::Value::try_from(&self.metrics)?);
        whole.insert("memory".to_owned(), toml::Value::try_from(self.memory)?);
        whole.insert("admin".to_owned(), toml::Value::try_from(&self.admin)?);
        whole.insert("audit".to_owned(), toml::Value::try_from(&self.audit)?);
        whole.insert("working_set".to_owned(), toml::Value::try_from(&self.working_set)?);
        whole.insert("tracing".to_owned(), toml::Value::try_from(&self.tracing)?);
        Ok(whole)
    }
}

/// The names of what callers and listeners refer to.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) upstreams: Vec<String>,
    pub(super) listeners: Vec<String>,
}

/// One `[upstream.NAME]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Which KMS and how to reach it.
    pub kms: Kms,
    /// For how long its word counts.
    pub lease: lease::Terms,
}

impl Upstream {
    fn table(&self) -> Result<toml::Table, toml::ser::Error> {
        let (kind, mut table) = match &self.kms {
            Kms::Aliyun(config) => ("aliyun", toml::Table::try_from(config)?),
            Kms::Local(config) => ("local", toml::Table::try_from(config)?),
        };
        table.insert("kind".to_owned(), kind.into());
        table.insert("lease".to_owned(), toml::Value::try_from(self.lease)?);
        Ok(table)
    }
}

/// An upstream by its `kind`.
#[derive(Debug, PartialEq, Eq)]
pub enum Kms {
    /// Alibaba Cloud KMS.
    Aliyun(Box<aliyun::Config>),
    /// The embedded software KMS.
    Local(local::Config),
}

impl Kms {
    /// The values of `kind`.
    pub(super) const KINDS: [&'static str; 2] = ["aliyun", "local"];
}

/// One `[[caller]]`.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    /// Its name in metrics, logs and audit.
    pub name: String,
    /// The listener it comes through.
    pub listener: String,
    /// Proven by a signature.
    #[serde(default)]
    pub access_key: Option<AccessKey>,
    /// Proven by this DNS or URI name in a client certificate.
    #[serde(default)]
    pub certificate_name: Option<String>,
    /// Proven by the kernel: this user is at the other end of the unix socket.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Callers with the same word here may be served what another of them caused to be cached.
    #[serde(default)]
    pub share: Option<String>,
    /// What it may do; required, because forgetting it should not look like forbidding everything.
    pub allow: Vec<policy::Rule>,
}

/// A local access key: it opens this socket and nothing else.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AccessKey {
    /// What the client has as its access key id.
    pub id: String,
    /// The secret, in a file.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// The secret, in an environment variable.
    #[serde(default)]
    pub secret_env: Option<String>,
    /// The secret, in a systemd credential.
    #[serde(default)]
    pub secret_credential: Option<String>,
}

fn list<'i, T: Serialize + 'i>(items: impl Iterator<Item = &'i T>) -> Result<toml::Value, toml::ser::Error> {
    items.map(toml::Value::try_from).collect::<Result<Vec<_>, _>>().map(toml::Value::Array)
}
