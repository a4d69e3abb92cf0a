//! The house: from a plan to bound sockets, and from there to a daemon that runs until it is told to stop.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin::Health;
use crate::audit::Audit;
use crate::auth::{CallerName, Door};
use crate::cache::Cache;
use crate::clock::{Clock, System};
use crate::config::{Address, CallerPlan, FacePlan, Kms, ListenerPlan, Plan, UpstreamPlan};
use crate::engine::{Direct, Engine, Parts};
use crate::guard;
use crate::ledger::Ledger;
use crate::listener::{self, BindError, Listener};
use crate::metrics;
use crate::policy::{Grant, Policy};
use crate::serve::{Hosts, Limits, aliyun, kubernetes};
use crate::systemd::{Inherited, Notifier, watchdog_period};
use crate::upstream::Upstream;
use crate::upstream::aliyun::Aliyun;
use crate::upstream::local::Local;
use crate::warm::Keeper;

mod answering;
mod aside;
mod audited;
pub mod descriptors;
mod doors;
pub mod embedded;
mod pulse;
mod threads;
mod upkeep;

use answering::Answering;
use aside::{Sockets, observer, private};
use doors::{Entrance, Face};
pub use embedded::Options;
use pulse::{Signals, notify, until_told};
use upkeep::Upkeep;

/// Why a command ended otherwise than well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else listens there.
    #[error("{address} is taken\n  remedy: stop what listens there, or choose another address")]
    Taken {
        /// Where.
        address: String,
    },
    /// The configuration cannot be carried out.
    #[error("{0}")]
    Config(String),
    /// Anything later.
    #[error("{0}")]
    Runtime(String),
}

/// Looks up one environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Whether calls go through cache and leases, or straight to the upstream, as in the emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The daemon.
    Cached,
    /// The emulator.
    Straight,
}

/// A daemon whose sockets are bound and whose parts are joined; nothing runs yet.
pub struct House {
    runtime: Runtime,
    tasks: TaskTracker,
    stop: CancellationToken,
    clock: Arc<dyn Clock>,
    cache: Arc<Cache>,
    engines: Vec<Arc<Engine>>,
    kms: Vec<Arc<Aliyun>>,
    locals: Vec<Arc<Local>>,
    doors: Vec<Entrance>,
    observer: Option<std::net::TcpListener>,
    page: bool,
    metrics: PrometheusHandle,
    admin: Option<Listener>,
    audit: Arc<Audit>,
    working_set: Option<Arc<Keeper>>,
}

impl House {
    /// Hardens the process, joins the parts and binds every socket.
    ///
    /// # Errors
    /// What cannot be carried out, before anything is served.
    pub fn build(plan: Plan, environment: Environment<'_>, mode: Mode) -> Result<Self, Error> {
        let metrics = metrics::install().map_err(runtime_error)?;
        harden(&plan.memory)?;
        let plan = descriptors::allot(plan)?;
        // Before there is a second thread: it takes its variables out of the environment.
        let mut inherited = Inherited::take(environment);
        let clock: Arc<dyn Clock> = Arc::new(System);
        let runtime = threads::data_path()?;
        let entered = runtime.enter();
        let mut house = Self {
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            cache: Arc::new(Cache::new(&plan.cache, &shares(&plan)).map_err(runtime_error)?),
            engines: Vec::new(),
            kms: Vec::new(),
            locals: Vec::new(),
            doors: Vec::new(),
            observer: plan.metrics.map(observer).transpose()?,
            page: plan.page,
            admin: None,
            audit: Audit::off(),
            working_set: None,
            clock,
            metrics,
            runtime: Builder::new_current_thread().build().map_err(runtime_error)?,
        };
        house.join(plan, environment, &mut inherited, mode)?;
        drop(entered);
        house.runtime = runtime;
        Ok(house)
    }

    fn join(
        &mut self,
        plan: Plan,
        environment: Environment<'_>,
        inherited: &mut Inherited,
        mode: Mode,
    ) -> Result<(), Error> {
        let grants = plan.callers.iter().map(|caller| {
            let name = caller.entry.name.clone();
            (name, Grant { rules: caller.allow.clone(), share: share(caller) })
        });
        self.audit = audited::open(plan.audit, &self.clock, mode)?;
        let policy = Policy::audited(grants.collect(), Arc::clone(&self.audit));
        let entries = plan.callers.into_iter().map(|caller| caller.entry).collect();
        let door = Arc::new(Door::new(entries).map_err(|error| Error::Config(error.to_string()))?);
        let mut answering = HashMap::new();
        for upstream in plan.upstreams {
            let name = upstream.name.clone();
            answering.insert(name, self.answering(upstream, &policy, environment, mode)?);
        }
        for listener in plan.listeners {
            let respond = answering.get(&listener.config.upstream).map(Arc::clone);
            let respond = respond.ok_or_else(|| Error::Config("a listener names no upstream".to_owned()))?;
            self.open(listener, respond, Arc::clone(&door), inherited)?;
        }
        self.working_set = upkeep::keeper(plan.working_set, &self.cache, &self.engines);
        self.admin = plan.admin.map(|address| private("admin", &address, inherited)).transpose()?;
        for name in inherited.left() {
            warn!(name, "systemd passed a socket that no listener takes; whoever connects to it will hang");
        }
        Ok(())
    }

