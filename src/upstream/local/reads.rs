//! The reading actions: what they answer, member by member (fact sheet, section 2).

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::fault::{Fault, Kind};
use crate::kms::{Action, Document, Extra, KeyState, Read};
use crate::upstream::local::key::{ACCOUNT, Key, Life, Version, arn_prefix};
use crate::upstream::local::keyring::Keyring;

/// Answers `call` about `subject`, the key it names, if it names one.
pub(super) fn read(keys: &Keyring, subject: Option<&Arc<Key>>, call: &Read, now: Timestamp) -> Result<Document, Fault> {
    let key = || subject.ok_or_else(|| missing("KeyId"));
    let members = match call.action {
        Action::DescribeKey => {
            let key = key()?;
            let members = members([("KeyMetadata", metadata(key))]);
            return Ok(Document { members, described: Some((key.id.clone(), key.state())) });
        }
        Action::DescribeKeyVersion => describe_version(key()?, &call.extra)?,
        Action::ListKeys => list_keys(keys, &call.extra, now)?,
        Action::ListKeyVersions => list_versions(key()?, &call.extra)?,
        Action::ListAliases => list_aliases(keys, None, &call.extra, now)?,
        Action::ListAliasesByKeyId => list_aliases(keys, Some(key()?), &call.extra, now)?,
        Action::Decrypt | Action::Encrypt | Action::GenerateDataKey | Action::GenerateDataKeyWithoutPlaintext => {
            return Err(Fault::kms(Kind::Unsupported));
        }
    };
    Ok(Document { members, described: None })
}

/// `yyyy-MM-ddTHH:mm:ssZ`, as everywhere on this wire.
pub(super) fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn metadata(key: &Key) -> Value {
    let delete_date = match key.life {
        Life::PendingDeletion { until } => date(until),
        Life::Enabled | Life::Disabled | Life::PendingImport => String::new(),
    };
    // NextRotationDate and RotationInterval are answered only for keys that rotate by themselves; none here does.
    json!({
        "KeyId": key.id.as_str(),
        "Arn": key.arn(),
        "Creator": ACCOUNT,
        "CreationDate": date(key.created),
        "Description": key.description,
        "KeySpec": KEY_SPEC,
        "KeyUsage": KEY_USAGE,
        "KeyState": state_name(key.state()),
        "Origin": key.origin.name(),
        "ProtectionLevel": key.protection.name(),
        "PrimaryKeyVersion": key.primary().map_or("", |version| version.id.as_str()),
        "AutomaticRotation": "Disabled",
        "LastRotationDate": key.primary().map_or_else(String::new, |version| date(version.created)),
        "DeleteDate": delete_date,
        "MaterialExpireTime": "",
        "DeletionProtection": "Disabled",
        "DeletionProtectionDescription": "",
        "DKMSInstanceId": "",
    })
}

fn describe_version(key: &Key, extra: &Extra) -> Result<Map<String, Value>, Fault> {
    let id = parameter(extra, "KeyVersionId").ok_or_else(|| missing("KeyVersionId"))?;
    let version = key.version(id).ok_or_else(|| Fault::kms(Kind::KeyVersionNotFound))?;
    Ok(members([("KeyVersion", version_entry(key, version))]))
}

fn list_keys(keys: &Keyring, extra: &Extra, now: Timestamp) -> Result<Map<String, Value>, Fault> {
    let filters = filters(extra)?;
    let found = keys.present(now).filter(|key| filters.iter().all(|filter| filter.lets(key)));
    page("Keys", "Key", found.map(|key| json!({ "KeyId": key.id.as_str(), "KeyArn": key.arn() })), extra)
}

fn list_versions(key: &Key, extra: &Extra) -> Result<Map<String, Value>, Fault> {
    page("KeyVersions", "KeyVersion", key.versions.iter().map(|version| version_entry(key, version)), extra)
}

