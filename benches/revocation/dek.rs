//! One DEK, and how to ask for it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A DEK under a key of its own.
pub(crate) struct Dek {
    pub(crate) key: String,
    request: Bytes,
    plaintext: String,
}

impl Dek {
    /// Encrypts one that nobody else has.
    pub(crate) async fn encrypt(line: &mut Line, key: &str) -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).unwrap();
        let plaintext = BASE64_STANDARD.encode(bytes);
        let request = form("Encrypt", &[("KeyId", key), ("Plaintext", &plaintext)]);
        let (status, answer) = line.call(request).await;
        assert_eq!(status, 200, "{answer}");
        let request = form("Decrypt", &[("CiphertextBlob", answer["CiphertextBlob"].as_str().unwrap())]);
        Self { key: key.to_owned(), request, plaintext }
    }

    /// Asks for it, and compares what comes.
    pub(crate) async fn decrypt(&self, line: &mut Line) -> Seen {
        let sent = Instant::now();
        let (status, answer) = line.call(self.request.clone()).await;
        let received = Instant::now();
        let refusal = match (status, &answer["Plaintext"]) {
            (200, Value::String(plaintext)) => {
                assert_eq!(*plaintext, self.plaintext, "another DEK than was asked for");
                assert_eq!(answer["KeyId"], self.key);
                None
            }
            (_, Value::Null) => Some(answer["Code"].as_str().expect("a code").to_owned()),
            _ => panic!("{status} with {answer}"),
        };
        Seen { sent, received, refusal }
    }
}

/// How one Decrypt was answered.
pub(crate) struct Seen {
    pub(crate) sent: Instant,
    pub(crate) received: Instant,
    /// The code; nothing where the plaintext came.
    pub(crate) refusal: Option<String>,
}

/// A kept-alive connection, opened anew where the daemon has let it go: as one that has rested, or one that was answered
/// with a refusal.
pub(crate) struct Line {
    socket: PathBuf,
    sender: SendRequest<Full<Bytes>>,
}

impl Line {
    pub(crate) async fn open(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { socket: socket.to_owned(), sender }
    }

    async fn call(&mut self, form: Bytes) -> (u16, Value) {
        for _ in 0..ATTEMPTS_MAX {
            match timeout(PATIENCE, self.attempt(form.clone())).await.expect("an answer") {
                Ok((status, body)) => return (status, serde_json::from_slice(&body).unwrap()),
                Err(error) => {
                    assert!(!error.is_parse(), "{error}");
                    *self = Self::open(&self.socket.clone()).await;
                }
            }
        }
        panic!("{ATTEMPTS_MAX} connections ended without an answer")
    }

    async fn attempt(&mut self, form: Bytes) -> hyper::Result<(u16, Bytes)> {
        let request = http::Request::post("/")
            .header("host", "localhost")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::new(form))
            .unwrap();
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        Ok((head.status.as_u16(), body.collect().await?.to_bytes()))
    }
}

fn form(action: &str, parameters: &[(&str, &str)]) -> Bytes {
    let mut form = format!("Version=2016-01-20&Action={action}");
    for (name, value) in parameters {
        let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC);
        form.push_str(&format!("&{name}={value}"));
    }
    form.into()
}

const ATTEMPTS_MAX: usize = 5;
/// Longer than a listener takes by default, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(20);
