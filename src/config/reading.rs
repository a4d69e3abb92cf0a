//! From layers of text to the raw configuration, past every mistake to the last one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use figment::Figment;
use figment::providers::Serialized;
use figment::value::{Dict, Value};
use toml::de::DeTable;

use crate::config::environment::Environment;
use crate::config::key::{Key, Origin, Place};
use crate::config::mistake::Findings;
use crate::config::nearest::nearest;
use crate::config::piece::{self, unknown};
use crate::config::provider;
use crate::config::raw::{Caller, Config, Kms, Named, Upstream};

/// Reads the layers: the file, then `KMSPROXY_*`, then `overrides` (each `key.path=value`). `None` where the file cannot
/// be read or is not TOML; whatever else is wrong leaves only its own piece out.
pub(super) fn read(file: &Path, environment: &Environment, overrides: &[String]) -> (Option<Config>, Findings) {
    let text = match text(file) {
        Ok(text) => text,
        Err((problem, remedy)) => {
            let mut findings = Findings::new(Origin::new(file, String::new()));
            findings.add_at(Place::File(file.to_owned()), problem, remedy);
            return (None, findings);
        }
    };
    understand(Origin::new(file, text), environment, overrides)
}

/// As [`read`], of a text that is at hand.
pub(super) fn understand(text: Origin, environment: &Environment, overrides: &[String]) -> (Option<Config>, Findings) {
    let mut findings = Findings::new(text);
    if !is_toml(&mut findings) {
        return (None, findings);
    }
    let layers = layered(&mut findings, environment, overrides);
    let config = layers.map(|mut whole| {
        piece::refuse_secrets(&mut whole, &Key::default(), &mut findings);
        config(whole, &mut findings)
    });
    (config, findings)
}