fn list_aliases(
    keys: &Keyring,
    only: Option<&Arc<Key>>,
    extra: &Extra,
    now: Timestamp,
) -> Result<Map<String, Value>, Fault> {
    let listed = keys.aliases.iter().filter(|(_, id)| match only {
        Some(key) => **id == key.id,
        None => keys.find(id.as_str(), now).is_ok(),
    });
    let entries = listed.map(|(alias, id)| {
        json!({ "KeyId": id.as_str(), "AliasName": alias, "AliasArn": format!("{}{alias}", arn_prefix()) })
    });
    page("Aliases", "Alias", entries, extra)
}

fn version_entry(key: &Key, version: &Version) -> Value {
    json!({
        "KeyId": key.id.as_str(),
        "KeyVersionId": version.id.as_str(),
        "CreationDate": date(version.created),
    })
}

/// One page of a list; a page after the last is empty, not an error.
fn page(
    plural: &'static str,
    singular: &'static str,
    entries: impl Iterator<Item = Value>,
    extra: &Extra,
) -> Result<Map<String, Value>, Fault> {
    let number = count(extra, "PageNumber", 1, usize::MAX)?;
    let size = count(extra, "PageSize", PAGE_SIZE, PAGE_SIZE_MAX)?;
    let entries: Vec<_> = entries.collect();
    let total = entries.len();
    let listed: Vec<_> = entries.into_iter().skip((number - 1).saturating_mul(size)).take(size).collect();
    Ok(members([
        (plural, json!({ singular: listed })),
        ("PageNumber", json!(number)),
        ("PageSize", json!(size)),
        ("TotalCount", json!(total)),
    ]))
}

/// One of `Filters`: `{"Key": "KeyState", "Values": ["Enabled"]}`. A key passes when its value is among them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    #[serde(rename = "Key")]
    property: Property,
    #[serde(rename = "Values")]
    values: Vec<String>,
}

#[derive(Clone, Copy, Deserialize)]
enum Property {
    KeyState,
    KeySpec,
    KeyUsage,
    ProtectionLevel,
}

impl Filter {
    fn lets(&self, key: &Key) -> bool {
        let value = match self.property {
            Property::KeyState => state_name(key.state()),
            Property::KeySpec => KEY_SPEC,
            Property::KeyUsage => KEY_USAGE,
            Property::ProtectionLevel => key.protection.name(),
        };
        self.values.iter().any(|wanted| wanted == value)
    }
}

fn filters(extra: &Extra) -> Result<Vec<Filter>, Fault> {
    let text = parameter(extra, "Filters").unwrap_or("[]");
    serde_json::from_str(text).map_err(|_| invalid("Filters"))
}

fn count(extra: &Extra, name: &str, absent: usize, most: usize) -> Result<usize, Fault> {
    let Some(text) = parameter(extra, name) else { return Ok(absent) };
    text.parse().ok().filter(|count| (1..=most).contains(count)).ok_or_else(|| invalid(name))
}

fn parameter<'e>(extra: &'e Extra, name: &str) -> Option<&'e str> {
    extra.0.iter().find(|(listed, _)| listed == name).map(|(_, value)| value.as_str())
}

fn members<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

const fn state_name(state: KeyState) -> &'static str {
    match state {
        KeyState::Enabled => "Enabled",
        KeyState::Disabled => "Disabled",
        KeyState::PendingDeletion => "PendingDeletion",
        KeyState::PendingImport => "PendingImport",
        KeyState::Unavailable => "Unavailable",
    }
}

fn missing(parameter: &str) -> Fault {
    Fault::kms(Kind::MissingParameter(parameter.into()))
}

fn invalid(parameter: &str) -> Fault {
    Fault::kms(Kind::InvalidParameter(parameter.into()))
}

const KEY_SPEC: &str = "Aliyun_AES_256";
const KEY_USAGE: &str = "ENCRYPT/DECRYPT";
const PAGE_SIZE: usize = 10;
const PAGE_SIZE_MAX: usize = 100;
