//! Pooled HTTP/1.1 to fixed places: TLS to a KMS or STS, plain HTTP to this machine and its metadata service.

use std::error::Error as _;
use std::fmt::{self, Debug};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::clock::{Clock, Moment};
use crate::fault::{Fault, Kind};
use crate::secret::Secret;

mod opening;
mod resolver;
mod trust;

pub use self::opening::Opening;
pub use self::resolver::LOOKUPS_MAX;
use self::resolver::Resolver;
pub use self::trust::Trust;

/// Where this transport may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// `https` only, to any host, with its certificate verified.
    Verified,
    /// As `Verified`, and plain `http` to a loopback address: the operator wrote `insecure = true`.
    VerifiedOrLoopback,
    /// As `Verified`, and plain `http` to loopback or a link-local metadata service. What comes from there is as
    /// trustworthy as the machine's own network.
    VerifiedOrMachine,
}

/// Why a transport, or an address for it, cannot be had. For the operator; holds nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The CA file.
    #[error("ca_file {0:?}: {1}; give a PEM file with the certificates of the CA")]
    CaFile(PathBuf, String),
    /// An address.
    #[error("{0:?} is not an address for this: {1}")]
    Address(String, &'static str),
}

/// What came back.
#[derive(Debug)]
pub struct Received {
    /// HTTP status; a redirect is handed on like any other.
    pub status: StatusCode,
    /// Response headers: at most [`HEADERS_MAX`].
    pub headers: HeaderMap,
    /// Response body: at most [`BODY_BYTES_MAX`], never encoded.
    pub body: Secret,
}

/// Makes a pool with so many idle connections at most.
type Pools = Box<dyn Fn(usize) -> Arc<dyn Pool> + Send + Sync>;

/// A pool of connections. Sends what it is given once (again only where a pooled connection turned out closed before
/// anything was sent), follows no redirect, asks no proxy, offers no encodings.
pub struct Transport {
    /// Makes pools of whom is trusted.
    remade: Box<dyn Fn(Trust) -> Pools + Send + Sync>,
    pools: Mutex<Pools>,
    reach: Reach,
    clock: Arc<dyn Clock>,
    /// Connections that wait for the next question.
    idle_max: usize,
    pool: Mutex<(Moment, Arc<dyn Pool>)>,
}

