//! The hosts of a simulation: the embedded KMS behind our own face of the Alibaba Cloud API, and the proxy before it, as
//! `app` would join them, over a simulated network with real TLS.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use kmsproxy::auth::{CallerName, Door, Entry, Identity};
use kmsproxy::cache::{self, Cache};
use kmsproxy::claim::{Claim, ListenerName, Peer, PeerOrigin};
use kmsproxy::clock::{Clock, Deadline, System};
use kmsproxy::engine::{Direct, Engine, Parts, Respond};
use kmsproxy::kms::{
    Action, Answer, Call, Ciphertext, Context, ContextForm, Encrypt, Encrypted, Extra, KeyName, Reply,
};
use kmsproxy::lease;
use kmsproxy::ledger::Ledger;
use kmsproxy::listener::{self, Listener};
use kmsproxy::policy::{Grant, Policy, Rule};
use kmsproxy::secret::Secret;
use kmsproxy::serve::{Hosts, Limits, aliyun as face};
use kmsproxy::tls;
use kmsproxy::tls::authority::Authority;
use kmsproxy::upstream::aliyun::{Aliyun, Config};
use kmsproxy::upstream::credentials::{self, Credentials, Fetch, Fetching};
use kmsproxy::upstream::local::{Local, NewKey};
use kmsproxy::upstream::transport::{Reach, Transport, Trust};
use kmsproxy::watch::{self, Watch};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clock::Simulated;
use super::diary::{Diary, Ear, Gate};
use super::network::{Network, Port, Wires};
use super::oracle::history::{self, Terms};

/// What hosts share, and what outlives a crash.
pub(crate) struct World {
    pub(crate) clock: Arc<Simulated>,
    pub(crate) local: Arc<Local>,
    /// In ascending order, so that a replay, whose ids are others, has the same order.
    pub(crate) keys: Vec<String>,
    pub(crate) blobs: Vec<Blob>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) policies: Mutex<Vec<history::Policy>>,
    pub(crate) ring: Arc<Ring>,
    pub(crate) diary: Arc<Diary>,
    pub(crate) kms_wires: Arc<Wires>,
    pub(crate) proxy_wires: Arc<Wires>,
}

