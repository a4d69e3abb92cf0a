//! The upstream on one side of a real socket, the face on the other, and whoever answers behind it.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use jiff::Timestamp;
use kmsproxy::auth::{Caller, CallerName, Door, Entry, Identity};
use kmsproxy::claim::{Claim, ListenerName, Peer, PeerOrigin};
use kmsproxy::clock::{Clock, Deadline, System};
use kmsproxy::engine::Respond;
use kmsproxy::fault::{Fault, Kind};
use kmsproxy::kms::{Action, Answer, Call};
use kmsproxy::listener::{self, FaceName, Listener, LocalAddress, Said, Service};
use kmsproxy::policy::{Grant, Policy, Rule};
use kmsproxy::secret::Secret;
use kmsproxy::serve::aliyun::Face;
use kmsproxy::serve::{Hosts, Limits};
use kmsproxy::upstream::Upstream;
use kmsproxy::upstream::aliyun::{self, Aliyun};
use kmsproxy::upstream::credentials::{self, Source};
use kmsproxy::wire::brief;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// Says what it was told to say, and remembers what it heard.
#[derive(Default)]
pub(crate) struct Recorder {
    heard: Mutex<Vec<(String, Call)>>,
    next: Mutex<Option<Result<Answer, Fault>>>,
}

impl Respond for Recorder {
    async fn respond(&self, caller: &Caller, call: Call, _: Deadline) -> Result<Answer, Fault> {
        self.heard.lock().unwrap().push((caller.name().to_string(), call));
        self.next.lock().unwrap().take().expect("one call is answered once")
    }
}

/// A server, and a client that knows its access key.
pub(crate) struct Stage<R> {
    pub(crate) respond: Arc<R>,
    upstream: Aliyun,
    policy: Arc<Policy>,
    caller: Caller,
    address: SocketAddr,
    peers: Arc<Mutex<HashSet<SocketAddr>>>,
    brief: Arc<AtomicUsize>,
    folder: TempDir,
    runtime: Runtime,
}

impl<R: Respond + 'static> Stage<R> {
    pub(crate) fn new(respond: R) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let _entered = runtime.enter();
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let respond = Arc::new(respond);
        let (address, Watched { seen: peers, brief, .. }) = serve(&runtime, Arc::clone(&respond));
        let upstream = upstream(address, &secret);
        let rule = Rule { actions: Action::ALL.to_vec(), keys: vec!["*".to_owned()] };
        let grant = Grant { rules: vec![rule], share: CallerName::new(ASKER) };
        let policy = Policy::new(HashMap::from([(CallerName::new(ASKER), grant)]));
        Self { respond, upstream, policy, caller: asker(), address, peers, brief, folder, runtime }
    }

    /// Connections that the server has seen.
    pub(crate) fn connections(&self) -> usize {
        self.peers.lock().unwrap().len()
    }

    /// Requests that went past hyper.
    pub(crate) fn brief(&self) -> usize {
        self.brief.load(Ordering::Relaxed)
    }

    /// Forgets what the upstream has learnt: a pause, above all.
    pub(crate) fn begin_anew(&mut self) {
        self.upstream = upstream(self.address, &self.folder.path().join("secret"));
    }

    pub(crate) async fn ask(&self, call: &Call) -> Result<Answer, Fault> {
        let permit = self.policy.permit(&self.caller, call)?;
        let held = self.upstream.ask(&permit, call, Deadline::after(System.now(), PATIENCE)).await?;
        let release = match held.key() {
            Some(key) => self.policy.release(&permit, key),
            None => self.policy.release_list(&permit),
        };
        held.pass(&release?)
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

impl Stage<Recorder> {
    /// One call, answered with `answer`: what was heard of it, and what came back.
    pub(crate) fn exchange(&self, call: &Call, answer: Result<Answer, Fault>) -> (Vec<Call>, Result<Answer, Fault>) {
        *self.respond.next.lock().unwrap() = Some(answer);
        let back = self.block_on(self.ask(call));
        (self.heard(), back)
    }

    /// What was heard since this was asked last.
    pub(crate) fn heard(&self) -> Vec<Call> {
        let heard = std::mem::take(&mut *self.respond.heard.lock().unwrap());
        let heard = heard.into_iter().map(|(caller, call)| {
            assert_eq!(caller, CALLER);
            call
        });
        heard.collect()
    }

    /// What is answered to `request` as it stands, on a connection of its own, and whether that ends then.
    pub(crate) fn say(&self, request: &[u8], answer: Option<Result<Answer, Fault>>) -> (String, String, bool) {
        *self.respond.next.lock().unwrap() = answer;
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        stream.set_read_timeout(Some(A_MOMENT)).unwrap();
        let ends = matches!(stream.read(&mut [0]), Ok(0));
        (head, String::from_utf8(body).unwrap(), ends)
    }

    /// The fault that arrives where `fault` was sent in answer to `call`.
    pub(crate) fn fault(&self, call: &Call, fault: Fault) -> Fault {
        let (heard, back) = self.exchange(call, Err(fault));
        assert_eq!(heard.len(), 1, "asked once");
        back.unwrap_err()
    }
}

fn serve<R: Respond + 'static>(runtime: &Runtime, respond: Arc<R>) -> (SocketAddr, Watched<Arc<Face<R>>>) {
    let config = listener::Config {
        insecure: true,
        max_connections: 64,
        max_in_flight: 64,
        timeout: PATIENCE,
        ..listener::Config::new(LISTENER, FaceName::Aliyun, "127.0.0.1:0")
    };
    let listener = Listener::bind(&config, None).unwrap();
    let LocalAddress::Tcp(address) = *listener.local_address() else { unreachable!("asked for TCP") };
    let identity = Identity::AccessKey { id: ACCESS_KEY.to_owned(), secret: Secret::copied(SECRET.as_bytes()) };
    let entry = Entry { name: CallerName::new(CALLER), listener: ListenerName::new(LISTENER), identity };
    let door = Arc::new(Door::new(vec![entry]).unwrap());
    let limits = Limits { timeout: PATIENCE, in_flight: 64 };
    let face = Arc::new(Face::new(respond, door, Arc::new(System), Hosts::new(&[]), limits));
    let watched = Watched { face, seen: Arc::default(), brief: Arc::default() };
    runtime.spawn(listener.run(watched.clone(), CancellationToken::new()));
    (address, watched)
}

