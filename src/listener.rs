//! Sockets: who may connect, how many, for how long; and what the socket tells of its peer.

mod address;
mod admission;
mod bind_error;
mod connection;
mod crowd;
mod face;
pub mod foreign;
mod limits;
mod ownership;
mod patience;
mod provider;
mod said;
mod service;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::address::{Acceptor, Bound};
pub use self::address::{Address, LocalAddress};
pub use self::bind_error::BindError;
pub use self::connection::Answer;
use self::connection::{Http1, Http2, Protocol, Socket, Terms};
pub use self::crowd::Census;
use self::crowd::Crowd;
pub use self::face::FaceName;
pub use self::limits::Limits;
use self::ownership::Ownership;
pub use self::provider::Provider;
pub use self::said::Said;
pub use self::service::Service;
use crate::claim::{ListenerName, Peer};
use crate::tls;
use crate::wire::kubernetes::{Api, V1Ciphertext, V2Version};

/// One listener: a socket, the dialect spoken on it, and its limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What callers and metrics call it.
    pub name: String,
    /// The dialect spoken on it.
    pub face: FaceName,
    /// `127.0.0.1:8443`, `unix:/run/kmsproxy/ack.sock`, `unix:@abstract` or `systemd:name`.
    pub address: String,
    /// TLS. A TCP listener does without only if it is `insecure`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<tls::Config>,
    /// The name of the upstream that answers.
    pub upstream: String,
    /// The `Host` names that it goes by; empty for those of its own address.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Plain TCP, on a loopback address only, where anything with `CAP_NET_RAW` reads along.
    #[serde(default)]
    pub insecure: bool,
    /// Permissions of the socket file, in octal, `0660` unless said. An abstract socket has none: whoever is in the
    /// network namespace can connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Who owns the socket file: a user's name or number. Ours unless said; another needs `CAP_CHOWN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The group of the socket file: a name or a number. Ours unless said; another must be one that we are in, or needs
    /// `CAP_CHOWN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Only for `face = "kubernetes"`, and needed there: the key that encrypts, by id, ARN or alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Only for `face = "kubernetes"`: the services to serve; both unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<Vec<Api>>,
    /// Only for `face = "kubernetes"`: what `Status` calls the API of v2; `v2` unless said. A running kube-apiserver marks
    /// a provider unhealthy whose answer changes, so that a successor must say what its predecessor said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v2_version: Option<V2Version>,
    /// Only for `face = "kubernetes"`: mixed into every `key_id`. Change it where a key comes back that was in use before
    /// another, for a `key_id` must never come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id_suffix: Option<String>,
    /// Only for `face = "kubernetes"`: the form of what v1 encrypts; `kmsproxy` unless said. Both are always read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v1_ciphertext: Option<V1Ciphertext>,
    /// Connections at a time. At the limit a newcomer takes the place of the connection that has been idle longest;
    /// while none is idle it waits, before it the kernel's queue. Fewer where the limit of open files does not leave as many
    /// beside what the daemon itself needs.
    #[serde(default = "default_max_connections")]
    pub max_connections: usize,
    /// Requests at a time; one more is told to come again.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: usize,
    /// How long a request may take, from its head to its answer.
    #[serde(default = "default_timeout", with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
}

impl Config {
    /// A listener with nothing but what every listener needs.
    #[must_use]
    pub fn new(name: &str, face: FaceName, address: &str) -> Self {
        Self {
            name: name.to_owned(),
            face,
            address: address.to_owned(),
            tls: None,
            upstream: String::new(),
            hosts: Vec::new(),
            insecure: false,
            mode: None,
            owner: None,
            group: None,
            key: None,
            api: None,
            v2_version: None,
            key_id_suffix: None,
            v1_ciphertext: None,
            max_connections: default_max_connections(),
            max_in_flight: default_max_in_flight(),
            timeout: default_timeout(),
        }
    }
}

/// Beside a response (an extension of it): a plaintext went in or out with its request. Where hyper, h2 or rustls keep
/// what came in, its connection does not rest for long before it is let go of.
#[derive(Clone, Copy, Debug)]
pub struct Confidential;

/// A bound socket, not yet served: connections wait in its queue.
#[derive(Debug)]
pub struct Listener {
    name: ListenerName,
    socket: Where,
    tls: Option<Arc<tls::Presented>>,
    max_connections: usize,
    limits: Limits,
    recycling: watch::Receiver<u64>,
    census: Census,
}

/// A socket that somebody else has bound.
enum Given<'a> {
    Held(&'a Held),
    Inherited(OwnedFd),
}

