//! Whom to load: the words of the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::control::{Behaviour, Control, Metrics};
use super::endpoint::{Endpoint, Reach};
use super::face::Face;
use super::scenario::Scenario;
use super::spawned::{Over, Wish};
use super::speech::Signer;
use super::stage::House;
use super::target::{Given, Target};
use super::{Failure, span};
use crate::clock::{Clock, System};
use crate::upstream::credentials::{self, Source, Ways};
use crate::upstream::transport::Trust;

/// Whom to load, and what is known of them.
#[derive(Debug, Args)]
pub(super) struct Choice {
    /// Whom to load: unix:/PATH, unix:@NAME, http://127.0.0.1:PORT, https://HOST:PORT; spawn: a kmsproxy in front of an
    /// embedded KMS, both started for this run; emulator: that KMS alone; bare: a responder that answers one constant.
    /// The last three take further words, such as spawn,deks=1000000 or spawn,binary=/PATH/kmsproxy: face, over, deks,
    /// binary, audit
    #[arg(value_name = "TARGET", default_value = "spawn", conflicts_with = "compare")]
    target: String,
    /// Start kmsproxy and an embedded KMS for this run, as TARGET spawn does
    #[arg(long, conflicts_with_all = ["target", "compare"], help_heading = "Target")]
    spawn: bool,
    /// Load two targets in turns, round by round, and print the ratio of the first to the second
    #[arg(long, num_args = 2, value_names = ["A", "B"], help_heading = "Target")]
    compare: Vec<String>,
    /// What to speak
    #[arg(long, value_enum, default_value = "aliyun-v1", help_heading = "Target")]
    face: Face,
    /// Load a target that is not on this machine. It must be yours, and nobody else's traffic may suffer
    #[arg(long, help_heading = "Target")]
    i_own_this_target: bool,
    /// The certificates that https targets are believed by [default: the platform's]
    #[arg(long, value_name = "FILE", help_heading = "Target")]
    ca: Option<PathBuf>,
    /// The access key that signs, out of a profile file of the aliyun CLI (.json) or of the SDKs (ini)
    #[arg(long, value_name = "FILE", conflicts_with = "secret_file", help_heading = "Target")]
    credentials: Option<PathBuf>,
    /// The id of the access key that signs; its secret is in --secret-file
    #[arg(long, value_name = "ID", requires = "secret_file", help_heading = "Target")]
    access_key: Option<String>,
    /// The file that has the secret, and nothing else
    #[arg(long, value_name = "FILE", requires = "access_key", help_heading = "Target")]
    secret_file: Option<PathBuf>,
    /// The key that new DEKs are encrypted with; the Kubernetes faces have one already
    #[arg(long, value_name = "KEY", default_value = "alias/kmsproxy-dev", help_heading = "Target")]
    key: String,
    /// The control socket of the emulator behind a target: counts remote calls, steers the KMS
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    control: Option<PathBuf>,
    /// The admin socket of a target, for `disable` without traffic
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    admin: Option<PathBuf>,
    /// The metrics address of a target: counts remote calls where there is no --control
    #[arg(long, value_name = "ADDRESS", help_heading = "Target")]
    metrics: Option<std::net::SocketAddr>,
    /// The process of a target: its processor time and memory are measured
    #[arg(long, value_name = "PID", help_heading = "Target")]
    pid: Option<u32>,
    /// How a spawned target is reached
    #[arg(long, value_enum, default_value = "unix", help_heading = "Spawned targets")]
    over: Over,
    /// How long the embedded KMS takes for a call [default: 20ms; 0s for hit]
    #[arg(long, value_name = "TIME", value_parser = span, help_heading = "Spawned targets")]
    kms_latency: Option<Duration>,
    /// How many calls a second the embedded KMS grants, or none for no limit; the daemon is told [default: none; 1000 for
    /// cold]
    #[arg(long, value_name = "N", value_parser = quota, help_heading = "Spawned targets")]
    kms_quota: Option<Quota>,
    /// Do not tell the daemon of --kms-quota: it has to learn
    #[arg(long, help_heading = "Spawned targets")]
    quota_untold: bool,
    /// Have the daemon keep an audit log
    #[arg(long, help_heading = "Spawned targets")]
    audit: bool,
    /// Change a setting of the daemon, as `serve --set` does
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE", help_heading = "Spawned targets")]
    settings: Vec<String>,
}

