//! Checks of `[upstream.NAME]`.

use std::time::Duration;

use http::Uri;

use crate::config::check::{Reference, at_least_one, is_loopback, name, noted, positive, shown};
use crate::config::key::Key;
use crate::config::machine::Machine;
use crate::config::mistake::Findings;
use crate::config::plan::UpstreamPlan;
use crate::config::raw::{Config, Kms};
use crate::governor::Quota;
use crate::lease::Terms;
use crate::upstream::aliyun;
use crate::upstream::credentials::{self, Source};

/// Checks every upstream that could be read.
pub(super) fn upstreams(config: &Config, machine: &Machine<'_>, findings: &mut Findings) -> Vec<UpstreamPlan> {
    let mut plans = Vec::new();
    for (label, upstream) in &config.upstreams {
        let key = Key::of(["upstream", label]);
        name(label, &key, findings);
        lease(&upstream.lease, &key.then("lease"), findings);
        let kms = match &upstream.kms {
            Kms::Aliyun(config) => {
                remote(config, &key, machine, findings);
                in_time(&upstream.lease, config.timeout, &key.then("lease").then("probe"), findings);
                Kms::Aliyun(config.clone())
            }
            Kms::Local(config) => {
                noted(machine.private_directory(&config.state_dir), &key.then("state_dir"), findings);
                Kms::Local(config.clone())
            }
        };
        plans.push(UpstreamPlan { name: label.clone(), kms, lease: upstream.lease });
    }
    plans
}

fn lease(lease: &Terms, key: &Key, findings: &mut Findings) {
    positive(lease.duration, &key.then("duration"), findings);
    positive(lease.probe, &key.then("probe"), findings);
    for (span, name) in [(lease.duration, "duration"), (lease.outage_grace, "outage_grace")] {
        if span > LEASE_MAX {
            let problem = format!("{} is too long: a revoked key would go on being served", shown(span));
            findings.add(&key.then(name), problem, "write at most \"1h\"");
        }
    }
    if lease.probe >= lease.duration && !lease.duration.is_zero() {
        let problem = format!("{} is not shorter than the lease of {}", shown(lease.probe), shown(lease.duration));
        findings.add(
            &key.then("probe"),
            problem,
            "write about a third of the duration, so that one lost probe does no harm",
        );
    }
}

/// Notes that the answer to a probe may come when the lease has ended already.
fn in_time(lease: &Terms, timeout: Duration, probe: &Key, findings: &mut Findings) {
    if lease.probe < lease.duration && lease.probe.saturating_add(timeout) > lease.duration {
        let (every, call) = (shown(lease.probe), shown(timeout));
        let problem = format!("{every} and a call of {call} do not fit into the lease of {}", shown(lease.duration));
        findings.add(probe, problem, "write about a third of the duration, or a shorter timeout of the upstream");
    }
}

fn remote(config: &aliyun::Config, key: &Key, machine: &Machine<'_>, findings: &mut Findings) {
    endpoint(config, key, findings);
    positive(config.timeout, &key.then("timeout"), findings);
    at_least_one(config.max_in_flight, &key.then("max_in_flight"), findings);
    for (quota, name) in [(config.quota, "quota"), (config.read_quota, "read_quota")] {
        if let Some(quota) = quota.filter(|&quota| quota < Quota::LEAST) {
            let remedy =
                format!("write at least \"{}\", or leave it out to go by what the KMS throttles", Quota::LEAST);
            findings.add(&key.then(name), format!("{quota} is too little: probes need their part of it"), remedy);
        }
    }
    if config.retries > RETRIES_MAX {
        findings.add(&key.then("retries"), "is more than 10", "write at most 10; retries make an outage worse");
    }
    if let Some(path) = &config.ca_file {
        noted(machine.readable(path), &key.then("ca_file"), findings);
    }
    credentials(&config.credentials, &key.then("credentials"), machine, findings);
}

fn endpoint(config: &aliyun::Config, key: &Key, findings: &mut Findings) {
    let key = key.then("endpoint");
    let form = "write it as \"https://kms-vpc.cn-hangzhou.aliyuncs.com\"";
    let Ok(uri) = config.endpoint.parse::<Uri>() else {
        return findings.add(&key, "is not a URL", form);
    };
    let Some(host) = uri.host() else { return findings.add(&key, "names no host", form) };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        findings.add(&key, "carries a user name or password", "leave out what stands before the @");
    }
    if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
        findings.add(&key, "has a path or a query", form);
    }
    match (uri.scheme_str(), config.insecure) {
        (Some("https"), _) => {}
        (Some("http"), true) if is_loopback(host) => {}
        (Some("http"), true) => findings.add(&key, "is plain HTTP to another machine", "write https://"),
        (Some("http"), false) => {
            findings.add(&key, "is plain HTTP", "write https://, or insecure = true for a KMS on loopback");
        }
        _ => findings.add(&key, "has no https://", form),
    }
}

fn credentials(config: &credentials::Config, key: &Key, machine: &Machine<'_>, findings: &mut Findings) {
    if let Some(path) = &config.oidc_token_file {
        noted(machine.readable(path), &key.then("oidc_token_file"), findings);
    }
    if let Some(path) = &config.profile_file {
        noted(machine.private(path), &key.then("profile_file"), findings);
    }
    let reference = Reference {
        file: config.secret_file.as_deref(),
        variable: config.secret_env.as_deref(),
        credential: config.secret_credential.as_deref(),
    };
    for (name, variable) in lacking(config, &reference) {
        // What the table leaves out, the source takes from the environment, as other tools of that cloud do.
        if variable.is_none_or(|variable| !machine.has_variable(variable)) {
            let also = variable.map(|variable| format!(", or set {variable}")).unwrap_or_default();
            findings.add(key, format!("this source needs `{name}`"), format!("add {name} = \"…\"{also}"));
        }
    }
    // Read here only to tell early: the source reads it again, and again whenever it changes.
    match config.source {
        Source::File => drop(reference.read(key, machine, findings)),
        Source::Role if reference.is_written() || config.id.is_some() => drop(reference.read(key, machine, findings)),
        Source::Role => {}
        Source::Default | Source::Env | Source::Oidc | Source::Ecs | Source::Uri | Source::Profile => {
            if reference.is_written() || config.id.is_some() {
                let remedy = "write source = \"file\", or leave the id and the secret out";
                findings.add(key, "this source takes no id and no secret", remedy);
            }
        }
    }
}

/// The settings that the source needs and the table does not have, each with the variable that may have it.
fn lacking(config: &credentials::Config, secret: &Reference<'_>) -> Vec<(&'static str, Option<&'static str>)> {
    let needs = match config.source {
        Source::File => vec![("id", None, config.id.is_none())],
        Source::Role => vec![
            ("role_arn", Some("ALIBABA_CLOUD_ROLE_ARN"), config.role_arn.is_none()),
            ("id", None, secret.is_written() && config.id.is_none()),
        ],
        Source::Uri => vec![("uri", Some("ALIBABA_CLOUD_CREDENTIALS_URI"), config.uri.is_none())],
        // These can be had from the environment or the metadata service alone, at the time they are needed.
        Source::Default | Source::Env | Source::Oidc | Source::Ecs | Source::Profile => Vec::new(),
    };
    needs.into_iter().filter(|(.., lacking)| *lacking).map(|(name, variable, _)| (name, variable)).collect()
}

// The bound that SEMANTICS.md promises for revocation is the lease; nobody wants an hour, and nobody gets more.
const LEASE_MAX: Duration = Duration::from_secs(3600);
const RETRIES_MAX: u32 = 10;