/// A ciphertext and the context that it was made with.
#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) bytes: Vec<u8>,
    pub(crate) context: Option<&'static str>,
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        let clock = Arc::new(Simulated::default());
        let local = Local::in_memory(Arc::<Simulated>::clone(&clock));
        let mut keys: Vec<String> =
            (0..KEYS).map(|_| local.create_key(&NewKey::default()).unwrap().as_str().to_owned()).collect();
        keys.sort();
        let blobs = blobs(&local, &clock, &keys);
        let world = Self {
            clock,
            local,
            keys,
            blobs,
            policy: Policy::new(HashMap::new()),
            policies: Mutex::default(),
            ring: Arc::default(),
            diary: Arc::default(),
            kms_wires: Arc::default(),
            proxy_wires: Arc::default(),
        };
        world.grant(None);
        Arc::new(world)
    }

    /// Everything to everybody, but for the one key that is kept from the last caller.
    pub(crate) fn grant(&self, kept_from_last: Option<usize>) {
        let all = vec!["*".to_owned()];
        let others = |kept: usize| {
            self.keys.iter().enumerate().filter(|(at, _)| *at != kept).map(|(_, key)| key.clone()).collect()
        };
        let last = kept_from_last.map_or_else(|| all.clone(), others);
        let keys = |caller: &str| if caller == CALLERS[CALLERS.len() - 1].0 { last.clone() } else { all.clone() };
        let grants = CALLERS.map(|(caller, share)| (caller, share, keys(caller)));
        let known: BTreeMap<_, _> = grants
            .iter()
            .map(|(caller, share, keys)| {
                let actions = Action::ALL.map(|action| action.name().to_owned()).to_vec();
                ((*caller).to_owned(), history::Grant { share: (*share).to_owned(), actions, keys: keys.clone() })
            })
            .collect();
        self.policies.lock().unwrap().push(history::Policy { from_ns: self.clock.ns(), grants: known });
        let grants = grants.map(|(caller, share, keys)| {
            let rules = vec![Rule { actions: Action::ALL.to_vec(), keys }];
            (CallerName::new(caller), Grant { rules, share: CallerName::new(share) })
        });
        self.policy.replace(grants.into());
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::<Simulated>::clone(&self.clock)
    }

    /// The KMS: as `kmsproxy emulator`, behind one face for each access key that it may come to accept.
    pub(crate) async fn kms(self: Arc<Self>) -> turmoil::Result {
        let allowed = Rule { actions: Action::ALL.to_vec(), keys: vec!["*".to_owned()] };
        let name = CallerName::new("proxy");
        let grant = Grant { rules: vec![allowed], share: name.clone() };
        let policy = Policy::new(HashMap::from([(name.clone(), grant)]));
        let direct = Direct { policy, upstream: Arc::<Local>::clone(&self.local), clock: self.clock() };
        let direct = Arc::new(Arc::new(direct));
        let behind = |number: usize| {
            let identity = Identity::AccessKey { id: access_key(number), secret: Secret::copied(SECRET.as_bytes()) };
            let entry = Entry { name: name.clone(), listener: ListenerName::new("kms"), identity };
            let door = Arc::new(Door::new(vec![entry]).unwrap());
            Arc::new(face::Face::new(Arc::clone(&direct), door, self.clock(), Hosts::new(&["kms".to_owned()]), LIMITS))
        };
        let faces: Vec<_> = (0..ACCESS_KEYS).map(behind).collect();
        let listener = Listener::over("kms", Box::new(Port::bind(KMS_PORT, &self.kms_wires).await?), Some(tls()));
        let listener = listener.with_limits(listener::Limits::default().of_a_kms());
        let ring = Arc::clone(&self.ring);
        let service = move |peer: Arc<Peer>, request| {
            let face = Arc::clone(&faces[ring.accepted.load(Ordering::Relaxed)]);
            face.serve(request, peer)
        };
        Ok(listener.run(service, CancellationToken::new()).await?)
    }

    /// The proxy, with nothing from before.
    pub(crate) async fn proxy(self: Arc<Self>) -> turmoil::Result {
        let clock = self.clock();
        let network = Network(Arc::clone(&self.proxy_wires));
        let transport = Transport::over(network, trust(), Reach::Verified, Arc::clone(&clock));
        let purse = Box::new(Purse(Arc::clone(&self.ring)));
        let upstream = Aliyun::over(transport, "kms", &upstream_config(), purse, &clock)?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let config = cache::Config { max_age: MAX_AGE, ..cache::Config::default() };
        let shares: Vec<_> = CALLERS.iter().map(|(_, share)| CallerName::new(share)).collect();
        let cache = Arc::new(Cache::by_another_clock(&config, &shares)?);
        let engine = Engine::new(Parts {
            policy: Arc::clone(&self.policy),
            cache: Arc::clone(&cache),
            ledger: Ledger::new("kms", TERMS, Arc::clone(&clock)),
            upstream: Arc::new(Ear { upstream, diary: Arc::clone(&self.diary), clock: Arc::clone(&self.clock) }),
            clock: Arc::clone(&clock),
            timeout: Duration::from_secs(2),
            tasks: tasks.clone(),
        });
        tokio::spawn(Watch::new(Arc::clone(&engine), tasks).run(stop.clone()));
        tokio::spawn(watch::sweep(cache, Arc::clone(&clock), stop.clone()));
        let gate = Gate { engine, diary: Arc::clone(&self.diary), clock: Arc::clone(&self.clock) };
        let entries = CALLERS.iter().map(|(caller, _)| {
            let identity = Identity::AccessKey { id: (*caller).to_owned(), secret: Secret::copied(SECRET.as_bytes()) };
            Entry { name: CallerName::new(caller), listener: ListenerName::new("proxy"), identity }
        });
        let door = Arc::new(Door::new(entries.collect())?);
        let face = face::Face::new(Arc::new(gate), door, clock, Hosts::new(&["proxy".to_owned()]), LIMITS);
        let face = Arc::new(face);
        let listener = Listener::over("proxy", Box::new(Port::bind(PROXY_PORT, &self.proxy_wires).await?), Some(tls()));
        // The clients here are our own upstream side, which lets go of an idle connection after as long as our listener
        // does; where time has no breadth, each next question would meet the end of its connection.
        let limits = listener::Limits::default();
        let listener = listener.with_limits(listener::Limits { rest: limits.idle, ..limits });
        Ok(listener.run(face, stop).await?)
    }

    /// What a client connects by.
    pub(crate) fn client(&self) -> Transport {
        Transport::over(Network(Arc::default()), trust(), Reach::Verified, self.clock())
    }
}

/// The access keys of the proxy: which one it finds when it looks, and which one the KMS accepts.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    pub(crate) found: AtomicUsize,
    pub(crate) accepted: AtomicUsize,
}

/// Where the proxy looks.
#[derive(Debug)]
struct Purse(Arc<Ring>);

impl Fetch for Purse {
    fn fetch(&self) -> Fetching<'_> {
        let id = access_key(self.0.found.load(Ordering::Relaxed));
        let secret = Secret::copied(SECRET.as_bytes());
        Box::pin(async move { Ok(Credentials { id, secret, token: None, expires: None, principal: "role".into() }) })
    }
}

