//! Checks that more than one section needs.

use std::path::Path;
use std::time::Duration;

use crate::config::address::Address;
use crate::config::key::Key;
use crate::config::machine::Machine;
use crate::config::mistake::Findings;
use crate::secret::Secret;

/// A reference to a secret: at most one of the three is written.
pub(super) struct Reference<'c> {
    pub(super) file: Option<&'c Path>,
    pub(super) variable: Option<&'c str>,
    pub(super) credential: Option<&'c str>,
}

impl Reference<'_> {
    pub(super) const fn is_written(&self) -> bool {
        self.file.is_some() || self.variable.is_some() || self.credential.is_some()
    }

    /// Reads the secret that the table at `key` refers to.
    pub(super) fn read(&self, key: &Key, machine: &Machine<'_>, findings: &mut Findings) -> Option<Secret> {
        let (name, read) = match (self.file, self.variable, self.credential) {
            (Some(file), None, None) => ("secret_file", machine.secret_file(file)),
            (None, Some(variable), None) => ("secret_env", machine.secret_variable(variable)),
            (None, None, Some(credential)) => ("secret_credential", machine.secret_credential(credential)),
            (None, None, None) => {
                if !findings.within(key) {
                    findings.add(
                        key,
                        "refers to no secret",
                        "add secret_file = \"/path\" (or secret_env, secret_credential)",
                    );
                }
                return None;
            }
            _ => {
                findings.add(
                    key,
                    "refers to more than one secret",
                    "keep one of secret_file, secret_env, secret_credential",
                );
                return None;
            }
        };
        noted(read, &key.then(name), findings)
    }
}

/// The value, or its problem noted.
pub(super) fn noted<T>(result: Result<T, (String, String)>, key: &Key, findings: &mut Findings) -> Option<T> {
    result.map_err(|(problem, remedy)| findings.add(key, problem, remedy)).ok()
}

/// Notes that the directory of a unix socket is missing.
pub(super) fn directory(address: &Address, key: &Key, machine: &Machine<'_>, findings: &mut Findings) {
    if let Address::Unix(path) = address {
        noted(machine.parent(path), key, findings);
    }
}

/// Notes that a length of time is none.
pub(super) fn positive(span: Duration, key: &Key, findings: &mut Findings) {
    if span.is_zero() {
        findings.add(key, "is zero", "write a longer time, such as \"2s\"");
    }
}

/// Notes that a limit is zero.
pub(super) fn at_least_one(limit: usize, key: &Key, findings: &mut Findings) {
    if limit == 0 {
        findings.add(key, "is 0, which would let nothing through", "write at least 1, or leave it out for the default");
    }
}

/// Notes a name that could not stand in metrics and logs.
pub(super) fn name(name: &str, key: &Key, findings: &mut Findings) {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(good) {
        findings.add(key, "is no name", "write 1 to 64 letters, digits, hyphens, underscores or dots");
    }
}

/// Whether the host of a URL is this machine and nothing else.
pub(super) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Whether it names an alias, in an ARN or not.
pub(super) fn is_alias(name: &str) -> bool {
    let resource = if name.starts_with("acs:kms:") { name.rsplit(':').next().unwrap_or(name) } else { name };
    resource.starts_with("alias/")
}

/// Shows a length of time as the configuration writes it.
pub(super) fn shown(span: Duration) -> String {
    let signed = jiff::SignedDuration::try_from(span).unwrap_or(jiff::SignedDuration::MAX);
    format!("{signed:#}")
}

// Names are metric labels.
const NAME_BYTES_MAX: usize = 64;
