//! The embedded software KMS: the engine of `kmsproxy dev` and `kmsproxy emulator`, a stand-in for Alibaba Cloud KMS
//! that can be told to fail.
//!
//! It is for development and tests. What it knows of the real service is the documentation (the fact sheet), not
//! observation; where that is silent it chooses, and says so: an absent encryption context and an empty one are
//! different, a flattened context equals the JSON of the same pairs, `Plaintext` is limited after base64 is undone,
//! and a key's state refuses before its context does. Every key lives in plain memory, whatever its protection level.

mod behaviour;
mod blob;
mod gcm;
mod key;
mod keyring;
mod operations;
mod reads;
mod record;
mod saved;
mod store;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::clock::{Clock, Deadline};
use crate::fault::{Fault, Kind, Verbatim};
use crate::kms::{Answer, Call, KeyId, KeyState, KeyVersion, Reply, RequestId};
use crate::policy::{Held, Permit};
use crate::upstream::{Asking, Upstream};

use behaviour::Quota;
pub use behaviour::{Behaviour, NotARate, Rate};
pub use key::{NewKey, Origin, ProtectionLevel};
pub use keyring::{ChangeError, NotFound};
use keyring::{Edge, Keyring};
pub use record::{Calls, Decision};
use record::{OK, Record};
pub use store::OpenError;
use store::Store;

/// `[upstream.NAME]` with `kind = "local"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the keys survive: a directory of its own, mode 0700, which is made where it is not there.
    pub state_dir: PathBuf,
    /// How slow it is from the start; [`Behaviour::latency`] later.
    #[serde(default, with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub latency: Duration,
}

/// The KMS. Calls read one immutable keyring; changes make the next one, save it, and put it in force, one at a time.
pub struct Local {
    clock: Arc<dyn Clock>,
    keys: ArcSwap<Keyring>,
    /// None keeps nothing. The lock is what makes changes follow each other.
    store: Mutex<Option<Store>>,
    behaviour: watch::Sender<Behaviour>,
    quota: Quota,
    record: Record,
}

impl Local {
    /// Opens the keys in `config.state_dir`, or begins with none where the directory holds none.
    ///
    /// # Errors
    /// [`OpenError`] where the directory is not private, is in use, or holds anything but an intact state.
    pub fn open(config: &Config, clock: Arc<dyn Clock>) -> Result<Arc<Self>, OpenError> {
        let (store, keys) = Store::open(&config.state_dir)?;
        let behaviour = Behaviour { latency: config.latency, ..Behaviour::default() };
        Ok(Self::with(keys, Some(store), behaviour, clock))
    }

    /// A KMS that forgets everything when it is dropped.
    #[must_use]
    pub fn in_memory(clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::with(Keyring::default(), None, Behaviour::default(), clock)
    }

