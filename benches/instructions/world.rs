//! A daemon's inside without its sockets, its cache full, on a clock that stands still.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kmsproxy::auth::{CallerName, Door, Entry, Identity};
use kmsproxy::cache::{self, Cache};
use kmsproxy::claim::{ListenerName, Peer, PeerOrigin, UnixPeer};
use kmsproxy::clock::Manual;
use kmsproxy::engine::{Engine, Following, Parts};
use kmsproxy::kms::{Action, Ciphertext, Decrypt, Extra, KeyName};
use kmsproxy::lease::Terms;
use kmsproxy::ledger::Ledger;
use kmsproxy::listener::Provider;
use kmsproxy::policy::{Grant, Policy, Rule};
use kmsproxy::secret::Secret;
use kmsproxy::serve::{Hosts, Limits, aliyun, kubernetes};
use kmsproxy::wire::kubernetes::{Api, V1Ciphertext, V2Version};
use tokio_util::task::TaskTracker;

use crate::kms::{KEY, Kms};

pub(crate) struct World {
    pub(crate) clock: Arc<Manual>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) door: Arc<Door>,
    pub(crate) aliyun: Arc<aliyun::Face<Arc<Engine>>>,
    pub(crate) kubernetes: kubernetes::Face<Following>,
}

impl World {
    /// With [`DEKS`] entries of one share, each asked for once; as many for Kubernetes, which name their key, as that asks for.
    pub(crate) fn new() -> Self {
        let clock = Arc::new(Manual::at(NOW.parse().unwrap()));
        let policy = Policy::new(["signer", "neighbour", "apiserver"].into_iter().map(grant).collect());
        let config = cache::Config { capacity: 4 * DEKS as u64, ..cache::Config::default() };
        let cache = Arc::new(Cache::new(&config, &[share()]).unwrap());
        let engine = Engine::new(Parts {
            policy: Arc::clone(&policy),
            cache: Arc::clone(&cache),
            ledger: Ledger::new(UPSTREAM, Terms::default(), Arc::<Manual>::clone(&clock)),
            upstream: Arc::new(Kms),
            clock: Arc::<Manual>::clone(&clock),
            timeout: Duration::from_secs(2),
            tasks: TaskTracker::new(),
        });
        for number in 0..DEKS {
            ready(engine.warm(&share(), decrypt(number, None), || true)).unwrap();
        }
        for number in 0..KUBERNETES_DEKS {
            ready(engine.warm(&share(), decrypt(number, Some(KeyName::new(KEY))), || true)).unwrap();
        }
        assert_eq!(cache.count() as usize, DEKS + KUBERNETES_DEKS);
        let door = Arc::new(door());
        let following = engine.follow(&KeyName::new(KEY));
        let time = || Arc::<Manual>::clone(&clock);
        let aliyun = Arc::new(aliyun::Face::new(Arc::new(engine), Arc::clone(&door), time(), Hosts::new(&[]), LIMITS));
        let kubernetes = kubernetes::Face::new(following, provider(), Arc::clone(&door), time(), LIMITS);
        Self { clock, cache, policy, door, aliyun, kubernetes }
    }
}

/// What needs not be waited for.
pub(crate) fn ready<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a hit waits for nobody"),
    }
}

pub(crate) fn share() -> CallerName {
    CallerName::new("cluster")
}

/// Who comes over a unix socket, signed or as the uid that the kernel tells.
pub(crate) fn peer(listener: &str) -> Peer {
    let origin = PeerOrigin::Unix(Some(UnixPeer { uid: 0, gid: 0 }));
    Peer { listener: ListenerName::new(listener), origin, certificate_names: Arc::from([]) }
}

pub(crate) fn decrypt(number: usize, key: Option<KeyName>) -> Decrypt {
    Decrypt { ciphertext: blob(number), key, context: None, dry_run: false, extra: Extra::default() }
}

/// As long as those of the embedded KMS, and as good as random.
pub(crate) fn blob(number: usize) -> Ciphertext {
    let mut state = number as u64 + 1;
    let bytes = (0..BLOB_BYTES).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    Ciphertext::new(bytes.collect())
}

pub(crate) fn secret() -> Secret {
    Secret::copied(b"a secret of thirty characters.")
}

fn grant(caller: &str) -> (CallerName, Grant) {
    let rules = vec![Rule { actions: Action::ALL.to_vec(), keys: vec![KEY.to_owned()] }];
    (CallerName::new(caller), Grant { rules, share: share() })
}

fn door() -> Door {
    let entry = |name, listener, identity| Entry {
        name: CallerName::new(name),
        listener: ListenerName::new(listener),
        identity,
    };
    let access_key = Identity::AccessKey { id: ACCESS_KEY.to_owned(), secret: secret() };
    Door::new(vec![
        entry("signer", "ack", access_key),
        entry("neighbour", "ack", Identity::Unix { uid: 0 }),
        entry("apiserver", "kubernetes", Identity::Unix { uid: 0 }),
    ])
    .unwrap()
}

fn provider() -> Provider {
    Provider {
        key: KeyName::new(KEY),
        api: vec![Api::V1beta1, Api::V2],
        v2_version: V2Version::default(),
        key_id_suffix: String::new(),
        v1_ciphertext: V1Ciphertext::default(),
    }
}

pub(crate) const NOW: &str = "2026-01-02T03:04:05Z";
pub(crate) const ACCESS_KEY: &str = "LTAIkmsproxydev";
pub(crate) const UPSTREAM: &str = "kms";
pub(crate) const DEKS: usize = 10_000;
/// Of each of its two forms.
pub(crate) const KUBERNETES_DEKS: usize = 1000;
const LIMITS: Limits = Limits { timeout: Duration::from_millis(2500), in_flight: 1024 };
const BLOB_BYTES: usize = 36 + 12 + 32 + 16;
