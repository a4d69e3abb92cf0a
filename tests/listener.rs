//! Listeners over real sockets: what they refuse to bind, what they survive, and whom they take a peer for.
#![allow(clippy::unwrap_used, reason = "a test may; clippy's own exception ends at the test function")]

use std::future::pending;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use jiff::Timestamp;
use kmsproxy::claim::{Peer, PeerOrigin};
use kmsproxy::listener::{BindError, Confidential, Config, FaceName, Limits, Listener, LocalAddress};
use kmsproxy::tls;
use kmsproxy::tls::authority::Authority;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

#[path = "listener/lane.rs"]
mod lane;

/// Long enough for anything that is to happen, on the slowest machine.
const SOON: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(100);
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: kms\r\n\r\n";

/// A listener at work, and a service that does what the path says.
struct Running {
    address: LocalAddress,
    shutdown: CancellationToken,
    release: Arc<Notify>,
    arrived: mpsc::UnboundedReceiver<()>,
    ended: JoinHandle<io::Result<()>>,
}

impl Running {
    fn start(config: &Config, limits: Limits) -> Self {
        Self::serve(Listener::bind(config, None).unwrap().with_limits(limits))
    }

    fn serve(listener: Listener) -> Self {
        let (arriving, arrived) = mpsc::unbounded_channel();
        let (shutdown, release) = (CancellationToken::new(), Arc::new(Notify::new()));
        let address = listener.local_address().clone();
        let released = Arc::clone(&release);
        let service = move |peer: Arc<Peer>, request: Request<Incoming>| {
            let (released, arriving) = (Arc::clone(&released), arriving.clone());
            async move {
                arriving.send(()).unwrap();
                match request.uri().path() {
                    "/panic" => panic!("as asked"),
                    "/wait" => released.notified().await,
                    "/never" => pending().await,
                    "/huge" => return Response::new(Full::new(Bytes::from(vec![0; 32 << 20]))),
                    _ => {}
                }
                let mut response = Response::new(Full::new(Bytes::from(describe(&peer))));
                if request.uri().path() == "/confide" {
                    response.extensions_mut().insert(Confidential);
                }
                response
            }
        };
        let ended = tokio::spawn(listener.run(service, shutdown.clone()));
        Self { address, shutdown, release, arrived, ended }
    }

    fn tcp(&self) -> SocketAddr {
        match &self.address {
            LocalAddress::Tcp(address) => *address,
            LocalAddress::Unix(path) => panic!("{path} is no TCP address"),
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.tcp()).await.unwrap()
    }

    /// Fails unless a newcomer is served.
    async fn assert_serves(&self) {
        assert_eq!(ask(&mut self.connect().await, "/").await.0, "HTTP/1.1 200 OK");
    }
}

fn describe(peer: &Peer) -> String {
    match peer.origin {
        PeerOrigin::Tcp(_) => format!("{} tcp {}", peer.listener.as_str(), peer.certificate_names.join(",")),
        PeerOrigin::Unix(credentials) => {
            format!("{} unix {:?}", peer.listener.as_str(), credentials.map(|peer| peer.uid))
        }
    }
}

fn config(address: &str) -> Config {
    Config {
        upstream: "none".to_owned(),
        insecure: true,
        max_connections: 16,
        max_in_flight: 16,
        timeout: Duration::from_secs(1),
        ..Config::new("test", FaceName::Aliyun, address)
    }
}

fn loopback() -> Config {
    config("127.0.0.1:0")
}

/// Sends one request and returns the status line, the head and the body of the answer.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), target: &str) -> (String, String, String) {
    stream.write_all(format!("GET {target} HTTP/1.1\r\nhost: kms\r\n\r\n").as_bytes()).await.unwrap();
    answer(stream).await
}

async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> (String, String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, stream.read_u8()).await.expect("an answer in time").expect("an answer"));
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    (head.lines().next().unwrap().to_owned(), head, String::from_utf8(body).unwrap())
}

/// Waits for the other side to close, and returns what it said before.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut said = Vec::new();
    match timeout(SOON, stream.read_to_end(&mut said)).await.expect("closed in time") {
        Ok(_) => said,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => said,
        Err(error) => panic!("{error}"),
    }
}