    fn answering(
        &mut self,
        plan: UpstreamPlan,
        policy: &Arc<Policy>,
        environment: Environment<'_>,
        mode: Mode,
    ) -> Result<Arc<Answering>, Error> {
        let (upstream, timeout): (Arc<dyn Upstream>, _) = match &plan.kms {
            Kms::Aliyun(config) => {
                let kms = Aliyun::new(&plan.name, config, environment, &self.clock);
                let kms = Arc::new(kms.map_err(|error| Error::Config(format!("upstream.{}: {error}", plan.name)))?);
                self.kms.push(Arc::clone(&kms));
                (kms, config.timeout)
            }
            Kms::Local(config) => {
                let local = Local::open(config, Arc::clone(&self.clock));
                let local = local.map_err(|error| Error::Config(format!("upstream.{}: {error}", plan.name)))?;
                self.locals.push(Arc::clone(&local));
                (local, LOCAL_TIMEOUT)
            }
        };
        if mode == Mode::Straight {
            let direct = Direct { policy: Arc::clone(policy), upstream, clock: Arc::clone(&self.clock) };
            return Ok(Arc::new(Answering::Straight(Arc::new(direct))));
        }
        let engine = Engine::new(Parts {
            policy: Arc::clone(policy),
            cache: Arc::clone(&self.cache),
            ledger: Ledger::new(&plan.name, plan.lease, Arc::clone(&self.clock)),
            upstream,
            clock: Arc::clone(&self.clock),
            timeout,
            tasks: self.tasks.clone(),
        });
        self.engines.push(Arc::clone(&engine));
        Ok(Arc::new(Answering::Cached(engine)))
    }

    fn open(
        &mut self,
        plan: ListenerPlan,
        respond: Arc<Answering>,
        door: Arc<Door>,
        inherited: &mut Inherited,
    ) -> Result<(), Error> {
        let mut listener = Listener::bind(&plan.config, adopted(&plan.address, inherited)).map_err(bind_error)?;
        listener = match &*respond {
            Answering::Cached(engine) => listener.recycled_by(engine.ledger().wipes()),
            Answering::Straight(_) => listener.with_limits(listener::Limits::of(plan.config.face).of_a_kms()),
        };
        let limits = Limits { timeout: plan.config.timeout, in_flight: plan.config.max_in_flight };
        let clock = Arc::clone(&self.clock);
        let face = match (plan.face, &*respond) {
            (FacePlan::Aliyun, _) => {
                let hosts = Hosts::new(&plan.config.hosts);
                Face::Aliyun(aliyun::Face::new(respond, door, clock, hosts, limits))
            }
            (FacePlan::Kubernetes(provider), Answering::Cached(engine)) => {
                let followed = engine.follow(&provider.key);
                Face::Kubernetes(kubernetes::Face::new(followed, provider, door, clock, limits))
            }
            (FacePlan::Kubernetes(_), Answering::Straight(_)) => {
                return Err(Error::Config("the emulator has no Kubernetes face: use `dev` or `serve`".to_owned()));
            }
        };
        self.doors.push(Entrance { name: plan.config.name, listener, face });
        Ok(())
    }

