//! What differs between two configurations, and what a daemon that runs on the first has to do to run on the second. Pure:
//! it knows what was written, and nothing of what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use toml::{Table, Value};

use crate::config::raw::Config;

/// What differs, part by part. A part is a table of the file: `cache`, `upstream.hangzhou`, `listener.ack`, `caller.ack`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference(BTreeMap<String, Change>);

/// What became of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Added,
    /// These settings of it differ.
    Altered(BTreeSet<String>),
    Removed,
}

/// What is to be done about one upstream or listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is new.
    Begin,
    /// It is not named any more.
    End,
    /// It goes on as it is.
    Keep,
    /// Its lease alone differs.
    Lease,
    /// Another takes its place.
    Replace,
}

impl Difference {
    /// What makes of `before` what `after` says.
    ///
    /// # Errors
    /// As [`Config::to_toml`]: never for configurations that were read.
    pub fn between(before: &Config, after: &Config) -> Result<Self, toml::ser::Error> {
        let (mut before, after) = (parts(before)?, parts(after)?);
        let mut changes = BTreeMap::new();
        for (name, settings) in after {
            match before.remove(&name) {
                None => {
                    changes.insert(name, Change::Added);
                }
                Some(old) if old != settings => {
                    changes.insert(name, Change::Altered(differing(&old, &settings)));
                }
                Some(_) => {}
            }
        }
        changes.extend(before.into_keys().map(|name| (name, Change::Removed)));
        Ok(Self(changes))
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The settings, by their whole paths, that a process cannot change while it runs.
    #[must_use]
    pub fn restart(&self) -> Vec<String> {
        let altered = self.0.iter().filter_map(|(part, change)| match change {
            Change::Altered(settings) => Some((part, settings)),
            // Tables that are always there are neither added nor removed.
            Change::Added | Change::Removed => None,
        });
        let fixed = altered.flat_map(|(part, settings)| {
            let all = settings.iter().filter(move |setting| is_fixed(part, setting, settings));
            all.map(move |setting| format!("{part}.{setting}"))
        });
        fixed.collect()
    }

    /// What becomes of the upstream of that name.
    #[must_use]
    pub fn upstream(&self, name: &str) -> Fate {
        match self.0.get(&format!("upstream.{name}")) {
            None => Fate::Keep,
            Some(Change::Added) => Fate::Begin,
            Some(Change::Removed) => Fate::End,
            Some(Change::Altered(settings)) if settings.iter().all(|setting| setting.starts_with("lease.")) => {
                Fate::Lease
            }
            Some(Change::Altered(_)) => Fate::Replace,
        }
    }

    /// What becomes of the listener of that name.
    #[must_use]
    pub fn listener(&self, name: &str) -> Fate {
        match self.0.get(&format!("listener.{name}")) {
            None => Fate::Keep,
            Some(Change::Added) => Fate::Begin,
            Some(Change::Removed) => Fate::End,
            Some(Change::Altered(_)) => Fate::Replace,
        }
    }

    /// The names of upstreams that are not named any more.
    pub fn upstreams_removed(&self) -> impl Iterator<Item = &str> {
        let removed = self.0.iter().filter(|(_, change)| **change == Change::Removed);
        removed.filter_map(|(part, _)| part.strip_prefix("upstream."))
    }

    /// One line for each part.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |(part, change): (&String, &Change)| match change {
            Change::Added => format!("{part}: added"),
            Change::Altered(settings) => {
                format!("{part}: {}", settings.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
            }
            Change::Removed => format!("{part}: removed"),
        };
        self.0.iter().map(line).collect()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("; "))
    }
}

/// Whether `setting` of `part`, one of those that are `altered`, is one that nothing but a restart changes.
fn is_fixed(part: &str, setting: &str, altered: &BTreeSet<String>) -> bool {
    match part.split_once('.') {
        Some(("listener", _)) => {
            let same_place = !altered.contains("address");
            // The file of a socket that goes on being listened on.
            same_place && ["mode", "owner", "group"].contains(&setting)
        }
        // Two cannot have the keys of one embedded KMS open.
        Some(("upstream", _)) => ["state_dir", "latency"].contains(&setting) && !altered.contains("kind"),
        Some(("caller", _)) => false,
        _ => true,
    }
}

type Settings = BTreeMap<String, Value>;

/// The settings of each part.
fn parts(config: &Config) -> Result<BTreeMap<String, Settings>, toml::ser::Error> {
    let mut parts = BTreeMap::new();
    for (name, value) in config.tables()? {
        match (name.as_str(), value) {
            ("upstream", Value::Table(upstreams)) => {
                parts
                    .extend(upstreams.into_iter().map(|(name, upstream)| (format!("upstream.{name}"), flat(upstream))));
            }
            ("listener" | "caller", Value::Array(items)) => {
                for item in items {
                    let own = item.get("name").and_then(Value::as_str).unwrap_or_default();
                    parts.insert(format!("{name}.{own}"), flat(item));
                }
            }
            (_, value) => {
                parts.insert(name, flat(value));
            }
        }
    }
    Ok(parts)
}

