//! What is asked of a running daemon: the commands that speak to its admin socket.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::admin::{Refusal, Status};
use crate::config::{self, Address, Environment, Mistakes, Sources};

mod audit;
mod orders;
mod reload;
mod table;
mod top;

pub use audit::{AuditCommand, AuditError};
pub use orders::{DrainCommand, ExplainCommand, KeysCommand, LogLevelCommand, PurgeCommand, RefreshCommand};
pub use reload::ReloadCommand;
pub use top::TopCommand;

/// Which daemon to ask.
#[derive(Debug, Args)]
pub struct Daemon {
    /// The daemon's admin socket, @NAME for an abstract one [default: admin.address of the configuration]
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// The configuration that the daemon runs on
    #[arg(long, value_name = "FILE", default_value = config::FILE)]
    config: PathBuf,
}

/// `kmsproxy status`.
#[derive(Debug, Args)]
pub struct StatusCommand {
    #[command(flatten)]
    daemon: Daemon,
    /// Print the daemon's answer as it came, one line of JSON
    #[arg(long)]
    json: bool,
}

impl StatusCommand {
    /// Asks, and prints what comes to standard output.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn run(self, environment: Environment) -> Result<(), Error> {
        let socket = self.daemon.socket(environment)?;
        let answer = ask(&socket, Method::GET, "/status", Bytes::new())?;
        let status: Status = serde_json::from_slice(&answer).map_err(|_| Error::Strange(socket))?;
        let text = if self.json { String::from_utf8_lossy(&answer).into_owned() } else { table::render(&status) };
        print(&text);
        Ok(())
    }
}

impl Daemon {
    fn socket(self, environment: Environment) -> Result<PathBuf, Error> {
        if let Some(socket) = self.socket {
            return Ok(socket);
        }
        let sources = Sources { file: self.config, environment, overrides: Vec::new(), root: None };
        match config::admin_address(&sources).map_err(Error::Configuration)? {
            Some(Address::Unix(socket)) => Ok(socket),
            Some(Address::Abstract(name)) => Ok(format!("@{name}").into()),
            Some(address @ (Address::Systemd(_) | Address::Tcp(_))) => Err(Error::Elsewhere(address)),
            None => Err(Error::NoSocket(sources.file)),
        }
    }
}

/// Why a daemon did not obey.
#[derive(Debug)]
pub enum Error {
    /// The configuration cannot be read, or names no good admin address.
    Configuration(Mistakes),
    /// The admin socket is one that has no path we could know.
    Elsewhere(Address),
    /// The daemon may not be asked by us.
    Forbidden(PathBuf),
    /// Nothing listens there.
    Nobody(PathBuf),
    /// The configuration has no admin socket.
    NoSocket(PathBuf),
    /// It has not reloaded, for these reasons; nothing has changed.
    NotReloaded(Vec<String>),
    /// The daemon does not obey, and says why.
    Refused(Refusal),
    /// What a command was to read from standard input is not there, or is not what it takes.
    Input(&'static str),
    /// The terminal cannot be drawn on.
    Terminal(io::Error),
    /// What listens there does not answer, or not in time.
    Silent(PathBuf, String),
    /// What listens there answers something else.
    Strange(PathBuf),
}

impl Error {
    /// Whether the configuration must be mended first.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        match self {
            Self::Configuration(_) | Self::Elsewhere(_) | Self::NoSocket(_) | Self::NotReloaded(_) => true,
            Self::Forbidden(_)
            | Self::Input(_)
            | Self::Nobody(_)
            | Self::Refused(_)
            | Self::Silent(..)
            | Self::Strange(_)
            | Self::Terminal(_) => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(mistakes) => mistakes.fmt(f),
            Self::Elsewhere(address) => write!(
                f,
                "admin.address is {address}, which does not say where the socket is\n  \
                 remedy: give --socket PATH; `systemctl list-sockets` shows those of systemd"
            ),
            Self::Forbidden(path) => write!(
                f,
                "{}: permission denied\n  remedy: run this as root, or as the user that kmsproxy runs as",
                path.display()
            ),
            Self::Input(what) => write!(f, "standard input: {what}"),
            Self::Refused(Refusal { error, remedy, .. }) => {
                write!(f, "{}\n  remedy: {}", table::plain(error), table::plain(remedy))
            }
            Self::Terminal(error) => {
                write!(f, "the terminal: {error}\n  remedy: run it in a terminal, or use `kmsproxy status`")
            }
            Self::Nobody(path) => write!(
                f,
                "{}: nothing listens there\n  \
                 remedy: start kmsproxy, or name the admin socket of the one that runs with --socket PATH",
                path.display()
            ),
            Self::NoSocket(file) => write!(
                f,
                "{}: has no admin socket\n  remedy: write address = \"unix:/run/kmsproxy/admin.sock\" under [admin] \
                 and restart kmsproxy, or give --socket PATH",
                file.display()
            ),
            Self::NotReloaded(reasons) => write!(f, "not reloaded, and nothing has changed\n{}", reasons.join("\n")),
            Self::Silent(path, why) => write!(
                f,
                "{}: {why}\n  remedy: see in its log whether kmsproxy is well; `GET /livez` at metrics.address tells, too",
                path.display()
            ),
            Self::Strange(path) => write!(
                f,
                "{}: what listens there does not know this command\n  \
                 remedy: see that it is the admin socket, and of a kmsproxy of version {}",
                path.display(),
                env!("CARGO_PKG_VERSION")
            ),
        }
    }
}

