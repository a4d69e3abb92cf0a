//! Metrics, health and control: sockets of their own, served by a runtime of their own, so that neither a scrape nor a
//! stuck data path can hurt the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::claim::{Peer, PeerOrigin, UnixPeer};
use crate::clock::{Clock, Moment};
use crate::engine::Engine;
use crate::listener::Listener;
use crate::roster::Roster;
use crate::warm::Keeper;

pub mod desk;
pub mod explain;
mod figures;
mod orders;
pub mod page;
pub mod purge;
mod refusal;
pub mod status;

pub use desk::{COMMANDS, Command, Desk, Furniture};
pub use orders::{Order, Orders, Outcome, Verdict, orders};
pub use refusal::Refusal;
pub use status::Status;

/// The engines that a daemon has now: a reload may add and remove some.
pub type Engines = Roster<Arc<Engine>>;
/// The listeners that a daemon has now.
pub type Listeners = Roster<status::Counted>;

/// The `[admin]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `unix:/run/kmsproxy/admin.sock`: control, for root and for the daemon's own user. None: no control socket.
    pub address: Option<String>,
    /// Whether the status page is served, at `metrics.address` and to this machine alone.
    pub page: bool,
}

/// What the daemon knows of its own health. `live` means that the data path takes turns; `ready` that it listens, is
/// not draining, every upstream has credentials, and the audit log, where it is required, can be written. A KMS that is away makes neither untrue: its absence is answered
/// to those who ask for a key, and an orchestrator that restarts us for it would only lose what is cached.
#[derive(Debug)]
pub struct Health {
    clock: Arc<dyn Clock>,
    engines: Arc<Engines>,
    warming: Option<Arc<Keeper>>,
    beat_ms: AtomicU64,
    listening: AtomicBool,
    draining: AtomicBool,
}

impl Health {
    /// Not listening yet, over `engines`, whose working set `warming` keeps, if anybody does.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, engines: Arc<Engines>, warming: Option<Arc<Keeper>>) -> Arc<Self> {
        let health = Self {
            clock,
            engines,
            warming,
            beat_ms: AtomicU64::new(0),
            listening: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        };
        health.beat();
        Arc::new(health)
    }

    /// The data path took a turn. To be called from it, at least every second.
    pub fn beat(&self) {
        self.beat_ms.store(self.uptime_ms(), Ordering::Relaxed);
    }

    /// All listeners accept.
    pub fn listening(&self) {
        self.listening.store(true, Ordering::Relaxed);
    }

    /// No more connections are taken.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the data path has taken a turn lately.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let stuck_for = self.uptime_ms().saturating_sub(self.beat_ms.load(Ordering::Relaxed));
        stuck_for < STUCK_AFTER_MS
    }

    /// What stands in the way of readiness; nothing when ready.
    #[must_use]
    pub fn obstacles(&self) -> Vec<String> {
        let mut obstacles = Vec::new();
        if !self.listening.load(Ordering::Relaxed) {
            obstacles.push("not listening yet".to_owned());
        }
        if self.draining.load(Ordering::Relaxed) {
            obstacles.push("draining".to_owned());
        }
        let engines = self.engines.all();
        if engines.iter().any(|engine| !engine.is_auditable()) {
            obstacles.push("the audit log cannot be written".to_owned());
        }
        for engine in engines.iter().filter(|engine| engine.identity().is_empty()) {
            obstacles.push(format!("upstream {} has no credentials", engine.ledger().upstream()));
        }
        obstacles
    }

    /// What a daemon that is ready adds to that: how far it has come with its working set, if it still is about that. Who is
    /// served meanwhile is served as ever, so this is no obstacle.
    fn remark(&self) -> String {
        let progress = self.warming.as_ref().map(|warming| warming.progress()).unwrap_or_default();
        match progress.left() {
            0 => "ok\n".to_owned(),
            left => format!("ok, warming up: {left} of {} DEKs left\n", progress.members),
        }
    }

    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.clock.now().since(Moment::BOOT).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Serves `/metrics`, `/livez` and `/readyz` to whoever reaches `listener`, and where there is a `page` that, to this machine;
/// nothing else. Until `stop`.
pub async fn observe(
    listener: Listener,
    metrics: PrometheusHandle,
    health: Arc<Health>,
    page: Option<Arc<Desk>>,
    stop: CancellationToken,
) {
    let service = move |peer: Arc<Peer>, request: Request<Incoming>| {
        let near = matches!(peer.origin, PeerOrigin::Tcp(address) if address.ip().to_canonical().is_loopback());
        let shown = page.as_ref().and_then(|desk| page::shown(&request, near, desk));
        let observed = shown.is_none().then(|| observed(&request, &metrics, &health));
        async move {
            match shown {
                Some(showing) => showing.await,
                None => observed.unwrap_or_default(),
            }
        }
    };
    run(listener, service, stop).await;
}

/// Serves `answer` to root and to our own user on a unix socket, until `stop`; nobody else gets an answer.
pub async fn control<A, F>(listener: Listener, answer: A, stop: CancellationToken)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let ours = rustix::process::geteuid().as_raw();
    let service = move |peer: Arc<Peer>, request| {
        let allowed = matches!(peer.origin, PeerOrigin::Unix(Some(UnixPeer { uid, .. })) if uid == 0 || uid == ours);
        let answering = allowed.then(|| answer(request));
        async move {
            match answering {
                Some(answering) => answering.await,
                None => refused(&Refusal::new(
                    StatusCode::FORBIDDEN,
                    "this is for root and the daemon's own user",
                    "run this as one of them",
                )),
            }
        }
    };
    run(listener, service, stop).await;
}

async fn run<S, F>(listener: Listener, service: S, stop: CancellationToken)
where
    S: Fn(Arc<Peer>, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let name = listener.name().clone();
    if let Err(error) = listener.run(service, stop).await {
        warn!(listener = name.as_str(), %error, "a socket beside the data path failed");
    }
}

fn observed(request: &Request<Incoming>, metrics: &PrometheusHandle, health: &Health) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return wrong_method(&Method::GET);
    }
    match request.uri().path() {
        "/metrics" => text(StatusCode::OK, metrics.render()),
        "/livez" if health.is_live() => text(StatusCode::OK, "ok\n".to_owned()),
        "/livez" => text(StatusCode::SERVICE_UNAVAILABLE, "the data path takes no turns\n".to_owned()),
        "/readyz" => match health.obstacles() {
            none if none.is_empty() => text(StatusCode::OK, health.remark()),
            obstacles => text(StatusCode::SERVICE_UNAVAILABLE, obstacles.join("\n") + "\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "here are /metrics, /livez and /readyz\n".to_owned()),
    }
}

fn wrong_method(allowed: &Method) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed}\n"));
    response.headers_mut().extend(HeaderValue::from_str(allowed.as_str()).ok().map(|method| (ALLOW, method)));
    response
}

fn refused(why: &Refusal) -> Response<Full<Bytes>> {
    let mut response = json(why);
    *response.status_mut() = why.status;
    response
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    let Ok(mut body) = serde_json::to_vec(value) else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "a defect of kmsproxy\n".to_owned());
    };
    body.push(b'\n');
    let mut response = Response::new(Full::new(body.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

/// Connections to one of these sockets at a time. One more takes the place of the one that has been silent longest.
pub const CONNECTIONS_MAX: usize = 32;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const STUCK_AFTER_MS: u64 = 5000;
