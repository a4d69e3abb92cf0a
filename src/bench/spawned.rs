//! Targets that the harness starts for itself, in a directory that goes with them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use tempfile::TempDir;

use super::control::{Behaviour, Control, Metrics};
use super::face::Face;
use super::process::Process;
use super::processors::Processors;
use super::speech::Signer;
use crate::clock::{Clock as _, System};
use crate::secret::Secret;
use crate::tls::authority::Authority;

/// How a spawned target is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Over {
    /// A unix socket
    Unix,
    /// TLS 1.3 on loopback
    Tls,
    /// TCP in clear on loopback
    Tcp,
}

/// What a spawned target shall be like.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) face: Face,
    pub(super) over: Over,
    pub(super) binary: PathBuf,
    pub(super) kms: Behaviour,
    /// Whether the daemon is told of the quota.
    pub(super) told_quota: bool,
    /// How many DEKs its cache shall have room for.
    pub(super) room: usize,
    pub(super) connections: usize,
    pub(super) audit: bool,
    /// Whether the daemon is told to keep a working set.
    pub(super) working_set: bool,
    pub(super) settings: Vec<String>,
    /// For how long the daemon works at one request.
    pub(super) timeout: Duration,
}

/// An embedded KMS, and a daemon before it.
pub(super) struct Spawned {
    dir: TempDir,
    wish: Wish,
    processors: Processors,
    emulator: Process,
    daemon: Option<Process>,
}

impl Spawned {
    /// Starts both; with `daemon` false, the emulator alone.
    ///
    /// # Errors
    /// Where one does not get ready, with what it said.
    pub(super) fn start(wish: Wish, processors: &Processors, daemon: bool) -> Result<Self, String> {
        let dir = directory()?;
        let state = dir.path().join("kms");
        let arguments =
            ["emulator", "--json", "--listen", "127.0.0.1:0", "--log", "warn", "--state-dir", text(&state)?];
        let emulator = Process::start(&wish.binary, &arguments, dir.path(), processors)?;
        let mut spawned = Self { dir, wish, processors: processors.clone(), emulator, daemon: None };
        if daemon {
            spawned.configure()?;
            spawned.daemon = Some(spawned.serve()?);
        }
        Ok(spawned)
    }

    /// Kills the daemon as a crash would, and starts it again.
    ///
    /// # Errors
    /// Where it does not come back.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        if let Some(daemon) = self.daemon.take() {
            // What came last is to be in its working set.
            std::thread::sleep(2 * SAVE);
            daemon.kill();
        }
        self.daemon = Some(self.serve()?);
        Ok(())
    }

    /// Where to ask: the daemon, or the emulator where it is alone.
    pub(super) fn address(&self) -> Result<String, String> {
        let Some(daemon) = &self.daemon else { return self.kms_address() };
        let address = daemon.ready["listeners"]["bench"].as_str().ok_or("the daemon tells no listener")?;
        Ok(match self.wish.over {
            Over::Unix => address.to_owned(),
            Over::Tls => format!("https://{address}"),
            Over::Tcp => format!("http://{address}"),
        })
    }

    /// The emulator's own.
    pub(super) fn kms_address(&self) -> Result<String, String> {
        Ok(format!("https://{}", self.emulator.told("address")?))
    }

    pub(super) fn ca(&self) -> Result<PathBuf, String> {
        Ok(self.emulator.told("ca_file")?.into())
    }

    pub(super) fn key(&self) -> Result<&str, String> {
        self.emulator.told("key_id")
    }

    pub(super) fn signer(&self) -> Result<Signer, String> {
        let secret = fs::read(self.emulator.told("secret_file")?).map_err(|error| error.to_string())?;
        Ok(Signer { id: self.emulator.told("access_key_id")?.to_owned(), secret: Secret::new(secret), token: None })
    }

    pub(super) fn control(&self) -> Result<Control, String> {
        let address = self.emulator.told("control_address")?;
        Ok(Control(address.strip_prefix("unix:").unwrap_or(address).into()))
    }

    pub(super) fn metrics(&self) -> Option<Metrics> {
        self.daemon.as_ref()?.ready["metrics_address"].as_str()?.parse().ok().map(Metrics)
    }

    pub(super) fn admin(&self) -> Option<PathBuf> {
        self.daemon.as_ref().map(|_| self.dir.path().join("admin.sock"))
    }

    /// The process that answers.
    pub(super) fn id(&self) -> u32 {
        self.daemon.as_ref().map_or(self.emulator.id(), Process::id)
    }

    /// How the KMS is to behave while it is measured.
    pub(super) const fn kms(&self) -> Behaviour {
        self.wish.kms
    }

    fn serve(&self) -> Result<Process, String> {
        let config = self.dir.path().join("kmsproxy.toml");
        let mut arguments = vec!["serve", "--json", "--config", text(&config)?];
        for setting in &self.wish.settings {
            arguments.extend(["--set", setting]);
        }
        Process::start(&self.wish.binary, &arguments, self.dir.path(), &self.processors)
    }

    fn configure(&self) -> Result<(), String> {
        let told = |name| self.emulator.told(name);
        let dir = text(self.dir.path())?;
        let quota = self.wish.kms.quota.filter(|_| self.wish.told_quota);
        let quota = quota.map_or_else(String::new, |quota| format!("quota = \"{quota}/s\"\n"));
        let audit = if self.wish.audit {
            format!("[audit]\nsink = \"file\"\npath = \"{dir}/audit.jsonl\"\n")
        } else {
            String::new()
        };
        let working_set = if self.wish.working_set {
            format!("[working_set]\nfile = \"{dir}/working-set\"\nsave = \"{}ms\"\n", SAVE.as_millis())
        } else {
            String::new()
        };
        let config = format!(
            r#"[upstream.kms]
kind = "aliyun"
endpoint = "https://{address}"
ca_file = "{ca}"
credentials = {{ source = "file", id = "{id}", secret_file = "{secret}" }}
{quota}
{listener}
[cache]
capacity = {capacity}

[metrics]
address = "127.0.0.1:0"

[admin]
address = "unix:{dir}/admin.sock"

{working_set}
{audit}"#,
            address = told("address")?,
            ca = told("ca_file")?,
            id = told("access_key_id")?,
            secret = told("secret_file")?,
            listener = self.listener(dir)?,
            capacity = (self.wish.room + self.wish.room / 2).max(CAPACITY_MIN),
        );
        private(&self.dir.path().join("kmsproxy.toml"), config.as_bytes())
    }

    /// The listener and its one caller.
    fn listener(&self, dir: &str) -> Result<String, String> {
        let (face, told) = (self.wish.face, |name| self.emulator.told(name));
        let spoken = match face.api() {
            Some(_) => format!("face = \"kubernetes\"\nkey = \"{}\"", told("key_id")?),
            None => "face = \"aliyun\"".to_owned(),
        };
        let (address, clad) = match self.wish.over {
            Over::Unix => (format!("unix:{dir}/bench.sock"), String::new()),
            Over::Tls => {
                let (certificate, key) = (format!("{dir}/kms/server.pem"), format!("{dir}/kms/server.key"));
                let clad = format!("tls = {{ certificate_file = \"{certificate}\", key_file = \"{key}\" }}");
                ("127.0.0.1:0".to_owned(), clad)
            }
            Over::Tcp => ("127.0.0.1:0".to_owned(), "insecure = true".to_owned()),
        };
        let proof = if face.is_signed() {
            let (id, secret) = (told("access_key_id")?, told("secret_file")?);
            format!("access_key = {{ id = \"{id}\", secret_file = \"{secret}\" }}")
        } else {
            String::new()
        };
        let places = (self.wish.connections + 64).max(1024);
        Ok(format!(
            r#"[[listener]]
name = "bench"
{spoken}
address = "{address}"
upstream = "kms"
{clad}
max_connections = {places}
max_in_flight = {in_flight}
timeout = "{timeout}ms"

[[caller]]
name = "bench"
listener = "bench"
{proof}
allow = [{{ actions = ["Decrypt", "Encrypt"], keys = ["*"] }}]
"#,
            timeout = self.wish.timeout.as_millis(),
            in_flight = places.max(16_384),
        ))
    }
}

