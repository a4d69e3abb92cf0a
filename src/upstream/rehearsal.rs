//! A server on loopback for tests, that answers as the test tells it and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::clock::{Clock, Deadline, System};

/// One request as it came.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) line: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    /// The connection it came on.
    pub(super) peer: SocketAddr,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// A form or query parameter, undecoded.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let target = self.line.split(' ').nth(1).unwrap_or_default();
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').chain(self.body.split('&'));
        pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// What to do about one request.
pub(super) enum Act {
    /// Write, and wait for the next request.
    Say(Vec<u8>),
    /// Write, and close.
    SayAndLeave(Vec<u8>),
    /// Write nothing, keep the connection.
    Hang,
}

/// An answer with `Content-Length`.
pub(super) fn answer(status: u16, headers: &str, body: &str) -> Act {
    Act::Say(format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len()).into_bytes())
}

type Play = dyn Fn(usize, &Asked) -> Act + Send + Sync;

/// The server; gone when dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Plays `act(number of earlier requests, request)` over plain HTTP.
    pub(super) async fn play(act: impl Fn(usize, &Asked) -> Act + Send + Sync + 'static) -> Self {
        Self::start(None, Arc::new(act)).await
    }

    /// The same over TLS.
    pub(super) async fn play_tls(
        config: rustls::ServerConfig,
        act: impl Fn(usize, &Asked) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(TlsAcceptor::from(Arc::new(config))), Arc::new(act)).await
    }

    async fn start(tls: Option<TlsAcceptor>, play: Arc<Play>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (tcp, peer) = listener.accept().await.unwrap();
                let (tls, log, play) = (tls.clone(), Arc::clone(&log), Arc::clone(&play));
                connections.spawn(async move {
                    match tls {
                        None => converse(tcp, peer, &log, &*play).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(tcp).await {
                                converse(stream, peer, &log, &*play).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    log: &Mutex<Vec<Asked>>,
    play: &Play,
) {
    let mut buffer = Vec::new();
    while let Some(asked) = read(&mut stream, peer, &mut buffer).await {
        let number = {
            let mut log = log.lock().unwrap();
            log.push(asked.clone());
            log.len() - 1
        };
        match play(number, &asked) {
            Act::Say(bytes) => {
                if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            Act::SayAndLeave(bytes) => {
                // A peer that has heard enough may have left first.
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            Act::Hang => std::future::pending().await,
        }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin), peer: SocketAddr, buffer: &mut Vec<u8>) -> Option<Asked> {
    let head_end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer[..head_end].to_vec()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
    while buffer.len() < head_end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(buffer[head_end..head_end + length].to_vec()).unwrap();
    buffer.drain(..head_end + length);
    Some(Asked { line, headers, body, peer })
}

/// A certificate authority and a server certificate of it for `name`: the CA as PEM, and the server's configuration.
pub(super) fn certified(name: &str) -> (String, rustls::ServerConfig) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (pem, config)
}

/// Five seconds from now: longer than any of these tests, shorter than a patience.
pub(super) fn soon() -> Deadline {
    Deadline::after(System.now(), Duration::from_secs(5))
}
