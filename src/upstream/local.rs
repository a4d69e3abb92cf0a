//! The embedded software KMS: the engine of `kmsproxy dev` and `kmsproxy emulator`, a stand-in for Alibaba Cloud KMS
//! that can be told to fail.
//!
//! It is for development and tests. What it knows of the real service is the documentation (the fact sheet), not
//! observation; where that is silent it chooses, and says so: an absent encryption context and an empty one are
//! different, a flattened context equals the JSON of the same pairs, `Plaintext` is limited after base64 is undone,
//! and a key's state refuses before its context does. Every key lives in plain memory, whatever its protection level.

mod behaviour;
mod blob;
mod digest;
mod gcm;
mod key;
mod keyring;
mod operations;
mod reads;
mod record;
pub mod saved;
mod store;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::clock::{Clock, Deadline};
use crate::fault::{Fault, Kind, Verbatim};
use crate::kms::{Answer, Call, KeyId, KeyState, KeyVersion, Reply, RequestId};
use crate::policy::{Held, Permit};
use crate::upstream::{Asking, Upstream};

use behaviour::Quota;
pub use behaviour::{Behaviour, NotARate, Rate};
pub use digest::Digest;
pub use key::{NewKey, Origin, ProtectionLevel};
use keyring::Edge;
pub use keyring::{ChangeError, Keyring, NotFound};
use record::{Arrival, Asked, Record, outcome};
pub use record::{Calls, Decision};
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
    behaviour: Mutex<Behaviour>,
    /// Wakes who stalls, in the order in which they came.
    behaves: Notify,
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
            behaviour: Mutex::new(behaviour),
            behaves: Notify::new(),
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
        *self.behaviour.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it behave otherwise, for calls that stall as well.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
        self.behaves.notify_waiters();
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

    /// Appends every further decision to `file`, each before anybody hears of it.
    ///
    /// # Errors
    /// Where it cannot be opened. Should it fail later, that is logged, and no more is written.
    pub fn write_decisions(&self, file: &Path) -> io::Result<()> {
        self.record.write_to(file)
    }

    /// The newest 100,000 decisions, oldest first.
    #[must_use]
    pub fn decisions(&self) -> Vec<Decision> {
        self.record.decisions()
    }

    async fn answer(&self, asked: Asked<'_>, deadline: Deadline) -> Result<Answer, Fault> {
        let arrival = self.record.arrive(asked, &*self.clock);
        let left = deadline.remaining(self.clock.now());
        let result = timeout(left, self.wait_and_decide(&arrival)).await.unwrap_or(Err(Fault::kms(Kind::TimedOut)));
        arrival.conclude(outcome(&result));
        Ok(Answer { reply: result?, request_id: RequestId::random() })
    }

    async fn wait_and_decide(&self, arrival: &Arrival<'_>) -> Result<Reply, Fault> {
        self.while_stalled().await;
        let behaviour = self.behaviour();
        pause(behaviour.half_way()).await;
        let decided = self.decide(arrival.deciding(), behaviour);
        pause(behaviour.half_way()).await;
        decided
    }

    async fn while_stalled(&self) {
        loop {
            // Made before looking, so that no change between the two is missed.
            let behaves = self.behaves.notified();
            if !self.behaviour().stall {
                return;
            }
            behaves.await;
        }
    }

    fn decide(&self, asked: Asked<'_>, behaviour: Behaviour) -> Result<Reply, Fault> {
        let (at, call) = (self.clock.now(), asked.call);
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
        self.record.decided(Decision::of_call(at, &asked, subject.map(|key| &key.id), &decided));
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
        self.record.decided(Decision::change(self.clock.now(), action, &id));
        Ok(made)
    }
}

impl Upstream for Local {
    fn ask<'a>(&'a self, permit: &'a Permit, call: &'a Call, deadline: Deadline) -> Asking<'a> {
        Box::pin(async move { self.answer(Asked { by: permit.caller(), call }, deadline).await.map(Held::new) })
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

