//! Taking the configuration anew while everything runs: whole, or not at all.

use std::panic;
use std::sync::Arc;

use ::metrics::{counter, gauge};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::estate::Estate;
use super::prepared::Prepared;
use super::word::notify;
use super::{Error, runtime_error};
use crate::admin::{Outcome, Verdict};
use crate::clock::{self, Clock as _, System};
use crate::config::{self, Config, Difference, Mistakes, Plan, Sources};
use crate::metrics;
use crate::systemd::Notifier;

/// A house that is lived in, and how it comes to another configuration.
pub(super) struct Living {
    /// Away while a reload is prepared, on a thread that may wait for files. Who is told to end meanwhile does not wait for it.
    pub(super) estate: Option<Estate>,
    pub(super) reloader: Reloader,
    pub(super) notifier: Arc<Notifier>,
}

/// Where the configuration comes from, and the one in force.
pub(super) struct Reloader {
    pub(super) sources: Arc<Sources>,
    pub(super) config: Config,
}

/// What a reload does away from the data path: read, look up, bind.
struct Preparing {
    estate: Estate,
    sources: Arc<Sources>,
    difference: Difference,
    plan: Plan,
}

/// Why nothing was changed.
enum Hindrance {
    /// The configuration is wrong.
    Mistakes(Mistakes),
    /// It differs in what only a restart changes.
    Restart(Vec<String>),
    /// It cannot be carried out now.
    Impossible(Error),
}

impl Living {
    /// Reads the configuration again and puts it in force, or leaves everything as it is; tells systemd, the log and the
    /// metrics, and whoever asked. To be dropped while it reads: then nothing has changed.
    pub(super) async fn reload(&mut self) -> Verdict {
        notify(&self.notifier, "reloading", |notifier| notifier.reloading(clock::monotonic_usec()));
        let verdict = match self.reloader.reload(&mut self.estate).await {
            Ok(changes) => {
                info!(changes = changes.join("; "), "reloaded");
                Verdict { outcome: Outcome::Reloaded, changes, reasons: Vec::new() }
            }
            Err(hindrance) => hindrance.verdict(),
        };
        counter!(metrics::RELOADS, "outcome" => verdict.outcome.label()).increment(1);
        if verdict.outcome == Outcome::Reloaded {
            told_when();
        }
        notify(&self.notifier, "status", |notifier| notifier.status(verdict.outcome.status()));
        notify(&self.notifier, "ready", Notifier::ready);
        verdict
    }

    /// Looks after files that change without a word: certificates and authorities.
    pub(super) async fn renew(&self) {
        if let Some(estate) = &self.estate {
            renewed(estate).await;
        }
    }
}

impl Reloader {
    async fn reload(&mut self, home: &mut Option<Estate>) -> Result<Vec<String>, Hindrance> {
        let sources = Arc::clone(&self.sources);
        let loading = spawn_blocking(move || config::load(&sources)).await;
        let loaded = loading.map_err(|crash| Hindrance::Impossible(runtime_error(crash)))?;
        let (config, plan) = loaded.map_err(Hindrance::Mistakes)?;
        let impossible = |error: String| Hindrance::Impossible(Error::Config(error));
        let difference = Difference::between(&self.config, &config).map_err(|error| impossible(error.to_string()))?;
        let restart = difference.restart();
        if !restart.is_empty() {
            return Err(Hindrance::Restart(restart));
        }
        let mut changes = difference.lines();
        let estate = home.take().ok_or_else(|| impossible("the reload before has not ended".to_owned()))?;
        let strangers = plan.callers.iter().filter(|caller| !estate.door.knows(&caller.entry));
        let strangers: Vec<_> = strangers.map(|caller| format!("caller.{}", caller.entry.name)).collect();
        let preparing = Preparing { estate, sources: Arc::clone(&self.sources), difference, plan };
        let (estate, prepared) = preparing.done().await;
        let estate = home.insert(estate);
        prepared.map_err(Hindrance::Impossible)?.commit(estate);
        self.config = config;
        // What is written has not changed, and what it refers to has.
        let silent = |name: &String| !changes.iter().any(|line| line.starts_with(&format!("{name}:")));
        let silent: Vec<_> = strangers.into_iter().filter(silent).map(|name| format!("{name}: its secret")).collect();
        changes.extend(silent);
        changes.extend(renewed(estate).await);
        Ok(changes)
    }
}

impl Preparing {
    /// The estate comes back as it was.
    async fn done(self) -> (Estate, Result<Prepared, Error>) {
        let Self { mut estate, sources, difference, plan } = self;
        let prepared = spawn_blocking(move || {
            let environment = sources.environment.lookup();
            let plan = estate.descriptors.allot(plan);
            let prepared = plan.and_then(|plan| estate.prepare(&difference, plan, &environment));
            (estate, prepared)
        });
        // Without its estate a daemon is none.
        prepared.await.unwrap_or_else(|crash| panic::resume_unwind(crash.into_panic()))
    }
}

impl Hindrance {
    fn verdict(self) -> Verdict {
        let (outcome, reasons) = match self {
            Self::Mistakes(mistakes) => (Outcome::Mistaken, mistakes.list().iter().map(ToString::to_string).collect()),
            Self::Restart(settings) => {
                let remedy = "a running process cannot change this\n  remedy: restart kmsproxy, or set it back";
                (Outcome::Restart, settings.iter().map(|setting| format!("{setting}: {remedy}")).collect())
            }
            Self::Impossible(error) => (Outcome::Impossible, vec![error.to_string()]),
        };
        for reason in &reasons {
            error!(reason, "not reloaded");
        }
        warn!(reasons = reasons.len(), outcome = outcome.label(), "nothing has changed");
        Verdict { outcome, changes: Vec::new(), reasons }
    }
}

/// Looks at the files of certificates and authorities, on a thread that may wait for them; says what was taken.
async fn renewed(estate: &Estate) -> Vec<String> {
    let files = estate.files();
    // A panic there is logged there.
    spawn_blocking(move || files.renew()).await.unwrap_or_default()
}

/// Every series there will be, from the start on.
pub(super) fn count() {
    for outcome in Outcome::ALL {
        counter!(metrics::RELOADS, "outcome" => outcome.label()).increment(0);
    }
    told_when();
}

/// Notes that the configuration in force was read now.
fn told_when() {
    // Exact for some million years.
    #[allow(clippy::cast_precision_loss)]
    gauge!(metrics::RELOADED_AT).set(System.wall().as_second() as f64);
}