    fn with(keys: Keyring, store: Option<Store>, behaviour: Behaviour, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            keys: ArcSwap::from_pointee(keys),
            store: Mutex::new(store),
            behaviour: watch::Sender::new(behaviour),
            quota: Quota::default(),
            record: Record::default(),
        })
    }

    /// The key behind `alias/kmsproxy-dev`, in whatever state it is; made and Enabled where the alias names none.
    ///
    /// # Errors
    /// As for every change.
    pub fn ensure_default_key(&self) -> Result<KeyId, ChangeError> {
        if let Ok(key) = self.keys.load().find(DEFAULT_ALIAS, self.clock.wall()) {
            return Ok(key.id.clone());
        }
        let description = "made by kmsproxy for development".to_owned();
        self.create_key(&NewKey { alias: Some(DEFAULT_ALIAS.to_owned()), description, ..NewKey::default() })
    }

    /// Makes a key, and its alias where one is wanted.
    ///
    /// # Errors
    /// [`ChangeError`]; as for every change here, what failed is not in force.
    pub fn create_key(&self, wanted: &NewKey) -> Result<KeyId, ChangeError> {
        self.change("CreateKey", |keys, now| keys.create(wanted, now).map(|id| (id.clone(), id)))
    }

    /// Lets a Disabled key be used again. An Enabled one stays so.
    ///
    /// # Errors
    /// [`ChangeError::StateModifiedFailed`] in any other state, and those of every change.
    pub fn enable(&self, name: &str) -> Result<KeyId, ChangeError> {
        self.turn("EnableKey", name, Edge::Enable)
    }

    /// Refuses every use of a key, from the moment this returns, in all its versions.
    ///
    /// # Errors
    /// As for [`Local::enable`].
    pub fn disable(&self, name: &str) -> Result<KeyId, ChangeError> {
        self.turn("DisableKey", name, Edge::Disable)
    }

    /// Refuses every use of a key and destroys it after `days`, from 7 to 366, of the wall clock. Its bytes leave
    /// memory and disk with the first change after that.
    ///
    /// # Errors
    /// [`ChangeError::StateModifiedFailed`] where it waits already, and those of every change.
    pub fn schedule_deletion(&self, name: &str, days: u16) -> Result<KeyId, ChangeError> {
        self.turn("ScheduleKeyDeletion", name, Edge::ScheduleDeletion { days })
    }

    /// Makes a key that waits to be destroyed Enabled again, also one that was Disabled before, as the real KMS does.
    ///
    /// # Errors
    /// [`ChangeError::StateModifiedFailed`] in any other state, and those of every change.
    pub fn cancel_deletion(&self, name: &str) -> Result<KeyId, ChangeError> {
        self.turn("CancelKeyDeletion", name, Edge::CancelDeletion)
    }

    /// Gives an Enabled key a new primary version. What older versions encrypted stays decryptable.
    ///
    /// # Errors
    /// [`ChangeError::StateModifiedFailed`] in any other state, and those of every change.
    pub fn rotate(&self, name: &str) -> Result<KeyVersion, ChangeError> {
        self.change("RotateKey", |keys, now| keys.rotate(name, now))
    }

    /// Gives a key one more name.
    ///
    /// # Errors
    /// [`ChangeError::BadAlias`], [`ChangeError::AliasTaken`], and those of every change.
    pub fn create_alias(&self, alias: &str, name: &str) -> Result<KeyId, ChangeError> {
        self.change("CreateAlias", |keys, now| keys.create_alias(alias, name, now).map(|id| (id.clone(), id)))
    }

    /// Takes a name away; returns whose it was.
    ///
    /// # Errors
    /// [`NotFound::Alias`], and those of every change.
    pub fn delete_alias(&self, alias: &str) -> Result<KeyId, ChangeError> {
        self.change("DeleteAlias", |keys, _| keys.delete_alias(alias).map(|id| (id.clone(), id)))
    }

    /// Every key, by id, without its material.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let keys = self.keys.load();
        keys.present(self.clock.wall()).map(|key| Listed::of(key, &keys)).collect()
    }

    /// One key of [`Local::list`].
    ///
    /// # Errors
    /// [`NotFound`] where `name` names none.
    pub fn listed(&self, name: &str) -> Result<Listed, NotFound> {
        let keys = self.keys.load();
        keys.find(name, self.clock.wall()).map(|key| Listed::of(key, &keys))
    }

    /// How the KMS behaves now.
    #[must_use]
    pub fn behaviour(&self) -> Behaviour {
        *self.behaviour.borrow()
    }

    /// Makes it behave otherwise, for calls that stall as well.
    pub fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// What has been asked since the start, or since [`Local::reset_calls`].
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.record.calls()
    }

    /// Counts from zero again; calls under way are counted only when they finish.
    pub fn reset_calls(&self) {
        self.record.reset();
    }

    /// The newest 100,000 decisions, oldest first.
    #[must_use]
    pub fn decisions(&self) -> Vec<Decision> {
        self.record.decisions()
    }

    async fn answer(&self, call: &Call, deadline: Deadline) -> Result<Answer, Fault> {
        let arrival = self.record.arrive(call.action());
        let left = deadline.remaining(self.clock.now());
        let result = timeout(left, self.wait_and_decide(call)).await.unwrap_or(Err(Fault::kms(Kind::TimedOut)));
        arrival.conclude(outcome(&result));
        Ok(Answer { reply: result?, request_id: RequestId::random() })
    }

    async fn wait_and_decide(&self, call: &Call) -> Result<Reply, Fault> {
        self.while_stalled().await;
        let behaviour = self.behaviour();
        pause(behaviour.half_way()).await;
        let decided = self.decide(call, behaviour);
        pause(behaviour.half_way()).await;
        decided
    }

    async fn while_stalled(&self) {
        let mut behaviour = self.behaviour.subscribe();
        // The sender lives as long as `self`, so this cannot fail.
        drop(behaviour.wait_for(|behaviour| !behaviour.stall).await);
    }

    fn decide(&self, call: &Call, behaviour: Behaviour) -> Result<Reply, Fault> {
        let at = self.clock.now();
        let (keys, now) = (self.keys.load(), self.clock.wall());
        let able = || {
            if behaviour.quota.is_some_and(|limit| !self.quota.admits(limit, at)) {
                return Err(Fault::kms(Kind::Throttled(None)));
            }
            if behaviour.error_rate.hits() {
                return Err(internal_failure());
            }
            operations::check(call)
        };
        let decided = able().and_then(|()| operations::perform(&keys, call, now));
        let subject = operations::subject(&keys, call, now).ok().flatten();
        self.record.decided(at, call.action().name(), subject.map(|key| &key.id), outcome(&decided));
        decided
    }

    fn turn(&self, action: &'static str, name: &str, edge: Edge) -> Result<KeyId, ChangeError> {
        self.change(action, |keys, now| keys.turn(name, edge, now).map(|id| (id.clone(), id)))
    }

    /// Makes the next keyring, saves it, puts it in force, and only then returns.
    fn change<T>(
        &self,
        action: &'static str,
        change: impl FnOnce(&mut Keyring, Timestamp) -> Result<(KeyId, T), ChangeError>,
    ) -> Result<T, ChangeError> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.wall();
        let mut keys = Keyring::clone(&self.keys.load());
        keys.bury(now);
        let (id, made) = change(&mut keys, now)?;
        if let Some(store) = &*store {
            store.save(&keys).map_err(ChangeError::Save)?;
        }
        self.keys.store(Arc::new(keys));
        self.record.decided(self.clock.now(), action, Some(&id), OK);
        Ok(made)
    }
}

