//! The desk that obeys the commands of the admin socket.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Incoming};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::info;

use super::explain::{self, Question};
use super::figures::Figures;
use super::orders::{Orders, Outcome};
use super::purge::{self, Selection};
use super::refusal::{Refusal, unknown_key};
use super::status::{Depth, Status, Subject};
use super::{Engines, HEADER_TIMEOUT, Health, Listeners, json, refused};
use crate::auth::Door;
use crate::clock::{Clock, Moment};
use crate::kms::KeyName;
use crate::verbosity::{self, Unchanged};
use crate::warm::Keeper;

/// What obeys the commands that reach the admin socket.
pub struct Desk {
    furniture: Furniture,
    started: Moment,
}

/// What a desk is over.
pub struct Furniture {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Each upstream.
    pub engines: Arc<Engines>,
    /// Who keeps the working set, if anybody does.
    pub keeper: Option<Arc<Keeper>>,
    /// Each listener.
    pub listeners: Arc<Listeners>,
    /// Who comes in through which.
    pub door: Arc<Door>,
    /// Who reloads.
    pub orders: Orders,
    /// What is counted.
    pub metrics: PrometheusHandle,
    /// How it is.
    pub health: Arc<Health>,
    /// Where what asks a KMS is to run: not beside the data path, for connections to a KMS belong to it.
    pub data_path: Handle,
    /// Has the daemon end as SIGTERM does.
    pub drain: fn() -> io::Result<()>,
}

/// What is done for a request, and with which answer.
pub(super) type Obeyed = Result<Response<Full<Bytes>>, Refusal>;

/// One command.
pub struct Command {
    /// The method to ask it with.
    pub method: Method,
    /// Its path.
    pub path: &'static str,
    obey: fn(&Desk, &[u8]) -> Obeyed,
}

/// Every command that there is.
pub const COMMANDS: &[Command] = &[
    Command { method: Method::GET, path: "/status", obey: |desk, _| Ok(json(&desk.status(Depth::Whole))) },
    Command { method: Method::GET, path: "/live", obey: |desk, _| Ok(json(&desk.status(Depth::Light))) },
    Command { method: Method::GET, path: "/keys", obey: |desk, _| Ok(desk.keys()) },
    Command { method: Method::POST, path: "/purge", obey: Desk::purge },
    Command { method: Method::POST, path: "/refresh", obey: Desk::refresh },
    Command { method: Method::POST, path: "/reload", obey: |desk, _| desk.reload() },
    Command { method: Method::POST, path: "/drain", obey: |desk, _| desk.drain() },
    Command { method: Method::POST, path: "/explain", obey: Desk::explain },
    Command { method: Method::GET, path: "/log-level", obey: |_, _| level() },
    Command { method: Method::PUT, path: "/log-level", obey: |_, body| change_level(body) },
];

impl Command {
    fn named(method: &Method, path: &str) -> Result<&'static Self, Refusal> {
        let of_path: Vec<_> = COMMANDS.iter().filter(|command| command.path == path).collect();
        if let Some(command) = of_path.iter().find(|command| command.method == method) {
            return Ok(command);
        }
        let all: Vec<_> = COMMANDS.iter().map(|command| format!("{} {}", command.method, command.path)).collect();
        let methods: Vec<_> = of_path.iter().map(|command| command.method.as_str()).collect();
        Err(if methods.is_empty() {
            Refusal::new(StatusCode::NOT_FOUND, "no such command", format!("there are {}", all.join(", ")))
        } else {
            let remedy = format!("ask with {}", methods.join(" or "));
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} knows no {method}"), remedy)
        })
    }
}

/// How a key is asked about again: `POST /refresh`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Refresh {
    /// The key, by its id, ARN, or an alias that was used here.
    pub key: String,
}

/// What `POST /refresh` answers.
#[derive(Debug, Deserialize, Serialize)]
pub struct Refreshing {
    /// The key's id.
    pub key: String,
    /// How many DEKs are being asked for again, by upstream.
    pub entries: BTreeMap<String, usize>,
}

/// How much is to be logged: `PUT /log-level`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// A level, or a filter.
    pub level: String,
}

/// What `PUT /log-level` answers.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Levels {
    /// What it is.
    pub level: String,
    /// What it was, where it was changed.
    pub was: Option<String>,
}

impl Desk {
    /// A desk over `furniture`, of a daemon that starts now.
    #[must_use]
    pub fn new(furniture: Furniture) -> Arc<Self> {
        let started = furniture.clock.now();
        Arc::new(Self { furniture, started })
    }

