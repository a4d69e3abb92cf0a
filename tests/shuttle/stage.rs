//! The daemon's engine with a KMS that takes its time, one caller and one key.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use shuttle::future::yield_now;

use crate::auth::{Caller, CallerName, Door, Entry, Identity};
use crate::cache::{self, Cache, Fill};
use crate::claim::{Claim, ListenerName, Peer, PeerOrigin};
use crate::clock::{Clock, Deadline, Manual};
use crate::engine::{Engine, Parts, Respond};
use crate::fault::{Fault, Kind};
use crate::kms::{
    Action, Answer, Call, Ciphertext, Decrypt, Decrypted, Encrypt, Encrypted, Extra, KeyId, KeyName, KeyVersion, Reply,
    RequestId,
};
use crate::lease::{Asked, Epoch, Terms};
use crate::ledger::Ledger;
use crate::policy::{Grant, Held, Permit, Policy, Rule};
use crate::secret::Secret;
use crate::sync::TaskTracker;
use crate::upstream::{Asking, Upstream};

pub(crate) const KEY: &str = "key-1";
const AGE: Duration = Duration::from_secs(20);

pub(crate) struct Stage {
    pub(crate) clock: Arc<Manual>,
    pub(crate) kms: Arc<Kms>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) tasks: TaskTracker,
    cache: Arc<Cache>,
    policy: Arc<Policy>,
    caller: Caller,
}

impl Stage {
    pub(crate) fn new() -> Arc<Self> {
        let clock = Arc::new(Manual::at(Timestamp::UNIX_EPOCH));
        let name = CallerName::new("a");
        let rules = vec![Rule { actions: Action::ALL.to_vec(), keys: vec!["*".to_owned()] }];
        let policy = Policy::new(HashMap::from([(name.clone(), Grant { rules, share: name.clone() })]));
        let config = cache::Config { capacity: 100, max_age: AGE };
        let (kms, cache) = (Arc::new(Kms::default()), Arc::new(Cache::new(&config, &[name]).unwrap()));
        let tasks = TaskTracker::new();
        let engine = Engine::new(Parts {
            policy: Arc::clone(&policy),
            cache: Arc::clone(&cache),
            ledger: Ledger::new("test", Terms::default(), Arc::<Manual>::clone(&clock)),
            upstream: Arc::<Kms>::clone(&kms),
            clock: Arc::<Manual>::clone(&clock),
            timeout: Duration::from_secs(2),
            tasks: tasks.clone(),
        });
        Arc::new(Self { clock, kms, engine, tasks, cache, policy, caller: caller() })
    }

    pub(crate) async fn decrypt(&self, blob: u8) -> Result<Vec<u8>, Kind> {
        self.respond(Call::Decrypt(decrypt(blob))).await
    }

    pub(crate) async fn encrypt(&self) -> Result<Vec<u8>, Kind> {
        let (key, plaintext) = (KeyName::new(KEY), Secret::copied(b"dek"));
        let call = Encrypt { key, plaintext, context: None, dry_run: false, extra: Extra::default() };
        self.respond(Call::Encrypt(call)).await
    }

    async fn respond(&self, call: Call) -> Result<Vec<u8>, Kind> {
        let deadline = Deadline::after(self.clock.now(), Duration::from_secs(3));
        let answer = self.engine.respond(&self.caller, call, deadline).await;
        answer.map_err(|fault| fault.kind().clone()).map(|answer| match answer.reply {
            Reply::Decrypted(reply) => reply.plaintext.expose().to_vec(),
            Reply::DataKey(_) | Reply::Document(_) | Reply::Encrypted(_) => Vec::new(),
        })
    }

    /// The planted bug: a fill, by way of the same ledger and cache, that checks the epoch, lets others go first, and keeps.
    pub(crate) async fn fill_after_a_check(&self, blob: u8) {
        let (call, ledger) = (decrypt(blob), self.engine.ledger());
        let asked = ledger.ask();
        let Ok(permit) = self.policy.permit(&self.caller, &Call::Decrypt(call.clone())) else { return };
        let deadline = Deadline::after(self.clock.now(), Duration::from_secs(2));
        let Ok(held) = self.kms.ask(&permit, &Call::Decrypt(call.clone()), deadline).await else { return };
        if ledger.stands(&KeyId::new(KEY), asked, self.clock.now()).is_err() {
            return;
        }
        yield_now().await;
        let fingerprint = self.cache.fingerprint(ledger.upstream(), &CallerName::new("a"), &call);
        let asked = Asked { epoch: Epoch(u64::MAX), ..asked };
        held.sealed_by(|reply| {
            let Decrypted { plaintext, key, version } = reply;
            let fill = Fill {
                share: &CallerName::new("a"),
                fingerprint,
                call: &call,
                asked,
                key,
                version,
                plaintext: plaintext.expose(),
                source: held.source(),
            };
            drop(self.cache.keep(ledger, &fill));
        });
    }

    /// Until every entry is due to be asked about again, and none is too old.
    pub(crate) fn age(&self) {
        self.clock.advance(AGE - Duration::from_secs(1));
    }
}

/// Decides when a question has arrived, which takes a while, as does the answer.
#[derive(Debug, Default)]
pub(crate) struct Kms {
    refusal: Mutex<Option<Kind>>,
    calls: AtomicUsize,
}

impl Kms {
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn refuse(&self, kind: Kind) {
        *self.refusal.lock().unwrap() = Some(kind);
    }

    fn decide(&self, call: &Call) -> Result<Held, Fault> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if let Some(kind) = self.refusal.lock().unwrap().clone() {
            return Err(Fault::kms(kind));
        }
        let (key, version) = (KeyId::new(KEY), KeyVersion::new("1"));
        let reply = match call {
            Call::Decrypt(call) => {
                let plaintext = Secret::copied(call.ciphertext.bytes());
                Reply::Decrypted(Decrypted { plaintext, key, version })
            }
            _ => Reply::Encrypted(Encrypted { ciphertext: Ciphertext::new(vec![0]), key, version }),
        };
        Ok(Held::new(Answer { reply, request_id: RequestId::new("r-1") }))
    }
}

impl Upstream for Kms {
    fn ask<'a>(&'a self, _: &'a Permit, call: &'a Call, _: Deadline) -> Asking<'a> {
        Box::pin(async move {
            yield_now().await;
            let decision = self.decide(call);
            yield_now().await;
            decision
        })
    }

    fn identity(&self) -> Arc<str> {
        "somebody".into()
    }
}

fn decrypt(blob: u8) -> Decrypt {
    let ciphertext = Ciphertext::new(vec![blob]);
    Decrypt { ciphertext, key: None, context: None, dry_run: false, extra: Extra::default() }
}

fn caller() -> Caller {
    let listener = ListenerName::new("a");
    let entry = Entry { name: CallerName::new("a"), listener: listener.clone(), identity: Identity::Listener };
    let peer = Peer { listener, origin: PeerOrigin::Unix(None), certificate_names: Arc::from([]) };
    let clock = Manual::at(Timestamp::UNIX_EPOCH);
    Door::new(vec![entry]).unwrap().admit(&peer, &Claim::Anonymous, clock.now(), clock.wall()).unwrap()
}