/// Three plain ones for each key, and one in each of two contexts.
fn blobs(local: &Arc<Local>, clock: &Arc<Simulated>, keys: &[String]) -> Vec<Blob> {
    let name = CallerName::new("maker");
    let rules = vec![Rule { actions: vec![Action::Encrypt], keys: vec!["*".to_owned()] }];
    let policy = Policy::new(HashMap::from([(name.clone(), Grant { rules, share: name.clone() })]));
    let listener = ListenerName::new("maker");
    let entry = Entry { name, listener: listener.clone(), identity: Identity::Listener };
    let peer = Peer { listener, origin: PeerOrigin::Unix(None), certificate_names: Arc::from([]) };
    let door = Door::new(vec![entry]).unwrap();
    let caller = door.admit(&peer, &Claim::Anonymous, clock.now(), clock.wall()).unwrap();
    let direct =
        Arc::new(Direct { policy, upstream: Arc::<Local>::clone(local), clock: Arc::<Simulated>::clone(clock) });
    let make = |key: &String, number: usize, context: Option<&'static str>| {
        let call = Call::Encrypt(Encrypt {
            key: KeyName::new(key),
            plaintext: Secret::new(format!("DEK {number} of {key}").into_bytes()),
            context: context.map(parsed),
            dry_run: false,
            extra: Extra::default(),
        });
        let deadline = Deadline::after(clock.now(), Duration::from_secs(1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let answer = runtime.block_on(direct.respond(&caller, call, deadline)).unwrap();
        let Answer { reply: Reply::Encrypted(Encrypted { ciphertext, .. }), .. } = answer else { unreachable!() };
        Blob { bytes: Ciphertext::bytes(&ciphertext).to_vec(), context }
    };
    let contexts = [None, None, None, Some("x"), Some("y")];
    keys.iter()
        .flat_map(|key| contexts.into_iter().enumerate().map(|(n, context)| make(key, n, context)).collect::<Vec<_>>())
        .collect()
}

fn parsed(value: &'static str) -> Context {
    Context::new(ContextForm::Json, &context_text(value), vec![("ns".into(), value.into())]).unwrap()
}

pub(crate) fn context_text(value: &str) -> String {
    format!("{{\"ns\":\"{value}\"}}")
}

fn upstream_config() -> Config {
    Config {
        endpoint: format!("https://kms:{KMS_PORT}"),
        region: None,
        ca_file: None,
        insecure: false,
        credentials: credentials::Config::default(),
        timeout: Duration::from_secs(1),
        max_in_flight: 16,
        quota: None,
        read_quota: None,
        retries: 1,
    }
}

fn access_key(number: usize) -> String {
    format!("LTAI{number}")
}

/// One throw-away CA for all simulations of a process.
struct Papers {
    dir: TempDir,
    tls: Arc<rustls::ServerConfig>,
}

static PAPERS: LazyLock<Papers> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::generate(System.wall(), &["kms".to_owned(), "proxy".to_owned()]).unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("ca.pem"), authority.ca_pem()).unwrap();
    std::fs::write(at("server.pem"), authority.certificate_pem()).unwrap();
    std::fs::write(at("server.key"), authority.key_pem().expose()).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(at("server.key"), private).unwrap();
    let config = tls::Config { certificate_file: at("server.pem"), key_file: at("server.key"), client_ca_file: None };
    let tls = config.server().unwrap();
    Papers { dir, tls }
});

fn tls() -> Arc<rustls::ServerConfig> {
    Arc::clone(&PAPERS.tls)
}

fn trust() -> Trust {
    Trust::nobody().with_file(&PAPERS.dir.path().join("ca.pem")).unwrap()
}

pub(crate) fn terms() -> Terms {
    Terms {
        lease: TERMS.duration,
        probe: TERMS.probe,
        outage_grace: TERMS.outage_grace,
        max_age: MAX_AGE,
        ..Terms::default()
    }
}

/// Callers, and with whom each shares.
pub(crate) const CALLERS: [(&str, &str); 3] = [("a", "both"), ("b", "both"), ("c", "c")];
pub(crate) const SECRET: &str = "localsecret";
pub(crate) const PROXY_PORT: u16 = 8443;
pub(crate) const ACCESS_KEYS: usize = 4;
const KMS_PORT: u16 = 7443;
const KEYS: usize = 2;
const MAX_AGE: Duration = Duration::from_secs(8);
const LIMITS: Limits = Limits { timeout: Duration::from_secs(3), in_flight: 1000 };
const TERMS: lease::Terms =
    lease::Terms { duration: Duration::from_secs(3), probe: Duration::from_secs(1), outage_grace: Duration::ZERO };