/// A bare responder.
pub(super) struct Bare {
    over: Over,
    dir: TempDir,
    process: Process,
}

impl Bare {
    /// Starts it.
    ///
    /// # Errors
    /// Where it does not get ready, with what it said.
    pub(super) fn start(wish: &Wish, processors: &Processors) -> Result<Self, String> {
        let dir = directory()?;
        let at = |name: &str| dir.path().join(name);
        let (socket, certificate, key) = (at("bare.sock"), at("server.pem"), at("server.key"));
        let face = wish.face.to_string();
        let mut arguments = vec!["bench", "bare-responder", "--face", &face];
        match wish.over {
            Over::Unix => arguments.extend(["--socket", text(&socket)?]),
            Over::Tcp => {}
            Over::Tls => {
                let made = Authority::generate(System.wall(), &[]).map_err(|error| error.to_string())?;
                fs::write(at("ca.pem"), made.ca_pem()).map_err(|error| error.to_string())?;
                fs::write(&certificate, made.certificate_pem()).map_err(|error| error.to_string())?;
                private(&key, made.key_pem().expose())?;
                arguments.extend(["--certificate-file", text(&certificate)?, "--key-file", text(&key)?]);
            }
        }
        let process = Process::start(&wish.binary, &arguments, dir.path(), processors)?;
        Ok(Self { over: wish.over, dir, process })
    }

    pub(super) fn address(&self) -> Result<String, String> {
        let address = self.process.told("address")?;
        Ok(match self.over {
            Over::Unix => address.to_owned(),
            Over::Tls => format!("https://{address}"),
            Over::Tcp => format!("http://{address}"),
        })
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }
}

fn directory() -> Result<TempDir, String> {
    // Short, for the names of unix sockets are; and of this user alone.
    tempfile::Builder::new().prefix("kmsproxy-bench-").tempdir().map_err(|error| format!("a directory for it: {error}"))
}

fn private(path: &Path, content: &[u8]) -> Result<(), String> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content)).map_err(|error| format!("{}: {error}", path.display()))
}

fn text(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("{}: this path is not UTF-8", path.display()))
}

/// How often the daemon writes its working set.
const SAVE: Duration = Duration::from_millis(500);
/// The daemon's default.
const CAPACITY_MIN: usize = 100_000;
