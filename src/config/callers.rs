//! Checks of `[[caller]]`.

use crate::auth::{CallerName, Entry, Identity};
use crate::claim::ListenerName;
use crate::config::address::Address;
use crate::config::check::{Reference, is_alias, name};
use crate::config::key::Key;
use crate::config::machine::Machine;
use crate::config::mistake::Findings;
use crate::config::nearest::nearest;
use crate::config::plan::{CallerPlan, FacePlan, ListenerPlan};
use crate::config::provider::useless;
use crate::config::raw::{Caller, Config};
use crate::kms::Action;
use crate::policy::Rule;

/// Checks every caller that could be read, against the listeners that could be.
pub(super) fn callers(
    config: &Config,
    listeners: &[(Key, ListenerPlan)],
    machine: &Machine<'_>,
    findings: &mut Findings,
) -> Vec<CallerPlan> {
    // A caller that could not be read may be the one that is missed below.
    let unread = findings.within(&Key::of(["caller"]));
    let mut plans: Vec<CallerPlan> = Vec::new();
    for (index, caller) in &config.callers {
        let key = Key::of(["caller"]).then(index);
        name(&caller.name, &key.then("name"), findings);
        if config.callers.range(..index).any(|(_, other)| other.name == caller.name) {
            let problem = format!("a caller is called `{}` already", caller.name);
            findings.add(&key.then("name"), problem, "give each caller its own name");
        }
        refers(config, caller, &key, findings);
        for (line, rule) in caller.allow.iter().enumerate() {
            allowed(rule, &key.then("allow").then(line), findings);
        }
        let listener = listeners.iter().map(|(_, plan)| plan).find(|plan| plan.config.name == caller.listener);
        let Some(identity) = identity(caller, listener, &key, machine, findings) else { continue };
        unique(&plans, caller, &identity, &key, findings);
        let (name, listener) = (CallerName::new(&caller.name), ListenerName::new(&caller.listener));
        let entry = Entry { name, listener, identity };
        plans.push(CallerPlan { entry, share: caller.share.clone(), allow: caller.allow.clone() });
    }
    lonely(config, listeners, findings);
    if !unread {
        useless(config, listeners, findings);
    }
    plans
}

fn refers(config: &Config, caller: &Caller, key: &Key, findings: &mut Findings) {
    let names: Vec<&str> = config.named.listeners.iter().map(String::as_str).collect();
    if names.contains(&caller.listener.as_str()) {
        return;
    }
    let remedy = nearest(&caller.listener, &names)
        .map_or_else(|| "write the name of a [[listener]]".to_owned(), |near| format!("did you mean `{near}`?"));
    findings.add(&key.then("listener"), format!("there is no listener `{}`", caller.listener), remedy);
}

/// How this caller proves itself. What the listener must be for that is checked where it could be read.
fn identity(
    caller: &Caller,
    listener: Option<&ListenerPlan>,
    key: &Key,
    machine: &Machine<'_>,
    findings: &mut Findings,
) -> Option<Identity> {
    let provider = listener.is_some_and(|plan| matches!(plan.face, FacePlan::Kubernetes(_)));
    // A provider on TCP is a mistake of the listener's, told there.
    let tcp = !provider && listener.is_some_and(|plan| matches!(plan.address, Address::Tcp(_)));
    match (&caller.access_key, &caller.certificate_name, caller.uid) {
        (Some(_), None, None) if provider => {
            unproven("access_key", "kube-apiserver signs nothing", key, findings);
            None
        }
        (None, Some(_), None) if provider => {
            unproven("certificate_name", "kube-apiserver shows no certificate", key, findings);
            None
        }
        (Some(access_key), None, None) => {
            let key = key.then("access_key");
            if access_key.id.is_empty() {
                findings.add(&key.then("id"), "is empty", "write the access key id that the client is given");
            }
            let reference = Reference {
                file: access_key.secret_file.as_deref(),
                variable: access_key.secret_env.as_deref(),
                credential: access_key.secret_credential.as_deref(),
            };
            let secret = reference.read(&key, machine, findings)?;
            Some(Identity::AccessKey { id: access_key.id.clone(), secret })
        }
        (None, Some(name), None) => {
            let verified =
                |plan: &ListenerPlan| plan.config.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
            if listener.is_some_and(|plan| !verified(plan)) {
                let problem = format!("the listener `{}` asks for no client certificate", caller.listener);
                findings.add(&key.then("certificate_name"), problem, "give its tls table a client_ca_file");
            }
            Some(Identity::Certificate { name: name.clone() })
        }
        (None, None, Some(uid)) => {
            user(uid, tcp, &key.then("uid"), findings);
            Some(Identity::Unix { uid })
        }
        (None, None, None) => {
            anonymous(caller, listener, key, findings);
            Some(Identity::Listener)
        }
        _ => {
            findings.add(key, "proves itself in two ways", "keep one of access_key, certificate_name, uid");
            None
        }
    }
}

