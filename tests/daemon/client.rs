//! A small client: signs with the library's own V3 signer (the official SDKs have their own test), speaks HTTP/1.1
//! over TLS or a unix socket, and returns what came.

pub(crate) mod diary;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use kmsproxy::secret::Secret;
use kmsproxy::wire::aliyun::signature::{AccessKey, V3, v3_headers};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

use self::diary::Page;
use super::process::{Daemon, canary};

/// How to reach a face, and as whom.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: String,
    pub(crate) ca_file: Option<String>,
    pub(crate) access_key: String,
    pub(crate) secret: String,
    /// Where its calls are written down.
    pub(crate) page: Option<Page>,
}

/// What came back: status and JSON body.
pub(crate) type Outcome = (u16, Value);

/// One kept-alive connection.
pub(crate) struct Client {
    sender: SendRequest<Full<Bytes>>,
    target: Target,
}

impl Target {
    /// The face of `kmsproxy dev` or `emulator`.
    pub(crate) fn of(daemon: &Daemon) -> Self {
        let secret = std::fs::read_to_string(daemon.at("secret_file")).unwrap();
        Self {
            address: daemon.at("address").into(),
            ca_file: Some(daemon.at("ca_file").into()),
            access_key: daemon.at("access_key_id").into(),
            secret: secret.trim().into(),
            page: None,
        }
    }

    pub(crate) async fn connect(&self) -> Client {
        self.reach().await.unwrap()
    }

    /// As [`connect`](Self::connect), to whoever may be gone.
    pub(crate) async fn reach(&self) -> std::io::Result<Client> {
        let sender = match (self.address.strip_prefix("unix:"), &self.ca_file) {
            (Some(path), _) => speak(UnixStream::connect(path).await?).await,
            (None, None) => speak(TcpStream::connect(&self.address).await?).await,
            (None, Some(ca)) => {
                let tcp = TcpStream::connect(&self.address).await?;
                let name = ServerName::try_from("localhost").unwrap();
                speak(tls(ca).connect(name, tcp).await?).await
            }
        };
        Ok(Client { sender, target: self.clone() })
    }

    /// One call on a connection of its own.
    pub(crate) async fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Outcome {
        self.connect().await.call(action, parameters).await
    }
}

impl Client {
    /// On this connection, or on another in its place if the other end has closed it meanwhile.
    pub(crate) async fn call(&mut self, action: &str, parameters: &[(&str, &str)]) -> Outcome {
        if self.is_closed() {
            *self = self.target.connect().await;
        }
        parameters.iter().filter(|(name, _)| *name == "Plaintext").for_each(|(_, plaintext)| canary::learn(plaintext));
        let request = signed(&self.target, action, parameters);
        let asked = self.target.page.as_ref().map(|page| page.asks(action, parameters));
        let outcome = match self.try_send(request).await {
            Ok(outcome) => outcome,
            // It closed just then, and has not answered: as on a connection that has rested.
            Err(error) if error.is_canceled() || error.is_incomplete_message() || error.is_closed() => {
                *self = self.target.connect().await;
                self.send(signed(&self.target, action, parameters)).await
            }
            Err(error) => panic!("{error}"),
        };
        if let Some(plaintext) = outcome.1["Plaintext"].as_str() {
            canary::learn(plaintext);
        }
        if let Some(asked) = asked {
            asked.hears(&outcome);
        }
        outcome
    }

    /// Whether the other end has closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(crate) async fn send(&mut self, request: http::Request<Full<Bytes>>) -> Outcome {
        self.try_send(request).await.unwrap()
    }

    /// As [`send`](Self::send), over a connection that may break.
    pub(crate) async fn try_send(&mut self, request: http::Request<Full<Bytes>>) -> hyper::Result<Outcome> {
        // The connection's task may not have seen the end of the last answer yet.
        self.sender.ready().await?;
        let response = tokio::time::timeout(Duration::from_secs(20), self.sender.send_request(request));
        let (parts, body) = response.await.expect("an answer")?.into_parts();
        let body = body.collect().await?.to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into());
        Ok((parts.status.as_u16(), body))
    }
}

/// A signed request for `target`.
pub(crate) fn signed(target: &Target, action: &str, parameters: &[(&str, &str)]) -> http::Request<Full<Bytes>> {
    let body = form(parameters);
    let secret = Secret::copied(target.secret.as_bytes());
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let headers = v3_headers(&V3 {
        host: "localhost",
        action,
        version: "2016-01-20",
        key: AccessKey { id: &target.access_key, secret: &secret, token: None },
        at: Timestamp::now(),
        nonce: &nonce,
        body: body.as_bytes(),
    });
    let mut request = http::Request::post("/").body(Full::from(body)).unwrap();
    *request.headers_mut() = headers;
    request
}

/// Over HTTP on a unix socket without any signature: the control API, and metrics.
pub(crate) async fn plain(socket: &Path, method: &str, path: &str, body: &str) -> Outcome {
    let target = Target {
        address: format!("unix:{}", socket.display()),
        ca_file: None,
        access_key: String::new(),
        secret: String::new(),
        page: None,
    };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .body(Full::from(body.to_owned()))
        .unwrap();
    target.connect().await.send(request).await
}

/// A GET over plain TCP.
pub(crate) async fn get(address: &str, path: &str) -> Outcome {
    bare(address, "GET", path).await
}

/// A request without a body over plain TCP; what came back is text.
pub(crate) async fn bare(address: &str, method: &str, path: &str) -> Outcome {
    attempt(address, method, path).await.unwrap_or_else(|| panic!("{address} does not answer {method} {path}"))
}

/// As [`bare`], of whoever may be gone.
pub(crate) async fn attempt(address: &str, method: &str, path: &str) -> Option<Outcome> {
    let (mut sender, connection) = handshake(TokioIo::new(TcpStream::connect(address).await.ok()?)).await.ok()?;
    tokio::spawn(connection);
    let request = http::Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let (parts, body) = sender.send_request(request).await.ok()?.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    Some((parts.status.as_u16(), String::from_utf8_lossy(&body).into()))
}

pub(crate) fn tls(ca: &str) -> tokio_rustls::TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config).into()
}

async fn speak<S>(stream: S) -> SendRequest<Full<Bytes>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn form(parameters: &[(&str, &str)]) -> String {
    let encoded = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    parameters.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect::<Vec<_>>().join("&")
}