/// What is within tables by its path, and lists whole.
fn flat(value: Value) -> Settings {
    let mut settings = Settings::new();
    let mut waiting = vec![(String::new(), value)];
    while let Some((path, value)) = waiting.pop() {
        let within = |name: String| if path.is_empty() { name } else { format!("{path}.{name}") };
        match value {
            Value::Table(table) => waiting.extend(Table::into_iter(table).map(|(name, value)| (within(name), value))),
            value @ (Value::Array(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Float(_)
            | Value::Integer(_)
            | Value::String(_)) => {
                settings.insert(path, value);
            }
        }
    }
    settings
}

fn differing(before: &Settings, after: &Settings) -> BTreeSet<String> {
    let all = before.keys().chain(after.keys());
    all.filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Environment, understand};

    const BASE: &str = r#"
[upstream.kms]
kind = "aliyun"
endpoint = "https://kms.example"
credentials = { source = "file", id = "LTAI", secret_file = "/s" }
lease = { duration = "30s", probe = "10s" }
[upstream.trial]
kind = "local"
state_dir = "/trial"
[[listener]]
name = "ack"
face = "aliyun"
address = "unix:/ack.sock"
upstream = "kms"
[[caller]]
name = "plugin"
listener = "ack"
allow = [{ actions = ["Decrypt"], keys = ["*"] }]
"#;

    fn read(text: &str) -> Config {
        understand(Path::new("k.toml"), text.to_owned(), &Environment::default(), &[]).unwrap()
    }

    /// What differs from [`BASE`] when `from` in it is `to`.
    fn changed(from: &str, to: &str) -> Difference {
        assert!(BASE.contains(from), "{from}");
        Difference::between(&read(BASE), &read(&BASE.replace(from, to))).unwrap()
    }

    fn nothing() -> Vec<String> {
        Vec::new()
    }

    #[test]
    fn a_default_that_is_written_out_and_another_order_are_no_difference() {
        let said = changed("upstream = \"kms\"", "timeout = \"2500ms\"\nupstream = \"kms\"");
        assert_eq!((said.is_empty(), said.lines(), said.upstream("kms")), (true, nothing(), Fate::Keep));
        let (listener, rest) = BASE.split_at(BASE.find("[[listener]]").unwrap());
        assert!(Difference::between(&read(BASE), &read(&format!("{rest}{listener}"))).unwrap().is_empty());
    }

    #[test]
    fn a_lease_is_changed_in_place_and_the_kms_by_another() {
        let lease = changed("duration = \"30s\"", "duration = \"20s\"");
        assert_eq!((lease.upstream("kms"), lease.restart()), (Fate::Lease, nothing()));
        assert_eq!(lease.to_string(), "upstream.kms: lease.duration");
        for (from, to) in [("kms.example", "other.example"), ("LTAI", "LTAI2"), ("\"/s\"", "\"/t\"")] {
            let said = changed(from, to);
            assert_eq!((said.upstream("kms"), said.upstream("trial")), (Fate::Replace, Fate::Keep), "{said}");
            assert_eq!((said.listener("ack"), said.restart()), (Fate::Keep, nothing()));
        }
        let both = changed("\nlease = { duration = \"30s\"", "\nretries = 0\nlease = { duration = \"20s\"");
        assert_eq!(both.upstream("kms"), Fate::Replace);
    }

    #[test]
    fn what_comes_and_goes_is_told_by_its_name() {
        let said = changed("upstream.trial", "upstream.other");
        assert_eq!((said.upstream("other"), said.upstream("trial")), (Fate::Begin, Fate::End));
        assert_eq!(said.upstreams_removed().collect::<Vec<_>>(), ["trial"]);
        assert_eq!(said.lines(), ["upstream.other: added", "upstream.trial: removed"]);
        let renamed = changed("name = \"plugin\"", "name = \"other\"");
        assert_eq!(renamed.to_string(), "caller.other: added; caller.plugin: removed");
    }

    #[test]
    fn a_listener_is_replaced_and_the_file_of_its_socket_is_not() {
        let said = changed("upstream = \"kms\"", "upstream = \"kms\"\ntimeout = \"1s\"");
        assert_eq!((said.listener("ack"), said.restart()), (Fate::Replace, nothing()));
        let said = changed("upstream = \"kms\"", "upstream = \"kms\"\nmode = \"0600\"");
        assert_eq!(said.restart(), ["listener.ack.mode"]);
        let moved = changed("address = \"unix:/ack.sock\"", "address = \"unix:/b.sock\"\nmode = \"0600\"");
        assert_eq!((moved.listener("ack"), moved.restart()), (Fate::Replace, nothing()));
    }

    #[test]
    fn what_the_process_is_made_of_takes_a_restart_and_is_named() {
        for (table, setting) in [
            ("cache", "capacity = 7"),
            ("cache", "max_age = \"1h\""),
            ("metrics", "address = \"127.0.0.1:9643\""),
            ("memory", "require = \"locked\""),
            ("admin", "address = \"unix:/admin.sock\""),
            ("audit", "queue = 7"),
            ("working_set", "file = \"/w\""),
            ("tracing", "sample = 0.5"),
        ] {
            let text = format!("{BASE}[{table}]\n{setting}\n");
            let said = Difference::between(&read(BASE), &read(&text)).unwrap();
            let name = setting.split(' ').next().unwrap();
            assert_eq!(said.restart(), [format!("{table}.{name}")]);
        }
        assert_eq!(changed("\"/trial\"", "\"/other\"").restart(), ["upstream.trial.state_dir"]);
    }

    #[test]
    fn what_a_caller_may_do_and_how_it_proves_itself_changes_in_place() {
        let said = changed("keys = [\"*\"]", "keys = [\"key-1\"]");
        assert_eq!((said.to_string(), said.restart()), ("caller.plugin: allow".to_owned(), nothing()));
    }
}