/// A socket before and after the runtime has taken it in hand.
#[derive(Debug)]
enum Where {
    Bound(Bound),
    Armed(Acceptor, LocalAddress),
}

/// A listening socket, held by whoever may hand it to another listener in the place of the one that has it now. While it is
/// held, connections are taken by the kernel, whether or not anybody serves them.
#[derive(Debug)]
pub struct Held(Bound);

impl Held {
    /// Of a socket that was inherited for the address that is configured.
    ///
    /// # Errors
    /// If it is no listening stream socket.
    pub fn adopt(address: &str, socket: OwnedFd) -> Result<Self, BindError> {
        Bound::adopt(socket, &address.parse()?).map(Self)
    }
}

impl Listener {
    /// Binds what `config` says, or adopts `inherited`, which takes the place of the address; reads the TLS files.
    /// Needs no runtime.
    ///
    /// # Errors
    /// [`BindError`], with the remedy.
    pub fn bind(config: &Config, inherited: Option<OwnedFd>) -> Result<Self, BindError> {
        Self::on(config, inherited.map(Given::Inherited))
    }

    /// As [`Listener::bind`], on the socket that another listener is on, or was.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn succeed(config: &Config, held: &Held) -> Result<Self, BindError> {
        Self::on(config, Some(Given::Held(held)))
    }

    fn on(config: &Config, given: Option<Given<'_>>) -> Result<Self, BindError> {
        let address: Address = config.address.parse()?;
        let mode = address.mode(config.mode.as_deref())?;
        let owner = Ownership::read(&address, config.owner.as_deref(), config.group.as_deref())?;
        if config.max_connections == 0 {
            return Err(BindError::NoConnections);
        }
        let tls = config.tls.as_ref().map(tls::Presented::read).transpose()?;
        let privacy = match (&tls, config.insecure) {
            (Some(_), _) => address::Privacy::Encrypted,
            (None, true) => address::Privacy::Loopback,
            (None, false) => address::Privacy::Unix,
        };
        let bound = match given {
            Some(Given::Inherited(socket)) => Bound::adopt(socket, &address)?,
            Some(Given::Held(held)) => held.0.duplicate().map_err(|error| address::failed(&address, error))?,
            None if matches!((config.face, &address), (FaceName::Kubernetes, Address::Tcp(_))) => {
                return Err(BindError::NotUnix(address));
            }
            None => Bound::bind(&address, mode, owner, privacy)?,
        };
        if matches!((config.face, bound.address()), (FaceName::Kubernetes, LocalAddress::Tcp(_))) {
            return Err(BindError::NotUnix(address));
        }
        bound.address().allows(privacy)?;
        let limits = Limits::of(config.face);
        Ok(Self { max_connections: config.max_connections, limits, ..Self::at(&config.name, bound, tls) })
    }

    /// A listener in clear on any TCP address, for what whoever reaches it may read.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn public(name: &str, address: SocketAddr, max_connections: usize) -> Result<Self, BindError> {
        let address = Address::Tcp(address);
        let (mode, owner) = (address.mode(None)?, Ownership::read(&address, None, None)?);
        let bound = Bound::bind(&address, mode, owner, address::Privacy::Public)?;
        Ok(Self { max_connections, ..Self::at(name, bound, None) })
    }

    /// A listener over another network than the system's. Nothing keeps others from reading along there but `tls`.
    pub fn over(name: &str, network: Box<dyn foreign::Accept>, tls: Option<Arc<ServerConfig>>) -> Self {
        Self::at(name, Bound::foreign(network), tls.map(tls::Presented::fixed))
    }

    fn at(name: &str, bound: Bound, tls: Option<Arc<tls::Presented>>) -> Self {
        Self {
            name: ListenerName::new(name),
            socket: Where::Bound(bound),
            tls,
            max_connections: default_max_connections(),
            limits: Limits::default(),
            recycling: watch::channel(0).1,
            census: Census::default(),
        }
    }

    /// With other limits than the default ones.
    #[must_use]
    pub const fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Ends its connections, after the requests in flight, whenever `word` changes: what lies in their buffers is wiped.
    #[must_use]
    pub fn recycled_by(mut self, word: watch::Receiver<u64>) -> Self {
        self.recycling = word;
        self
    }

    /// What it is called.
    #[must_use]
    pub const fn name(&self) -> &ListenerName {
        &self.name
    }

    /// Where it really listens: the port that the kernel chose, the path of an inherited socket.
    #[must_use]
    pub const fn local_address(&self) -> &LocalAddress {
        match &self.socket {
            Where::Bound(bound) => bound.address(),
            Where::Armed(_, address) => address,
        }
    }

    /// Its socket, for a successor. To be had before [`Listener::armed`].
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn hold(&self) -> io::Result<Held> {
        match &self.socket {
            Where::Bound(bound) => bound.duplicate().map(Held),
            Where::Armed(..) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Ready to run without anything that could fail any more. Needs a runtime.
    ///
    /// # Errors
    /// If the runtime cannot take the socket in hand.
    pub fn armed(mut self) -> io::Result<Self> {
        if let Where::Bound(bound) = self.socket {
            let address = bound.address().clone();
            self.socket = Where::Armed(bound.listen()?, address);
        }
        Ok(self)
    }

    /// What it presents, over TLS.
    #[must_use]
    pub const fn presented(&self) -> Option<&Arc<tls::Presented>> {
        self.tls.as_ref()
    }

    /// Counts who is connected to it, from now on.
    #[must_use]
    pub fn census(&self) -> Census {
        self.census.clone()
    }

    /// How many may be connected at a time.
    #[must_use]
    pub const fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Serves HTTP/1.1 until `shutdown`, then lets requests in flight end for as long as the limits allow, and cuts the
    /// rest. Each connection is a task of its own, awaited here: a panic in `service` ends its connection only. If the
    /// future is dropped, every connection is cut.
    ///
    /// `service` must bound what it reads of a request's body, in bytes and time.
    ///
    /// # Errors
    /// If the socket itself fails; not for what peers do, nor for a lack of file descriptors or memory, which it
    /// waits out.
    pub async fn run(self, service: impl Service, shutdown: CancellationToken) -> io::Result<()> {
        self.attend(Http1(service), shutdown).await
    }

    /// The same for HTTP/2 with prior knowledge. All calls of a connection share its task, and a panic in `service` ends
    /// its call only. A call that the client resets, or that takes longer than the limits allow, is dropped wherever it
    /// waits: work that others share must run elsewhere.
    ///
    /// `service` must bound what it reads of a request's body, and release what it has read to the stream's flow
    /// control. Of `:authority` it learns nothing: where the value is none that a URI can have, as with gRPC clients that
    /// send a socket's path, another of the same length takes its place.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_http2<S, F>(self, service: S, shutdown: CancellationToken) -> io::Result<()>
    where
        S: Fn(Arc<Peer>, Request<h2::RecvStream>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        self.attend(Http2(service), shutdown).await
    }

    async fn attend(self, protocol: impl Protocol, shutdown: CancellationToken) -> io::Result<()> {
        let acceptor = match self.socket {
            Where::Bound(bound) => bound.listen()?,
            Where::Armed(acceptor, _) => acceptor,
        };
        let authorities = self.tls.as_ref().map(|presented| presented.authorities());
        let terms = Arc::new(Terms { listener: self.name, tls: self.tls, limits: self.limits });
        let (crowd, tasks) = (Crowd::counted(self.max_connections, &self.census), TaskTracker::new());
        let begin = |socket, place| {
            tasks.spawn(connection::serve(socket, place, Arc::clone(&terms), protocol.clone()));
        };
        let ended = tokio::select! {
            biased;
            ended = admission::admit(&acceptor, &crowd, begin, &shutdown) => ended,
            never = admission::dismiss(&crowd, self.recycling) => match never {},
            // Whoever was let in by authorities that are others now.
            never = admission::dismiss_if(&crowd, authorities) => match never {},
        };
        drop(acceptor);
        admission::drain(&crowd, &tasks, terms.limits.drain).await;
        ended
    }
}

const fn default_max_connections() -> usize {
    1024
}

const fn default_max_in_flight() -> usize {
    1024
}

const fn default_timeout() -> Duration {
    Duration::from_millis(2500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_configuration_has_the_documented_defaults() {
        let config: Config = toml::from_str(
            "name = \"ack\"\nface = \"aliyun\"\naddress = \"unix:/run/kmsproxy/ack.sock\"\nupstream = \"hangzhou\"\n",
        )
        .unwrap();
        let expected = Config {
            upstream: "hangzhou".to_owned(),
            max_connections: 1024,
            max_in_flight: 1024,
            timeout: Duration::from_millis(2500),
            ..Config::new("ack", FaceName::Aliyun, "unix:/run/kmsproxy/ack.sock")
        };
        assert_eq!(config, expected);
        assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);
        assert!(toml::from_str::<Config>("nmae = \"ack\"").is_err());
    }
}