/// A face, who came to it, and how much of it past hyper.
struct Watched<F> {
    face: F,
    seen: Arc<Mutex<HashSet<SocketAddr>>>,
    brief: Arc<AtomicUsize>,
}

impl<F: Clone> Clone for Watched<F> {
    fn clone(&self) -> Self {
        Self { face: self.face.clone(), seen: Arc::clone(&self.seen), brief: Arc::clone(&self.brief) }
    }
}

impl<F> Watched<F> {
    fn note(&self, peer: &Peer) {
        if let PeerOrigin::Tcp(address) = peer.origin {
            self.seen.lock().unwrap().insert(address);
        }
    }
}

impl<F: Service> Service for Watched<F> {
    type Heard = F::Heard;
    type Body = F::Body;

    fn answer(
        &self,
        peer: Arc<Peer>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<F::Body>> + Send + 'static {
        self.note(&peer);
        self.face.answer(peer, request)
    }

    fn hear(&self, peer: &Peer, request: &brief::Request<'_>) -> Option<F::Heard> {
        self.note(peer);
        self.face.hear(peer, request).inspect(|_| {
            self.brief.fetch_add(1, Ordering::Relaxed);
        })
    }

    async fn answer_heard(&self, peer: &Peer, heard: F::Heard) -> Said {
        self.face.answer_heard(peer, heard).await
    }
}

fn upstream(address: SocketAddr, secret: &Path) -> Aliyun {
    let credentials = credentials::Config {
        source: Source::File,
        id: Some(ACCESS_KEY.to_owned()),
        secret_file: Some(secret.to_owned()),
        ..Default::default()
    };
    let config = aliyun::Config {
        endpoint: format!("http://{address}"),
        region: None,
        ca_file: None,
        insecure: true,
        credentials,
        timeout: PATIENCE,
        max_in_flight: 32,
        quota: None,
        read_quota: None,
        retries: 0,
    };
    let clock: Arc<dyn Clock> = Arc::new(System);
    Aliyun::new("mirror", &config, &|_| None, &clock).unwrap()
}

/// Somebody to whom policy can give a permit, on the upstream's side.
fn asker() -> Caller {
    let listener = ListenerName::new(ASKER);
    let entry = Entry { name: CallerName::new(ASKER), listener: listener.clone(), identity: Identity::Listener };
    let peer = Peer { listener, origin: PeerOrigin::Unix(None), certificate_names: Arc::from([]) };
    Door::new(vec![entry]).unwrap().admit(&peer, &Claim::Anonymous, System.now(), Timestamp::UNIX_EPOCH).unwrap()
}

/// A fault for whoever wants none in particular.
pub(crate) fn any_fault() -> Fault {
    Fault::proxy(Kind::Internal)
}

const LISTENER: &str = "mirror";
const CALLER: &str = "whoever has the key";
const ASKER: &str = "asker";
pub(crate) const ACCESS_KEY: &str = "LTAImirror";
pub(crate) const SECRET: &str = "mirror-mirror-on-the-wall";
const PATIENCE: Duration = Duration::from_secs(20);
/// For a connection that is closed to be seen as closed.
const A_MOMENT: Duration = Duration::from_millis(200);
