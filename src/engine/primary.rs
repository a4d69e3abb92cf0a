//! Which version of a key encrypts now, known without asking for each who wants to know.
//!
//! A Kubernetes provider is asked for its health and its key id once a minute by each kube-apiserver, and more often by
//! probes. The answer comes from here: every probe interval a few random bytes are encrypted, which names the version;
//! the ciphertext is decrypted where that is news, which begins the lease; from then on the key's ordinary probe renews
//! it with that ciphertext. Two remote calls an interval for each key, whatever the number of listeners and askers.

use std::sync::Arc;

use super::{Engine, Respond};
use crate::auth::Caller;
use crate::chance;
use crate::clock::{Deadline, Moment};
use crate::fault::{Evidence, Fault, Kind, Origin};
use crate::kms::{Answer, Call, Decrypt, Encrypt, Encrypted, Extra, KeyId, KeyName, KeyVersion};
use crate::lease::{Asked, Standing};
use crate::ledger::{Scope, Watching};
use crate::secret::Secret;
use crate::sync::{Mutex, MutexGuard, PoisonError};

/// A key and the version of it that encrypts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primary {
    /// The key.
    pub key: KeyId,
    /// Its version.
    pub version: KeyVersion,
}

/// What a provider needs beyond answers.
pub trait Provide: Respond {
    /// The version that encrypts, while the KMS consents to the use of its key. Asks nobody.
    ///
    /// # Errors
    /// The KMS's refusal, or why it could not be asked for longer than the lease.
    fn primary(&self) -> Result<Primary, Fault>;

    /// Versions that were primary while this process ran, the newest last; up to 64.
    fn past(&self) -> Vec<Primary>;
}

/// A key that is followed, and by whom it is asked.
#[derive(Clone, Debug)]
pub struct Following {
    engine: Arc<Engine>,
    followed: Arc<Followed>,
}

/// What is known of the primary version of one key.
#[derive(Debug)]
pub(super) struct Followed {
    name: KeyName,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    known: Option<Known>,
    past: Vec<Primary>,
    /// The last question's failure.
    failed: Option<Fault>,
    due: Moment,
    asking: bool,
}

#[derive(Debug)]
struct Known {
    primary: Primary,
    sent: Moment,
    /// Whether the scope is probed with a ciphertext of this version.
    sampled: bool,
    /// Keeps the scope, and keeps it probed.
    watching: Watching,
}

impl Engine {
    /// Begins to follow the key that `name` names; whoever follows the same name shares what is known.
    #[must_use]
    pub fn follow(self: &Arc<Self>, name: &KeyName) -> Following {
        let mut all = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().find(|followed| followed.name == *name).map(Arc::clone);
        let followed = known.unwrap_or_else(|| {
            let followed = Arc::new(Followed::new(name.clone()));
            all.push(Arc::clone(&followed));
            followed
        });
        Following { engine: Arc::clone(self), followed }
    }

    /// The turns that have come at `now`, to ask about the keys that are followed.
    #[must_use]
    pub fn turns_due(self: &Arc<Self>, now: Moment) -> Vec<Turn> {
        let mut all = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever followed it is gone.
        all.retain(|followed| Arc::strong_count(followed) > 1);
        let due = all.iter().filter(|followed| followed.take_turn(now));
        due.map(|followed| Turn(Following { engine: Arc::clone(self), followed: Arc::clone(followed) })).collect()
    }

    /// An Encrypt by `name`, whoever asked for it, says which version is primary.
    pub(super) fn encrypted(&self, name: &KeyName, primary: Primary, asked: Asked) {
        let all = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(followed) = all.iter().find(|followed| followed.name == *name)
            && followed.heard(primary, asked, |key| self.ledger().scope(key, None))
        {
            self.ledger().wake();
        }
    }

    async fn probe_encrypt(&self, name: &KeyName) -> Result<(Asked, Encrypted), Fault> {
        let mut plaintext = vec![0; PROBE_BYTES];
        getrandom::fill(&mut plaintext).map_err(|_| Fault::proxy(Kind::Internal))?;
        let call = Call::Encrypt(Encrypt {
            key: name.clone(),
            plaintext: Secret::new(plaintext),
            context: None,
            dry_run: false,
            extra: Extra::default(),
        });
        let (asked, held) = self.ask(&self.parts.policy.follow(name), &call, self.remote_deadline()).await?;
        let encrypted = held.encrypted().ok_or(Fault::kms(Kind::Garbled))?;
        if self.ledger().is_overtaken(asked) {
            return Err(Fault::kms(Kind::Lapsed));
        }
        self.ledger().learn(name, &encrypted.key);
        if let Some(scope) = self.ledger().known(name) {
            scope.relent(asked);
        }
        let Encrypted { ciphertext, key, version } = encrypted;
        Ok((asked, Encrypted { ciphertext: ciphertext.clone(), key: key.clone(), version: version.clone() }))
    }
}

impl Following {
    async fn ask(&self) -> Result<(), Fault> {
        let (scope, sample) = self.question().await.inspect_err(|fault| {
            self.engine.ledger().weigh_named(fault, &self.followed.name);
            self.followed.state().failed = Some(fault.clone());
        })?;
        self.followed.state().failed = None;
        if let Some(sample) = sample {
            self.engine.attest(&scope, sample).await?;
            self.followed.sampled();
        }
        Ok(())
    }

