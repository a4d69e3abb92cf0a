//! A change that nothing can hinder any more.

mod preparing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::doors::Entrance;
use super::estate::{Estate, Standing, count};
use super::upkeep;
use crate::auth::{CallerName, Guests};
use crate::lease::Terms;
use crate::policy::Grant;
use crate::upstream::Upstream;
use crate::upstream::aliyun::Aliyun;
use crate::upstream::gone::Gone;
use crate::upstream::local::Local;

/// What is to be, with everything that can fail done already: sockets are bound, certificates read, credentials found. Only
/// [`Estate::prepare`] makes one, and dropping it changes nothing.
pub(super) struct Prepared {
    shares: Vec<CallerName>,
    grants: HashMap<CallerName, Grant>,
    guests: Guests,
    /// Upstreams that are new.
    begun: Vec<(String, Standing)>,
    /// Upstreams that are asked otherwise, or as somebody else.
    exchanged: Vec<Exchange>,
    /// Upstreams whose leases have other terms.
    amended: Vec<(String, Terms)>,
    /// Upstreams that are not named any more.
    ended: Vec<String>,
    /// Listeners that stop.
    closed: Vec<String>,
    /// Listeners that start, some of them where another stops.
    entrances: Vec<Entrance>,
}

/// One upstream in the place of another.
struct Exchange {
    name: String,
    upstream: Arc<dyn Upstream>,
    timeout: Duration,
    aliyun: Option<Arc<Aliyun>>,
}

impl Prepared {
    /// Where each listener that starts will listen, by name.
    pub(super) fn addresses(&self) -> Vec<(String, String)> {
        let address = |entrance: &Entrance| entrance.listener.local_address().to_string();
        self.entrances.iter().map(|entrance| (entrance.config.name.clone(), address(entrance))).collect()
    }

    /// The embedded KMS, where one is new.
    pub(super) fn local(&self) -> Option<&Arc<Local>> {
        self.begun.iter().find_map(|(_, standing)| standing.local.as_ref())
    }

    /// Puts it in force, within the runtime. Who may do what comes first, so that nothing that follows is used by somebody
    /// who may not; what is taken away comes last, so that nobody needs it any more.
    pub(super) fn commit(self, estate: &mut Estate) {
        let now = estate.clock.now();
        estate.cache.divide(&self.shares, now);
        estate.policy.replace(self.grants);
        estate.door.admit_only(self.guests, now);
        for (name, terms) in &self.amended {
            if let Some(engine) = estate.upstreams.get(name).and_then(Standing::engine) {
                engine.ledger().amend(terms);
            }
        }
        for exchange in self.exchanged {
            exchange.commit(estate);
        }
        for (name, standing) in self.begun {
            if standing.aliyun.is_some() {
                count(format!("upstream.{name}"));
            }
            upkeep::begin(&standing, &estate.tasks, estate.working_set.as_ref());
            estate.upstreams.insert(name, standing);
        }
        estate.publish();
        for name in &self.closed {
            if let Some(open) = estate.entrances.remove(name) {
                open.stop.cancel();
            }
        }
        for entrance in self.entrances {
            estate.open(entrance);
        }
        estate.let_go();
        for name in &self.ended {
            end(name, estate);
        }
        estate.publish();
    }
}

impl Exchange {
    fn commit(self, estate: &mut Estate) {
        let Some(standing) = estate.upstreams.get_mut(&self.name) else { return };
        if let Some(keeper) = &estate.working_set {
            keeper.part(&self.name);
        }
        if let Some(engine) = standing.engine() {
            engine.exchange(self.upstream, self.timeout, "the configuration names another KMS, or asks it otherwise");
        }
        standing.aliyun = self.aliyun;
        standing.local = None;
        upkeep::resume(standing, estate.working_set.as_ref());
    }
}

fn end(name: &str, estate: &mut Estate) {
    let Some(standing) = estate.upstreams.remove(name) else { return };
    standing.stop.cancel();
    if let Some(keeper) = &estate.working_set {
        keeper.part(name);
    }
    if let Some(engine) = standing.engine() {
        engine.exchange(Arc::new(Gone), Duration::ZERO, "the configuration does not name the upstream any more");
        estate.cache.forget_upstream(name);
    }
}