/// Certificates in a folder, and a listener's TLS settings of them.
struct Certified {
    folder: TempDir,
    tls: tls::Config,
}

fn certified() -> Certified {
    let authority = Authority::generate(Timestamp::now(), &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    write("ca.pem", authority.ca_pem().as_bytes());
    let certificate_file = write("server.pem", authority.certificate_pem().as_bytes());
    let key_file = write("server.key", authority.key_pem().expose());
    Certified { folder, tls: tls::Config { certificate_file, key_file, client_ca_file: None } }
}

/// A CA that certifies clients, and a client's chain and key.
fn client_ca(names: &[&str]) -> (String, CertificateDer<'static>, PrivateKeyDer<'static>) {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    (ca.pem(), certificate.der().clone(), key)
}

fn client(folder: &Path, identity: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>) -> TlsConnector {
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted);
    let client = match identity {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    TlsConnector::from(Arc::new(client))
}

async fn ask_over_tls(running: &Running, client: &TlsConnector) -> io::Result<String> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = client.connect(name, running.connect().await).await?;
    stream.write_all(GET).await?;
    // In TLS 1.3 the client learns only now that its certificate was refused.
    let first = stream.read_u8().await?;
    assert_eq!(first, b'H');
    Ok(answer(&mut stream).await.2)
}

#[tokio::test]
async fn a_client_that_never_sends_is_closed() {
    let running = Running::start(&loopback(), Limits { head: SHORT, ..Limits::default() });
    assert_eq!(closed(&mut running.connect().await).await, b"");
    running.assert_serves().await;
}

#[tokio::test]
async fn half_a_tls_handshake_is_closed() {
    let certified = certified();
    let config = Config { tls: Some(certified.tls), ..loopback() };
    let running = Running::start(&config, Limits { handshake: SHORT, ..Limits::default() });
    let mut stream = running.connect().await;
    // A record header that promises a ClientHello of 512 bytes, and its first four.
    stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]).await.unwrap();
    assert_eq!(closed(&mut stream).await, b"");
    let tls = client(certified.folder.path(), None);
    assert_eq!(ask_over_tls(&running, &tls).await.unwrap(), "test tcp ");
}

#[tokio::test]
async fn half_a_head_is_closed_even_after_a_whole_request() {
    let running = Running::start(&loopback(), Limits { head: SHORT, ..Limits::default() });
    let mut stream = running.connect().await;
    ask(&mut stream, "/").await;
    stream.write_all(&GET[..9]).await.unwrap();
    assert_eq!(closed(&mut stream).await, b"");
    running.assert_serves().await;
}

