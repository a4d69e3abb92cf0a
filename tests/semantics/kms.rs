//! A KMS that answers as it is told, and counts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kmsproxy::clock::Deadline;
use kmsproxy::fault::{Fault, Kind, Verbatim};
use kmsproxy::kms::{
    Action, Answer, Call, Ciphertext, DataKey, Decrypted, Document, Encrypted, KeyId, KeyState, KeyVersion, Reply,
    RequestId,
};
use kmsproxy::policy::{Held, Permit};
use kmsproxy::secret::Secret;
use kmsproxy::upstream::{Asking, Upstream};
use tokio::sync::{Notify, Semaphore};

pub(crate) const KEY: &str = "key-hzz0000000000000000000000000";

#[derive(Debug)]
pub(crate) struct Kms {
    calls: AtomicUsize,
    version: AtomicUsize,
    describes_disabled: AtomicBool,
    panics: AtomicUsize,
    refusal: Mutex<Option<Fault>>,
    once: Mutex<Option<Fault>>,
    gate: Mutex<Option<Arc<Semaphore>>>,
    identity: Mutex<Arc<str>>,
    arrivals: Notify,
}

impl Default for Kms {
    fn default() -> Self {
        Self {
            calls: AtomicUsize::new(0),
            version: AtomicUsize::new(1),
            describes_disabled: AtomicBool::new(false),
            panics: AtomicUsize::new(usize::MAX),
            refusal: Mutex::default(),
            once: Mutex::default(),
            gate: Mutex::default(),
            identity: Mutex::new("somebody".into()),
            arrivals: Notify::new(),
        }
    }
}

impl Kms {
    pub(crate) fn plaintext(blob: &[u8]) -> Vec<u8> {
        [b"plaintext of ", blob].concat()
    }

    pub(crate) fn says(kind: Kind, status: u16, code: &str) -> Fault {
        let verbatim = Verbatim {
            status,
            code: code.into(),
            message: "in its own words".into(),
            request_id: RequestId::new("r-1"),
            host_id: None,
            recommend: None,
        };
        Fault::said(kind, verbatim)
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// From now on, every use of the key is refused.
    pub(crate) fn refuse(&self, kind: Option<Kind>) {
        *self.refusal.lock().unwrap() = kind.map(Fault::kms);
    }

    /// From now on, there is no answer, but this failure instead.
    pub(crate) fn silence(&self, kind: Option<Kind>) {
        self.refuse(kind);
    }

    pub(crate) fn say(&self, fault: Option<Fault>) {
        *self.refusal.lock().unwrap() = fault;
    }

    /// The next call gets this; those after it do not.
    pub(crate) fn say_once(&self, fault: Fault) {
        *self.once.lock().unwrap() = Some(fault);
    }

    /// From now on, calls are decided on arrival and answered only as the semaphore is given permits.
    pub(crate) fn hold(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.gate.lock().unwrap() = Some(Arc::clone(&gate));
        gate
    }

    /// Later calls are answered at once again.
    pub(crate) fn release(&self) {
        *self.gate.lock().unwrap() = None;
    }

    /// Waits until `count` calls have arrived.
    pub(crate) async fn asked(&self, count: usize) {
        while self.calls() < count {
            self.arrivals.notified().await;
        }
    }

    pub(crate) fn rotate(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn rotate_back(&self) {
        self.version.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn describe_as_disabled(&self, disabled: bool) {
        self.describes_disabled.store(disabled, Ordering::SeqCst);
    }

    /// From now on, each call whose number `every` divides ends in a panic, after the KMS has decided.
    pub(crate) fn panic_each(&self, every: usize) {
        self.panics.store(every, Ordering::SeqCst);
    }

    pub(crate) fn sign_as(&self, identity: &str) {
        *self.identity.lock().unwrap() = identity.into();
    }

    fn decide(&self, call: &Call) -> Result<Held, Fault> {
        if let Some(fault) = self.once.lock().unwrap().take() {
            return Err(fault);
        }
        if let Some(fault) = self.refusal.lock().unwrap().clone() {
            return Err(fault);
        }
        let (key, ciphertext) = (KeyId::new(KEY), Ciphertext::new(b"wrapped".to_vec()));
        let version = KeyVersion::new(&self.version.load(Ordering::SeqCst).to_string());
        let reply = match call {
            Call::Decrypt(call) => {
                let plaintext = Secret::new(Self::plaintext(call.ciphertext.bytes()));
                Reply::Decrypted(Decrypted { plaintext, key, version })
            }
            Call::Encrypt(_) => Reply::Encrypted(Encrypted { ciphertext, key, version }),
            Call::GenerateDataKey(_) => {
                let plaintext = Some(Secret::copied(b"fresh"));
                Reply::DataKey(DataKey { plaintext, ciphertext, key, version })
            }
            Call::Read(read) => {
                let disabled = self.describes_disabled.load(Ordering::SeqCst);
                let state = if disabled { KeyState::Disabled } else { KeyState::Enabled };
                let described = (read.action == Action::DescribeKey).then_some((key, state));
                Reply::Document(Document { members: serde_json::Map::new(), described })
            }
        };
        Ok(Held::new(Answer { reply, request_id: RequestId::random() }))
    }
}

impl Upstream for Kms {
    fn ask<'a>(&'a self, _: &'a Permit, call: &'a Call, _: Deadline) -> Asking<'a> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let panics = number.is_multiple_of(self.panics.load(Ordering::SeqCst));
        self.arrivals.notify_one();
        let decision = self.decide(call);
        let gate = self.gate.lock().unwrap().clone();
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            assert!(!panics, "a panic of the test's own");
            decision
        })
    }

    fn identity(&self) -> Arc<str> {
        self.identity.lock().unwrap().clone()
    }
}
