//! From a plan to a change that can be carried out: whatever can fail fails here, and leaves everything as it was.

use std::sync::Arc;
use std::time::Duration;

use super::{Exchange, Prepared};
use crate::app::answering::Answering;
use crate::app::doors::{Entrance, Face};
use crate::app::estate::{Estate, Standing, place};
use crate::app::{Environment, Error, LOCAL_TIMEOUT, Mode, adopted, bind_error, runtime_error, share};
use crate::config::{Address, Difference, FacePlan, Fate, Kms, ListenerPlan, Plan, UpstreamPlan};
use crate::engine::{Direct, Engine, Parts};
use crate::ledger::Ledger;
use crate::listener::{self, Held, Listener};
use crate::policy::Grant;
use crate::serve::{Hosts, Limits, aliyun, kubernetes};
use crate::upstream::Upstream;
use crate::upstream::aliyun::Aliyun;
use crate::upstream::local::Local;

/// An upstream that nobody asks yet.
struct Opened {
    upstream: Arc<dyn Upstream>,
    timeout: Duration,
    aliyun: Option<Arc<Aliyun>>,
    local: Option<Arc<Local>>,
}

impl Estate {
    /// Makes ready what `difference` says is to become of the parts of `plan`, whose listeners have their parts of the
    /// descriptors. Needs a runtime, and a thread that may wait for files.
    ///
    /// # Errors
    /// What cannot be carried out; nothing has changed then.
    pub(in crate::app) fn prepare(
        &mut self,
        difference: &Difference,
        plan: Plan,
        environment: Environment<'_>,
    ) -> Result<Prepared, Error> {
        let Plan { upstreams, listeners, callers, .. } = plan;
        let grants = callers.iter().map(|caller| {
            let name = caller.entry.name.clone();
            (name, Grant { rules: caller.allow.clone(), share: share(caller) })
        });
        let (grants, shares) = (grants.collect(), callers.iter().map(share).collect());
        let entries = callers.into_iter().map(|caller| caller.entry).collect();
        let mut prepared = Prepared {
            shares,
            grants,
            guests: self.door.invite(entries).map_err(|error| Error::Config(error.to_string()))?,
            begun: Vec::new(),
            exchanged: Vec::new(),
            amended: Vec::new(),
            ended: difference.upstreams_removed().map(str::to_owned).collect(),
            closed: Vec::new(),
            entrances: Vec::new(),
        };
        for upstream in upstreams {
            self.prepare_upstream(upstream, difference, environment, &mut prepared)?;
        }
        let mut kept = Vec::new();
        for listener in listeners {
            let name = &listener.config.name;
            // Its part of the descriptors may be another because of the others.
            let same = self.entrances.get(name).is_some_and(|open| open.config == listener.config);
            if same && difference.listener(name) == Fate::Keep {
                kept.push(name.clone());
            } else {
                let entrance = self.prepare_listener(listener, &prepared)?;
                prepared.entrances.push(entrance);
            }
        }
        prepared.closed = self.entrances.keys().filter(|name| !kept.contains(name)).cloned().collect();
        Ok(prepared)
    }

    fn prepare_upstream(
        &self,
        plan: UpstreamPlan,
        difference: &Difference,
        environment: Environment<'_>,
        prepared: &mut Prepared,
    ) -> Result<(), Error> {
        match (difference.upstream(&plan.name), self.upstreams.get(&plan.name)) {
            (Fate::Keep, Some(_)) => {}
            (Fate::Lease, Some(_)) => prepared.amended.push((plan.name, plan.lease)),
            (Fate::Replace, Some(standing)) => {
                let Opened { upstream, timeout, aliyun, .. } =
                    self.upstream(&plan, environment, standing.aliyun.as_deref())?;
                prepared.amended.push((plan.name.clone(), plan.lease));
                prepared.exchanged.push(Exchange { name: plan.name, upstream, timeout, aliyun });
            }
            (Fate::Begin | Fate::End | Fate::Keep | Fate::Lease | Fate::Replace, _) => {
                let Opened { upstream, timeout, aliyun, local } = self.upstream(&plan, environment, None)?;
                let answering = Arc::new(self.answering(&plan, upstream, timeout));
                let stop = self.stop.child_token();
                prepared.begun.push((plan.name, Standing { answering, aliyun, local, stop }));
            }
        }
        Ok(())
    }