/// One target of the command line.
#[derive(Clone, Debug)]
pub(super) struct Side {
    /// As it was written.
    pub(super) text: String,
    kind: Kind,
    face: Face,
    over: Over,
    pub(super) deks: Option<u32>,
    binary: Option<PathBuf>,
    audit: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Spawn,
    Emulator,
    Bare,
    Given,
}

impl Side {
    pub(super) fn is_bare(&self) -> bool {
        self.kind == Kind::Bare
    }
}

impl Choice {
    /// One target, or two.
    ///
    /// # Errors
    /// What is wrong with the words.
    pub(super) fn sides(&self) -> Result<Vec<Side>, String> {
        let texts = if self.compare.is_empty() { std::slice::from_ref(&self.target) } else { &self.compare };
        texts.iter().map(|text| self.side(text)).collect()
    }

    fn side(&self, text: &str) -> Result<Side, String> {
        let mut words = text.split(',');
        let kind = match words.next() {
            Some("spawn") => Kind::Spawn,
            Some("emulator") => Kind::Emulator,
            Some("bare") => Kind::Bare,
            _ => Kind::Given,
        };
        let (face, over, audit) = (self.face, self.over, self.audit);
        let mut side = Side { text: text.to_owned(), kind, face, over, deks: None, binary: None, audit };
        if kind != Kind::Given {
            words.try_for_each(|word| side.word(word))?;
        }
        match (kind, side.face.api(), side.over) {
            (Kind::Emulator, Some(_), _) => Err("the embedded KMS speaks no gRPC: give an aliyun --face".to_owned()),
            (Kind::Emulator, None, _) if !side.face.is_signed() => {
                Err("the embedded KMS wants a signature: give --face aliyun-v1 or aliyun-v3".to_owned())
            }
            (Kind::Spawn | Kind::Bare, Some(_), Over::Tls | Over::Tcp) => {
                Err("kube-apiserver knows unix sockets only: leave --over away".to_owned())
            }
            (Kind::Spawn, None, Over::Tls | Over::Tcp) if !side.face.is_signed() => {
                Err("over TCP a caller must sign: give --face aliyun-v1 or aliyun-v3".to_owned())
            }
            (_, _, _) => Ok(side),
        }
    }

    /// Whether client and targets share the processors: where one was there before, it has its own already.
    #[allow(clippy::unused_self, reason = "it is a question about the choice")]
    pub(super) fn shares(&self, sides: &[Side]) -> bool {
        sides.iter().all(|side| side.kind == Kind::Given)
    }

    /// Finds or starts the target.
    ///
    /// # Errors
    /// What stands in the way.
    pub(super) fn open(&self, side: &Side, scenario: &dyn Scenario, house: &House) -> Result<Target, Failure> {
        let started = match side.kind {
            Kind::Given => return self.given(side).map_err(Failure::Usage),
            Kind::Spawn => Target::spawn(self.wish(side, scenario)?, &house.processors, true),
            Kind::Emulator => Target::spawn(self.wish(side, scenario)?, &house.processors, false),
            Kind::Bare => Target::bare(&self.wish(side, scenario)?, &house.processors),
        };
        started.map_err(Failure::Runtime)
    }

    fn wish(&self, side: &Side, scenario: &dyn Scenario) -> Result<Wish, Failure> {
        let own = || std::env::current_exe().map_err(|error| Failure::Runtime(error.to_string()));
        let usual = scenario.kms();
        let kms = Behaviour {
            latency: self.kms_latency.unwrap_or(usual.latency),
            quota: self.kms_quota.map_or(usual.quota, |Quota(quota)| quota),
            ..usual
        };
        Ok(Wish {
            face: side.face,
            over: side.over,
            binary: side.binary.clone().map_or_else(own, Ok)?,
            kms,
            told_quota: !self.quota_untold,
            room: side.deks.map_or_else(|| scenario.room(), |deks| deks as usize),
            connections: scenario.connections(),
            audit: side.audit,
            working_set: scenario.restarts(),
            settings: scenario.settings().into_iter().chain(self.settings.iter().cloned()).collect(),
            timeout: DAEMON_TIMEOUT,
        })
    }

