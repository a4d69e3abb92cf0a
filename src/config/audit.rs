//! `[audit]`: from what was written to what is opened.

use std::path::Path;

use crate::audit::{Config, Destination, SinkName, Terms};
use crate::config::check::{Reference, at_least_one, noted};
use crate::config::key::Key;
use crate::config::machine::Machine;
use crate::config::mistake::Findings;
use crate::secret::Secret;

/// The audit log, where there is to be one.
pub(super) fn audit(config: &Config, machine: &Machine<'_>, findings: &mut Findings) -> Option<Terms> {
    let key = Key::of(["audit"]);
    at_least_one(config.queue, &key.then("queue"), findings);
    if config.path.is_some() && config.sink != SinkName::File {
        findings.add(&key.then("path"), "is for sink = \"file\" only", "remove it, or write sink = \"file\"");
    }
    let secret = secret(config, &key, machine, findings);
    let destination = match (config.sink, &config.path) {
        (SinkName::Off, _) => return None,
        (SinkName::File, Some(path)) => file(path, &key.then("path"), machine, findings)?,
        (SinkName::File, None) => {
            findings.add(&key, "`path` is missing", "add path = \"/var/log/kmsproxy/audit.jsonl\"");
            return None;
        }
        (SinkName::Journal, _) => Destination::Journal,
        (SinkName::Stdout, _) => Destination::Stdout,
    };
    Some(Terms { destination, required: config.required, queue: config.queue, secret })
}

fn file(path: &Path, key: &Key, machine: &Machine<'_>, findings: &mut Findings) -> Option<Destination> {
    noted(machine.appendable(path), key, findings).map(|()| Destination::File(path.to_owned()))
}

fn secret(config: &Config, key: &Key, machine: &Machine<'_>, findings: &mut Findings) -> Option<Secret> {
    let reference = Reference {
        file: config.secret_file.as_deref(),
        variable: config.secret_env.as_deref(),
        credential: config.secret_credential.as_deref(),
    };
    if !reference.is_written() {
        return None;
    }
    let secret = reference.read(key, machine, findings)?;
    if secret.len() < SECRET_BYTES_MIN {
        findings.add(key, "its secret is shorter than 32 bytes", "make one: openssl rand -hex 32");
    }
    Some(secret)
}

const SECRET_BYTES_MIN: usize = 32;