fn text(file: &Path) -> Result<String, (String, String)> {
    let length = fs::metadata(file).map(|metadata| metadata.len());
    let text =
        length.and_then(|length| if length > FILE_BYTES_MAX { Ok(None) } else { fs::read_to_string(file).map(Some) });
    match text {
        Ok(Some(text)) => Ok(text),
        Ok(None) => Err(("is larger than 1 MiB".to_owned(), "point --config to a configuration file".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err((
            "this configuration file does not exist".to_owned(),
            "write it, or name another with --config; `kmsproxy dev` needs none".to_owned(),
        )),
        Err(error) => {
            Err((format!("cannot be read: {error}"), "let the user that kmsproxy runs as read it".to_owned()))
        }
    }
}

fn is_toml(findings: &mut Findings) -> bool {
    let (_, errors) = DeTable::parse_recoverable(findings.origin().text());
    for error in &errors {
        // Not the error's own Display: that quotes the line, and a line may hold what should not have been there.
        let place = findings.origin().at(error.span().map_or(0, |span| span.start));
        findings.add_at(place, format!("not TOML: {}", error.message()), "correct the syntax: https://toml.io");
    }
    errors.is_empty()
}

fn layered(findings: &mut Findings, environment: &Environment, overrides: &[String]) -> Option<Dict> {
    // Parsed here and not by figment, so that one parser alone decides what TOML is and where things stand in it.
    let written: toml::Table = match toml::from_str(findings.origin().text()) {
        Ok(written) => written,
        Err(error) => {
            let place = findings.origin().at(error.span().map_or(0, |span| span.start));
            findings.add_at(place, error.message(), "correct the file");
            return None;
        }
    };
    let file = findings.origin().at(0);
    let mut figment = Figment::from(Serialized::defaults(written));
    for (path, value, place) in changes(findings, environment, overrides) {
        let steps: Vec<String> = path.split('.').map(str::to_owned).collect();
        if LISTS.contains(&steps[0].as_str()) {
            let remedy = format!("write [[{}]] in the file", steps[0]);
            findings.add_at(place, format!("{}: a list is set in the file only", steps[0]), remedy);
            continue;
        }
        figment = figment.merge((path, value));
        findings.change(Key::default().join(&steps), place);
    }
    let joined = figment.extract().ok();
    if joined.is_none() {
        // Without figment's own words: they may quote a value.
        findings.add_at(file, "cannot be joined with the environment and the command line", "compare their paths");
    }
    joined
}

/// What the environment and the command line set: dotted path, value, and where it was said.
fn changes(findings: &mut Findings, environment: &Environment, overrides: &[String]) -> Vec<(String, Value, Place)> {
    let mut changes = Vec::new();
    for name in environment.names().filter(|name| name.starts_with(PREFIX)) {
        let Some(setting) = name.strip_prefix(PREFIX).filter(|setting| !is_ours(setting)) else { continue };
        let place = Place::Variable(name.to_owned());
        let path = setting.to_ascii_lowercase().replace("__", ".");
        match environment.text(name) {
            Some(value) if is_path(&path) => changes.push((path, parsed(value), place)),
            Some(_) => findings.add_at(
                place,
                "names no setting: the parts of a path are joined by two underscores",
                "write it as KMSPROXY_CACHE__CAPACITY, or unset it",
            ),
            None => {}
        }
    }
    for change in overrides {
        let Some((path, value)) = change.split_once('=').filter(|(path, _)| is_path(path)) else {
            let place = Place::Flag(change.split('=').next().unwrap_or_default().to_owned());
            findings.add_at(place, "is not of the form SECTION.KEY=VALUE", "write it as --set cache.capacity=50000");
            continue;
        };
        changes.push((path.to_owned(), parsed(value), Place::Flag(path.to_owned())));
    }
    changes
}

/// Whether `path` names a section and a setting in it, or deeper: figment can do nothing with an empty step.
fn is_path(path: &str) -> bool {
    path.contains('.') && path.split('.').all(|step| !step.is_empty())
}

/// Variables with our prefix that are not settings: those of the command line, and those that Kubernetes gives to every
/// pod in the namespace of a Service named `kmsproxy`.
fn is_ours(setting: &str) -> bool {
    let service = setting == "PORT" || setting.starts_with("PORT_") || setting.starts_with("SERVICE_");
    setting == "LOG" || setting == "LOG_FORMAT" || (service && !setting.contains("__"))
}

fn parsed(value: &str) -> Value {
    match value.parse() {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

fn config(mut whole: Dict, findings: &mut Findings) -> Config {
    let mut config = Config::default();
    if let Some(upstreams) = table(&mut whole, "upstream", findings) {
        config.named.upstreams = upstreams.keys().cloned().collect();
        let read =
            upstreams.into_iter().filter_map(|(name, value)| Some((name.clone(), upstream(&name, value, findings)?)));
        config.upstreams = read.collect();
    }
    let listeners = items(&mut whole, "listener", findings);
    config.named = Named { listeners: names(&listeners), ..config.named };
    config.listeners = pieces("listener", listeners, findings);
    config.listeners.values_mut().for_each(provider::fill);
    config.callers = pieces::<Caller>("caller", items(&mut whole, "caller", findings), findings);
    config.cache = section(&mut whole, "cache", findings);
    config.metrics = section(&mut whole, "metrics", findings);
    config.memory = section(&mut whole, "memory", findings);
    config.admin = section(&mut whole, "admin", findings);
    config.audit = section(&mut whole, "audit", findings);
    config.working_set = section(&mut whole, "working_set", findings);
    config.tracing = section(&mut whole, "tracing", findings);
    for name in whole.keys() {
        unknown(findings, &Key::of([name]), name, &SECTIONS);
    }
    config
}

fn upstream(name: &str, value: Value, findings: &mut Findings) -> Option<Upstream> {
    let key = Key::of(["upstream", name]);
    let Value::Dict(tag, mut table) = value else {
        findings.add(&key, "is not a table", format!("write [upstream.{name}]"));
        return None;
    };
    let lease = table.remove("lease").map(|lease| piece::read(lease, &key.then("lease"), &[], findings));
    let kind = table.remove("kind");
    let (rest, also) = (Value::Dict(tag, table), &["kind", "lease"]);
    let kms = match kind.as_ref().map(Value::as_str) {
        Some(Some("aliyun")) => piece::read(rest, &key, also, findings).map(|config| Kms::Aliyun(Box::new(config))),
        Some(Some("local")) => piece::read(rest, &key, also, findings).map(Kms::Local),
        Some(other) => {
            let choice =
                other.and_then(|other| nearest(other, &Kms::KINDS)).map(|near| format!("did you mean \"{near}\"?"));
            let remedy = choice.unwrap_or_else(|| format!("write one of {}", Kms::KINDS.join(", ")));
            findings.add(&key.then("kind"), "is no kind of upstream", remedy);
            None
        }
        None => {
            findings.add(&key, "`kind` is missing", format!("add kind = one of {}", Kms::KINDS.join(", ")));
            None
        }
    };
    // A lease that was written wrongly must not become the default lease.
    Some(Upstream { kms: kms?, lease: lease.unwrap_or_else(|| Some(Default::default()))? })
}

fn section<T>(whole: &mut Dict, name: &str, findings: &mut Findings) -> T
where
    T: serde::de::DeserializeOwned + serde::Serialize + Default,
{
    let value = whole.remove(name);
    value.and_then(|value| piece::read(value, &Key::of([name]), &[], findings)).unwrap_or_default()
}

fn pieces<T: serde::de::DeserializeOwned + serde::Serialize>(
    name: &str,
    items: Vec<Value>,
    findings: &mut Findings,
) -> BTreeMap<usize, T> {
    let key = |index: usize| Key::of([name]).then(index);
    items
        .into_iter()
        .enumerate()
        .filter_map(|(index, item)| Some((index, piece::read(item, &key(index), &[], findings)?)))
        .collect()
}

fn table(whole: &mut Dict, name: &str, findings: &mut Findings) -> Option<Dict> {
    let found = whole.remove(name)?;
    if let Value::Dict(_, table) = found {
        return Some(table);
    }
    findings.add(&Key::of([name]), "is not a table", format!("write [{name}.NAME]"));
    None
}

fn items(whole: &mut Dict, name: &str, findings: &mut Findings) -> Vec<Value> {
    match whole.remove(name) {
        Some(Value::Array(_, items)) => items,
        Some(_) => {
            findings.add(&Key::of([name]), "is not a list", format!("write [[{name}]], with two brackets"));
            Vec::new()
        }
        None => Vec::new(),
    }
}

fn names(items: &[Value]) -> Vec<String> {
    items.iter().filter_map(|item| item.find_ref("name").and_then(Value::as_str)).map(str::to_owned).collect()
}

const PREFIX: &str = "KMSPROXY_";
const SECTIONS: [&str; 10] =
    ["upstream", "listener", "caller", "cache", "working_set", "metrics", "memory", "admin", "audit", "tracing"];
const LISTS: [&str; 2] = ["listener", "caller"];
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of `setting` on the command line, or of `variable`, which are wrong.
    fn told(overrides: &[&str], variables: &[&str]) -> Vec<String> {
        let variables = variables.iter().map(|name| (name.into(), "9m".into()));
        let overrides: Vec<_> = overrides.iter().map(|&text| text.to_owned()).collect();
        let origin = Origin::new(Path::new("k.toml"), String::new());
        let (_, findings) = understand(origin, &Environment::of(variables), &overrides);
        findings.mistakes().list().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_path_with_an_empty_step_is_told_wherever_it_is_written() {
        let flag = "is not of the form SECTION.KEY=VALUE\n  remedy: write it as --set cache.capacity=50000";
        for path in [".max_age", "cache.", ".", "cache..max_age"] {
            assert_eq!(told(&[&format!("{path}=9m")], &[]), [format!("--set {path}: {flag}")]);
        }
        let variable = "names no setting: the parts of a path are joined by two underscores\n  remedy: write it as \
                        KMSPROXY_CACHE__CAPACITY, or unset it";
        for name in ["KMSPROXY___MAX_AGE", "KMSPROXY_CACHE__"] {
            assert_eq!(told(&[], &[name]), [format!("environment variable {name}: {variable}")]);
        }
    }
}