    /// Where each listener listens, by name.
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, String)> {
        self.doors.iter().map(|door| (door.name.clone(), door.listener.local_address().to_string())).collect()
    }

    /// Where metrics are.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.observer.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// The embedded KMS, where the plan has one.
    #[must_use]
    pub fn local(&self) -> Option<&Arc<Local>> {
        self.locals.first()
    }

    /// Runs until SIGTERM or SIGINT, then drains. `announce` is called once everything listens. `steering` is where
    /// the embedded KMS may be steered.
    ///
    /// # Errors
    /// Where the daemon could not go on.
    pub fn run(
        self,
        environment: Environment<'_>,
        steering: Option<Listener>,
        announce: impl FnOnce(),
    ) -> Result<(), Error> {
        let Self { runtime, tasks, stop, clock, cache, engines, kms, locals, .. } = self;
        let Self { doors, observer, page, metrics, admin, audit, working_set, .. } = self;
        let health = Health::new(Arc::clone(&clock), engines.clone(), working_set.clone());
        let desk = aside::desk(clock, &engines, &working_set, &doors, &metrics, &health, &runtime);
        let notifier = Notifier::from_environment(environment).map_err(runtime_error)?;
        let steering = steering.zip(locals.into_iter().next());
        let page = page.then(|| Arc::clone(&desk));
        let sockets = Sockets { observer, page, admin: admin.map(|listener| (listener, desk)), steering };
        // They outlast the draining, to tell of it.
        let drained = CancellationToken::new();
        let aside = sockets.serve(metrics, Arc::clone(&health), drained.clone())?;
        let watchdog = watchdog_period(environment);
        let outcome = runtime.block_on(async {
            // Before anybody hears that it is ready, and may stop it.
            let signals = Signals::new()?;
            Upkeep { engines, cache, kms, working_set: working_set.clone() }.start(&tasks, &stop);
            let listening = doors::open(doors, &stop);
            health.listening();
            announce();
            notify(&notifier, "ready", Notifier::ready);
            notify(&notifier, "status", |notifier| notifier.status("serving"));
            until_told(signals, &health, &notifier, watchdog).await;
            info!("draining");
            health.draining();
            notify(&notifier, "stopping", Notifier::stopping);
            notify(&notifier, "status", |notifier| notifier.status("draining"));
            stop.cancel();
            listening.close();
            tasks.close();
            if timeout(DRAIN, async { tokio::join!(listening.wait(), tasks.wait()) }).await.is_err() {
                warn!("not everything ended in time");
            }
            io::Result::Ok(())
        });
        runtime.shutdown_timeout(Duration::from_secs(1));
        if let Some(keeper) = working_set {
            keeper.save();
        }
        // Nobody is left who could release anything.
        audit.close();
        drained.cancel();
        // It ends by `stop`; a panic there was logged there.
        let _ = aside.join();
        outcome.map_err(runtime_error)
    }
}

fn shares(plan: &Plan) -> Vec<CallerName> {
    plan.callers.iter().map(share).collect()
}

/// With whom a caller shares. A name has no colon, so a group and a caller of the same name are two.
fn share(caller: &CallerPlan) -> CallerName {
    let own = || format!("caller:{}", caller.entry.name);
    CallerName::new(&caller.share.as_ref().map_or_else(own, |group| format!("group:{group}")))
}

/// Runs the daemon of `plan`. With `json`, one line on standard output says where it listens.
///
/// # Errors
/// See [`Error`].
pub fn serve(plan: Plan, environment: Environment<'_>, json: bool) -> Result<(), Error> {
    let house = House::build(plan, environment, Mode::Cached)?;
    let listeners: serde_json::Map<_, _> =
        house.addresses().into_iter().map(|(name, address)| (name, address.into())).collect();
    let ready = serde_json::json!({
        "listeners": listeners,
        "metrics_address": house.metrics_address().map(|address| address.to_string()),
    });
    house.run(environment, None, || {
        if json {
            print(&ready.to_string());
        }
    })
}

/// Runs the daemon in front of the embedded KMS.
///
/// # Errors
/// See [`Error`].
pub fn dev(options: &Options, environment: Environment<'_>) -> Result<(), Error> {
    embedded::run(options, environment, Mode::Cached)
}

/// Runs the embedded KMS alone.
///
/// # Errors
/// See [`Error`].
pub fn emulator(options: &Options, environment: Environment<'_>) -> Result<(), Error> {
    embedded::run(options, environment, Mode::Straight)
}

/// Standard output is for people and scripts at the start only; a reader that went away is no reason to stop.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(io::stdout(), "{text}");
}

fn harden(memory: &guard::Config) -> Result<(), Error> {
    for weak in guard::harden_process() {
        warn!(%weak, "the process could not be hardened");
    }
    let backend = guard::open(memory).map_err(|weak| Error::Config(format!("memory.require: {weak}")))?.label();
    info!(backend, "memory for sealing keys");
    ::metrics::gauge!(metrics::GUARD, "backend" => backend).set(1.0);
    Ok(())
}

fn adopted(address: &Address, inherited: &mut Inherited) -> Option<OwnedFd> {
    let Address::Systemd(name) = address else { return None };
    let unix = inherited.take_unix(name).map(OwnedFd::from);
    unix.or_else(|| inherited.take_tcp(name).map(OwnedFd::from))
}

fn bind_error(error: BindError) -> Error {
    if let BindError::Taken(address) = error {
        return Error::Taken { address: address.to_string() };
    }
    Error::Config(error.to_string())
}

fn runtime_error(error: impl std::fmt::Display) -> Error {
    Error::Runtime(error.to_string())
}

const LOCAL_TIMEOUT: Duration = Duration::from_secs(2);
const DRAIN: Duration = Duration::from_secs(15);
const BEAT: Duration = Duration::from_secs(1);
