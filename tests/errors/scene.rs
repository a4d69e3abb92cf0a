//! An engine with three scopes in force, before a KMS that says one thing once.

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
use kmsproxy::fault::Fault;
use kmsproxy::kms::{
    Action, Answer, Call, Ciphertext, Context, ContextForm, DataKey, DataKeySize, Decrypt, Decrypted, Document,
    Encrypt, Encrypted, Extra, GenerateDataKey, KeyId, KeyName, KeyVersion, Read, Reply, RequestId,
};
use kmsproxy::lease::Terms;
use kmsproxy::ledger::{Ledger, Probe, word};
use kmsproxy::policy::{Grant, Held, Permit, Policy, Rule};
use kmsproxy::secret::Secret;
use kmsproxy::upstream::{Asking, Upstream};
use tokio_util::task::TaskTracker;

use super::classes::{Question, Seen};

/// One caller, one upstream, two keys, one of them in a context as well; all leases in force, asked for ten seconds ago.
pub(crate) struct Scene {
    clock: Arc<Manual>,
    kms: Arc<Kms>,
    engine: Arc<Engine>,
    probe: Option<Probe>,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(Manual::at("2026-01-02T03:04:05Z".parse::<Timestamp>().unwrap()));
        let name = CallerName::new("a");
        let rules = vec![Rule { actions: Action::ALL.to_vec(), keys: vec!["*".to_owned()] }];
        let kms = Arc::new(Kms::default());
        let engine = Engine::new(Parts {
            policy: Policy::new(HashMap::from([(name.clone(), Grant { rules, share: name.clone() })])),
            cache: Arc::new(Cache::new(&cache::Config::default(), &[name]).unwrap()),
            ledger: Ledger::new("test", TERMS, Arc::<Manual>::clone(&clock)),
            upstream: Arc::<Kms>::clone(&kms),
            clock: Arc::<Manual>::clone(&clock),
            timeout: Duration::from_secs(2),
            tasks: TaskTracker::new(),
        });
        let mut scene = Self { clock, kms, engine, probe: None };
        for call in [decrypt(ONE, None), decrypt(ONE, Some(context())), decrypt(OTHER, None)] {
            scene.ask(call).await.unwrap();
        }
        scene.clock.advance(TERMS.probe);
        let due = scene.engine.ledger().due(scene.clock.now());
        assert_eq!(due.len(), 3);
        scene.probe =
            due.into_iter().find(|probe| probe.scope().key().as_str() == ONE && probe.sample.context.is_none());
        scene
    }

    /// Has the KMS say `fault` to one question.
    pub(crate) async fn hear(&mut self, fault: &Fault, action: Action, question: Question) {
        *self.kms.says.lock().unwrap() = Some(fault.clone());
        let heard = match question {
            Question::Scope => {
                let probe = self.probe.take().unwrap();
                self.engine.probe(&probe).await
            }
            Question::Stranger => self.ask(stranger()).await,
            Question::Id => self.ask(named(action, ONE)).await,
            Question::Name if action == Action::Encrypt => self.ask(named(action, "alias/one")).await,
            Question::Name => self.ask(named(action, "acs:kms:cn-hangzhou:1:key/key-1")).await,
            Question::List => self.ask(Call::Read(Read { action, key: None, extra: Extra::default() })).await,
        };
        assert_eq!(heard.as_ref(), Err(fault), "as it was said");
        assert_eq!(*self.kms.says.lock().unwrap(), None, "it was asked");
    }

    /// What became of the leases. Moves the clock beyond their end.
    pub(crate) fn look(mut self) -> Seen {
        drop(self.probe.take());
        let mut seen = Seen { scope: [""; 3], context: [""; 3], other: [""; 3], probed: false };
        let left = TERMS.duration - TERMS.probe;
        for (at, pause) in [Duration::ZERO, TERMS.probe / 5, left].into_iter().enumerate() {
            self.clock.advance(pause);
            seen.scope[at] = self.standing(ONE, None);
            seen.context[at] = self.standing(ONE, Some(&context()));
            seen.other[at] = self.standing(OTHER, None);
            if at == 0 {
                seen.probed = !self.engine.ledger().due(self.clock.now()).is_empty();
            }
        }
        seen
    }

    /// How long the KMS is not asked again about a stranger's ciphertext that it refused: whether it is as long as that.
    pub(crate) async fn is_remembered_for(&self, span: Duration) -> bool {
        let moment = Duration::from_millis(1);
        let refused = self.kms.calls.load(Ordering::SeqCst);
        let asked = || self.kms.calls.load(Ordering::SeqCst) > refused;
        self.clock.advance(span.saturating_sub(moment));
        let early = self.ask(stranger()).await.is_err() && !asked();
        self.clock.advance(moment);
        early && self.ask(stranger()).await.is_ok() && asked()
    }

    fn standing(&self, key: &str, context: Option<&Context>) -> &'static str {
        word(&self.engine.ledger().scope(&KeyId::new(key), context).standing(self.clock.now()))
    }

    async fn ask(&self, call: Call) -> Result<(), Fault> {
        let deadline = Deadline::after(self.clock.now(), Duration::from_secs(3));
        self.engine.respond(&caller(), call, deadline).await.map(drop)
    }
}