#[tokio::test]
async fn a_head_that_drips_is_closed_though_it_never_pauses() {
    let running = Running::start(&loopback(), Limits { head: SHORT, ..Limits::default() });
    let (mut reading, mut writing) = running.connect().await.into_split();
    let mut drops = interval(SHORT / 10);
    let drip = tokio::spawn(async move {
        for byte in b"GET / HTTP/1.1\r\nhost: kms\r\nx-long: ".iter().chain(std::iter::repeat(&b'x')) {
            drops.tick().await;
            if writing.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    });
    assert_eq!(closed(&mut reading).await, b"");
    timeout(SOON, drip).await.unwrap().unwrap();
    running.assert_serves().await;
}

#[tokio::test]
async fn an_idle_connection_outlives_the_limit_of_a_head_and_not_its_own() {
    let limits = Limits { head: SHORT / 10, idle: SHORT * 5, ..Limits::default() };
    let running = Running::start(&loopback(), limits);
    let mut stream = running.connect().await;
    ask(&mut stream, "/").await;
    let answered = Instant::now();
    assert_eq!(closed(&mut stream).await, b"");
    assert!(answered.elapsed() >= limits.idle - SHORT, "{:?}", answered.elapsed());
}

#[tokio::test]
async fn a_connection_that_was_at_rest_goes_on_with_whatever_had_come_of_the_next_request() {
    let running = Running::start(&loopback(), Limits { rest: SHORT / 2, ..Limits::default() });
    let mut stream = running.connect().await;
    for come in [0, 1, 9, GET.len() - 1] {
        stream.write_all(&[GET, &GET[..come]].concat()).await.unwrap();
        assert_eq!(answer(&mut stream).await.0, "HTTP/1.1 200 OK");
        tokio::time::sleep(SHORT * 2).await;
        stream.write_all(&GET[come..]).await.unwrap();
        assert_eq!(answer(&mut stream).await.0, "HTTP/1.1 200 OK", "{come} bytes of it");
        tokio::time::sleep(SHORT * 2).await;
    }
    assert_eq!(ask(&mut stream, "/confide").await.0, "HTTP/1.1 200 OK");
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(ask(&mut stream, "/").await.0, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn over_tls_a_connection_on_which_a_plaintext_came_in_ends_when_it_rests() {
    let Certified { folder, tls } = certified();
    let config = Config { tls: Some(tls), insecure: false, ..loopback() };
    let running = Running::start(&config, Limits { rest: SHORT, ..Limits::default() });
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = client(folder.path(), None).connect(name, running.connect().await).await.unwrap();
    for target in ["/", "/confide"] {
        assert_eq!(ask(&mut stream, target).await.0, "HTTP/1.1 200 OK");
        if target == "/" {
            tokio::time::sleep(SHORT * 3).await;
        }
    }
    let read = timeout(SOON, stream.read(&mut [0])).await.expect("closed in time");
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    assert!(ask_over_tls(&running, &client(folder.path(), None)).await.is_ok());
}

#[tokio::test]
async fn half_a_head_that_came_before_the_rest_is_held_against_the_limit_of_a_head() {
    let limits = Limits { rest: SHORT / 2, head: SHORT * 2, ..Limits::default() };
    let running = Running::start(&loopback(), limits);
    let mut stream = running.connect().await;
    stream.write_all(&[GET, &GET[..9]].concat()).await.unwrap();
    assert_eq!(answer(&mut stream).await.0, "HTTP/1.1 200 OK");
    assert_eq!(closed(&mut stream).await, b"");
}

#[tokio::test]
async fn an_answer_that_the_peer_is_slow_to_take_is_not_cut_by_rest() {
    let running = Running::start(&loopback(), Limits { rest: SHORT / 2, ..Limits::default() });
    let mut stream = running.connect().await;
    stream.write_all(b"GET /huge HTTP/1.1\r\nhost: kms\r\n\r\n").await.unwrap();
    tokio::time::sleep(SHORT * 4).await;
    assert_eq!(answer(&mut stream).await.2.len(), 32 << 20);
    assert_eq!(ask(&mut stream, "/").await.0, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn at_a_word_idle_connections_are_closed_and_the_others_after_their_answer() {
    let (word, recycling) = tokio::sync::watch::channel(0);
    let mut running = Running::serve(Listener::bind(&loopback(), None).unwrap().recycled_by(recycling));
    let (mut idle, mut busy) = (running.connect().await, running.connect().await);
    ask(&mut idle, "/").await;
    running.arrived.recv().await.unwrap();
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: kms\r\n\r\n").await.unwrap();
    running.arrived.recv().await.unwrap();
    word.send(1).unwrap();
    assert_eq!(closed(&mut idle).await, b"");
    running.release.notify_one();
    assert_eq!(answer(&mut busy).await.0, "HTTP/1.1 200 OK");
    assert_eq!(closed(&mut busy).await, b"");
    running.assert_serves().await;
    drop(word);
    running.assert_serves().await;
}

#[tokio::test]
async fn a_request_without_an_answer_is_closed() {
    let running = Running::start(&loopback(), Limits { request: SHORT, ..Limits::default() });
    let mut stream = running.connect().await;
    stream.write_all(b"GET /never HTTP/1.1\r\nhost: kms\r\n\r\n").await.unwrap();
    assert_eq!(closed(&mut stream).await, b"");
    running.assert_serves().await;
}

#[tokio::test]
async fn a_client_that_never_reads_loses_its_place() {
    let config = Config { max_connections: 1, ..loopback() };
    let mut running = Running::start(&config, Limits { stall: SHORT, ..Limits::default() });
    let mut stream = running.connect().await;
    stream.write_all(b"GET /huge HTTP/1.1\r\nhost: kms\r\n\r\n").await.unwrap();
    running.arrived.recv().await.unwrap();
    running.assert_serves().await;
}

#[tokio::test]
async fn forty_kibibytes_of_head_pass_and_a_hundred_do_not() {
    let running = Running::start(&loopback(), Limits::default());
    let mut stream = running.connect().await;
    assert_eq!(ask(&mut stream, &format!("/?{}", "q".repeat(40 << 10))).await.0, "HTTP/1.1 200 OK");
    let head = format!("GET /?{} HTTP/1.1\r\nhost: kms\r\n\r\n", "q".repeat(100 << 10));
    // It may be closed before all of it is sent.
    let _ = stream.write_all(head.as_bytes()).await;
    // By which of its two limits depends on how much came in at once.
    let refused = answer(&mut stream).await.0;
    assert!(
        ["HTTP/1.1 414 URI Too Long", "HTTP/1.1 431 Request Header Fields Too Large"].contains(&&*refused),
        "{refused}"
    );
    running.assert_serves().await;
}

#[tokio::test]
async fn an_answer_is_sent_though_more_was_received_than_read() {
    let running = Running::start(&loopback(), Limits::default());
    let mut stream = running.connect().await;
    // The service reads no body.
    stream.write_all(b"POST / HTTP/1.1\r\nhost: kms\r\ncontent-length: 9999\r\n\r\nbegun").await.unwrap();
    assert_eq!(answer(&mut stream).await.0, "HTTP/1.1 200 OK");
    let mut stream = running.connect().await;
    stream.write_all(&[GET, &GET[..9]].concat()).await.unwrap();
    assert_eq!(answer(&mut stream).await.0, "HTTP/1.1 200 OK");
    stream.write_all(&GET[9..]).await.unwrap();
    assert_eq!(answer(&mut stream).await.0, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_panic_ends_its_own_connection_only() {
    let running = Running::start(&loopback(), Limits::default());
    let mut other = running.connect().await;
    ask(&mut other, "/").await;
    let mut stream = running.connect().await;
    stream.write_all(b"GET /panic HTTP/1.1\r\nhost: kms\r\n\r\n").await.unwrap();
    assert_eq!(closed(&mut stream).await, b"");
    assert_eq!(ask(&mut other, "/").await.0, "HTTP/1.1 200 OK");
    running.assert_serves().await;
}

#[tokio::test]
async fn an_old_connection_is_closed_by_an_answer_that_says_so() {
    let running = Running::start(&loopback(), Limits { age: Duration::ZERO, ..Limits::default() });
    let mut stream = running.connect().await;
    assert!(ask(&mut stream, "/").await.1.contains("\r\nconnection: close\r\n"));
    assert_eq!(closed(&mut stream).await, b"");
}

#[tokio::test]
async fn at_the_limit_a_newcomer_replaces_whoever_is_idle_longest() {
    let running = Running::start(&Config { max_connections: 2, ..loopback() }, Limits::default());
    let (mut longest, mut later) = (running.connect().await, running.connect().await);
    ask(&mut longest, "/").await;
    // The crowd counts idle time in milliseconds.
    tokio::time::sleep(Duration::from_millis(5)).await;
    ask(&mut later, "/").await;
    running.assert_serves().await;
    assert_eq!(closed(&mut longest).await, b"");
    assert_eq!(ask(&mut later, "/").await.0, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn at_the_limit_a_newcomer_waits_for_requests_in_flight() {
    let mut running = Running::start(&Config { max_connections: 1, ..loopback() }, Limits::default());
    let mut first = running.connect().await;
    first.write_all(b"GET /wait HTTP/1.1\r\nhost: kms\r\n\r\n").await.unwrap();
    running.arrived.recv().await.unwrap();
    let mut second = running.connect().await;
    second.write_all(GET).await.unwrap();
    assert!(timeout(SHORT, second.read_u8()).await.is_err());
    running.release.notify_one();
    assert_eq!(answer(&mut first).await.0, "HTTP/1.1 200 OK");
    assert_eq!(answer(&mut second).await.0, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn shutdown_closes_the_idle_lets_the_busy_finish_and_ends() {
    let mut running = Running::start(&loopback(), Limits::default());
    let (mut idle, mut busy) = (running.connect().await, running.connect().await);
    ask(&mut idle, "/").await;
    running.arrived.recv().await.unwrap();
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: kms\r\n\r\n").await.unwrap();
    running.arrived.recv().await.unwrap();
    running.shutdown.cancel();
    assert_eq!(closed(&mut idle).await, b"");
    assert_eq!(TcpStream::connect(running.tcp()).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(!running.ended.is_finished());
    running.release.notify_one();
    assert!(answer(&mut busy).await.1.contains("\r\nconnection: close\r\n"));
    timeout(SOON, running.ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_cuts_what_outlasts_the_drain_time() {
    let mut running = Running::start(&loopback(), Limits { drain: SHORT, ..Limits::default() });
    let mut stuck = running.connect().await;
    stuck.write_all(b"GET /never HTTP/1.1\r\nhost: kms\r\n\r\n").await.unwrap();
    running.arrived.recv().await.unwrap();
    running.shutdown.cancel();
    timeout(SOON, running.ended).await.unwrap().unwrap().unwrap();
    assert_eq!(closed(&mut stuck).await, b"");
}

#[tokio::test]
async fn a_listener_that_is_dropped_cuts_its_connections() {
    let mut running = Running::start(&loopback(), Limits::default());
    let mut stuck = running.connect().await;
    stuck.write_all(b"GET /never HTTP/1.1\r\nhost: kms\r\n\r\n").await.unwrap();
    running.arrived.recv().await.unwrap();
    running.ended.abort();
    assert_eq!(closed(&mut stuck).await, b"");
}

#[tokio::test]
async fn a_client_certificate_must_be_of_the_right_ca_and_gives_its_names() {
    let mut certified = certified();
    let (ca, certificate, key) = client_ca(&["ack.example"]);
    let (_, other_certificate, other_key) = client_ca(&["ack.example"]);
    let ca_file = certified.folder.path().join("clients.pem");
    fs::write(&ca_file, ca).unwrap();
    certified.tls.client_ca_file = Some(ca_file);
    let running = Running::start(&Config { tls: Some(certified.tls), ..loopback() }, Limits::default());
    let folder = certified.folder.path();
    for wrong in [None, Some((other_certificate, other_key))] {
        assert!(ask_over_tls(&running, &client(folder, wrong)).await.is_err());
    }
    let right = client(folder, Some((certificate, key)));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = right.connect(name, running.connect().await).await.unwrap();
    assert_eq!(ask(&mut stream, "/").await.2, "test tcp ack.example");
}

#[tokio::test]
async fn a_unix_peer_is_known_by_its_uid() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ack.sock");
    let running = Running::start(&config(&format!("unix:{}", path.display())), Limits::default());
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(ask(&mut stream, "/").await.2, format!("test unix Some({uid})"));
    running.shutdown.cancel();
    timeout(SOON, running.ended).await.unwrap().unwrap().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn an_abstract_socket_is_served() {
    let name = format!("kmsproxy-test-{}", std::process::id());
    let running = Running::start(&config(&format!("unix:@{name}")), Limits::default());
    assert_eq!(running.address, LocalAddress::Unix(format!("@{name}")));
    let mut stream = UnixStream::connect(format!("\0{name}")).await.unwrap();
    assert_eq!(ask(&mut stream, "/").await.0, "HTTP/1.1 200 OK");
    assert!(matches!(Listener::bind(&config(&format!("unix:@{name}")), None), Err(BindError::Taken(_))));
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ack.sock");
    let config = config(&format!("unix:{}", path.display()));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let live = Listener::bind(&config, None).unwrap();
    assert!(matches!(Listener::bind(&config, None), Err(BindError::Taken(_))));
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    drop(live);
}

#[test]
fn a_socket_file_has_the_configured_mode_and_replaces_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ack.sock");
    let address = format!("unix:{}", path.display());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let _first = Listener::bind(&config(&address), None).unwrap();
    assert_eq!(mode(&path), 0o660);
    fs::remove_file(&path).unwrap();
    let _second = Listener::bind(&Config { mode: Some("0606".to_owned()), ..config(&address) }, None).unwrap();
    assert_eq!(mode(&path), 0o606);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::bind(&config(&address), None), Err(BindError::InTheWay(file)) if file == path));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_socket_file_is_given_to_its_owner_and_group() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ack.sock");
    let config = config(&format!("unix:{}", path.display()));
    let owned = |owner: u32, group: u32| {
        let (owner, group) = (Some(owner.to_string()), Some(group.to_string()));
        Listener::bind(&Config { owner, group, mode: Some("0606".to_owned()), ..config.clone() }, None)
    };
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let found = |path: &Path| {
        let found = fs::symlink_metadata(path).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    let listener = owned(uid, gid).unwrap();
    assert_eq!(found(&path), (uid, gid, 0o606));
    drop(listener);
    // Only root may give files away.
    match owned(65532, 65533) {
        Ok(_) => assert_eq!((uid, found(&path)), (0, (65532, 65533, 0o606))),
        Err(error) => {
            assert!(matches!(&error, BindError::GiveAway { remedy, .. } if remedy.contains("CAP_CHOWN")), "{error}");
            assert!(uid != 0 && !path.exists(), "{error}");
        }
    }
}

#[test]
fn a_kubernetes_listener_is_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let kubernetes = |address: &str| Config { face: FaceName::Kubernetes, ..config(address) };
    let refused = Listener::bind(&kubernetes("127.0.0.1:0"), None).unwrap_err();
    assert!(matches!(refused, BindError::NotUnix(_)));
    assert!(refused.to_string().contains("write \"unix:/path\""), "{refused}");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(matches!(Listener::bind(&kubernetes("systemd:kms"), Some(tcp.into())), Err(BindError::NotUnix(_))));
    let unix = std::os::unix::net::UnixListener::bind(folder.path().join("kms.sock")).unwrap();
    assert!(Listener::bind(&kubernetes("systemd:kms"), Some(unix.into())).is_ok());
    assert!(Listener::bind(&kubernetes(&format!("unix:{}", folder.path().join("own.sock").display())), None).is_ok());
}

#[test]
fn addresses_that_cannot_be_had_say_what_to_do() {
    let taken = Listener::bind(&loopback(), None).unwrap();
    let again = Listener::bind(&config(&taken.local_address().to_string()), None).unwrap_err();
    let remedy = "another process listens there; stop it or choose another address";
    assert_eq!(again.to_string(), format!("{}: {remedy}", taken.local_address()));
    let missing = Listener::bind(&config("unix:/nonexistent/ack.sock"), None).unwrap_err().to_string();
    assert!(missing.ends_with("create the folder first"), "{missing}");
    let inherited = Listener::bind(&config("systemd:ack"), None).unwrap_err();
    assert!(matches!(inherited, BindError::NotInherited(_)));
    let plain = Listener::bind(&Config { insecure: false, ..loopback() }, None).unwrap_err();
    assert!(matches!(plain, BindError::Plain(_)));
    let everywhere = Listener::bind(&config("0.0.0.0:0"), None).unwrap_err();
    assert!(matches!(everywhere, BindError::Plain(_)));
}

#[tokio::test]
async fn an_inherited_socket_is_adopted_if_it_listens() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let listener = Listener::bind(&config("systemd:ack"), Some(socket.into())).unwrap();
    assert_eq!(listener.local_address(), &LocalAddress::Tcp(address));
    Running::serve(listener).assert_serves().await;
    let (one_end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let stranger = Listener::bind(&config("systemd:ack"), Some(one_end.into())).unwrap_err();
    assert!(matches!(stranger, BindError::Inherited(_)));
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = Listener::bind(&Config { insecure: false, ..config("systemd:ack") }, Some(plain.into()));
    assert!(matches!(refused, Err(BindError::Plain(_))));
}
