//! `kmsproxy reload`.

use std::io::{self, Write as _};

use bytes::Bytes;
use clap::Args;
use http::Method;

use super::{Daemon, Error, ask};
use crate::admin::{Outcome, Verdict};
use crate::config::Environment;

/// `kmsproxy reload`.
#[derive(Debug, Args)]
pub struct ReloadCommand {
    #[command(flatten)]
    daemon: Daemon,
    /// Print the daemon's answer as it came, one line of JSON
    #[arg(long)]
    json: bool,
}

impl ReloadCommand {
    /// Has the daemon read its configuration again, and prints what has changed to standard output.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::NotReloaded`] where nothing has changed, and why.
    pub fn run(self, environment: Environment) -> Result<(), Error> {
        let socket = self.daemon.socket(environment)?;
        let answer = ask(&socket, Method::POST, "/reload", Bytes::new())?;
        let verdict: Verdict = serde_json::from_slice(&answer).map_err(|_| Error::Strange(socket))?;
        let text = match verdict.outcome {
            _ if self.json => String::from_utf8_lossy(&answer).into_owned(),
            Outcome::Reloaded if verdict.changes.is_empty() => "reloaded, and nothing differs\n".to_owned(),
            Outcome::Reloaded => format!("reloaded\n  {}\n", verdict.changes.join("\n  ")),
            Outcome::Impossible | Outcome::Mistaken | Outcome::Restart => String::new(),
        };
        let _ = io::stdout().lock().write_all(text.as_bytes());
        if verdict.outcome == Outcome::Reloaded { Ok(()) } else { Err(Error::NotReloaded(verdict.reasons)) }
    }
}
