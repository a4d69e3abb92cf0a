//! Where a setting stands: as a path of names, and as a line of a file.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The path of a setting from the top of the configuration: names, and positions in lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Key(Vec<String>);

impl Key {
    /// A path of names, as figment writes it.
    pub(super) fn of<const N: usize>(steps: [&str; N]) -> Self {
        Self(steps.iter().map(|&step| step.to_owned()).collect())
    }

    /// What `step` names within this.
    pub(super) fn then(&self, step: impl ToString) -> Self {
        Self(self.0.iter().cloned().chain([step.to_string()]).collect())
    }

    /// This path with `steps` behind it.
    pub(super) fn join(&self, steps: &[String]) -> Self {
        Self(self.0.iter().chain(steps).cloned().collect())
    }

    /// Whether this is `other` or stands within it.
    pub(super) fn within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    pub(super) fn steps(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            let position = !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
            match (position, index) {
                (true, _) => write!(f, "[{step}]")?,
                (false, 0) => f.write_str(step)?,
                (false, _) => write!(f, ".{step}")?,
            }
        }
        Ok(())
    }
}

/// Where a mistake was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file as a whole.
    File(PathBuf),
    /// On one line of a file, both counted from one, the column in characters.
    Line(PathBuf, usize, usize),
    /// In an environment variable.
    Variable(String),
    /// In a `--set` on the command line.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Line(path, line, column) => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(key) => write!(f, "--set {key}"),
        }
    }
}

/// Where every setting came from.
#[derive(Debug)]
pub(super) struct Origin {
    file: PathBuf,
    text: String,
    /// What the environment and the command line changed; the last change of a key wins.
    changes: Vec<(Key, Place)>,
}

impl Origin {
    pub(super) fn new(file: &Path, text: String) -> Self {
        Self { file: file.to_owned(), text, changes: Vec::new() }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn change(&mut self, key: Key, place: Place) {
        self.changes.push((key, place));
    }

    /// The place of `key`; where it is not written anywhere, of the nearest table around it that is.
    pub(super) fn place(&self, key: &Key) -> Place {
        let changed = self.changes.iter().rfind(|(changed, _)| key.within(changed));
        if let Some((_, place)) = changed {
            return place.clone();
        }
        let (table, _) = DeTable::parse_recoverable(&self.text);
        offset(table.get_ref(), key.steps()).map_or_else(|| Place::File(self.file.clone()), |offset| self.at(offset))
    }

    /// The place of a byte of the file.
    pub(super) fn at(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before.get(line_start..).map_or(0, |start| start.chars().count()) + 1;
        Place::Line(self.file.clone(), line, column)
    }
}

/// Where the longest part of `steps` that is written begins.
fn offset(table: &DeTable<'_>, steps: &[String]) -> Option<usize> {
    let (first, rest) = steps.split_first()?;
    let (name, value) = table.iter().find(|(name, _)| name.get_ref().as_ref() == first.as_str())?;
    // Below a header such as [upstream.x] the span of the parent's key lies in that header as well.
    Some(offset_in(value, rest).unwrap_or_else(|| name.span().start))
}

fn offset_in(value: &Spanned<DeValue<'_>>, steps: &[String]) -> Option<usize> {
    match (value.get_ref(), steps.split_first()) {
        (DeValue::Table(table), Some(_)) => offset(table, steps),
        (DeValue::Array(array), Some((index, rest))) => {
            let element = array.get(index.parse::<usize>().ok()?)?;
            Some(offset_in(element, rest).unwrap_or_else(|| element.span().start))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, key: &Key) -> String {
        Origin::new(Path::new("k.toml"), text.to_owned()).place(key).to_string()
    }

    #[test]
    fn a_setting_is_found_by_its_path_through_tables_and_lists() {
        let text = "[cache]\ncapacity = 1\n\n[[listener]]\nname = \"a\"\n[[listener]]\ntls = { key_file = \"é\" }\n";
        assert_eq!(place(text, &Key::of(["cache", "capacity"])), "k.toml:2:1");
        assert_eq!(place(text, &Key::of(["listener", "1", "tls", "key_file"])), "k.toml:7:9");
    }

    #[test]
    fn a_setting_that_is_not_written_is_placed_at_the_table_that_should_hold_it() {
        let text = "# a\n[[listener]]\nname = \"a\"\n\n  [upstream.x]\nkind = \"local\"\n";
        assert_eq!(place(text, &Key::of(["listener", "0", "upstream"])), "k.toml:2:1");
        assert_eq!(place(text, &Key::of(["upstream", "x", "state_dir"])), "k.toml:5:13");
        assert_eq!(place(text, &Key::of(["admin"])), "k.toml");
    }

    #[test]
    fn the_last_change_of_a_setting_is_its_place() {
        let mut origin = Origin::new(Path::new("k.toml"), "[cache]\ncapacity = 1\n".to_owned());
        let key = Key::of(["cache", "capacity"]);
        origin.change(key.clone(), Place::Variable("KMSPROXY_CACHE__CAPACITY".to_owned()));
        origin.change(key.clone(), Place::Flag("cache.capacity".to_owned()));
        assert_eq!(origin.place(&key).to_string(), "--set cache.capacity");
        assert_eq!(origin.place(&Key::of(["cache", "max_age"])).to_string(), "k.toml:1:2");
    }
}
