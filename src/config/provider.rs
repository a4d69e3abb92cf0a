//! Checks of what `face = "kubernetes"` needs and forbids, at the listener and at its callers.

use std::time::Duration;

use crate::config::check::{is_alias, shown};
use crate::config::key::Key;
use crate::config::mistake::Findings;
use crate::config::plan::{FacePlan, ListenerPlan};
use crate::config::raw::{Caller, Config};
use crate::kms::{Action, KeyName};
use crate::listener::{self, FaceName, Provider};
use crate::wire::kubernetes::Api;

/// Writes the defaults that hold for a Kubernetes listener alone, so that the effective configuration shows them.
pub(super) fn fill(listener: &mut listener::Config) {
    if listener.face == FaceName::Kubernetes {
        listener.api.get_or_insert_with(|| APIS.to_vec());
        listener.v2_version.get_or_insert_default();
        listener.key_id_suffix.get_or_insert_default();
        listener.v1_ciphertext.get_or_insert_default();
    }
}

/// The face of a listener. Its key is empty where that was found wrong.
pub(super) fn face(listener: &listener::Config, key: &Key, findings: &mut Findings) -> FacePlan {
    match listener.face {
        FaceName::Aliyun => {
            no_provider(listener, key, findings);
            FacePlan::Aliyun
        }
        FaceName::Kubernetes => {
            no_network(listener, key, findings);
            FacePlan::Kubernetes(provider(listener, key, findings))
        }
    }
}

/// Notes settings that mean nothing to another face.
fn no_provider(listener: &listener::Config, key: &Key, findings: &mut Findings) {
    let written = [
        ("key", listener.key.is_some()),
        ("api", listener.api.is_some()),
        ("v2_version", listener.v2_version.is_some()),
        ("key_id_suffix", listener.key_id_suffix.is_some()),
        ("v1_ciphertext", listener.v1_ciphertext.is_some()),
    ];
    for (name, _) in written.iter().filter(|(_, written)| *written) {
        findings.add(&key.then(name), "is for face = \"kubernetes\" only", "remove it, or write that face");
    }
}

/// Notes settings that mean nothing on a socket of this machine, and a timeout that no kube-apiserver has.
fn no_network(listener: &listener::Config, key: &Key, findings: &mut Findings) {
    if listener.tls.is_some() {
        let remedy = "remove it; the socket's directory, mode and group say who may connect";
        findings.add(&key.then("tls"), "kube-apiserver speaks no TLS to a provider", remedy);
    }
    if !listener.hosts.is_empty() {
        let problem = "kube-apiserver sends no Host that would tell anything";
        findings.add(&key.then("hosts"), problem, "remove it");
    }
    if listener.insecure {
        findings.add(&key.then("insecure"), "is about TCP, which kube-apiserver does not use here", "remove it");
    }
    if listener.timeout > TIMEOUT_MAX {
        let problem = format!("{} is longer than a kube-apiserver should wait", shown(listener.timeout));
        let remedy = "write less than the `timeout` of its EncryptionConfiguration, which is 3s unless written";
        findings.add(&key.then("timeout"), problem, remedy);
    }
}

fn provider(listener: &listener::Config, key: &Key, findings: &mut Findings) -> Provider {
    let api = listener.api.clone().unwrap_or_else(|| APIS.to_vec());
    if api.is_empty() {
        findings.add(
            &key.then("api"),
            "is empty: nothing would be served",
            "write [\"v1beta1\", \"v2\"], or leave it out for both",
        );
    }
    if (1..api.len()).any(|index| api[..index].contains(&api[index])) {
        findings.add(&key.then("api"), "names one twice", "write each once");
    }
    Provider {
        key: encrypting(listener, key, findings),
        api,
        v2_version: listener.v2_version.unwrap_or_default(),
        key_id_suffix: listener.key_id_suffix.clone().unwrap_or_default(),
        v1_ciphertext: listener.v1_ciphertext.unwrap_or_default(),
    }
}

fn encrypting(listener: &listener::Config, key: &Key, findings: &mut Findings) -> KeyName {
    let written = listener.key.as_deref().unwrap_or_default();
    let remedy = "write the key that encrypts: key = \"alias/…\", or its id or ARN";
    if listener.key.is_none() {
        findings.add(key, "`key` is missing", "add key = \"alias/…\", or its id or ARN: the key that encrypts");
    } else if written.is_empty() {
        findings.add(&key.then("key"), "is empty", remedy);
    } else if written == "*" || !written.bytes().all(|byte| byte.is_ascii_graphic()) {
        findings.add(&key.then("key"), "names no key", remedy);
        return KeyName::new("");
    }
    KeyName::new(written)
}

/// Notes Kubernetes listeners none of whose callers may do what a kube-apiserver must: encrypt with its key, and
/// decrypt what that key encrypted.
pub(super) fn useless(config: &Config, listeners: &[(Key, ListenerPlan)], findings: &mut Findings) {
    for (_, plan) in listeners {
        let FacePlan::Kubernetes(provider) = &plan.face else { continue };
        let here = config.callers.iter().filter(|(_, caller)| caller.listener == plan.config.name);
        let lacks = |caller: &Caller| [!encrypts(caller, &provider.key), !decrypts(caller, &provider.key)];
        // Told for the caller that is nearest to it: the first of those, for `min_by_key` takes that.
        let nearest = here.min_by_key(|(_, caller)| lacks(caller).iter().filter(|lacks| **lacks).count());
        let Some((index, caller)) = nearest.filter(|_| !provider.key.as_str().is_empty()) else { continue };
        let (key, name) = (Key::of(["caller"]).then(index).then("allow"), provider.key.as_str());
        let [encrypt, decrypt] = lacks(caller);
        // A line that was found wrong may be the one that was meant to allow it.
        if decrypt && !findings.within(&key) {
            let problem =
                format!("nobody may decrypt what `{name}`, the key of listener `{}`, encrypts", caller.listener);
            findings.add(&key, problem, decrypt_line(&provider.key));
        }
        if encrypt {
            let problem = format!("nobody may encrypt with `{name}`, the key of listener `{}`", caller.listener);
            findings.add(&key, problem, format!("add {{ actions = [\"Encrypt\"], keys = [\"{name}\"] }}"));
        }
    }
}

fn encrypts(caller: &Caller, key: &KeyName) -> bool {
    caller.allow.iter().any(|rule| rule.covers(Action::Encrypt, key.bare()))
}

/// The id behind an alias is not known here: then any id will do.
fn decrypts(caller: &Caller, key: &KeyName) -> bool {
    caller.allow.iter().any(|rule| match key.id() {
        Some(id) => rule.covers(Action::Decrypt, id),
        None => rule.actions.contains(&Action::Decrypt) && rule.keys.iter().any(|name| !is_alias(name)),
    })
}

fn decrypt_line(key: &KeyName) -> String {
    let line = |id: &str| format!("add {{ actions = [\"Decrypt\"], keys = [\"{id}\"] }}");
    key.id().map_or_else(|| format!("{} with the id of that key", line("key-…")), line)
}

const APIS: [Api; 2] = [Api::V1beta1, Api::V2];
// kube-apiserver's own `timeout` for a provider is 3 s unless configured, so 2.5 s is our default. Which it really has
// we cannot know; a minute is more than any request to it lives.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