    fn given(&self, side: &Side) -> Result<Target, String> {
        let reach = if self.i_own_this_target { Reach::Anywhere } else { Reach::Machine };
        let endpoint = Endpoint::parse(&side.text, self.ca.as_deref(), reach)?;
        if side.face.api().is_some() && !endpoint.is_unix() {
            return Err("kube-apiserver knows unix sockets only: write unix:/PATH or unix:@NAME".to_owned());
        }
        let given = Given {
            key: self.key.clone(),
            signer: if side.face.is_signed() { Some(Arc::new(self.signer()?)) } else { None },
            control: self.control.clone().map(Control),
            metrics: self.metrics.map(Metrics),
            admin: self.admin.clone(),
            pid: self.pid,
        };
        Ok(Target::given(endpoint, side.face, given))
    }

    fn signer(&self) -> Result<Signer, String> {
        let config = match (&self.credentials, &self.access_key) {
            (Some(file), _) => {
                credentials::Config { source: Source::Profile, profile_file: Some(file.clone()), ..Default::default() }
            }
            (None, Some(id)) => credentials::Config {
                source: Source::File,
                id: Some(id.clone()),
                secret_file: self.secret_file.clone(),
                ..Default::default()
            },
            (None, None) => {
                return Err("this face is signed\n  remedy: give --credentials FILE, or --access-key ID and \
                            --secret-file FILE; or --face aliyun-unsigned on a unix socket"
                    .to_owned());
            }
        };
        let clock: Arc<dyn Clock> = Arc::new(System);
        let ways = Ways::new(&Trust::platform(), false, &clock);
        let source = credentials::source(&config, &|_| None, &ways).map_err(|lack| lack.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let fetched = runtime.map_err(|error| error.to_string())?.block_on(source.fetch());
        let credentials::Credentials { id, secret, token, .. } = fetched.map_err(|lack| lack.to_string())?;
        Ok(Signer { id, secret, token })
    }
}

impl Side {
    fn word(&mut self, word: &str) -> Result<(), String> {
        use clap::ValueEnum as _;
        let wrong = || format!("{}: {word:?} is none of face=…, over=…, deks=…, binary=…, audit=on or off", self.text);
        let (name, value) = word.split_once('=').ok_or_else(wrong)?;
        match name {
            "face" => self.face = Face::from_str(value, false).map_err(|_| wrong())?,
            "over" => self.over = Over::from_str(value, false).map_err(|_| wrong())?,
            "deks" => {
                let deks: u32 = value.parse().map_err(|_| wrong())?;
                self.deks = Some(deks).filter(|deks| (1..=2_000_000).contains(deks));
                self.deks.ok_or_else(|| format!("{}: from 1 to 2,000,000 DEKs", self.text))?;
            }
            "binary" => self.binary = Some(Path::new(value).to_owned()),
            "audit" if ["on", "off"].contains(&value) => self.audit = value == "on",
            _ => return Err(wrong()),
        }
        Ok(())
    }
}

/// Calls a second, or no limit.
#[derive(Clone, Copy, Debug)]
struct Quota(Option<u32>);

fn quota(text: &str) -> Result<Quota, String> {
    let number = text.parse().ok().filter(|number| *number >= QUOTA_MIN);
    match number {
        None if text == "none" => Ok(Quota(None)),
        None => Err(format!("write none, or a number from {QUOTA_MIN} on")),
        Some(_) => Ok(Quota(number)),
    }
}

/// What the daemon takes for one.
const QUOTA_MIN: u32 = 5;
/// The daemon's default: what waits longer is refused there.
const DAEMON_TIMEOUT: Duration = Duration::from_millis(2500);