    /// Answers one request, on a thread that may take its time: a scrape of metrics does not wait for a walk of the
    /// cache.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let command = match Command::named(&head.method, head.uri.path()) {
            Ok(command) => command,
            Err(why) => return refused(&why),
        };
        let body = match read(body).await {
            Ok(body) => body,
            Err(why) => return refused(&why),
        };
        let obeyed = tokio::task::spawn_blocking(move || (command.obey)(&self, &body)).await;
        obeyed.unwrap_or_else(|_| Err(defect())).unwrap_or_else(|why| refused(&why))
    }

    /// How the daemon is, as deep as that.
    #[must_use]
    pub fn status(&self, depth: Depth) -> Status {
        let Furniture { engines, listeners, metrics, health, clock, .. } = &self.furniture;
        let figures = Figures::read(&metrics.render());
        let (obstacles, started) = (health.obstacles(), self.started);
        let (engines, listeners) = (&engines.all(), &listeners.all());
        Status::of(Subject { engines, listeners, figures: &figures, obstacles, started }, depth, &**clock)
    }

    fn keys(&self) -> Response<Full<Bytes>> {
        let upstreams = self.status(Depth::Whole).upstreams;
        json(&upstreams.into_iter().map(|upstream| (upstream.name, upstream.keys)).collect::<BTreeMap<_, _>>())
    }

    fn purge(&self, body: &[u8]) -> Obeyed {
        let selection: Selection = parsed(body, purge::FORM)?;
        let Furniture { engines, keeper, .. } = &self.furniture;
        let purged = purge::carry_out(&selection, &engines.all(), keeper.as_deref())?;
        info!(what = selection.word(), entries = purged.entries.values().sum::<usize>(), "purged, as told");
        Ok(json(&purged))
    }

    fn refresh(&self, body: &[u8]) -> Obeyed {
        let Refresh { key } = parsed(body, "{\"key\": \"KEY\"}")?;
        let name = KeyName::new(&key);
        let mut refreshing = Refreshing { key, entries: BTreeMap::new() };
        for engine in self.furniture.engines.all().iter() {
            let Some(known) = engine.known(&name) else { continue };
            let (entries, asking) = engine.refresh_key(&known);
            engine.ledger().make_due(&known);
            drop(self.furniture.data_path.spawn(asking));
            known.as_str().clone_into(&mut refreshing.key);
            refreshing.entries.insert(engine.ledger().upstream().to_owned(), entries);
        }
        if refreshing.entries.is_empty() {
            return Err(unknown_key(name.as_str()));
        }
        info!(key = refreshing.key, "its DEKs are asked for again, as told");
        Ok(json(&refreshing))
    }

    fn reload(&self) -> Obeyed {
        let verdict = self.furniture.orders.reload().ok_or_else(|| {
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "it is draining",
                "start it, or wait until it is started again",
            )
        })?;
        let mut response = json(&verdict);
        if verdict.outcome != Outcome::Reloaded {
            *response.status_mut() = StatusCode::CONFLICT;
        }
        Ok(response)
    }

    fn drain(&self) -> Obeyed {
        info!("told to drain");
        let told = (self.furniture.drain)();
        told.map_err(|error| {
            let remedy = "send the process a SIGTERM, or `systemctl stop kmsproxy`";
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), remedy)
        })?;
        Ok(json(&serde_json::json!({ "draining": true })))
    }

    fn explain(&self, body: &[u8]) -> Obeyed {
        let question: Question = parsed(body, explain::FORM)?;
        let Furniture { engines, listeners, door, clock, .. } = &self.furniture;
        let explanation = explain::answer(&question, &engines.all(), &listeners.all(), door, &**clock);
        explanation.map(|explanation| json(&explanation))
    }
}

fn level() -> Obeyed {
    verbosity::level().map(|level| json(&Levels { level, was: None })).ok_or_else(|| fixed(&Unchanged::Fixed))
}

fn change_level(body: &[u8]) -> Obeyed {
    let Level { level } = parsed(body, "{\"level\": \"info,kmsproxy::watch=debug\"}")?;
    let was = Some(verbosity::change(&level).map_err(|why| fixed(&why))?);
    Ok(json(&Levels { level, was }))
}

fn fixed(why: &Unchanged) -> Refusal {
    let (status, remedy) = match why {
        Unchanged::Fixed => (StatusCode::CONFLICT, "start it with --log LEVEL"),
        Unchanged::NoLevel(_) => (
            StatusCode::BAD_REQUEST,
            "write off, error, warn, info, debug or trace, or a filter such as info,kmsproxy::watch=debug",
        ),
    };
    Refusal::new(status, why.to_string(), remedy)
}

/// What a request says, as far as it may.
async fn read(body: impl Body<Data = Bytes, Error = hyper::Error>) -> Result<Bytes, Refusal> {
    let reading = Limited::new(body, BODY_BYTES_MAX).collect();
    match timeout(HEADER_TIMEOUT, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is longer than 128 KiB, or was cut off",
            "send one command at a time; a ciphertext of a KMS has a few KiB",
        )),
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time", "send it at once")),
    }
}

fn parsed<T: DeserializeOwned>(body: &[u8], form: &str) -> Result<T, Refusal> {
    // Not in its own words: they may quote what was sent.
    serde_json::from_slice(body).map_err(|_| {
        Refusal::new(StatusCode::BAD_REQUEST, "the body is not what this command takes", format!("send {form}"))
    })
}

fn defect() -> Refusal {
    let remedy = "see its log, and report it";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "a defect of kmsproxy", remedy)
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Desk")
    }
}

const BODY_BYTES_MAX: usize = 128 * 1024;
