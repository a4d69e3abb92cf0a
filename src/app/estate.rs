//! What a house has that may change while it is lived in: upstreams, listeners, callers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ::metrics::{counter, gauge};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::answering::Answering;
use super::descriptors::Descriptors;
use super::doors::{self, Entrance};
use super::{Error, Mode};
use crate::admin::status::Counted;
use crate::admin::{Engines, Listeners};
use crate::audit::Audit;
use crate::auth::Door;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::engine::Engine;
use crate::listener::{self, Held};
use crate::metrics;
use crate::policy::Policy;
use crate::systemd::Inherited;
use crate::tls::{Presented, Renewal};
use crate::trace::Tracer;
use crate::upstream::aliyun::Aliyun;
use crate::upstream::local::Local;
use crate::warm::Keeper;

/// Everything that runs by the configuration in force.
pub(super) struct Estate {
    pub(super) mode: Mode,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    /// The listeners, and their connections.
    pub(super) listening: TaskTracker,
    pub(super) cache: Arc<Cache>,
    pub(super) policy: Arc<Policy>,
    pub(super) door: Arc<Door>,
    /// That of the start.
    pub(super) tracer: Tracer,
    pub(super) engines: Arc<Engines>,
    pub(super) listeners: Arc<Listeners>,
    /// Who keeps the working set, if anybody does.
    pub(super) working_set: Option<Arc<Keeper>>,
    pub(super) inherited: Inherited,
    pub(super) descriptors: Descriptors,
    pub(super) upstreams: BTreeMap<String, Standing>,
    pub(super) entrances: BTreeMap<String, Open>,
    /// Every listening socket by its [`place`], so that it can be handed on. Those of systemd are kept although nobody
    /// listens there: they cannot be had again.
    pub(super) sockets: BTreeMap<String, Held>,
}

/// How everybody leaves, wherever the estate is.
pub(super) struct Exits {
    stop: CancellationToken,
    pub(super) listening: TaskTracker,
    pub(super) tasks: TaskTracker,
}

impl Exits {
    pub(super) fn of(estate: &Estate) -> Self {
        let Estate { stop, listening, tasks, .. } = estate;
        Self { stop: stop.clone(), listening: listening.clone(), tasks: tasks.clone() }
    }

    /// Has everything end.
    pub(super) fn open(&self) {
        self.stop.cancel();
        self.listening.close();
        self.tasks.close();
    }
}

/// One upstream, as it runs.
pub(super) struct Standing {
    pub(super) answering: Arc<Answering>,
    pub(super) aliyun: Option<Arc<Aliyun>>,
    pub(super) local: Option<Arc<Local>>,
    /// Ends what is done for it without being asked.
    pub(super) stop: CancellationToken,
}

/// One listener, as it runs.
pub(super) struct Open {
    pub(super) config: listener::Config,
    /// Ends it: from then on its connections are only let go of.
    pub(super) stop: CancellationToken,
    pub(super) presented: Option<Arc<Presented>>,
    counted: Counted,
}

impl Standing {
    pub(super) fn engine(&self) -> Option<&Arc<Engine>> {
        match &*self.answering {
            Answering::Cached(engine) => Some(engine),
            Answering::Straight(_) => None,
        }
    }
}

impl Estate {
    /// Without anything in it yet.
    pub(super) fn empty(
        mode: Mode,
        clock: Arc<dyn Clock>,
        cache: Arc<Cache>,
        audit: Arc<Audit>,
        sockets: (Inherited, Descriptors),
    ) -> Result<Self, Error> {
        let door = Door::new(Vec::new()).map_err(|error| Error::Config(error.to_string()))?;
        Ok(Self {
            mode,
            clock,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            listening: TaskTracker::new(),
            cache,
            policy: Policy::audited(HashMap::new(), audit),
            door: Arc::new(door),
            tracer: Tracer::off(),
            engines: Arc::default(),
            listeners: Arc::default(),
            working_set: None,
            inherited: sockets.0,
            descriptors: sockets.1,
            upstreams: BTreeMap::new(),
            entrances: BTreeMap::new(),
            sockets: BTreeMap::new(),
        })
    }