    /// Which version encrypts; and a ciphertext of it, where its scope does not serve or has none to be probed with.
    async fn question(&self) -> Result<(Arc<Scope>, Option<Decrypt>), Fault> {
        let (asked, Encrypted { ciphertext, key, version }) = self.engine.probe_encrypt(&self.followed.name).await?;
        let scope = self.engine.ledger().scope(&key, None);
        self.followed.heard(Primary { key: key.clone(), version }, asked, |_| Arc::clone(&scope));
        let serving = scope.standing(self.engine.clock().now()) == Standing::Serving;
        let sample = Decrypt {
            ciphertext,
            key: Some(KeyName::new(key.as_str())),
            context: None,
            dry_run: false,
            extra: Extra::default(),
        };
        Ok((scope, (!serving || self.followed.lacks_sample()).then_some(sample)))
    }
}

/// A provider's turn to ask. While it lives, there is no other for its key.
#[derive(Debug)]
pub struct Turn(Following);

impl Turn {
    /// The name by which the key is followed.
    #[must_use]
    pub fn name(&self) -> &KeyName {
        &self.0.followed.name
    }

    /// Asks the KMS which version is primary and, where that is news, whether it decrypts.
    ///
    /// # Errors
    /// The KMS's, after their consequences have been drawn.
    pub async fn take(self) -> Result<(), Fault> {
        let outcome = self.0.ask().await;
        let probe = self.0.engine.ledger().terms().probe;
        let pause = if outcome.is_ok() { probe.mul_f64(1.0 - chance::share() / 5.0) } else { probe / 5 };
        self.0.followed.state().due = self.0.engine.clock().now() + pause;
        outcome
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.followed.state().asking = false;
    }
}

impl Respond for Following {
    async fn respond(&self, caller: &Caller, call: Call, deadline: Deadline) -> Result<Answer, Fault> {
        self.engine.respond(caller, call, deadline).await
    }
}

impl Provide for Following {
    fn primary(&self) -> Result<Primary, Fault> {
        let now = self.engine.clock().now();
        self.engine.check_drift(now);
        // What cannot be recorded is not released: whoever asks shall hear it from Status first.
        self.engine.parts.policy.ready()?;
        let state = self.followed.state();
        // That our question timed out is not that the caller's did.
        let reason = state.failed.as_ref().filter(|fault| *fault.kind() != Kind::TimedOut);
        let silent = || reason.cloned().unwrap_or(Fault::kms(Kind::Lapsed));
        // Whatever the KMS said counts at once; that it said nothing counts when the lease ends.
        let said = |fault: &&Fault| fault.origin() == Origin::Kms && Evidence::of(fault) != Evidence::Silence;
        if let Some(fault) = state.failed.as_ref().filter(said) {
            return Err(fault.clone());
        }
        let Some(known) = &state.known else { return Err(silent()) };
        match known.watching.scope().standing(now) {
            Standing::Serving if now < known.sent + self.engine.ledger().terms().duration => Ok(known.primary.clone()),
            Standing::Refused(fault) => Err(fault),
            Standing::Lapsed
            | Standing::Serving
            | Standing::ServingByGrace
            | Standing::Suspended
            | Standing::Unknown => Err(silent()),
        }
    }

    fn past(&self) -> Vec<Primary> {
        self.followed.state().past.clone()
    }
}

impl Followed {
    const fn new(name: KeyName) -> Self {
        let state = State { known: None, past: Vec::new(), failed: None, due: Moment::BOOT, asking: false };
        Self { name, state: Mutex::new(state) }
    }

    fn take_turn(&self, now: Moment) -> bool {
        let mut state = self.state();
        let due = now >= state.due && !state.asking;
        state.asking |= due;
        due
    }

    /// Takes in that `primary` encrypted what was `asked`; whether that is news. An answer that was overtaken by a later
    /// one is none, nor is a version that was primary before another: no KMS goes back, but one of its replicas may lag.
    fn heard(&self, primary: Primary, asked: Asked, scope: impl FnOnce(&KeyId) -> Arc<Scope>) -> bool {
        let mut state = self.state();
        if state.known.as_ref().is_some_and(|known| asked.sent < known.sent) {
            return false;
        }
        if let Some(known) = state.known.as_mut().filter(|known| known.primary == primary) {
            known.sent = asked.sent;
            return false;
        }
        if state.past.contains(&primary) {
            return false;
        }
        if state.past.len() >= PAST_MAX {
            state.past.remove(0);
        }
        state.past.push(primary.clone());
        let watching = scope(&primary.key).watch();
        state.known = Some(Known { primary, sent: asked.sent, sampled: false, watching });
        state.due = Moment::BOOT;
        true
    }

    /// Another KMS is asked from now on: at once, and by ciphertexts of its own.
    pub(super) fn begin_anew(&self) {
        let mut state = self.state();
        state.failed = None;
        state.due = Moment::BOOT;
        if let Some(known) = &mut state.known {
            known.sampled = false;
        }
    }

    fn lacks_sample(&self) -> bool {
        self.state().known.as_ref().is_some_and(|known| !known.sampled)
    }

    fn sampled(&self) {
        if let Some(known) = &mut self.state().known {
            known.sampled = true;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const PROBE_BYTES: usize = 32;
const PAST_MAX: usize = 64;
