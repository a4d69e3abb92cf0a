//! What is served beside the data path: metrics, health, control; and spans, which are sent from there.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::estate::Estate;
use super::{BEAT, Error, adopted, bind_error, runtime_error, threads};
use crate::admin::{self, Desk, Furniture, Health, Orders};
use crate::config::Address;
use crate::exporter::Exporter;
use crate::listener::{self, Listener};
use crate::serve::control;
use crate::systemd::Inherited;
use crate::upstream::local::Local;

/// What is served beside the data path, by another runtime on another thread.
pub(super) struct Sockets {
    pub(super) observer: Option<Listener>,
    pub(super) page: Option<Arc<Desk>>,
    pub(super) admin: Option<(Listener, Arc<Desk>)>,
    pub(super) steering: Option<(Listener, Arc<Local>)>,
    pub(super) exporter: Option<Exporter>,
}

impl Sockets {
    pub(super) fn serve(
        self,
        metrics: PrometheusHandle,
        health: Arc<Health>,
        stop: CancellationToken,
    ) -> Result<std::thread::JoinHandle<()>, Error> {
        let runtime = threads::aside()?;
        let serve = move || {
            runtime.block_on(async {
                let tasks = TaskTracker::new();
                if let Some(listener) = self.observer {
                    tasks.spawn(admin::observe(listener, metrics.clone(), health, self.page, stop.clone()));
                }
                if let Some((listener, desk)) = self.admin {
                    let answer = move |request| Arc::clone(&desk).answer(request);
                    tasks.spawn(admin::control(listener, answer, stop.clone()));
                }
                if let Some((listener, local)) = self.steering {
                    let answer = move |request| {
                        let local = Arc::clone(&local);
                        async move { control::respond(local, request).await.unwrap_or_else(|never| match never {}) }
                    };
                    tasks.spawn(admin::control(listener, answer, stop.clone()));
                }
                if let Some(exporter) = self.exporter {
                    tasks.spawn(exporter.run(stop.clone()));
                }
                // What was measured is gathered by whoever asks for metrics; where nobody does, it would gather without end.
                while timeout(UPKEEP, stop.cancelled()).await.is_err() {
                    metrics.run_upkeep();
                }
                tasks.close();
                tasks.wait().await;
            });
        };
        std::thread::Builder::new().name("admin".to_owned()).spawn(serve).map_err(runtime_error)
    }
}

/// The desk of a daemon that is about to serve.
pub(super) fn desk(
    estate: &Estate,
    orders: Orders,
    metrics: &PrometheusHandle,
    health: &Arc<Health>,
    runtime: &Runtime,
) -> Arc<Desk> {
    Desk::new(Furniture {
        clock: Arc::clone(&estate.clock),
        engines: Arc::clone(&estate.engines),
        keeper: estate.working_set.clone(),
        listeners: Arc::clone(&estate.listeners),
        door: Arc::clone(&estate.door),
        orders,
        metrics: metrics.clone(),
        health: Arc::clone(health),
        data_path: runtime.handle().clone(),
        drain: terminate,
    })
}

/// Has this process end as by SIGTERM.
fn terminate() -> io::Result<()> {
    Ok(rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)?)
}

/// Binds the address of `/metrics` and health.
pub(super) fn observer(address: SocketAddr) -> Result<Listener, Error> {
    Listener::public("metrics", address, admin::CONNECTIONS_MAX).map_err(|error| match bind_error(error) {
        Error::Config(why) => Error::Config(format!("metrics.address {why}")),
        error @ (Error::Taken { .. } | Error::Runtime(_)) => error,
    })
}

/// A socket for root and for our own user.
pub(super) fn private(name: &str, address: &Address, inherited: &mut Inherited) -> Result<Listener, Error> {
    let config = listener::Config {
        mode: matches!(address, Address::Unix(_)).then(|| "0600".to_owned()),
        max_connections: admin::CONNECTIONS_MAX,
        max_in_flight: admin::CONNECTIONS_MAX,
        timeout: BEAT,
        ..listener::Config::new(name, listener::FaceName::Aliyun, &address.to_string())
    };
    Listener::bind(&config, adopted(address, inherited)).map_err(bind_error)
}

/// How often what was measured is gathered.
const UPKEEP: Duration = Duration::from_secs(5);