    fn upstream(
        &self,
        plan: &UpstreamPlan,
        environment: Environment<'_>,
        before: Option<&Aliyun>,
    ) -> Result<Opened, Error> {
        match &plan.kms {
            Kms::Aliyun(config) => {
                let kms = Aliyun::new(&plan.name, config, environment, &self.clock);
                let kms = kms.map_err(|error| Error::Config(format!("upstream.{}: {error}", plan.name)))?;
                let kms = Arc::new(match before {
                    Some(before) => kms.in_place_of(before),
                    None => kms,
                });
                let upstream = Arc::<Aliyun>::clone(&kms);
                Ok(Opened { upstream, timeout: config.timeout, aliyun: Some(kms), local: None })
            }
            Kms::Local(config) => {
                let local = Local::open(config, Arc::clone(&self.clock));
                let local = local.map_err(|error| Error::Config(format!("upstream.{}: {error}", plan.name)))?;
                let upstream = Arc::<Local>::clone(&local);
                Ok(Opened { upstream, timeout: LOCAL_TIMEOUT, aliyun: None, local: Some(local) })
            }
        }
    }

    fn answering(&self, plan: &UpstreamPlan, upstream: Arc<dyn Upstream>, timeout: Duration) -> Answering {
        let (policy, clock) = (Arc::clone(&self.policy), Arc::clone(&self.clock));
        if self.mode == Mode::Straight {
            return Answering::Straight(Arc::new(Direct { policy, upstream, clock }));
        }
        Answering::Cached(Engine::new(Parts {
            policy,
            cache: Arc::clone(&self.cache),
            ledger: Ledger::new(&plan.name, plan.lease, Arc::clone(&self.clock)),
            upstream,
            clock,
            timeout,
            tasks: self.tasks.clone(),
        }))
    }

    fn prepare_listener(&mut self, plan: ListenerPlan, prepared: &Prepared) -> Result<Entrance, Error> {
        let name = &plan.config.upstream;
        let begun = prepared.begun.iter().find(|(begun, _)| begun == name).map(|(_, standing)| standing);
        let standing = begun.or_else(|| self.upstreams.get(name));
        let respond = standing.map(|standing| Arc::clone(&standing.answering));
        let respond = respond.ok_or_else(|| Error::Config("a listener names no upstream".to_owned()))?;
        let (listener, held) = self.socket(&plan)?;
        let listener = match &*respond {
            Answering::Cached(engine) => listener.recycled_by(engine.ledger().wipes()),
            Answering::Straight(_) => listener.with_limits(listener::Limits::of(plan.config.face).of_a_kms()),
        };
        let listener = listener.armed().map_err(runtime_error)?;
        let limits = Limits { timeout: plan.config.timeout, in_flight: plan.config.max_in_flight };
        let (clock, door, tracer) = (Arc::clone(&self.clock), Arc::clone(&self.door), self.tracer.clone());
        let face = match (plan.face, &*respond) {
            (FacePlan::Aliyun, _) => {
                let hosts = Hosts::new(&plan.config.hosts);
                Face::Aliyun(aliyun::Face::new(respond, door, clock, hosts, limits).traced(tracer))
            }
            (FacePlan::Kubernetes(provider), Answering::Cached(engine)) => {
                let followed = engine.follow(&provider.key);
                Face::Kubernetes(kubernetes::Face::new(followed, provider, door, clock, limits).traced(tracer))
            }
            (FacePlan::Kubernetes(_), Answering::Straight(_)) => {
                return Err(Error::Config("the emulator has no Kubernetes face: use `dev` or `serve`".to_owned()));
            }
        };
        Ok(Entrance { config: plan.config, listener, face, held })
    }

    /// The socket of a listener: that of who listens there now, one of systemd's, or a new one; and a hold of it, where
    /// we have none yet.
    fn socket(&mut self, plan: &ListenerPlan) -> Result<(Listener, Option<Held>), Error> {
        let (config, place) = (&plan.config, place(&plan.config));
        if let (false, Some(socket)) = (self.sockets.contains_key(&place), adopted(&plan.address, &mut self.inherited))
        {
            self.sockets.insert(place.clone(), Held::adopt(&config.address, socket).map_err(bind_error)?);
        }
        if let Some(held) = self.sockets.get(&place) {
            self.file_stays(plan)?;
            return Ok((Listener::succeed(config, held).map_err(bind_error)?, None));
        }
        let listener = Listener::bind(config, None).map_err(bind_error)?;
        let held = listener.hold().map_err(runtime_error)?;
        Ok((listener, Some(held)))
    }

    /// A socket file that is handed on keeps its owner and its mode.
    fn file_stays(&self, plan: &ListenerPlan) -> Result<(), Error> {
        let (config, Address::Unix(path)) = (&plan.config, &plan.address) else { return Ok(()) };
        let file = |config: &listener::Config| (config.mode.clone(), config.owner.clone(), config.group.clone());
        let differs = |open: &listener::Config| open.address == config.address && file(open) != file(config);
        if self.entrances.values().any(|open| differs(&open.config)) {
            let path = path.display();
            return Err(Error::Config(format!(
                "listener.{}: {path} is listened on with another mode, owner or group\n  remedy: restart kmsproxy",
                config.name
            )));
        }
        Ok(())
    }
}