/// The alias of the key that is made where there is none.
pub const DEFAULT_ALIAS: &str = "alias/kmsproxy-dev";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::CallerName;
    use crate::clock::Manual;
    use crate::kms::{
        Action, Ciphertext, Context, ContextForm, DataKey, DataKeySize, Decrypt, Decrypted, Encrypt, Encrypted, Extra,
        GenerateDataKey, KeyName, Read,
    };
    use crate::secret::Secret;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// A KMS in memory with one key, and the clock it goes by.
    fn kms() -> (Arc<Local>, Arc<Manual>, KeyId) {
        let clock = Arc::new(Manual::at("2026-01-02T03:04:05Z".parse().unwrap()));
        let local = Local::in_memory(Arc::<Manual>::clone(&clock));
        let key = local.ensure_default_key().unwrap();
        (local, clock, key)
    }

    const fn asked(call: &Call) -> Asked<'_> {
        Asked { by: None, call }
    }

    fn context(pairs: &[(&str, &str)]) -> Option<Context> {
        let owned = pairs.iter().map(|(name, value)| (Box::from(*name), Box::from(*value))).collect();
        Some(Context::new(ContextForm::Json, "as sent", owned).unwrap())
    }

    fn encrypt(key: &str, plaintext: &[u8], context: Option<Context>) -> Call {
        let (key, plaintext) = (KeyName::new(key), Secret::copied(plaintext));
        Call::Encrypt(Encrypt { key, plaintext, context, dry_run: false, extra: Extra::default() })
    }

    fn decrypt(ciphertext: &Ciphertext, context: Option<Context>) -> Call {
        let ciphertext = ciphertext.clone();
        Call::Decrypt(Decrypt { ciphertext, key: None, context, dry_run: false, extra: Extra::default() })
    }

    fn generate(key: &KeyId, size: DataKeySize, plaintext: bool) -> Call {
        let key = KeyName::new(key.as_str());
        let extra = Extra::default();
        Call::GenerateDataKey(GenerateDataKey { key, size, plaintext, context: None, dry_run: false, extra })
    }

    fn read(action: Action, key: Option<&str>, parameters: &[(&str, &str)]) -> Call {
        let extra = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Call::Read(Read { action, key: key.map(KeyName::new), extra: Extra(extra) })
    }

    /// Without latency and stall an answer takes one poll; this is the decision alone.
    fn ask(local: &Local, call: &Call) -> Result<Reply, Kind> {
        local.decide(asked(call), local.behaviour()).map_err(|fault| fault.kind().clone())
    }

    fn ciphertext(local: &Local, key: &str, plaintext: &[u8], context: Option<Context>) -> Ciphertext {
        match ask(local, &encrypt(key, plaintext, context)) {
            Ok(Reply::Encrypted(Encrypted { ciphertext, .. })) => ciphertext,
            other => panic!("not encrypted: {other:?}"),
        }
    }

    fn plaintext(local: &Local, ciphertext: &Ciphertext, context: Option<Context>) -> Result<Vec<u8>, Kind> {
        let Reply::Decrypted(Decrypted { plaintext, .. }) = ask(local, &decrypt(ciphertext, context))? else {
            panic!("an answer to something else");
        };
        Ok(plaintext.expose().to_vec())
    }

    fn document(local: &Local, call: &Call) -> Value {
        match ask(local, call) {
            Ok(Reply::Document(document)) => Value::Object(document.members),
            other => panic!("not a document: {other:?}"),
        }
    }

    #[test]
    fn a_blob_begins_with_the_primary_version_and_an_iv() {
        let (local, _, key) = kms();
        let primary = local.listed(key.as_str()).unwrap().primary_version.unwrap();
        let blob = ciphertext(&local, "alias/kmsproxy-dev", b"secret", None);
        assert_eq!(&blob.bytes()[..36], primary.as_bytes());
        assert_eq!(blob.bytes().len(), 36 + 12 + 6 + 16);
        assert_eq!((key.as_str().len(), &key.as_str()[..7]), (36, "key-hzz"));
    }

    #[test]
    fn a_key_is_known_by_its_id_its_arn_and_its_alias_and_by_nothing_else() {
        let (local, _, key) = kms();
        let arn = local.listed(key.as_str()).unwrap().arn;
        let alias_arn = "acs:kms:cn-hangzhou:1000000000000001:alias/kmsproxy-dev";
        for name in [key.as_str(), &arn, "alias/kmsproxy-dev", alias_arn] {
            assert_eq!(local.listed(name).map(|listed| listed.key_id), Ok(key.as_str().to_owned()), "{name}");
        }
        let elsewhere = arn.replace("cn-hangzhou", "cn-beijing");
        let half = format!("key/{key}");
        for name in ["", "key-hzz", &elsewhere, &half, &arn.replace("key/", "")] {
            assert_eq!(local.listed(name), Err(NotFound::Key), "{name}");
        }
        assert_eq!(local.listed("alias/none"), Err(NotFound::Alias));
    }

    #[test]
    fn each_state_refuses_use_in_its_own_words_and_before_the_context_does() {
        let (local, clock, key) = kms();
        let name = key.as_str();
        let blob = ciphertext(&local, name, b"secret", None);
        let refused = |kind: &Kind| {
            let calls = [
                encrypt(name, b"x", None),
                generate(&key, DataKeySize::Default, true),
                decrypt(&blob, None),
                decrypt(&blob, context(&[("wrong", "context")])),
            ];
            for call in calls {
                assert_eq!(ask(&local, &call), Err(kind.clone()), "{call:?}");
            }
        };
        local.disable(name).unwrap();
        refused(&Kind::KeyDisabled);
        local.schedule_deletion(name, 7).unwrap();
        refused(&Kind::KeyPendingDeletion);
        clock.advance(DAY * 7);
        refused(&Kind::KeyNotFound);
        local.create_key(&NewKey::default()).unwrap();
        assert!(!local.keys.load().keys.contains_key(&key), "the first change after the window destroys the key");
        refused(&Kind::KeyNotFound);
        assert_eq!(ask(&local, &encrypt("alias/kmsproxy-dev", b"x", None)), Err(Kind::AliasNotFound));
    }

    #[test]
    fn a_key_to_be_imported_refuses_until_it_is_and_keeps_its_state_over_a_called_off_deletion() {
        let (local, _, _) = kms();
        let external = NewKey { origin: Origin::External, ..NewKey::default() };
        let key = local.create_key(&external).unwrap();
        assert_eq!(ask(&local, &encrypt(key.as_str(), b"x", None)), Err(Kind::KeyPendingImport));
        local.schedule_deletion(key.as_str(), 366).unwrap();
        local.cancel_deletion(key.as_str()).unwrap();
        assert_eq!(local.listed(key.as_str()).unwrap().state, KeyState::PendingImport);
    }

    #[test]
    fn the_state_table_allows_exactly_its_edges() {
        use KeyState::{Disabled, Enabled, PendingDeletion, PendingImport};
        type Change = fn(&Local, &str) -> Result<KeyState, ChangeError>;
        fn state(local: &Local, key: &str) -> KeyState {
            local.listed(key).unwrap().state
        }
        let changes: [Change; 6] = [
            |local, key| local.enable(key).map(|_| state(local, key)),
            |local, key| local.disable(key).map(|_| state(local, key)),
            |local, key| local.schedule_deletion(key, 7).map(|_| state(local, key)),
            |local, key| local.cancel_deletion(key).map(|_| state(local, key)),
            |local, key| local.create_alias("alias/more", key).map(|_| state(local, key)),
            |local, key| local.rotate(key).map(|_| state(local, key)),
        ];
        let table = [
            (Enabled, [Some(Enabled), Some(Disabled), Some(PendingDeletion), None, Some(Enabled), Some(Enabled)]),
            (Disabled, [Some(Enabled), Some(Disabled), Some(PendingDeletion), None, Some(Disabled), None]),
            (PendingDeletion, [None, None, None, Some(Enabled), None, None]),
            (PendingImport, [None, None, Some(PendingDeletion), None, Some(PendingImport), None]),
        ];
        for (from, row) in table {
            for (change, expected) in changes.iter().zip(row) {
                let (local, _, key) = kms();
                let name = match from {
                    PendingImport => {
                        local.create_key(&NewKey { origin: Origin::External, ..NewKey::default() }).unwrap()
                    }
                    Disabled => local.disable(key.as_str()).unwrap(),
                    PendingDeletion => local.schedule_deletion(key.as_str(), 30).unwrap(),
                    Enabled | KeyState::Unavailable => key,
                };
                let changed = change(&local, name.as_str());
                match (changed, expected) {
                    (Ok(to), Some(expected)) => assert_eq!(to, expected, "from {from:?}"),
                    (Err(ChangeError::StateModifiedFailed(state)), None) => assert_eq!(state, from),
                    (other, _) => panic!("from {from:?}: {other:?}, not {expected:?}"),
                }
            }
        }
    }

    #[test]
    fn aliases_and_windows_outside_their_limits_change_nothing() {
        let (local, _, key) = kms();
        let before = local.list();
        let long = format!("alias/{}", "a".repeat(250));
        for alias in ["alias/", "alias/acs/kms", "nothing", "alias/with space", "alias/ä", long.as_str()] {
            let refused = local.create_key(&NewKey { alias: Some(alias.to_owned()), ..NewKey::default() });
            assert!(matches!(refused, Err(ChangeError::BadAlias)), "{alias}: {refused:?}");
        }
        let taken = local.create_alias("alias/kmsproxy-dev", key.as_str());
        assert!(matches!(taken, Err(ChangeError::AliasTaken)), "{taken:?}");
        for days in [0, 6, 367] {
            let refused = local.schedule_deletion(key.as_str(), days);
            assert!(matches!(refused, Err(ChangeError::BadWindow)), "{days}: {refused:?}");
        }
        assert_eq!(local.list(), before);
    }

    #[test]
    fn parameters_over_their_limits_are_named() {
        let (local, _, key) = kms();
        let invalid = |name: &str| Err(Kind::InvalidParameter(name.into()));
        let long = Context::new(ContextForm::Json, &"ä".repeat(8193), Vec::new());
        let name = key.as_str();
        assert_eq!(ask(&local, &encrypt(name, &[0; 6145], None)), invalid("Plaintext"));
        assert_eq!(ask(&local, &encrypt(name, &[], None)), invalid("Plaintext"));
        assert_eq!(ask(&local, &encrypt(name, b"x", long)), invalid("EncryptionContext"));
        for count in [0, 1025] {
            assert_eq!(ask(&local, &generate(&key, DataKeySize::Bytes(count), true)), invalid("NumberOfBytes"));
        }
        assert_eq!(ciphertext(&local, name, &[0; 6144], None).bytes().len(), 6144 + 64);
    }

    #[test]
    fn a_data_key_has_the_length_asked_for_and_its_blob_decrypts_to_it() {
        let (local, _, key) = kms();
        let sizes = [
            (DataKeySize::Default, 32),
            (DataKeySize::Aes128, 16),
            (DataKeySize::Aes256, 32),
            (DataKeySize::Bytes(1024), 1024),
        ];
        for (size, length) in sizes {
            let Ok(Reply::DataKey(DataKey { plaintext: Some(clear), ciphertext, .. })) =
                ask(&local, &generate(&key, size, true))
            else {
                panic!("no data key");
            };
            assert_eq!(clear.len(), length);
            assert_eq!(plaintext(&local, &ciphertext, None), Ok(clear.expose().to_vec()));
        }
        let Ok(Reply::DataKey(wrapped)) = ask(&local, &generate(&key, DataKeySize::Default, false)) else {
            panic!("no data key");
        };
        assert_eq!(wrapped.plaintext, None);
        assert_eq!(plaintext(&local, &wrapped.ciphertext, None).unwrap().len(), 32);
    }

    #[test]
    fn a_dry_run_says_dry_run_only_where_the_call_would_succeed() {
        let (local, _, key) = kms();
        let blob = ciphertext(&local, key.as_str(), b"secret", None);
        let dry = |context| {
            let ciphertext = blob.clone();
            Call::Decrypt(Decrypt { ciphertext, key: None, context, dry_run: true, extra: Extra::default() })
        };
        assert_eq!(ask(&local, &dry(None)), Err(Kind::DryRun));
        assert_eq!(ask(&local, &dry(context(&[]))), Err(Kind::InvalidCiphertext));
        local.disable(key.as_str()).unwrap();
        assert_eq!(ask(&local, &dry(None)), Err(Kind::KeyDisabled));
    }

    #[test]
    fn describe_key_answers_every_member_of_the_fact_sheet() {
        let (local, _, key) = kms();
        local.schedule_deletion(key.as_str(), 7).unwrap();
        let primary = local.listed(key.as_str()).unwrap().primary_version;
        let expected = json!({ "KeyMetadata": {
            "KeyId": key.as_str(),
            "Arn": format!("acs:kms:cn-hangzhou:1000000000000001:key/{key}"),
            "Creator": "1000000000000001",
            "CreationDate": "2026-01-02T03:04:05Z",
            "Description": "made by kmsproxy for development",
            "KeySpec": "Aliyun_AES_256",
            "KeyUsage": "ENCRYPT/DECRYPT",
            "KeyState": "PendingDeletion",
            "Origin": "Aliyun_KMS",
            "ProtectionLevel": "SOFTWARE",
            "PrimaryKeyVersion": primary,
            "AutomaticRotation": "Disabled",
            "LastRotationDate": "2026-01-02T03:04:05Z",
            "DeleteDate": "2026-01-09T03:04:05Z",
            "MaterialExpireTime": "",
            "DeletionProtection": "Disabled",
            "DeletionProtectionDescription": "",
            "DKMSInstanceId": "",
        }});
        let call = read(Action::DescribeKey, Some("alias/kmsproxy-dev"), &[]);
        let Ok(Reply::Document(document)) = ask(&local, &call) else { panic!("not described") };
        assert_eq!(document.described, Some((key, KeyState::PendingDeletion)));
        assert_eq!(Value::Object(document.members), expected);
    }

    #[test]
    fn lists_come_in_pages_and_are_filtered() {
        let (local, _, key) = kms();
        for _ in 0..2 {
            local.create_key(&NewKey { protection_level: ProtectionLevel::Hsm, ..NewKey::default() }).unwrap();
        }
        local.disable(key.as_str()).unwrap();
        let disabled = r#"[{"Key":"KeyState","Values":["Disabled"]},{"Key":"ProtectionLevel","Values":["SOFTWARE"]}]"#;
        let arn = format!("acs:kms:cn-hangzhou:1000000000000001:key/{key}");
        assert_eq!(
            document(&local, &read(Action::ListKeys, None, &[("Filters", disabled)])),
            json!({"Keys":{"Key":[{"KeyId":key.as_str(),"KeyArn":arn}]},"PageNumber":1,"PageSize":10,"TotalCount":1})
        );
        let sizes: Vec<_> = [("1", 2), ("2", 1), ("3", 0), ("18446744073709551615", 0)]
            .map(|(number, expected)| {
                let call = read(Action::ListKeys, None, &[("PageNumber", number), ("PageSize", "2")]);
                let page = document(&local, &call);
                (page["Keys"]["Key"].as_array().unwrap().len() == expected, page["TotalCount"].clone())
            })
            .into();
        assert_eq!(sizes, vec![(true, json!(3)); 4]);
        for (name, value) in [("PageNumber", "0"), ("PageSize", "101"), ("PageSize", "ten"), ("Filters", "{}")] {
            let refused = ask(&local, &read(Action::ListKeys, None, &[(name, value)]));
            assert_eq!(refused, Err(Kind::InvalidParameter(name.into())), "{name}={value}");
        }
    }

    #[test]
    fn versions_and_aliases_are_listed_under_their_key() {
        let (local, _, key) = kms();
        let name = Some(key.as_str());
        let first = local.listed(key.as_str()).unwrap().primary_version.unwrap();
        let second = local.rotate(key.as_str()).unwrap();
        let entry =
            |id: &str| json!({ "KeyId": key.as_str(), "KeyVersionId": id, "CreationDate": "2026-01-02T03:04:05Z" });
        assert_eq!(
            document(&local, &read(Action::ListKeyVersions, name, &[])),
            json!({
                "KeyVersions": { "KeyVersion": [entry(&first), entry(second.as_str())] },
                "PageNumber": 1, "PageSize": 10, "TotalCount": 2,
            })
        );
        assert_eq!(
            document(&local, &read(Action::DescribeKeyVersion, name, &[("KeyVersionId", &first)])),
            json!({ "KeyVersion": entry(&first) })
        );
        let aliases = json!({
            "Aliases": { "Alias": [{
                "KeyId": key.as_str(),
                "AliasName": "alias/kmsproxy-dev",
                "AliasArn": "acs:kms:cn-hangzhou:1000000000000001:alias/kmsproxy-dev",
            }]},
            "PageNumber": 1, "PageSize": 10, "TotalCount": 1,
        });
        assert_eq!(document(&local, &read(Action::ListAliasesByKeyId, name, &[])), aliases);
        assert_eq!(document(&local, &read(Action::ListAliases, None, &[])), aliases);
        let other = local.create_key(&NewKey::default()).unwrap();
        let none = document(&local, &read(Action::ListAliasesByKeyId, Some(other.as_str()), &[]));
        assert_eq!(none["TotalCount"], json!(0));
    }

    #[test]
    fn a_read_without_what_it_needs_names_what_is_missing() {
        let (local, _, key) = kms();
        let missing = |name: &str| Err(Kind::MissingParameter(name.into()));
        assert_eq!(ask(&local, &read(Action::DescribeKey, None, &[])), missing("KeyId"));
        assert_eq!(ask(&local, &read(Action::ListKeyVersions, None, &[])), missing("KeyId"));
        let version = |parameters| ask(&local, &read(Action::DescribeKeyVersion, Some(key.as_str()), parameters));
        assert_eq!(version(&[]), missing("KeyVersionId"));
        assert_eq!(version(&[("KeyVersionId", "none")]), Err(Kind::KeyVersionNotFound));
    }

    #[test]
    fn absent_and_empty_contexts_differ_and_the_order_of_pairs_does_not_matter() {
        let (local, _, key) = kms();
        let pairs = [("a", "1"), ("b", "2")];
        let blob = ciphertext(&local, key.as_str(), b"secret", context(&pairs));
        assert_eq!(plaintext(&local, &blob, context(&[("b", "2"), ("a", "1")])), Ok(b"secret".to_vec()));
        for wrong in [None, context(&[]), context(&[("a", "1")]), context(&[("a", "1b"), ("", "2")])] {
            assert_eq!(plaintext(&local, &blob, wrong), Err(Kind::InvalidCiphertext));
        }
        let bare = ciphertext(&local, key.as_str(), b"secret", None);
        assert_eq!(plaintext(&local, &bare, context(&[])), Err(Kind::InvalidCiphertext));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_takes_its_latency_and_no_longer_than_the_deadline() {
        let (local, clock, key) = kms();
        local.behave(Behaviour { latency: Duration::from_millis(80), ..Behaviour::default() });
        let call = encrypt(key.as_str(), b"x", None);
        let (begun, deadline) = (tokio::time::Instant::now(), Deadline::after(clock.now(), Duration::from_millis(50)));
        assert_eq!(local.answer(asked(&call), deadline).await.unwrap_err(), Fault::kms(Kind::TimedOut));
        assert_eq!(begun.elapsed(), Duration::from_millis(50));
        let deadline = Deadline::after(clock.now(), Duration::from_millis(500));
        local.answer(asked(&call), deadline).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_millis(130));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_call_ends_at_its_deadline_or_when_the_stall_does() {
        let (local, clock, key) = kms();
        local.behave(Behaviour { stall: true, ..Behaviour::default() });
        let call = encrypt(key.as_str(), b"x", None);
        let deadline = Deadline::after(clock.now(), Duration::from_secs(1));
        assert_eq!(local.answer(asked(&call), deadline).await.unwrap_err(), Fault::kms(Kind::TimedOut));
        let (answered, ()) = tokio::join!(local.answer(asked(&call), deadline), async {
            tokio::task::yield_now().await;
            assert_eq!(local.calls().under_way, 1);
            local.behave(Behaviour::default());
        });
        answered.unwrap();
    }

    #[tokio::test]
    async fn calls_are_counted_by_action_and_outcome_and_abandoned_ones_too() {
        let (local, clock, key) = kms();
        let deadline = Deadline::after(clock.now(), Duration::from_secs(1));
        let blob = ciphertext(&local, key.as_str(), b"x", None);
        local.answer(asked(&decrypt(&blob, None)), deadline).await.unwrap();
        local.disable(key.as_str()).unwrap();
        local.answer(asked(&decrypt(&blob, None)), deadline).await.unwrap_err();
        local.behave(Behaviour { stall: true, ..Behaviour::default() });
        let call = encrypt(key.as_str(), b"x", None);
        let mut left = Box::pin(local.answer(asked(&call), deadline));
        assert!(poll_once(&mut left).await.is_none());
        drop(left);
        let outcomes = [("Decrypt", [("key_disabled", 1), ("ok", 1)].into()), ("Encrypt", [("abandoned", 1)].into())];
        assert_eq!(local.calls(), Calls { remote_calls: 3, under_way: 0, outcomes: outcomes.into() });
        local.reset_calls();
        assert_eq!(local.calls(), Calls::default());
    }

    /// Polls once; `None` where it is not ready.
    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }

    #[test]
    fn quota_and_error_rate_refuse_what_they_should() {
        let (local, clock, key) = kms();
        let call = encrypt(key.as_str(), b"x", None);
        local.behave(Behaviour { quota: Some(2), ..Behaviour::default() });
        let outcomes = || [0; 3].map(|_| ask(&local, &call).is_ok());
        assert_eq!(outcomes(), [true, true, false]);
        assert_eq!(ask(&local, &call), Err(Kind::Throttled(None)));
        clock.advance(Duration::from_secs(1));
        assert_eq!(outcomes(), [true, true, false]);
        local.behave(Behaviour { error_rate: Rate::try_from(1.0).unwrap(), ..Behaviour::default() });
        assert_eq!(ask(&local, &call), Err(Kind::KmsFailure));
        assert_eq!(Rate::try_from(f64::NAN), Err(NotARate));
        assert_eq!(Rate::try_from(1.1), Err(NotARate));
    }

    #[test]
    fn decisions_tell_when_and_on_which_key() {
        let (local, clock, key) = kms();
        let blob = ciphertext(&local, key.as_str(), b"x", None);
        clock.advance(Duration::from_secs(1));
        local.disable(key.as_str()).unwrap();
        assert_eq!(plaintext(&local, &blob, None), Err(Kind::KeyDisabled));
        assert_eq!(plaintext(&local, &Ciphertext::new(vec![0; 99]), None), Err(Kind::InvalidCiphertext));
        let decision = |seconds: u64, action, on_key: bool, outcome| {
            (seconds * 1_000_000_000, action, on_key.then(|| key.as_str().to_owned()), outcome)
        };
        let expected = [
            decision(3600, "CreateKey", true, "ok"),
            decision(3600, "Encrypt", true, "ok"),
            decision(3601, "DisableKey", true, "ok"),
            decision(3601, "Decrypt", true, "key_disabled"),
            decision(3601, "Decrypt", false, "invalid_ciphertext"),
        ];
        let made = local.decisions().into_iter().map(|made| (made.at_ns, made.action, made.key, made.outcome));
        assert_eq!(made.collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn a_decision_tells_who_asked_for_what_by_digests_and_is_written_down_as_it_is_kept() {
        let (local, clock, key) = kms();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("decisions");
        local.write_decisions(&file).unwrap();
        let bound = context(&[("ns", "x")]);
        let blob = ciphertext(&local, key.as_str(), b"secret", bound.clone());
        let (call, name) = (decrypt(&blob, bound.clone()), CallerName::new("somebody"));
        let deadline = Deadline::after(clock.now(), Duration::from_secs(1));
        local.answer(Asked { by: Some(&name), call: &call }, deadline).await.unwrap();
        local.disable(key.as_str()).unwrap();
        local.behave(Behaviour { stall: true, ..Behaviour::default() });
        let left = local.answer(Asked { by: Some(&name), call: &call }, Deadline::after(clock.now(), Duration::ZERO));
        left.await.unwrap_err();

        let version = local.listed(key.as_str()).unwrap().primary_version;
        let digests = |plaintext: Option<&[u8]>| {
            let context = bound.as_ref().map(|context| Digest::of_context(context).to_string());
            let plaintext = plaintext.map(|plaintext| Digest::of(plaintext).to_string());
            json!({ "context": context, "ciphertext": Digest::of(blob.bytes()).to_string(), "plaintext": plaintext })
        };
        let mut expected = [
            json!({ "action": "Encrypt", "key": key.as_str(), "version": version, "outcome": "ok" }),
            json!({ "action": "Decrypt", "identity": "somebody", "key": key.as_str(), "version": version, "outcome": "ok" }),
            json!({ "action": "DisableKey", "key": key.as_str(), "outcome": "ok" }),
            json!({ "action": "Decrypt", "identity": "somebody", "key": null, "outcome": "abandoned" }),
        ];
        for (line, plaintext) in [(0, None), (1, Some(&b"secret"[..])), (3, None)] {
            let Value::Object(digests) = digests(plaintext) else { unreachable!() };
            let known = digests.into_iter().filter(|(_, digest)| !digest.is_null());
            expected[line].as_object_mut().unwrap().extend(known);
        }
        for line in &mut expected {
            line["at_ns"] = json!(3_600_000_000_000_u64);
        }
        let written = std::fs::read_to_string(&file).unwrap();
        let written: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(written, expected);
        let kept: Vec<Value> = local.decisions().iter().skip(1).map(|kept| json!(kept)).collect();
        assert_eq!(kept, expected);
    }

    #[test]
    fn a_change_that_cannot_be_saved_is_not_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { state_dir: dir.path().join("kms"), latency: Duration::ZERO };
        let local = Local::open(&config, Arc::new(Manual::at(Timestamp::UNIX_EPOCH))).unwrap();
        let key = local.ensure_default_key().unwrap();
        let before = local.list();
        std::fs::remove_dir_all(&config.state_dir).unwrap();
        assert!(matches!(local.disable(key.as_str()), Err(ChangeError::Save(_))));
        assert_eq!(local.list(), before);
    }

    /// What happens to the key between Encrypt and Decrypt.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Disable,
        Enable,
        Schedule,
        Cancel,
        Rotate,
    }

    fn befall(local: &Local, key: &str, event: Event) {
        // A change that the state forbids is as good as none.
        let _ = match event {
            Event::Disable => local.disable(key).map(drop),
            Event::Enable => local.enable(key).map(drop),
            Event::Schedule => local.schedule_deletion(key, 7).map(drop),
            Event::Cancel => local.cancel_deletion(key).map(drop),
            Event::Rotate => local.rotate(key).map(drop),
        };
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop::sample::select(vec![
            Event::Disable,
            Event::Enable,
            Event::Schedule,
            Event::Cancel,
            Event::Rotate,
            Event::Rotate,
        ]);
        prop::collection::vec(event, 0..12)
    }

    fn contexts() -> impl Strategy<Value = Option<Context>> {
        let pairs = prop::collection::btree_map("[ab]{0,2}", "[ab]{0,2}", 0..3);
        prop::option::of(pairs.prop_map(|pairs| {
            let pairs = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
            Context::new(ContextForm::Json, "as sent", pairs).expect("a map has no name twice")
        }))
    }

    proptest! {
        #[test]
        fn what_was_encrypted_before_any_history_decrypts_exactly_while_the_key_is_enabled(
            secret in prop::collection::vec(any::<u8>(), 1..200),
            bound in contexts(),
            given in contexts(),
            history in events(),
        ) {
            let (local, _, key) = kms();
            let blobs = [false, true].map(|rotated| {
                if rotated { local.rotate(key.as_str()).unwrap(); }
                ciphertext(&local, key.as_str(), &secret, bound.clone())
            });
            for event in history { befall(&local, key.as_str(), event); }
            let expected = |context: &Option<Context>| match local.listed(key.as_str()).unwrap().state {
                KeyState::Enabled if *context == bound => Ok(secret.clone()),
                KeyState::Enabled => Err(Kind::InvalidCiphertext),
                KeyState::Disabled => Err(Kind::KeyDisabled),
                KeyState::PendingDeletion => Err(Kind::KeyPendingDeletion),
                KeyState::PendingImport | KeyState::Unavailable => unreachable!("no event leads there"),
            };
            for blob in blobs {
                prop_assert_eq!(plaintext(&local, &blob, bound.clone()), expected(&bound));
                prop_assert_eq!(plaintext(&local, &blob, given.clone()), expected(&given));
            }
        }

        #[test]
        fn a_blob_with_any_bit_turned_is_refused(at in 0usize..70, bit in 0u8..8) {
            let (local, _, key) = kms();
            let mut blob = ciphertext(&local, key.as_str(), b"secret", None).bytes().to_vec();
            blob[at] ^= 1 << bit;
            prop_assert_eq!(plaintext(&local, &Ciphertext::new(blob), None), Err(Kind::InvalidCiphertext));
        }

        #[test]
        fn a_blob_cut_anywhere_is_refused(length in 0usize..70) {
            let (local, _, key) = kms();
            let blob = ciphertext(&local, key.as_str(), b"secret", None);
            let cut = Ciphertext::new(blob.bytes()[..length].to_vec());
            prop_assert_eq!(plaintext(&local, &cut, None), Err(Kind::InvalidCiphertext));
        }
    }

    proptest! {
        // Each case waits for the disk a dozen times.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_reopened_state_is_the_state_that_was_left(history in events(), bound in contexts()) {
            let dir = tempfile::tempdir().unwrap();
            let config = Config { state_dir: dir.path().join("kms"), latency: Duration::ZERO };
            let clock: Arc<Manual> = Arc::new(Manual::at(Timestamp::UNIX_EPOCH));
            let open = || Local::open(&config, Arc::<Manual>::clone(&clock) as Arc<dyn Clock>).unwrap();
            let local = open();
            let key = local.ensure_default_key().unwrap();
            let blob = ciphertext(&local, key.as_str(), b"secret", bound.clone());
            for event in history { befall(&local, key.as_str(), event); }
            let left = (local.list(), plaintext(&local, &blob, bound.clone()));
            drop(local);
            let again = open();
            prop_assert_eq!((again.list(), plaintext(&again, &blob, bound)), left);
            prop_assert_eq!(again.ensure_default_key().unwrap(), key);
        }
    }
}