impl Transport {
    /// Makes a pool without opening anything. `connect_timeout` bounds TCP alone, so that a dead address is
    /// [`Kind::Unreachable`] while there is time left for another try; nothing takes longer than [`OPENING_MAX`] to open.
    #[must_use]
    pub fn new(trust: Trust, reach: Reach, connect_timeout: Duration, clock: Arc<dyn Clock>) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver::of_the_system());
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(connect_timeout));
        tcp.set_nodelay(true);
        Self::over(tcp, trust, reach, clock)
    }

    /// As [`Transport::new`], where `network` opens the connections: a network that a test simulates.
    #[must_use]
    pub fn over<N>(network: N, trust: Trust, reach: Reach, clock: Arc<dyn Clock>) -> Self
    where
        N: Clone + Send + Sync + 'static,
        Opening<HttpsConnector<N>>: Connect + Clone + Send + Sync + 'static,
    {
        let remade = Box::new(move |trust: Trust| -> Pools {
            let connector = HttpsConnectorBuilder::new().with_tls_config(trust.client());
            let connector = match reach {
                Reach::Verified => connector.https_only(),
                Reach::VerifiedOrLoopback | Reach::VerifiedOrMachine => connector.https_or_http(),
            };
            let connector = Opening::within(OPENING_MAX, connector.enable_http1().wrap_connector(network.clone()));
            Box::new(move |idle_max| pool(&connector, idle_max))
        });
        let pools = remade(trust);
        let (idle_max, pool) = (IDLE_CONNECTIONS_MAX, Mutex::new((clock.now(), pools(IDLE_CONNECTIONS_MAX))));
        Self { remade, pools: Mutex::new(pools), reach, clock, idle_max, pool }
    }

    /// Believes others from now on: connections that wait are closed, and what is under way on the others ends in peace.
    pub fn believe(&self, trust: Trust) {
        let pools = (self.remade)(trust);
        *self.pools.lock().unwrap_or_else(PoisonError::into_inner) = pools;
        self.recycle();
    }

    /// With a connection for each question, for what is asked now and then: credentials do not lie in the buffers of one
    /// that waits.
    #[must_use]
    pub fn unpooled(mut self) -> Self {
        self.idle_max = 0;
        self.recycle();
        self
    }

    /// Checks an address from the configuration: an absolute URI without user, within reach.
    ///
    /// # Errors
    /// [`Error::Address`] says what is wrong with it.
    pub fn address(&self, text: &str) -> Result<Uri, Error> {
        // A user may come with a password, which is nobody's to see.
        let shown = text.rsplit('@').next().unwrap_or_default();
        let wrong = |why| Error::Address(shown.to_owned(), why);
        let uri: Uri = text.parse().map_err(|_| wrong("it is not a URI"))?;
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(wrong("it must be scheme://host[:port], without a user"));
        }
        self.within_reach(&uri).map_err(wrong)?;
        Ok(uri)
    }

    /// Posts `body` and returns the whole answer, whatever its status.
    ///
    /// # Errors
    /// [`Kind::TimedOut`] after `timeout`; [`Kind::Unreachable`] where no complete answer began (DNS, TCP, TLS, a
    /// closed connection); [`Kind::Garbled`] where what came is not HTTP, is cut off, encoded or over the limit.
    pub async fn post(&self, uri: &Uri, headers: HeaderMap, body: Bytes, timeout: Duration) -> Result<Received, Fault> {
        self.send(Method::POST, uri, headers, body, timeout).await
    }

    /// As [`Transport::post`], by any method.
    ///
    /// # Errors
    /// As [`Transport::post`].
    pub async fn send(
        &self,
        method: Method,
        uri: &Uri,
        mut headers: HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Received, Fault> {
        if self.within_reach(uri).is_err() {
            return Err(Fault::proxy(Kind::Unreachable));
        }
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        let pool = self.pool();
        let exchange = async { collect(pool.request(request).await.map_err(|error| silent(&error))?).await };
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(Fault::kms(Kind::TimedOut)))
    }

    fn within_reach(&self, uri: &Uri) -> Result<(), &'static str> {
        let plain = match uri.scheme_str() {
            Some("https") => return Ok(()),
            Some("http") => uri.host().unwrap_or_default(),
            _ => return Err("the scheme must be https"),
        };
        match self.reach {
            Reach::Verified => Err("plain http is not safe here; write https"),
            Reach::VerifiedOrLoopback if is_loopback(plain) => Ok(()),
            Reach::VerifiedOrLoopback => Err("plain http is for loopback addresses only; write https"),
            Reach::VerifiedOrMachine if is_loopback(plain) || is_metadata(plain) => Ok(()),
            Reach::VerifiedOrMachine => Err("plain http is for loopback and metadata addresses only; write https"),
        }
    }

    /// Replaces the pool: idle connections end at once, and what they hold is wiped; what is under way ends in peace.
    pub fn recycle(&self) {
        let fresh = (self.clock.now(), self.fresh());
        let old = std::mem::replace(&mut *self.pool.lock().unwrap_or_else(PoisonError::into_inner), fresh);
        drop(old);
    }

    fn fresh(&self) -> Arc<dyn Pool> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)(self.idle_max)
    }

    /// The pool, replaced now and then: a connection's buffers keep the last key that went through them, so none may
    /// live for ever. What is under way on an old one ends in peace.
    fn pool(&self) -> Arc<dyn Pool> {
        let now = self.clock.now();
        let mut current = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(current.0) >= CONNECTION_AGE_MAX {
            *current = (now, self.fresh());
        }
        Arc::clone(&current.1)
    }
}

impl Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transport({:?})", self.reach)
    }
}

