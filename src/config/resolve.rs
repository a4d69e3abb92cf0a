//! From the raw configuration to the plan: every reference followed, every rule between settings checked.

use std::net::SocketAddr;

use crate::config::address::{Address, FORMS};
use crate::config::audit::audit;
use crate::config::callers::callers;
use crate::config::check::{directory, noted, positive};
use crate::config::key::{Key, Place};
use crate::config::listeners::listeners;
use crate::config::machine::Machine;
use crate::config::mistake::Findings;
use crate::config::plan::Plan;
use crate::config::raw::Config;
use crate::config::tracing::tracing;
use crate::config::upstreams::upstreams;

/// Follows and checks everything; the plan counts only if `findings` stay empty.
pub(super) fn resolve(config: &Config, machine: &Machine<'_>, findings: &mut Findings) -> Plan {
    let upstreams = upstreams(config, machine, findings);
    let listeners = listeners(config, machine, findings);
    let callers = callers(config, &listeners, machine, findings);
    if config.cache.capacity == 0 {
        let key = Key::of(["cache", "capacity"]);
        findings.add(&key, "is 0", "write at least 1; the default of 100000 DEKs takes about 100 MB");
    }
    positive(config.cache.max_age, &Key::of(["cache", "max_age"]), findings);
    positive(config.working_set.save, &Key::of(["working_set", "save"]), findings);
    if let Some(path) = &config.working_set.file {
        noted(machine.replaceable(path), &Key::of(["working_set", "file"]), findings);
    }
    let mut plan = Plan {
        upstreams,
        listeners: Vec::new(),
        callers,
        cache: config.cache,
        memory: config.memory,
        metrics: metrics(config, findings),
        admin: admin(config, machine, findings),
        page: page(config, findings),
        audit: audit(&config.audit, machine, findings),
        working_set: config.working_set.clone(),
        tracing: tracing(&config.tracing, machine, findings),
        places: Vec::new(),
    };
    let own = [Key::of(["metrics", "address"]), Key::of(["admin", "address"])];
    let [metrics, admin] = [plan.metrics.map(Address::Tcp), plan.admin.clone()];
    let bound = listeners.iter().map(|(key, listener)| (key.then("address"), Some(listener.address.clone())));
    let all: Vec<_> = bound.chain(own.into_iter().zip([metrics, admin])).collect();
    plan.places = distinct(&all, findings);
    plan.listeners = listeners.into_iter().map(|(_, listener)| listener).collect();
    plan
}

fn metrics(config: &Config, findings: &mut Findings) -> Option<SocketAddr> {
    let text = config.metrics.address.as_deref()?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let key = Key::of(["metrics", "address"]);
    findings.add(&key, format!("`{text}` is not an address and a port"), "write it as \"127.0.0.1:9643\"");
    None
}

/// Whether there is to be a status page; it needs somewhere to be.
fn page(config: &Config, findings: &mut Findings) -> bool {
    if config.admin.page && config.metrics.address.is_none() {
        let problem = "is served at metrics.address, and there is none";
        findings.add(&Key::of(["admin", "page"]), problem, "write address = \"127.0.0.1:9643\" under [metrics]");
    }
    config.admin.page
}

/// The control socket.
pub(super) fn admin(config: &Config, machine: &Machine<'_>, findings: &mut Findings) -> Option<Address> {
    let key = Key::of(["admin", "address"]);
    match Address::parse(config.admin.address.as_deref()?) {
        Ok(Address::Tcp(_)) => {
            let remedy = "write \"unix:/run/kmsproxy/admin.sock\" or \"systemd:admin\"";
            findings.add(&key, "control over TCP is refused: there the kernel does not say who asks", remedy);
            None
        }
        Ok(Address::Abstract(_)) => {
            let problem = "control over an abstract socket is refused: it has no permissions";
            findings.add(&key, problem, "write \"unix:/run/kmsproxy/admin.sock\" or \"systemd:admin\"");
            None
        }
        Ok(address) => {
            directory(&address, &key, machine, findings);
            Some(address)
        }
        Err(problem) => {
            findings.add(&key, problem, FORMS);
            None
        }
    }
}

/// Notes addresses that occur twice; returns the TCP ones with their places.
fn distinct(all: &[(Key, Option<Address>)], findings: &mut Findings) -> Vec<(SocketAddr, Place)> {
    let mut places = Vec::new();
    for (index, (key, address)) in all.iter().enumerate() {
        let Some(address) = address else { continue };
        let any_port = matches!(address, Address::Tcp(address) if address.port() == 0);
        let twin = all.iter().take(index).find(|(_, other)| other.as_ref() == Some(address));
        match (address, twin) {
            (_, Some((other, _))) if !any_port => {
                findings.add(key, format!("{address} is that of {other} already"), "give each its own address");
            }
            (Address::Tcp(address), _) => places.push((*address, findings.origin().place(key))),
            (Address::Unix(_) | Address::Abstract(_) | Address::Systemd(_), _) => {}
        }
    }
    places
}
