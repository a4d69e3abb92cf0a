//! The daemon's engine, and a KMS of two keys that does as it is told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use kmsproxy::auth::{Caller, CallerName, Door, Entry, Identity};
use kmsproxy::cache::{self, Cache};
use kmsproxy::claim::{Claim, ListenerName, Peer, PeerOrigin};
use kmsproxy::clock::{Clock, Deadline, Manual};
use kmsproxy::engine::{Engine, Parts, Respond};
use kmsproxy::fault::{Fault, Kind};
use kmsproxy::kms::{
    Action, Answer, Call, Ciphertext, Context, ContextForm, Decrypt, Decrypted, Encrypt, Encrypted, Extra, KeyId,
    KeyName, KeyVersion, Reply, RequestId,
};
use kmsproxy::lease::Terms;
use kmsproxy::ledger::Ledger;
use kmsproxy::policy::{Held, Permit, Policy, Rule};
use kmsproxy::secret::Secret;
use kmsproxy::upstream::{Asking, Upstream};
use kmsproxy::watch::Watch;
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

use super::naive::{AGE, Asked, GARBAGE, Grant, LEASE, Step, Word};

pub(crate) struct Stage {
    runtime: Runtime,
    clock: Arc<Manual>,
    kms: Arc<Kms>,
    policy: Arc<Policy>,
    grants: [Grant; 2],
    engine: Arc<Engine>,
    watch: Watch,
    hours: i64,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(Manual::at(Timestamp::UNIX_EPOCH));
        let (kms, policy) = (Arc::new(Kms::default()), Policy::new(HashMap::new()));
        let config = cache::Config { capacity: 1000, max_age: Duration::from_secs(AGE) };
        let terms = Terms { duration: Duration::from_secs(LEASE), ..Terms::default() };
        let tasks = TaskTracker::new();
        let engine = Engine::new(Parts {
            policy: Arc::clone(&policy),
            cache: Arc::new(Cache::new(&config, &CALLERS.map(CallerName::new)).unwrap()),
            ledger: Ledger::new("test", terms, Arc::<Manual>::clone(&clock)),
            upstream: Arc::<Kms>::clone(&kms),
            clock: Arc::<Manual>::clone(&clock),
            timeout: Duration::from_secs(2),
            tasks: tasks.clone(),
        });
        let watch = Watch::new(Arc::clone(&engine), tasks);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let stage = Self { runtime, clock, kms, policy, grants: [Grant::All; 2], engine, watch, hours: 0 };
        stage.put_grants_in_force();
        stage
    }

    pub(crate) fn calls(&self) -> usize {
        self.kms.calls.load(Ordering::SeqCst)
    }

    /// Takes a step; the answer, where it was a question: a ciphertext for its plaintext.
    pub(crate) fn take(&mut self, step: &Step) -> Option<Result<u8, Word>> {
        match *step {
            Step::Advance(span) => self.clock.advance(Duration::from_secs(span)),
            Step::Bar(key, barred) => self.kms.set(|kms| kms.barred[usize::from(key)] = barred),
            Step::Decrypt(asked) => return Some(self.ask(asked.0, Call::Decrypt(decrypt(asked)))),
            Step::Disable(key, disabled) => self.kms.set(|kms| kms.disabled[usize::from(key)] = disabled),
            Step::Encrypt(who, key) => return Some(self.ask(who, encrypt(key))),
            Step::Policy(who, grant) => {
                self.grants[usize::from(who)] = grant;
                self.put_grants_in_force();
            }
            Step::Refresh => {
                self.runtime.block_on(self.engine.refresh(1000));
                self.clock.advance(Duration::from_secs(5));
            }
            Step::Silence(word) => self.kms.set(|kms| kms.silent = word),
            Step::WallClock => {
                self.hours += 1;
                let wall = Timestamp::from_second(3600 * 24 * self.hours).unwrap();
                self.clock.step_wall(wall);
            }
            Step::Suspend => self.engine.ledger().suspend_all("a test"),
            Step::Switch => {
                self.kms.set(|kms| kms.switches += 1);
                self.turn();
            }
            Step::Turn => self.turn(),
        }
        None
    }

    fn turn(&self) {
        self.runtime.block_on(async {
            self.watch.turn(self.clock.now());
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        });
    }

    fn ask(&self, who: u8, call: Call) -> Result<u8, Word> {
        let deadline = Deadline::after(self.clock.now(), Duration::from_secs(3));
        let answer = self.runtime.block_on(self.engine.respond(&caller(who), call, deadline));
        answer.map_err(|fault| word(fault.kind())).map(|answer| match answer.reply {
            Reply::Decrypted(reply) => reply.plaintext.expose()[0],
            Reply::DataKey(_) | Reply::Document(_) | Reply::Encrypted(_) => GARBAGE,
        })
    }

    fn put_grants_in_force(&self) {
        let grants = CALLERS.into_iter().zip(self.grants).map(|(name, grant)| {
            let keys = match grant {
                Grant::All => vec!["*".to_owned()],
                Grant::One => vec![KEYS[0].to_owned()],
                Grant::None => vec![],
            };
            let rules = vec![Rule { actions: Action::ALL.to_vec(), keys }];
            (CallerName::new(name), kmsproxy::policy::Grant { rules, share: CallerName::new(name) })
        });
        self.policy.replace(grants.collect());
    }
}