/// A body that may be sent several times and is wiped when the last sending is over.
#[must_use]
pub fn shared(body: Secret) -> Bytes {
    struct Owner(Secret);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.expose()
        }
    }
    Bytes::from_owner(Owner(body))
}

/// Connections that are used again, over whatever network.
trait Pool: Send + Sync {
    fn request(&self, request: Request<Full<Bytes>>) -> ResponseFuture;
}

impl<C: Connect + Clone + Send + Sync + 'static> Pool for Client<C, Full<Bytes>> {
    fn request(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        Self::request(self, request)
    }
}

fn pool<C: Connect + Clone + Send + Sync + 'static>(connector: &C, idle_max: usize) -> Arc<dyn Pool> {
    let pool: Client<C, Full<Bytes>> = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(idle_max)
        .http1_max_buf_size(READ_BUFFER_BYTES_MAX)
        .http1_max_headers(HEADERS_MAX)
        .build(connector.clone());
    Arc::new(pool)
}

async fn collect(response: Response<Incoming>) -> Result<Received, Fault> {
    let garbled = || Fault::kms(Kind::Garbled);
    let (head, mut body) = response.into_parts();
    let encoded = head.headers.get_all(CONTENT_ENCODING).iter().any(|encoding| encoding != "identity");
    let announced = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if encoded || announced.is_some_and(|length: usize| length > BODY_BYTES_MAX) {
        return Err(garbled());
    }
    // A buffer that never grows leaves no copy behind.
    let mut whole = Buffer(Vec::with_capacity(announced.unwrap_or(BODY_BYTES_MAX)));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| garbled())?.into_data() else { continue };
        if whole.0.len() + data.len() > BODY_BYTES_MAX {
            return Err(garbled());
        }
        whole.0.extend_from_slice(&data);
    }
    Ok(Received { status: head.status, headers: head.headers, body: whole.into_secret() })
}

/// Wiped even if the collecting future is dropped half-way.
struct Buffer(Vec<u8>);

impl Buffer {
    fn into_secret(mut self) -> Secret {
        Secret::new(std::mem::take(&mut self.0))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// What a failure before the head of an answer means. The error itself may name the URL, so only its class is kept.
fn silent(error: &hyper_util::client::legacy::Error) -> Fault {
    let http = error.source().and_then(|source| source.downcast_ref::<hyper::Error>());
    let spoke_nonsense = http.is_some_and(hyper::Error::is_parse);
    Fault::kms(if spoke_nonsense { Kind::Garbled } else { Kind::Unreachable })
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || literal(host).is_some_and(|ip| ip.is_loopback())
}

fn is_metadata(host: &str) -> bool {
    match literal(host) {
        Some(IpAddr::V4(ip)) => ip == METADATA || ip.is_link_local(),
        Some(IpAddr::V6(_)) | None => false,
    }
}

fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Alibaba Cloud's metadata service (`credentials-go`, `ecs_ram_role.go`).
const METADATA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);

const AGENT: &str = concat!("kmsproxy/", env!("CARGO_PKG_VERSION"));

/// Bytes of a response body. The largest real one is a page of 100 keys, about 20 KiB.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// Headers of a response.
pub const HEADERS_MAX: usize = 64;
/// From looking up the name to the end of the TLS handshake.
pub const OPENING_MAX: Duration = Duration::from_secs(10);
const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;
const IDLE_CONNECTIONS_MAX: usize = 64;
/// What was answered last lies in a connection's buffers until it is closed: within twice this time. Whoever asks less
/// often pays for a handshake each time.
const IDLE_MAX: Duration = Duration::from_secs(1);
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::System;
    use crate::upstream::rehearsal::{Act, Server, answer, certified};
    use std::path::Path;

    fn transport(reach: Reach) -> Transport {
        Transport::new(Trust::nobody(), reach, Duration::from_secs(1), Arc::new(System))
    }

