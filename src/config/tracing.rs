//! `[tracing]`: from what was written to what is sent.

use http::Uri;

use crate::config::check::{at_least_one, is_loopback, noted, positive};
use crate::config::key::Key;
use crate::config::machine::Machine;
use crate::config::mistake::Findings;
use crate::exporter::{self, Config, Terms};
use crate::secret::Secret;

/// How spans are sent, where they are.
pub(super) fn tracing(config: &Config, machine: &Machine<'_>, findings: &mut Findings) -> Option<Terms> {
    let key = Key::of(["tracing"]);
    at_least_one(config.queue, &key.then("queue"), findings);
    positive(config.timeout, &key.then("timeout"), findings);
    if config.queue > QUEUE_MAX {
        findings.add(&key.then("queue"), "is more than 65536", "write less; a span takes about 1 KiB");
    }
    if !(0.0..=1.0).contains(&config.sample) {
        findings.add(
            &key.then("sample"),
            "is no share",
            "write a number from 0 to 1: 0.01 is one request in a hundred",
        );
    }
    if config.service_name.trim().is_empty() {
        findings.add(&key.then("service_name"), "is empty", "write a name, or leave it out for \"kmsproxy\"");
    }
    if let Some(path) = &config.ca_file {
        noted(machine.readable(path), &key.then("ca_file"), findings);
    }
    let headers = headers(config, &key, machine, findings);
    let Some(endpoint) = &config.endpoint else {
        if config.ca_file.is_some() || config.headers_file.is_some() {
            let remedy = "add endpoint = \"http://127.0.0.1:4318\", or remove the others";
            findings.add(&key, "`endpoint` is missing, without which nothing is sent", remedy);
        }
        return None;
    };
    let endpoint = address(endpoint, &key.then("endpoint"), findings)?;
    let Config { ca_file, service_name, sample, timeout, queue, .. } = config.clone();
    Some(Terms { endpoint, ca_file, headers, service_name, sample, timeout, queue })
}

/// The whole URL that spans are posted to.
fn address(text: &str, key: &Key, findings: &mut Findings) -> Option<String> {
    let form = "write it as \"https://collector.example:4318\" or \"http://127.0.0.1:4318\"";
    let uri = text.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
    let Some((uri, host)) = uri.as_ref().and_then(|uri| Some((uri, uri.host()?))) else {
        findings.add(key, "is not a URL", form);
        return None;
    };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        findings.add(key, "carries a user name or password", "put what the collector asks for into headers_file");
    }
    if uri.query().is_some() {
        findings.add(key, "has a query", "put what the collector asks for into headers_file");
    }
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if is_loopback(host) => {}
        Some("http") => findings.add(key, "is plain HTTP to another machine", "write https://"),
        _ => findings.add(key, "has no https://", form),
    }
    let bare = matches!(uri.path(), "" | "/");
    Some(if bare { format!("{}/v1/traces", text.trim_end_matches('/')) } else { text.to_owned() })
}

fn headers(config: &Config, key: &Key, machine: &Machine<'_>, findings: &mut Findings) -> Option<Secret> {
    let key = key.then("headers_file");
    let text = noted(machine.secret_file(config.headers_file.as_deref()?), &key, findings)?;
    if exporter::headers(&text).is_none() {
        let remedy = "write `Name: value`, one on each line, 16 at most; Host and Content-Type are not yours to say";
        findings.add(&key, "holds a line that is no header for the collector", remedy);
    }
    Some(text)
}

const QUEUE_MAX: usize = 65_536;
