//! Checks of `[[listener]]`.

use crate::config::address::{Address, FORMS};
use crate::config::check::{at_least_one, directory, name, noted, positive, shown};
use crate::config::key::Key;
use crate::config::machine::Machine;
use crate::config::mistake::Findings;
use crate::config::nearest::nearest;
use crate::config::plan::ListenerPlan;
use crate::config::provider::face;
use crate::config::raw::{Config, Kms};
use crate::listener::{self, FaceName};

/// Checks every listener that could be read; each comes with its place in the configuration.
pub(super) fn listeners(config: &Config, machine: &Machine<'_>, findings: &mut Findings) -> Vec<(Key, ListenerPlan)> {
    if config.named.listeners.is_empty() && !findings.within(&Key::of(["listener"])) {
        findings.add(
            &Key::of(["listener"]),
            "there is none",
            "add a [[listener]] with name, face, address and upstream",
        );
    }
    let mut plans: Vec<(Key, ListenerPlan)> = Vec::new();
    for (index, listener) in &config.listeners {
        let key = Key::of(["listener"]).then(index);
        name(&listener.name, &key.then("name"), findings);
        if config.listeners.range(..index).any(|(_, other)| other.name == listener.name) {
            let problem = format!("a listener is called `{}` already", listener.name);
            findings.add(&key.then("name"), problem, "give each listener its own name");
        }
        refers(config, listener, &key, findings);
        limits(config, listener, &key, findings);
        if listener.face != FaceName::Kubernetes {
            certificates(listener, &key, machine, findings);
        }
        let face = face(listener, &key, findings);
        let Some(address) = address(listener, &key, machine, findings) else { continue };
        let mode = mode(listener, &address, &key, findings);
        ownership(listener, &address, &key, machine, findings);
        plans.push((key, ListenerPlan { address, mode, face, config: listener.clone() }));
    }
    plans
}

fn refers(config: &Config, listener: &listener::Config, key: &Key, findings: &mut Findings) {
    let names: Vec<&str> = config.named.upstreams.iter().map(String::as_str).collect();
    if names.contains(&listener.upstream.as_str()) {
        return;
    }
    let remedy = nearest(&listener.upstream, &names).map_or_else(
        || format!("add [upstream.{}], or write one that exists", listener.upstream),
        |near| format!("did you mean `{near}`?"),
    );
    findings.add(&key.then("upstream"), format!("there is no upstream `{}`", listener.upstream), remedy);
}

fn limits(config: &Config, listener: &listener::Config, key: &Key, findings: &mut Findings) {
    at_least_one(listener.max_connections, &key.then("max_connections"), findings);
    at_least_one(listener.max_in_flight, &key.then("max_in_flight"), findings);
    positive(listener.timeout, &key.then("timeout"), findings);
    let Some(Kms::Aliyun(upstream)) = config.upstreams.get(&listener.upstream).map(|upstream| &upstream.kms) else {
        return;
    };
    if upstream.timeout > listener.timeout {
        let (own, theirs) = (shown(listener.timeout), shown(upstream.timeout));
        let problem =
            format!("{own} is shorter than the upstream's timeout of {theirs}: its answers would come too late");
        findings.add(&key.then("timeout"), problem, format!("write at least \"{theirs}\", or shorten the upstream's"));
    }
}

fn certificates(listener: &listener::Config, key: &Key, machine: &Machine<'_>, findings: &mut Findings) {
    let Some(tls) = &listener.tls else { return };
    let key = key.then("tls");
    noted(machine.readable(&tls.certificate_file), &key.then("certificate_file"), findings);
    noted(machine.private(&tls.key_file), &key.then("key_file"), findings);
    if let Some(path) = &tls.client_ca_file {
        noted(machine.readable(path), &key.then("client_ca_file"), findings);
    }
}

fn address(listener: &listener::Config, key: &Key, machine: &Machine<'_>, findings: &mut Findings) -> Option<Address> {
    let key = key.then("address");
    let address = match Address::parse(&listener.address) {
        Ok(address) => address,
        Err(problem) => {
            findings.add(&key, format!("`{}` {problem}", listener.address), FORMS);
            return None;
        }
    };
    directory(&address, &key, machine, findings);
    if matches!(address, Address::Tcp(_)) {
        match listener.face {
            FaceName::Aliyun if listener.tls.is_none() => plain(listener.insecure, address.is_local(), &key, findings),
            FaceName::Aliyun => {}
            FaceName::Kubernetes => {
                let remedy = "write \"unix:/run/kmsproxy/NAME.sock\", \"unix:@NAME\" or \"systemd:NAME\"";
                findings.add(&key, "kube-apiserver connects to unix sockets only", remedy);
            }
        }
    }
    Some(address)
}

/// Notes TCP without TLS, but for loopback with the operator's word for it.
fn plain(insecure: bool, local: bool, key: &Key, findings: &mut Findings) {
    match (insecure, local) {
        (true, true) => {}
        (false, true) => findings.add(
            key,
            "TCP without TLS: keys would cross it in clear, readable by anything with CAP_NET_RAW",
            "add tls = { certificate_file = …, key_file = … }, use a unix: address, or write insecure = true",
        ),
        (_, false) => findings.add(
            key,
            "TCP without TLS that other machines can reach",
            "add tls = { certificate_file = …, key_file = … }, or listen on 127.0.0.1",
        ),
    }
}

fn mode(listener: &listener::Config, address: &Address, key: &Key, findings: &mut Findings) -> Option<u32> {
    let text = listener.mode.as_deref()?;
    let key = key.then("mode");
    if !matches!(address, Address::Unix(_)) {
        findings.add(&key, "only a unix:/path address has a mode", "remove it (systemd: SocketMode=)");
        return None;
    }
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode & !0o777 == 0 => Some(mode),
        _ => {
            findings.add(&key, "is not a mode", "write it as \"0660\": owner and group may connect");
            None
        }
    }
}

/// Checks who shall own the socket file. The listener looks the numbers up.
fn ownership(
    listener: &listener::Config,
    address: &Address,
    key: &Key,
    machine: &Machine<'_>,
    findings: &mut Findings,
) {
    let settings = [("owner", "user", &listener.owner), ("group", "group", &listener.group)];
    for (setting, kind, written) in settings {
        let (key, Some(text)) = (key.then(setting), written.as_deref()) else { continue };
        if !matches!(address, Address::Unix(_)) {
            let problem =
                format!("only a unix:/path address has {} {setting}", if kind == "user" { "an" } else { "a" });
            findings.add(&key, problem, "remove it (systemd: SocketUser=, SocketGroup=)");
        } else if is_number(text) {
            // -1 is how chown(2) is told to change nothing.
            if text.parse::<u32>().is_ok_and(|number| number != u32::MAX) {
                continue;
            }
            findings.add(&key, format!("is no number of a {kind}"), format!("write the {kind}'s name or number"));
        } else if is_account(text) {
            noted(if kind == "user" { machine.user(text) } else { machine.group(text) }, &key, findings);
        } else {
            findings.add(&key, format!("is no name of a {kind}"), format!("write the {kind}'s name or number"));
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What useradd(8) takes, and the names that directories of users add to it.
fn is_account(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'@' | b'\\');
    let starts = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    starts && text.len() <= ACCOUNT_BYTES_MAX && text.strip_suffix('$').unwrap_or(text).bytes().all(good)
}

const ACCOUNT_BYTES_MAX: usize = 255;
