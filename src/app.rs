//! The house: from a plan to bound sockets, and from there to a daemon that runs until it is told to stop.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::{self, Health};
use crate::audit::Audit;
use crate::auth::CallerName;
use crate::cache::Cache;
use crate::clock::{Clock, System};
use crate::config::{Address, CallerPlan, Config, Difference, Plan, Sources};
use crate::exporter::Exporter;
use crate::guard;
use crate::listener::{BindError, Listener, LocalAddress};
use crate::metrics;
use crate::systemd::{Inherited, Notifier, watchdog_period};
use crate::upstream::local::Local;

mod answering;
mod aside;
mod audited;
pub mod descriptors;
mod doors;
pub mod embedded;
mod estate;
mod prepared;
mod pulse;
mod reload;
mod threads;
mod traced;
mod upkeep;
mod word;

use aside::{Sockets, observer, private};
use descriptors::Descriptors;
pub use embedded::Options;
use estate::{Estate, Exits};
use prepared::Prepared;
use pulse::{Signals, beat, until_told};
use reload::{Living, Reloader};
use word::notify;

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

/// A configuration as it was read, and from where: it can be read again.
#[derive(Debug)]
pub struct Loaded {
    /// From where.
    pub sources: Sources,
    /// As it is written.
    pub config: Config,
    /// What it means.
    pub plan: Plan,
}

/// A daemon whose sockets are bound and whose parts are joined; nothing runs yet.
pub struct House {
    runtime: Runtime,
    estate: Estate,
    prepared: Prepared,
    reloader: Reloader,
    observer: Option<Listener>,
    page: bool,
    metrics: PrometheusHandle,
    admin: Option<Listener>,
    audit: Arc<Audit>,
    exporter: Option<Exporter>,
}

impl House {
    /// Hardens the process, joins the parts and binds every socket.
    ///
    /// # Errors
    /// What cannot be carried out, before anything is served.
    pub fn build(loaded: Loaded, environment: Environment<'_>, mode: Mode) -> Result<Self, Error> {
        let Loaded { sources, config, plan } = loaded;
        let metrics = metrics::install().map_err(runtime_error)?;
        harden(&plan.memory)?;
        let descriptors = Descriptors::raised();
        // While nothing has been taken out of the plan: what it has needs some, too.
        let mut plan = descriptors.allot(plan)?;
        // Before there is a second thread: it takes its variables out of the environment.
        let inherited = Inherited::take(environment);
        let clock: Arc<dyn Clock> = Arc::new(System);
        let runtime = threads::data_path()?;
        let entered = runtime.enter();
        let (observer, page) = (plan.metrics.map(observer).transpose()?, plan.page);
        let audit = audited::open(plan.audit.take(), &clock, mode)?;
        let cache = Arc::new(Cache::new(&plan.cache, &shares(&plan)).map_err(runtime_error)?);
        let (tracer, exporter) = traced::open(plan.tracing.as_ref(), &clock)?;
        let sockets = (inherited, descriptors);
        let mut estate = Estate::empty(mode, clock, Arc::clone(&cache), Arc::clone(&audit), sockets)?;
        estate.tracer = tracer;
        estate.working_set = upkeep::keeper(std::mem::take(&mut plan.working_set), &cache);
        let admin = plan.admin.take();
        // From nothing to this: a start is a reload, too.
        let all = Difference::between(&Config::default(), &config).map_err(runtime_error)?;
        let prepared = estate.prepare(&all, plan, environment)?;
        let admin = admin.map(|address| private("admin", &address, &mut estate.inherited)).transpose()?;
        for name in estate.inherited.left() {
            warn!(name, "systemd passed a socket that no listener takes; whoever connects to it will hang");
        }
        drop(entered);
        let reloader = Reloader { sources: Arc::new(sources), config };
        Ok(Self { runtime, estate, prepared, reloader, observer, page, metrics, admin, audit, exporter })
    }

    /// Where each listener listens, by name.
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, String)> {
        self.prepared.addresses()
    }

    /// Where metrics are.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        match self.observer.as_ref()?.local_address() {
            LocalAddress::Tcp(address) => Some(*address),
            LocalAddress::Unix(_) => None,
        }
    }

    /// The embedded KMS, where the plan has one.
    #[must_use]
    pub fn local(&self) -> Option<&Arc<Local>> {
        self.prepared.local()
    }

    /// Runs until SIGTERM or SIGINT, then drains; reloads at SIGHUP, or as the admin socket says. `announce` is called once
    /// everything listens. `steering` is where the embedded KMS may be steered.
    ///
    /// # Errors
    /// Where the daemon could not go on.
    pub fn run(
        self,
        environment: Environment<'_>,
        steering: Option<Listener>,
        announce: impl FnOnce(),
    ) -> Result<(), Error> {
        let steering = steering.zip(self.local().map(Arc::clone));
        let Self { runtime, estate, prepared, reloader, .. } = self;
        let Self { observer, page, metrics, admin, audit, exporter, .. } = self;
        let working_set = estate.working_set.clone();
        let (orders, ordered) = admin::orders();
        let health = Health::new(Arc::clone(&estate.clock), Arc::clone(&estate.engines), working_set.clone());
        let desk = aside::desk(&estate, orders, &metrics, &health, &runtime);
        let notifier = Arc::new(Notifier::from_environment(environment).map_err(runtime_error)?);
        let page = page.then(|| Arc::clone(&desk));
        let admin = admin.map(|listener| (listener, desk));
        let sockets = Sockets { observer, page, admin, steering, exporter };
        // They outlast the draining, to tell of it.
        let drained = CancellationToken::new();
        let aside = sockets.serve(metrics, Arc::clone(&health), drained.clone())?;
        let watchdog = watchdog_period(environment);
        let outcome = runtime.block_on(async {
            // Before anybody hears that it is ready, and may stop it.
            let signals = Signals::new(ordered)?;
            let mut estate = estate;
            prepared.commit(&mut estate);
            reload::count();
            upkeep::begin_all(&estate);
            let exits = Exits::of(&estate);
            health.listening();
            announce();
            notify(&notifier, "ready", Notifier::ready);
            notify(&notifier, "status", |notifier| notifier.status("serving"));
            tokio::spawn(beat(Arc::clone(&health), Arc::clone(&notifier), watchdog));
            let mut living = Living { estate: Some(estate), reloader, notifier };
            until_told(signals, &mut living).await;
            info!("draining");
            health.draining();
            drain(living, exits).await;
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

/// Lets everyone go who is here, and whatever is under way end.
async fn drain(living: Living, exits: Exits) {
    let Living { estate, notifier, .. } = living;
    notify(&notifier, "stopping", Notifier::stopping);
    notify(&notifier, "status", |notifier| notifier.status("draining"));
    exits.open();
    // Stops listening: what the kernel still holds for the next process is not held by this one.
    drop(estate);
    let ended = async { tokio::join!(exits.listening.wait(), exits.tasks.wait()) };
    if timeout(DRAIN, ended).await.is_err() {
        warn!("not everything ended in time");
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

/// Runs the daemon of a configuration. With `json`, one line on standard output says where it listens.
///
/// # Errors
/// See [`Error`].
pub fn serve(loaded: Loaded, json: bool) -> Result<(), Error> {
    // A variable is what it was at the start, for as long as the process lives.
    let variables = loaded.sources.environment.clone();
    let environment: Environment<'_> = &variables.lookup();
    let house = House::build(loaded, environment, Mode::Cached)?;
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
