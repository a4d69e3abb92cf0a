//! The commands that change something, and those that explain.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::path::PathBuf;

use bytes::Bytes;
use clap::{ArgGroup, Args};
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::table::{lease, plain};
use super::{Daemon, Error, ask, print};
use crate::admin::desk::{Level, Levels, Refresh, Refreshing};
use crate::admin::explain::{Explanation, Judged, Outlook, Question};
use crate::admin::purge::{Purged, Selection};
use crate::admin::status::Key;
use crate::config::Environment;
use crate::wire::base64;

/// `kmsproxy keys`.
#[derive(Debug, Args)]
pub struct KeysCommand {
    #[command(flatten)]
    daemon: Daemon,
    /// Print the daemon's answer as it came, one line of JSON
    #[arg(long)]
    json: bool,
}

/// `kmsproxy purge`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true))]
pub struct PurgeCommand {
    #[command(flatten)]
    daemon: Daemon,
    /// Everything
    #[arg(long, group = "what")]
    all: bool,
    /// What this key made: its id, its ARN, or an alias that was used
    #[arg(long, group = "what")]
    key: Option<String>,
    /// What is kept for this caller, and for those that share with it
    #[arg(long, group = "what", value_name = "NAME")]
    caller: Option<String>,
    /// What answers the ciphertext of this SHA-256, in hexadecimal
    #[arg(long, group = "what", value_name = "SHA-256")]
    digest: Option<String>,
    /// What answers the ciphertext that is read, in base64, from standard input; only its SHA-256 goes to the daemon
    #[arg(long, group = "what")]
    ciphertext: bool,
}

/// `kmsproxy refresh`.
#[derive(Debug, Args)]
pub struct RefreshCommand {
    #[command(flatten)]
    daemon: Daemon,
    /// The key: its id, its ARN, or an alias that was used
    key: String,
}

/// `kmsproxy drain`.
#[derive(Debug, Args)]
pub struct DrainCommand {
    #[command(flatten)]
    daemon: Daemon,
}

/// `kmsproxy explain`.
#[derive(Debug, Args)]
pub struct ExplainCommand {
    #[command(flatten)]
    daemon: Daemon,
    /// The caller, as the configuration names it
    #[arg(long, value_name = "NAME")]
    caller: String,
    /// A pair of the encryption context that the call has, once for each; left out, whichever context it was asked for with
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    context: Vec<(String, String)>,
    /// The key that the call names, as a Kubernetes provider's does: its id, its ARN or an alias, spelled as there
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The listener that the call comes through: only its upstream is looked at
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Print the daemon's answer as it came, one line of JSON
    #[arg(long)]
    json: bool,
}

/// `kmsproxy log-level`.
#[derive(Debug, Args)]
pub struct LogLevelCommand {
    #[command(flatten)]
    daemon: Daemon,
    /// off, error, warn, info, debug or trace, also for one module (`info,kmsproxy::watch=debug`); left out, what it is
    level: Option<String>,
    /// Print the daemon's answer as it came, one line of JSON
    #[arg(long)]
    json: bool,
}

impl KeysCommand {
    /// Asks, and prints what comes to standard output.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn run(self, environment: Environment) -> Result<(), Error> {
        let answer = Asking::at(self.daemon, environment)?.get("/keys")?;
        let upstreams: BTreeMap<String, Vec<Key>> = answer.read()?;
        print(&if self.json { answer.text() } else { keys(&upstreams) });
        Ok(())
    }
}

impl PurgeCommand {
    /// Has it purged, and prints how much that was.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn run(self, environment: Environment) -> Result<(), Error> {
        let Self { daemon, key, caller, digest, ciphertext, .. } = self;
        let read = if ciphertext { Some(hex(&Sha256::digest(blob()?))) } else { digest };
        let selection = key
            .map(Selection::Key)
            .or_else(|| caller.map(Selection::Caller))
            .or_else(|| read.map(Selection::Digest))
            .unwrap_or(Selection::All(true));
        let purged: Purged = Asking::at(daemon, environment)?.send(Method::POST, "/purge", &selection)?.read()?;
        for (upstream, entries) in purged.entries {
            print(&format!("upstream {upstream}: {entries} DEKs wiped\n"));
        }
        Ok(())
    }
}

impl RefreshCommand {
    /// Has it asked for again, and prints how much that is.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn run(self, environment: Environment) -> Result<(), Error> {
        let Self { daemon, key } = self;
        let answer = Asking::at(daemon, environment)?.send(Method::POST, "/refresh", &Refresh { key })?;
        let Refreshing { key, entries } = answer.read()?;
        for (upstream, entries) in entries {
            print(&format!("upstream {upstream}, key {key}: {entries} DEKs are being asked for again\n"));
        }
        Ok(())
    }
}

