//! One table of the configuration, read to its last mistake although serde stops at the first.

use figment::error::{Actual, Kind};
use figment::value::{Dict, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::key::Key;
use crate::config::mistake::Findings;
use crate::config::nearest::nearest;

/// Reads `value`, which stands at `key`. Each mistake is noted, cut out and the rest read again. A surplus setting alone
/// does not make the piece unusable for further checks; anything else does, and `None` comes back.
///
/// `also` are settings that the caller took out of the table before.
#[expect(clippy::wildcard_enum_match_arm, reason = "not our enum: the rest is a value that cannot be")]
pub(super) fn read<T: DeserializeOwned + Serialize>(
    mut value: Value,
    key: &Key,
    also: &[&'static str],
    findings: &mut Findings,
) -> Option<T> {
    let mut whole = true;
    let mut patched: Vec<Vec<String>> = Vec::new();
    for _ in 0..MISTAKES_MAX {
        let error = match T::deserialize(&value) {
            Ok(read) => return (whole & !listed(&value, &read, key, findings)).then_some(read),
            Err(error) => error,
        };
        let mut path = error.path;
        match error.kind {
            Kind::UnknownField(name, known) => {
                let here = if path.len() == 1 { also } else { &[] };
                let known: Vec<&str> = here.iter().chain(known).copied().collect();
                unknown(findings, &key.join(&path), &name, &known);
                remove(&mut value, &path);
            }
            Kind::MissingField(name) => {
                let told = patched.iter().any(|patch| patch.split_last() == Some((&name.to_string(), &path[..])));
                if !told {
                    findings.add(&key.join(&path), format!("`{name}` is missing"), format!("add {name} = …"));
                }
                whole = false;
                path.push(name.into_owned());
                put(&mut value, &path, Value::from(""));
                patched.push(path);
            }
            kind => {
                if patched.contains(&path) {
                    return None;
                }
                let (problem, remedy) = described(kind);
                findings.add(&key.join(&path), problem, remedy);
                whole = false;
                patched.push(remove(&mut value, &path));
            }
        }
    }
    None
}

/// Notes each list that was taken for a table: serde reads one out of the other, member by member in their order.
fn listed(written: &Value, read: &impl Serialize, key: &Key, findings: &mut Findings) -> bool {
    let before = findings.count();
    if let Ok(read) = Value::serialize(read) {
        compare(written, &read, key, findings);
    }
    findings.count() > before
}

fn compare(written: &Value, read: &Value, key: &Key, findings: &mut Findings) {
    match (written, read) {
        (Value::Dict(_, written), Value::Dict(_, read)) => {
            let both = written.iter().filter_map(|(name, value)| Some((name, value, read.get(name)?)));
            both.for_each(|(name, value, read)| compare(value, read, &key.then(name), findings));
        }
        (Value::Array(_, written), Value::Array(_, read)) => {
            let both = written.iter().zip(read).enumerate();
            both.for_each(|(index, (value, read))| compare(value, read, &key.then(index), findings));
        }
        (Value::Array(..), Value::Dict(..)) => {
            findings.add(key, "is a list, not a table", "write its settings by name")
        }
        _ => {}
    }
}

/// Notes that the setting `name` at `key` does not exist.
pub(super) fn unknown(findings: &mut Findings, key: &Key, name: &str, known: &[&str]) {
    let remedy = nearest(name, known).map_or_else(
        || format!("remove it; there are: {}", known.join(", ")),
        |near| format!("did you mean `{near}`?"),
    );
    findings.add(key, "unknown setting", remedy);
}

/// Notes and takes out every secret that is written where it should only be referred to.
pub(super) fn refuse_secrets(table: &mut Dict, key: &Key, findings: &mut Findings) {
    table.retain(|name, value| {
        let key = key.then(name);
        if SECRETS.contains(&name.to_ascii_lowercase().as_str()) {
            let remedy = "put it into a file with mode 0600 and write secret_file = \"/path\" (or secret_env, \
                          secret_credential); and change that secret, it has been seen";
            findings.add(&key, "a secret does not stand in a configuration", remedy);
            return false;
        }
        refuse_within(value, &key, findings);
        true
    });
}

fn refuse_within(value: &mut Value, key: &Key, findings: &mut Findings) {
    match value {
        Value::Dict(_, table) => refuse_secrets(table, key, findings),
        Value::Array(_, items) => {
            for (index, item) in items.iter_mut().enumerate() {
                refuse_within(item, &key.then(index), findings);
            }
        }
        Value::String(..) | Value::Char(..) | Value::Bool(..) | Value::Num(..) | Value::Empty(..) => {}
    }
}

/// A value of the wrong kind may be a secret in the wrong place, so text is never repeated; but a word that should have
/// been one of a few is.
fn described(kind: Kind) -> (String, String) {
    match kind {
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            let expected = in_words(&expected);
            (format!("is {}, not {expected}", shown(&actual)), format!("write {expected}"))
        }
        Kind::InvalidLength(length, expected) => {
            (format!("has {length} items"), format!("write {}", in_words(&expected)))
        }
        Kind::UnknownVariant(variant, known) => {
            let all = || format!("write one of {}", known.join(", "));
            (
                format!("`{variant}` is not known here"),
                nearest(&variant, known).map_or_else(all, |near| format!("did you mean `{near}`?")),
            )
        }
        Kind::Message(message) => (message, "write a number with a unit: \"30s\", \"2500ms\", \"24h\"".to_owned()),
        Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => {
            ("is out of range".to_owned(), "write a smaller number".to_owned())
        }
        Kind::DuplicateField(name) => (format!("`{name}` is written twice"), "remove one".to_owned()),
        Kind::UnknownField(name, _) => (format!("unknown setting `{name}`"), "remove it".to_owned()),
        Kind::MissingField(name) => (format!("`{name}` is missing"), format!("add {name} = …")),
        Kind::Unsupported(actual) | Kind::UnsupportedKey(actual, _) => {
            (format!("is {}", shown(&actual)), "see the commented configuration for what stands here".to_owned())
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "not our enum: the rest is a name of a type")]
fn shown(actual: &Actual) -> String {
    match actual {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Char(_) | Actual::Str(_) | Actual::Bytes(_) => "text".to_owned(),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

fn in_words(expected: &str) -> &str {
    match expected {
        "a string" => "text in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list in brackets",
        "u32" | "u64" | "usize" => "a whole number, not negative",
        table if table.starts_with("struct ") => "a table",
        time if time.ends_with("duration string") => "a time with a unit, such as \"30s\"",
        path if path.starts_with("path") => "a path in quotes",
        other => other,
    }
}

/// Takes out what stands at `path`, together with the list around it if it is an item of one, so that no other item
/// changes its position. Returns what was taken out.
fn remove(value: &mut Value, path: &[String]) -> Vec<String> {
    let mut path = path.to_vec();
    while let Some((last, parents)) = path.split_last() {
        match find(value, parents) {
            Some(Value::Dict(_, table)) => {
                table.remove(last);
                break;
            }
            _ => path.pop(),
        };
    }
    path
}

fn put(value: &mut Value, path: &[String], new: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    if let Some(Value::Dict(_, table)) = find(value, parents) {
        table.insert(last.clone(), new);
    }
}

fn find<'v>(value: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(value, |value, step| match value {
        Value::Dict(_, table) => table.get_mut(step),
        Value::Array(_, items) => items.get_mut(step.parse::<usize>().ok()?),
        Value::String(..) | Value::Char(..) | Value::Bool(..) | Value::Num(..) | Value::Empty(..) => None,
    })
}

// Names under which people write secrets, here or in the tools this file might be copied from.
const SECRETS: [&str; 11] = [
    "secret",
    "secret_key",
    "secret_access_key",
    "access_key_secret",
    "password",
    "passphrase",
    "private_key",
    "token",
    "security_token",
    "sts_token",
    "session_token",
];
const MISTAKES_MAX: usize = 64;