    /// Tells everybody who looks at all engines, or all listeners, which there are.
    pub(super) fn publish(&self) {
        self.listeners.replace(self.entrances.values().map(|open| open.counted.clone()).collect());
        self.engines.replace(self.upstreams.values().filter_map(Standing::engine).cloned().collect());
    }

    /// Opens a listener, within the runtime.
    pub(super) fn open(&mut self, entrance: Entrance) {
        let counted = entrance.counted();
        let Entrance { config, listener, face, held } = entrance;
        let (stop, presented) = (self.stop.child_token(), listener.presented().map(Arc::clone));
        if let Some(held) = held {
            self.sockets.insert(place(&config), held);
        }
        if presented.is_some() {
            count(format!("listener.{}", config.name));
        }
        info!(listener = config.name, address = %listener.local_address(), "listening");
        doors::open(config.name.clone(), listener, face, stop.clone(), &self.listening);
        self.entrances.insert(config.name.clone(), Open { config, stop, presented, counted });
    }

    /// Lets go of the sockets at which nobody listens any more.
    pub(super) fn let_go(&mut self) {
        let used: Vec<_> = self.entrances.values().map(|open| place(&open.config)).collect();
        self.sockets.retain(|place, _| place.starts_with("systemd:") || used.contains(place));
    }

    /// The files that are looked at now and then: certificates and authorities.
    pub(super) fn files(&self) -> Files {
        let presented = |(name, open): (&String, &Open)| {
            open.presented.as_ref().map(|presented| (format!("listener.{name}"), Arc::clone(presented)))
        };
        let believed = |(name, standing): (&String, &Standing)| {
            standing.aliyun.as_ref().map(|kms| (format!("upstream.{name}"), Arc::clone(kms)))
        };
        Files {
            presented: self.entrances.iter().filter_map(presented).collect(),
            believed: self.upstreams.iter().filter_map(believed).collect(),
        }
    }
}

/// What is presented and believed by files that may change.
pub(super) struct Files {
    presented: Vec<(String, Arc<Presented>)>,
    believed: Vec<(String, Arc<Aliyun>)>,
}

impl Files {
    /// Looks whether they have changed, and takes what is in those that have; says what was taken. What is broken is told in
    /// the log, and what served before goes on serving.
    pub(super) fn renew(self) -> Vec<String> {
        let mut taken = Vec::new();
        for (of, presented) in self.presented {
            note(of, presented.renew().map(|renewal| renewal == Renewal::Taken), &mut taken);
        }
        for (of, kms) in self.believed {
            note(of, kms.renew_trust(), &mut taken);
        }
        taken
    }
}

/// Every series of what `of` presents or believes, from the start on.
pub(super) fn count(of: String) {
    for outcome in ["taken", "refused"] {
        counter!(metrics::CERTIFICATES, "of" => of.clone(), "outcome" => outcome).increment(0);
    }
    gauge!(metrics::CERTIFICATES_REFUSED, "of" => of).set(0.0);
}

fn note<E: std::fmt::Display>(of: String, renewed: Result<bool, E>, taken: &mut Vec<String>) {
    let (outcome, refused) = match renewed {
        Ok(false) => return,
        Ok(true) => {
            info!(of, "certificates taken anew");
            taken.push(format!("{of}: certificates"));
            ("taken", 0.0)
        }
        Err(error) => {
            warn!(of, %error, "certificates have changed and do not serve; those before are kept");
            ("refused", 1.0)
        }
    };
    counter!(metrics::CERTIFICATES, "of" => of.clone(), "outcome" => outcome).increment(1);
    gauge!(metrics::CERTIFICATES_REFUSED, "of" => of).set(refused);
}

/// What names a socket beyond the life of its listener: its address, and, where the kernel chose the port, who asked.
pub(super) fn place(config: &listener::Config) -> String {
    let any_port = config.address.ends_with(":0");
    if any_port { format!("{} for {}", config.address, config.name) } else { config.address.clone() }
}