impl DrainCommand {
    /// Has it end; does not wait for that.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn run(self, environment: Environment) -> Result<(), Error> {
        let _: Answer = Asking::at(self.daemon, environment)?.send(Method::POST, "/drain", &())?;
        print("draining: no new connections; what is under way is answered\n");
        Ok(())
    }
}

impl ExplainCommand {
    /// Asks, and prints what comes to standard output.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn run(self, environment: Environment) -> Result<(), Error> {
        let Self { daemon, caller, context, key, listener, json } = self;
        let ciphertext = text()?;
        let context = (!context.is_empty()).then(|| context.into_iter().collect());
        let question = Question { caller, ciphertext, context, key, listener };
        let answer = Asking::at(daemon, environment)?.send(Method::POST, "/explain", &question)?;
        let explanation: Explanation = answer.read()?;
        print(&if json { answer.text() } else { explained(&explanation) });
        Ok(())
    }
}

impl LogLevelCommand {
    /// Changes it, or asks for it, and prints it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn run(self, environment: Environment) -> Result<(), Error> {
        let asking = Asking::at(self.daemon, environment)?;
        let answer = match self.level {
            Some(level) => asking.send(Method::PUT, "/log-level", &Level { level })?,
            None => asking.get("/log-level")?,
        };
        let Levels { level, was } = answer.read()?;
        let told = was.map_or_else(|| format!("{level}\n"), |was| format!("{level} (was {was})\n"));
        print(&if self.json { answer.text() } else { told });
        Ok(())
    }
}

/// Somebody to ask.
pub(super) struct Asking {
    socket: PathBuf,
}

/// What was answered.
struct Answer {
    socket: PathBuf,
    body: Bytes,
}

impl Asking {
    pub(super) fn at(daemon: Daemon, environment: Environment) -> Result<Self, Error> {
        daemon.socket(environment).map(|socket| Self { socket })
    }

    fn get(self, path: &str) -> Result<Answer, Error> {
        let body = ask(&self.socket, Method::GET, path, Bytes::new())?;
        Ok(Answer { socket: self.socket, body })
    }

    fn send(self, method: Method, path: &str, what: &impl Serialize) -> Result<Answer, Error> {
        let what = serde_json::to_vec(what).map_err(|_| Error::Input("it cannot be sent"))?;
        let body = ask(&self.socket, method, path, what.into())?;
        Ok(Answer { socket: self.socket, body })
    }

    pub(super) fn status(&self) -> Result<crate::admin::Status, Error> {
        let body = ask(&self.socket, Method::GET, "/live", Bytes::new())?;
        Answer { socket: self.socket.clone(), body }.read()
    }
}

impl Answer {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|_| Error::Strange(self.socket.clone()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What standard input says, which a secret never is: a ciphertext.
fn text() -> Result<String, Error> {
    let mut text = String::new();
    let read = io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|_| Error::Input("is not text; give the ciphertext in base64"))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Error::Input("is empty; give the ciphertext in base64"));
    }
    Ok(text.to_owned())
}

fn pair(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn blob() -> Result<Vec<u8>, Error> {
    base64::decode(text()?.as_bytes()).ok_or(Error::Input("is not base64; give the CiphertextBlob as the KMS gave it"))
}

fn keys(upstreams: &BTreeMap<String, Vec<Key>>) -> String {
    let head = ["UPSTREAM", "KEY", "DEKS", "LEASE"].map(str::to_owned);
    let rows = upstreams.iter().flat_map(|(upstream, keys)| {
        keys.iter().map(move |key| [upstream.clone(), plain(&key.key), key.entries.to_string(), lease(key)])
    });
    super::table::columns(head, rows.collect(), 0)
}

fn explained(explanation: &Explanation) -> String {
    let mut text = String::new();
    for Judged { upstream, verdict, why, remedy, entries } in &explanation.upstreams {
        let word = match verdict {
            Outlook::Asked => "the KMS would be asked",
            Outlook::Refused => "WOULD BE REFUSED",
            Outlook::Served => "would be served",
        };
        let _ = writeln!(text, "upstream {upstream}: {word}\n  why: {}", plain(why));
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "  remedy: {}", plain(remedy));
        }
        for kept in entries {
            let of = if kept.share == explanation.share { "this caller" } else { "another caller" };
            let _ = writeln!(
                text,
                "  kept for {of} ({}), asked for {}, good until {}\n    key {}, version {}\n    lease {}, {} s left",
                kept.share,
                kept.asked_at,
                kept.expires_at,
                plain(&kept.key),
                plain(&kept.version),
                kept.lease,
                kept.lease_left_ms / 1000
            );
            if let Some(line) = &kept.allowed_by {
                let _ = writeln!(
                    text,
                    "    allowed by line {}: {} on {}",
                    line.line,
                    line.actions.join(", "),
                    line.keys.join(", ")
                );
            }
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

const INPUT_BYTES_MAX: u64 = 64 * 1024;