impl Upstream for Local {
    fn ask<'a>(&'a self, _: &'a Permit, call: &'a Call, deadline: Deadline) -> Asking<'a> {
        Box::pin(async move { self.answer(call, deadline).await.map(Held::new) })
    }

    fn identity(&self) -> Arc<str> {
        "local".into()
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Local({} keys)", self.keys.load().keys.len())
    }
}

/// The one refusal that a face would not word like the KMS: its own faults must not look like ours.
fn internal_failure() -> Fault {
    let verbatim = Verbatim {
        status: 500,
        code: "InternalFailure".into(),
        message: "Internal Failure.".into(),
        request_id: RequestId::random(),
        host_id: None,
        recommend: None,
    };
    Fault::said(Kind::KmsFailure, verbatim)
}

/// A key as the control API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its id.
    pub key_id: String,
    /// Its ARN.
    pub arn: String,
    /// Its aliases, sorted.
    pub aliases: Vec<String>,
    /// Its state.
    pub state: KeyState,
    /// When it will be destroyed, in state PendingDeletion.
    pub delete_date: Option<String>,
    /// Its label.
    pub protection_level: ProtectionLevel,
    /// What it was made for.
    pub description: String,
    /// When it was made.
    pub creation_date: String,
    /// The version that encrypts; none for a key to be imported.
    pub primary_version: Option<String>,
    /// All its versions, oldest first.
    pub versions: Vec<String>,
}

impl Listed {
    fn of(key: &key::Key, keys: &Keyring) -> Self {
        let version_id = |version: &Arc<key::Version>| version.id.as_str().to_owned();
        let delete_date = match key.life {
            key::Life::PendingDeletion { until } => Some(reads::date(until)),
            key::Life::Enabled | key::Life::Disabled | key::Life::PendingImport => None,
        };
        let aliases = keys.aliases.iter().filter(|(_, id)| **id == key.id).map(|(alias, _)| alias.clone());
        Self {
            key_id: key.id.as_str().to_owned(),
            arn: key.arn(),
            aliases: aliases.collect(),
            state: key.state(),
            delete_date,
            protection_level: key.protection,
            description: key.description.clone(),
            creation_date: reads::date(key.created),
            primary_version: key.primary().map(version_id),
            versions: key.versions.iter().map(version_id).collect(),
        }
    }
}

async fn pause(span: Duration) {
    if !span.is_zero() {
        sleep(span).await;
    }
}

fn outcome<T>(result: &Result<T, Fault>) -> &'static str {
    result.as_ref().map_or_else(|fault| fault.kind().label(), |_| OK)
}

const DEFAULT_ALIAS: &str = "alias/kmsproxy-dev";