#[derive(Debug, Default)]
struct Kms {
    calls: AtomicUsize,
    mood: Mutex<Mood>,
}

#[derive(Debug, Default)]
struct Mood {
    barred: [bool; 2],
    disabled: [bool; 2],
    silent: Option<Word>,
    switches: u32,
}

impl Kms {
    fn set(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.mood.lock().unwrap());
    }

    fn decide(&self, call: &Call) -> Result<Held, Fault> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mood = self.mood.lock().unwrap();
        match mood.silent {
            Some(Word::Throttled) => return Err(Fault::kms(Kind::Throttled(None))),
            Some(_) => return Err(Fault::kms(Kind::Unreachable)),
            None => {}
        }
        let (blob, key) = match call {
            Call::Decrypt(call) => (call.ciphertext.bytes()[0], usize::from(call.ciphertext.bytes()[0] % 2)),
            _ => (0, call.key().and_then(|name| KEYS.iter().position(|key| *key == name.as_str())).unwrap()),
        };
        let decrypts = matches!(call, Call::Decrypt(_));
        if blob == GARBAGE {
            return Err(Fault::kms(Kind::InvalidCiphertext));
        }
        if mood.disabled[key] {
            return Err(Fault::kms(Kind::KeyDisabled));
        }
        if decrypts && mood.barred[key] {
            return Err(Fault::kms(Kind::NoPermission));
        }
        let (key, version) = (KeyId::new(KEYS[key]), KeyVersion::new("1"));
        let reply = if decrypts {
            Reply::Decrypted(Decrypted { plaintext: Secret::copied(&[blob]), key, version })
        } else {
            Reply::Encrypted(Encrypted { ciphertext: Ciphertext::new(vec![GARBAGE]), key, version })
        };
        Ok(Held::new(Answer { reply, request_id: RequestId::new("r-1") }))
    }
}

impl Upstream for Kms {
    fn ask<'a>(&'a self, _: &'a Permit, call: &'a Call, _: Deadline) -> Asking<'a> {
        let decision = self.decide(call);
        Box::pin(async move { decision })
    }

    fn identity(&self) -> Arc<str> {
        self.mood.lock().unwrap().switches.to_string().into()
    }
}

fn word(kind: &Kind) -> Word {
    match kind {
        Kind::Forbidden => Word::Forbidden,
        Kind::InvalidCiphertext => Word::Invalid,
        Kind::KeyDisabled => Word::KeyDisabled,
        Kind::NoPermission => Word::NoPermission,
        Kind::Throttled(_) => Word::Throttled,
        Kind::Unreachable => Word::Unreachable,
        other => panic!("no step should end with {other:?}"),
    }
}

fn decrypt((_, blob, context): Asked) -> Decrypt {
    let context = match context {
        0 => None,
        n => Context::new(ContextForm::Json, &format!("{{\"ns\":\"{n}\"}}"), vec![("ns".into(), n.to_string().into())]),
    };
    Decrypt { ciphertext: Ciphertext::new(vec![blob]), key: None, context, dry_run: false, extra: Extra::default() }
}

fn encrypt(key: u8) -> Call {
    let (key, plaintext) = (KeyName::new(KEYS[usize::from(key)]), Secret::copied(b"dek"));
    Call::Encrypt(Encrypt { key, plaintext, context: None, dry_run: false, extra: Extra::default() })
}

fn caller(who: u8) -> Caller {
    let name = CALLERS[usize::from(who)];
    let listener = ListenerName::new(name);
    let entry = Entry { name: CallerName::new(name), listener: listener.clone(), identity: Identity::Listener };
    let peer = Peer { listener, origin: PeerOrigin::Unix(None), certificate_names: Arc::from([]) };
    let clock = Manual::at(Timestamp::UNIX_EPOCH);
    Door::new(vec![entry]).unwrap().admit(&peer, &Claim::Anonymous, clock.now(), clock.wall()).unwrap()
}

const CALLERS: [&str; 2] = ["a", "b"];
const KEYS: [&str; 2] = ["key-0", "key-1"];