    async fn outcome(server: &Server) -> Result<(u16, Vec<u8>), Kind> {
        let way = transport(Reach::VerifiedOrLoopback);
        let uri = way.address(&server.url()).unwrap();
        let sent = way.post(&uri, HeaderMap::new(), Bytes::from_static(b"a=1"), Duration::from_secs(2)).await;
        sent.map(|it| (it.status.as_u16(), it.body.expose().to_vec())).map_err(|fault| fault.kind().clone())
    }

    #[tokio::test]
    async fn the_answer_comes_back_whole_and_the_request_says_who_we_are_and_asks_for_no_encoding() {
        let server = Server::play(|_, _| answer(418, "", "tea")).await;
        assert_eq!(outcome(&server).await, Ok((418, b"tea".to_vec())));
        let asked = server.asked();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].line, "POST / HTTP/1.1");
        assert_eq!(asked[0].body, "a=1");
        assert_eq!(asked[0].header("user-agent"), Some(AGENT));
        assert_eq!(asked[0].header("accept-encoding"), None);
    }

    #[tokio::test]
    async fn a_redirect_is_handed_on_and_not_followed() {
        let server = Server::play(|_, _| answer(302, "Location: /elsewhere\r\n", "")).await;
        assert_eq!(outcome(&server).await, Ok((302, Vec::new())));
        assert_eq!(server.asked().len(), 1);
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_garbled_announced_or_not() {
        let announced = Server::play(|_, _| answer(200, "", &"x".repeat(BODY_BYTES_MAX + 1))).await;
        assert_eq!(outcome(&announced).await, Err(Kind::Garbled));
        let streamed = Server::play(|_, _| {
            let mut bytes = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for _ in 0..=BODY_BYTES_MAX / 4096 {
                bytes.extend_from_slice(b"1000\r\n");
                bytes.extend_from_slice(&[b'x'; 4096]);
                bytes.extend_from_slice(b"\r\n");
            }
            Act::Say(bytes)
        })
        .await;
        assert_eq!(outcome(&streamed).await, Err(Kind::Garbled));
    }

    #[tokio::test]
    async fn a_body_at_the_limit_is_taken() {
        let server = Server::play(|_, _| answer(200, "", &"x".repeat(BODY_BYTES_MAX))).await;
        assert_eq!(outcome(&server).await, Ok((200, vec![b'x'; BODY_BYTES_MAX])));
    }

    #[tokio::test]
    async fn an_encoded_body_is_garbled() {
        let server = Server::play(|_, _| answer(200, "Content-Encoding: gzip\r\n", "bomb")).await;
        assert_eq!(outcome(&server).await, Err(Kind::Garbled));
    }

    #[tokio::test]
    async fn a_body_that_is_cut_off_and_what_is_not_http_are_garbled() {
        let cut =
            Server::play(|_, _| Act::SayAndLeave(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhalf".to_vec())).await;
        assert_eq!(outcome(&cut).await, Err(Kind::Garbled));
        let other = Server::play(|_, _| Act::SayAndLeave(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec())).await;
        assert_eq!(outcome(&other).await, Err(Kind::Garbled));
    }

    #[tokio::test]
    async fn a_connection_closed_before_an_answer_and_a_port_where_nobody_is_are_unreachable() {
        let closing = Server::play(|_, _| Act::SayAndLeave(Vec::new())).await;
        assert_eq!(outcome(&closing).await, Err(Kind::Unreachable));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let way = transport(Reach::VerifiedOrLoopback);
        let uri = way.address(&format!("http://{free}")).unwrap();
        let sent = way.post(&uri, HeaderMap::new(), Bytes::new(), Duration::from_secs(2)).await;
        assert_eq!(sent.unwrap_err().kind(), &Kind::Unreachable);
    }

    #[tokio::test]
    async fn silence_ends_with_the_timeout() {
        let server = Server::play(|_, _| Act::Hang).await;
        let way = transport(Reach::VerifiedOrLoopback);
        let uri = way.address(&server.url()).unwrap();
        let sent = way.post(&uri, HeaderMap::new(), Bytes::new(), Duration::from_millis(50)).await;
        assert_eq!(sent.unwrap_err().kind(), &Kind::TimedOut);
    }

    #[test]
    fn plain_http_reaches_no_further_than_it_is_allowed_to() {
        let may = |reach, address: &str| transport(reach).address(address).is_ok();
        assert!(may(Reach::Verified, "https://kms.cn-hangzhou.aliyuncs.com"));
        for address in ["http://127.0.0.1:1", "http://kms.cn-hangzhou.aliyuncs.com", "ftp://a", "/", "https://u@a"] {
            assert!(!may(Reach::Verified, address), "{address}");
        }
        assert!(may(Reach::VerifiedOrLoopback, "http://[::1]:1"));
        assert!(!may(Reach::VerifiedOrLoopback, "http://100.100.100.200"));
        assert!(may(Reach::VerifiedOrMachine, "http://100.100.100.200"));
        assert!(!may(Reach::VerifiedOrMachine, "http://10.0.0.1"));
        assert!(!may(Reach::VerifiedOrMachine, "http://127.0.0.1.example.com"));
    }

    #[tokio::test]
    async fn tls_is_spoken_with_whoever_the_ca_file_vouches_for_and_with_nobody_else() {
        let ask = async |name: &str, ca: Option<&str>, tls: rustls::ServerConfig| {
            let server = Server::play_tls(tls, |_, _| answer(200, "", "ok")).await;
            let file = tempfile::NamedTempFile::new().unwrap();
            let trust = ca.map_or_else(Trust::nobody, |pem| {
                std::fs::write(file.path(), pem).unwrap();
                Trust::nobody().with_file(file.path()).unwrap()
            });
            let way = Transport::new(trust, Reach::Verified, Duration::from_secs(1), Arc::new(System));
            let uri = way.address(&format!("https://{name}:{}", server.address.port())).unwrap();
            let sent = way.post(&uri, HeaderMap::new(), Bytes::from_static(b"s"), Duration::from_secs(2)).await;
            (sent.map(|it| it.status.as_u16()).map_err(|fault| fault.kind().clone()), server.asked().len())
        };
        let (pem, tls) = certified("127.0.0.1");
        assert_eq!(ask("127.0.0.1", Some(&pem), tls.clone()).await, (Ok(200), 1));
        assert_eq!(ask("localhost", Some(&pem), tls.clone()).await, (Err(Kind::Unreachable), 0), "wrong name");
        assert_eq!(ask("127.0.0.1", None, tls.clone()).await, (Err(Kind::Unreachable), 0), "unknown CA");
        let (other, _) = certified("127.0.0.1");
        assert_eq!(ask("127.0.0.1", Some(&other), tls).await, (Err(Kind::Unreachable), 0), "another CA");
    }

    #[test]
    fn a_ca_file_without_certificates_is_an_error_that_names_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Trust::nobody().with_file(file.path()).unwrap_err();
        assert_eq!(error, Error::CaFile(file.path().to_owned(), "no CERTIFICATE block in it".into()));
        let error = Trust::nobody().with_file(Path::new("/nowhere/ca.pem")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }

    #[tokio::test]
    async fn a_connection_is_used_again_and_replaced_at_its_maximum_age() {
        let clock = Arc::new(crate::clock::Manual::at(jiff::Timestamp::UNIX_EPOCH));
        let trust = Trust::nobody();
        let held: Arc<dyn Clock> = Arc::<crate::clock::Manual>::clone(&clock);
        let way = Transport::new(trust, Reach::VerifiedOrLoopback, Duration::from_secs(1), held);
        let server = Server::play(|_, _| answer(200, "", "")).await;
        let uri = way.address(&server.url()).unwrap();
        let post = async || {
            way.post(&uri, HeaderMap::new(), Bytes::new(), Duration::from_secs(2)).await.unwrap();
            server.asked().last().unwrap().peer
        };
        let first = post().await;
        assert_eq!(post().await, first);
        clock.advance(CONNECTION_AGE_MAX);
        assert_ne!(post().await, first);
    }
}
