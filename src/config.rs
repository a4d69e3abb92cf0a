//! The configuration: defaults, then the file, then `KMSPROXY_*`, then the command line. The only reader of
//! configuration files and of the environment.
//!
//! Each module owns its settings; this one joins them, and compares what no module sees alone. [`Config`] is what was
//! written and can be printed; [`Plan`] is what the daemon is built from and holds the secrets. All mistakes are found
//! in one run, each with its place and its remedy.

use std::path::{Path, PathBuf};

use crate::secret::Secret;

mod address;
mod audit;
mod callers;
mod check;
mod difference;
mod environment;
mod key;
mod listeners;
mod machine;
mod mistake;
mod nearest;
mod piece;
mod plan;
mod provider;
mod raw;
mod reading;
mod resolve;
mod tracing;
mod upstreams;

pub use address::Address;
pub use difference::{Difference, Fate};
pub use environment::Environment;
pub use key::Place;
pub use mistake::{Mistake, Mistakes};
pub use plan::{CallerPlan, FacePlan, ListenerPlan, Plan, Unbindable, UpstreamPlan};
pub use raw::{AccessKey, Caller, Config, Kms, Upstream};

/// Where settings come from.
#[derive(Debug)]
pub struct Sources {
    /// The file; [`FILE`] unless told otherwise. It must exist.
    pub file: PathBuf,
    /// For `KMSPROXY_SECTION__KEY` and for what the file refers to.
    pub environment: Environment,
    /// `SECTION.KEY=VALUE`, which win over all else.
    pub overrides: Vec<String>,
    /// A directory that plays `/` for every file that the configuration names (not for the file itself), so that a
    /// package or a test can check a configuration for another machine. Addresses are then not tried.
    pub root: Option<PathBuf>,
}

/// Reads, follows and checks the whole configuration.
///
/// # Errors
/// Every mistake that can be found without binding an address ([`Plan::try_addresses`]) or asking a KMS.
pub fn load(sources: &Sources) -> Result<(Config, Plan), Mistakes> {
    let (config, mut findings) = reading::read(&sources.file, &sources.environment, &sources.overrides);
    let Some(config) = config else {
        return Err(findings.mistakes());
    };
    let machine = machine::Machine::new(&sources.environment, sources.root.as_deref());
    let plan = resolve::resolve(&config, &machine, &mut findings);
    if findings.is_empty() { Ok((config, plan)) } else { Err(findings.mistakes()) }
}

/// Reads `text` as the content of `file`, and follows nothing that it refers to: no file, no variable, no address.
///
/// # Errors
/// Every mistake that can be found by reading alone.
pub fn understand(
    file: &Path,
    text: String,
    environment: &Environment,
    overrides: &[String],
) -> Result<Config, Mistakes> {
    let (config, findings) = reading::understand(key::Origin::new(file, text), environment, overrides);
    match config {
        Some(config) if findings.is_empty() => Ok(config),
        _ => Err(findings.mistakes()),
    }
}

/// Where the daemon of a configuration takes commands, if it does: `admin.address` alone, so that whoever only wants to
/// ask a daemon need not be able to read its secrets.
///
/// # Errors
/// What is wrong with the file or that address.
pub fn admin_address(sources: &Sources) -> Result<Option<Address>, Mistakes> {
    let (config, mut findings) = reading::read(&sources.file, &sources.environment, &sources.overrides);
    let Some(config) = config else {
        return Err(findings.mistakes());
    };
    let machine = machine::Machine::new(&sources.environment, sources.root.as_deref());
    match resolve::admin(&config, &machine, &mut findings) {
        None if config.admin.address.is_some() => Err(findings.mistakes()),
        address => Ok(address),
    }
}

/// The secret in a file that nobody else can read, for commands that take one.
///
/// # Errors
/// What is wrong with the file, and the remedy.
pub fn secret_file(path: &Path, environment: &Environment) -> Result<Secret, String> {
    let absolute = std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let secret = machine::Machine::new(environment, None).secret_file(&absolute);
    secret.map_err(|(problem, remedy)| format!("{problem}\n  remedy: {remedy}"))
}

/// The configuration file that is read unless another is named.
pub const FILE: &str = "/etc/kmsproxy/kmsproxy.toml";