fn caller() -> Caller {
    let listener = ListenerName::new("l");
    let entry = Entry { name: CallerName::new("a"), listener: listener.clone(), identity: Identity::Listener };
    let peer = Peer { listener, origin: PeerOrigin::Unix(None), certificate_names: Arc::from([]) };
    let clock = Manual::at(Timestamp::UNIX_EPOCH);
    Door::new(vec![entry]).unwrap().admit(&peer, &Claim::Anonymous, clock.now(), clock.wall()).unwrap()
}

fn context() -> Context {
    Context::new(ContextForm::Json, r#"{"ns":"x"}"#, vec![("ns".into(), "x".into())]).unwrap()
}

/// A blob is the name of its key.
fn decrypt(blob: &str, context: Option<Context>) -> Call {
    let ciphertext = Ciphertext::new(blob.as_bytes().to_vec());
    Call::Decrypt(Decrypt { ciphertext, key: None, context, dry_run: false, extra: Extra::default() })
}

fn stranger() -> Call {
    decrypt("key-3", None)
}

fn named(action: Action, name: &str) -> Call {
    let (key, extra) = (KeyName::new(name), Extra::default());
    match action {
        Action::Encrypt => {
            let plaintext = Secret::copied(b"dek");
            Call::Encrypt(Encrypt { key, plaintext, context: None, dry_run: false, extra })
        }
        Action::GenerateDataKey | Action::GenerateDataKeyWithoutPlaintext => {
            let (size, plaintext) = (DataKeySize::Default, action == Action::GenerateDataKey);
            Call::GenerateDataKey(GenerateDataKey { key, size, plaintext, context: None, dry_run: false, extra })
        }
        Action::Decrypt
        | Action::DescribeKey
        | Action::DescribeKeyVersion
        | Action::ListAliases
        | Action::ListAliasesByKeyId
        | Action::ListKeyVersions
        | Action::ListKeys => Call::Read(Read { action, key: Some(key), extra }),
    }
}

#[derive(Debug, Default)]
struct Kms {
    calls: AtomicUsize,
    says: Mutex<Option<Fault>>,
}

impl Kms {
    fn decide(&self, call: &Call) -> Result<Held, Fault> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if let Some(fault) = self.says.lock().unwrap().take() {
            return Err(fault);
        }
        let (key, version) = (KeyId::new(ONE), KeyVersion::new("v"));
        let ciphertext = Ciphertext::new(ONE.as_bytes().to_vec());
        let reply = match call {
            Call::Decrypt(call) => {
                let key = KeyId::new(str::from_utf8(call.ciphertext.bytes()).unwrap());
                Reply::Decrypted(Decrypted { plaintext: Secret::copied(b"dek"), key, version })
            }
            Call::Encrypt(_) => Reply::Encrypted(Encrypted { ciphertext, key, version }),
            Call::GenerateDataKey(_) => Reply::DataKey(DataKey { plaintext: None, ciphertext, key, version }),
            Call::Read(_) => Reply::Document(Document { members: serde_json::Map::new(), described: None }),
        };
        Ok(Held::new(Answer { reply, request_id: RequestId::random() }))
    }
}

impl Upstream for Kms {
    fn ask<'a>(&'a self, _: &'a Permit, call: &'a Call, _: Deadline) -> Asking<'a> {
        let decision = self.decide(call);
        Box::pin(async move { decision })
    }

    fn identity(&self) -> Arc<str> {
        "somebody".into()
    }
}

const ONE: &str = "key-1";
const OTHER: &str = "key-2";
const TERMS: Terms =
    Terms { duration: Duration::from_secs(30), probe: Duration::from_secs(10), outage_grace: Duration::from_secs(60) };
