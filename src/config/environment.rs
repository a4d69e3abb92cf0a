//! The environment of the process, read once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::secret::Secret;

/// Environment variables. Every value may be a credential, so each is a [`Secret`] until somebody asks for it by name. Its
/// clones are one.
#[derive(Clone, Debug, Default)]
pub struct Environment(Arc<BTreeMap<String, Secret>>);

impl Environment {
    /// The environment of this process. Variables whose names are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        Self::of(std::env::vars_os())
    }

    /// An environment of `variables`, for tests and tools.
    pub fn of(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let named =
            |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, Secret::new(value.into_vec())));
        Self(Arc::new(variables.into_iter().filter_map(named).collect()))
    }

    /// The names of all variables, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What the modules below take in the place of the whole.
    pub fn lookup(&self) -> impl Fn(&str) -> Option<String> + '_ {
        |name| self.text(name).map(str::to_owned)
    }

    /// A variable that may hold a secret; `None` where it is unset or empty.
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<&Secret> {
        self.0.get(name).filter(|value| !value.is_empty())
    }

    /// A variable that holds no secret; `None` where it is unset, empty or not UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.secret(name).and_then(|value| std::str::from_utf8(value.expose()).ok())
    }

    /// Where this user's programs keep state (`$XDG_STATE_HOME`, else `~/.local/state`), for commands that need no
    /// configuration file; `None` where there is no home.
    #[must_use]
    pub fn state_home(&self) -> Option<PathBuf> {
        let state = self.text("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        state.or_else(|| Some(PathBuf::from(self.text("HOME")?).join(".local/state")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_names_and_no_values() {
        let environment = Environment::of([("TOKEN".into(), "hunter2".into())]);
        assert_eq!(format!("{environment:?}"), "Environment({\"TOKEN\": Secret(7 bytes)})");
    }

    #[test]
    fn an_empty_variable_is_unset() {
        let environment = Environment::of([("A".into(), "".into()), ("B".into(), "b".into())]);
        assert_eq!((environment.text("A"), environment.text("B")), (None, Some("b")));
    }

    #[test]
    fn state_lives_in_the_xdg_directory_or_at_home() {
        let home = Environment::of([("HOME".into(), "/home/a".into()), ("XDG_STATE_HOME".into(), "relative".into())]);
        assert_eq!(home.state_home(), Some("/home/a/.local/state".into()));
        let xdg = Environment::of([("XDG_STATE_HOME".into(), "/s".into())]);
        assert_eq!(xdg.state_home(), Some("/s".into()));
    }
}