impl std::error::Error for Error {}

fn print(text: &str) {
    // A reader that went away, as head does, has what it wanted.
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// One request to the daemon that listens on `socket`, and the body of its answer.
fn ask(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Bytes, Error> {
    let silent = |why: String| Error::Silent(socket.to_owned(), why);
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| silent(error.to_string()))?;
    let answer = runtime.block_on(async { timeout(PATIENCE, converse(socket, method, path, body)).await });
    let (status, body) = answer.map_err(|_| silent("no answer in 10 s".to_owned()))??;
    match status {
        StatusCode::OK => Ok(body),
        // What came of it is told all the same.
        StatusCode::CONFLICT if path == "/reload" => Ok(body),
        StatusCode::FORBIDDEN => Err(Error::Forbidden(socket.to_owned())),
        StatusCode::NOT_FOUND if !KNOWN.contains(&path) => Err(Error::Strange(socket.to_owned())),
        _ => Err(serde_json::from_slice(&body).map_or_else(|_| Error::Strange(socket.to_owned()), Error::Refused)),
    }
}

async fn converse(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), Error> {
    let silent = |why: String| Error::Silent(socket.to_owned(), why);
    // As tokio takes the name of an abstract socket.
    let name = socket.to_str().and_then(|path| path.strip_prefix('@')).map(|name| format!("\0{name}").into());
    let path_or_name: PathBuf = name.unwrap_or_else(|| socket.to_owned());
    let stream = UnixStream::connect(path_or_name).await.map_err(|error| unconnected(socket, &error))?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| silent(error.to_string()))?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header(http::header::HOST, "localhost");
    let request = request.body(Full::new(body)).map_err(|error| silent(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|error| silent(error.to_string()))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    Ok((status, body.map_err(|error| silent(error.to_string()))?.to_bytes()))
}

fn unconnected(socket: &Path, error: &io::Error) -> Error {
    let socket = socket.to_owned();
    #[expect(clippy::wildcard_enum_match_arm, reason = "not our enum: the rest is told as it is")]
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::Nobody(socket),
        io::ErrorKind::PermissionDenied => Error::Forbidden(socket),
        _ => Error::Silent(socket, error.to_string()),
    }
}

/// What may be told of as not found although the daemon knows the command.
const KNOWN: [&str; 3] = ["/explain", "/purge", "/refresh"];
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