fn user(uid: u32, tcp: bool, key: &Key, findings: &mut Findings) {
    if tcp {
        let remedy = "listen on a unix: address, or use access_key or certificate_name";
        findings.add(key, "the listener is TCP, where the kernel does not say who asks", remedy);
    }
    if uid == OVERFLOW_UID {
        let remedy = "use the user's number in this namespace, or one socket for each caller and no uid";
        findings.add(key, "65534 is what every user of another namespace looks like", remedy);
    }
}

/// Notes a proof that a provider's caller cannot give.
fn unproven(setting: &str, problem: &str, key: &Key, findings: &mut Findings) {
    let remedy = "remove it: then whoever reaches the socket is this caller; or write uid = …";
    findings.add(&key.then(setting), problem, remedy);
}

fn anonymous(caller: &Caller, listener: Option<&ListenerPlan>, key: &Key, findings: &mut Findings) {
    // An access key with a secret in it was cut out on reading: that mistake has been told.
    let Some(plan) = listener.filter(|_| !findings.within(&key.then("access_key"))) else { return };
    let proof = match plan.face {
        FacePlan::Aliyun => "uid or access_key",
        FacePlan::Kubernetes(_) => "uid",
    };
    match (&plan.address, &plan.face) {
        (Address::Tcp(_), FacePlan::Aliyun) => {
            let problem =
                format!("nothing proves who it is: the listener `{}` is TCP, which anybody can reach", caller.listener);
            let remedy = "add access_key = { id = …, secret_file = … } or certificate_name, or use a unix: address";
            findings.add(key, problem, remedy);
        }
        (Address::Abstract(_), _) => {
            let problem = "nothing proves who it is: an abstract socket has no permissions, anybody can reach it";
            findings.add(key, problem, format!("add {proof}, or listen on a unix:/path with a mode"));
        }
        (Address::Unix(_), _) if plan.mode.is_some_and(|mode| mode & 0o007 != 0) => {
            let problem = "whoever reaches the socket is this caller, and the socket's mode lets everybody reach it";
            findings.add(key, problem, format!("write mode = \"0660\" at the listener, or add {proof}"));
        }
        (Address::Tcp(_) | Address::Unix(_) | Address::Systemd(_), _) => {}
    }
}

fn unique(plans: &[CallerPlan], caller: &Caller, identity: &Identity, key: &Key, findings: &mut Findings) {
    let same = |other: &Identity| match (identity, other) {
        (Identity::AccessKey { id, .. }, Identity::AccessKey { id: other, .. }) => id == other,
        (Identity::Certificate { name }, Identity::Certificate { name: other }) => name == other,
        (Identity::Unix { uid }, Identity::Unix { uid: other }) => uid == other,
        (Identity::Listener, Identity::Listener) => true,
        (Identity::AccessKey { .. } | Identity::Certificate { .. } | Identity::Unix { .. } | Identity::Listener, _) => {
            false
        }
    };
    let here = plans.iter().map(|plan| &plan.entry).filter(|entry| entry.listener.as_str() == caller.listener);
    let Some(twin) = here.into_iter().find(|entry| same(&entry.identity)) else { return };
    let what = match identity {
        Identity::AccessKey { .. } => "access key id",
        Identity::Certificate { .. } => "certificate name",
        Identity::Unix { .. } => "uid",
        Identity::Listener => "identity: whoever reaches the listener",
    };
    let problem = format!("has the same {what} as the caller `{}` of this listener", twin.name);
    findings.add(key, problem, "give each caller of one listener its own");
}

fn allowed(rule: &Rule, key: &Key, findings: &mut Findings) {
    if rule.actions.is_empty() || rule.keys.is_empty() {
        findings.add(key, "allows nothing", "name at least one action and one key, or remove the line");
        return;
    }
    if rule.actions.contains(&Action::Decrypt) && rule.keys.iter().all(|name| is_alias(name)) {
        let problem = "Decrypt with aliases only allows nothing";
        findings.add(key, problem, "list the key id: a Decrypt answer names the id");
    }
    let account_wide = rule.actions.iter().find(|action| matches!(action, Action::ListKeys | Action::ListAliases));
    if let Some(action) = account_wide.filter(|_| !rule.keys.iter().any(|name| name == "*")) {
        let problem = format!("{} is about the whole account and not about these keys", action.name());
        findings.add(key, problem, "give it a line of its own with keys = [\"*\"]");
    }
}

/// Notes listeners that nobody may use.
fn lonely(config: &Config, listeners: &[(Key, ListenerPlan)], findings: &mut Findings) {
    if findings.within(&Key::of(["caller"])) {
        return;
    }
    for (key, plan) in listeners {
        if !config.callers.values().any(|caller| caller.listener == plan.config.name) {
            let remedy = format!("add a [[caller]] with listener = \"{}\"", plan.config.name);
            findings.add(key, "has no caller: it would refuse everybody", remedy);
        }
    }
}

// What the kernel shows for a user that the reader's namespace does not have.
const OVERFLOW_UID: u32 = 65534;
