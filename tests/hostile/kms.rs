//! A KMS that does what a test tells it to.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kmsproxy::clock::{Clock, Moment, System};
use percent_encoding::percent_decode_str;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

/// What it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) action: String,
    pub(crate) form: BTreeMap<String, String>,
    /// As whom: the access key of the signature, where there is one.
    pub(crate) access_key: String,
}

/// One question, when it was decided by the boot clock, and status and body of the answer, where that went out whole.
#[derive(Clone, Debug)]
pub(crate) struct Decided {
    pub(crate) at_ns: u64,
    pub(crate) asked: Asked,
    pub(crate) said: Option<(u16, Vec<u8>)>,
}

/// What it does.
#[derive(Clone)]
pub(crate) enum Act {
    /// Answers and goes on.
    Say(u16, String, Vec<u8>),
    /// Writes these bytes and closes.
    Blurt(Vec<u8>),
    /// Writes these bytes and resets the connection.
    Reset(Vec<u8>),
    /// Announces an answer, and lets a byte go now and then.
    Drip,
    /// Neither answers nor closes.
    Never,
}

type Script = Arc<dyn Fn(&Asked) -> Act + Send + Sync>;

/// Listens until the test process ends.
pub(crate) struct Kms {
    pub(crate) address: String,
    state: Arc<State>,
}

struct State {
    script: Mutex<Script>,
    decided: Mutex<Vec<Decided>>,
    connections: AtomicUsize,
    /// Bytes of HTTP, whole request or not.
    bytes: AtomicUsize,
    tls: Option<Arc<ServerConfig>>,
}

impl Kms {
    /// Plain HTTP on loopback.
    pub(crate) fn plain() -> Self {
        Self::start("127.0.0.1:0", None)
    }

    pub(crate) fn tls(config: Arc<ServerConfig>) -> Self {
        Self::tls_at("127.0.0.1:0", config)
    }

    pub(crate) fn tls_at(address: &str, config: Arc<ServerConfig>) -> Self {
        Self::start(address, Some(config))
    }

    fn start(address: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            script: Mutex::new(Arc::new(honest)),
            decided: Mutex::default(),
            connections: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            tls,
        });
        let serving = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.unwrap(), Arc::clone(&serving));
                state.connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || state.serve(stream));
            }
        });
        Self { address, state }
    }

    /// From the next request on.
    pub(crate) fn plays(&self, script: impl Fn(&Asked) -> Act + Send + Sync + 'static) {
        *self.state.script.lock().unwrap() = Arc::new(script);
    }

    pub(crate) fn says(&self, act: Act) {
        self.plays(move |_| act.clone());
    }

    pub(crate) fn is_honest(&self) {
        self.plays(honest);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.decided.lock().unwrap().iter().map(|decided| decided.asked.clone()).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.state.decided.lock().unwrap().len()
    }

    /// What it has decided, whenever that is wanted.
    pub(crate) fn decided(&self) -> impl Fn() -> Vec<Decided> + use<> {
        let state = Arc::clone(&self.state);
        move || state.decided.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.state.bytes.load(Ordering::SeqCst)
    }
}

impl State {
    fn serve(&self, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let raw = stream.try_clone().unwrap();
        let end = match &self.tls {
            None => self.speak(stream),
            Some(config) => {
                let session = ServerConnection::new(Arc::clone(config)).unwrap();
                self.speak(StreamOwned::new(session, stream))
            }
        };
        if end == End::Reset {
            rustix::net::sockopt::set_socket_linger(&raw, Some(Duration::ZERO)).unwrap();
        }
    }

    fn speak(&self, mut stream: impl Read + Write) -> End {
        while let Some(asked) = self.hear(&mut stream) {
            let script = Arc::clone(&self.script.lock().unwrap());
            let act = script(&asked);
            let at_ns = System.now().since(Moment::BOOT).as_nanos().try_into().unwrap();
            let said = if let Act::Say(status, _, body) = &act { Some((*status, body.clone())) } else { None };
            self.decided.lock().unwrap().push(Decided { at_ns, asked, said });
            let (bytes, end) = match act {
                Act::Say(status, headers, body) => {
                    let head = format!("HTTP/1.1 {status} -\r\n{headers}content-length: {}\r\n\r\n", body.len());
                    ([head.into_bytes(), body].concat(), None)
                }
                Act::Blurt(bytes) => (bytes, Some(End::Close)),
                Act::Reset(bytes) => (bytes, Some(End::Reset)),
                Act::Drip => {
                    let mut next: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
                    while stream.write_all(next).and_then(|()| stream.flush()).is_ok() {
                        next = b" ";
                        thread::sleep(Duration::from_millis(50));
                    }
                    return End::Close;
                }
                Act::Never => {
                    let _ = stream.read(&mut [0]);
                    return End::Close;
                }
            };
            // A client that has heard enough closes.
            let written = stream.write_all(&bytes).and_then(|()| stream.flush());
            if let Some(end) = end.or(written.is_err().then_some(End::Close)) {
                return end;
            }
        }
        End::Close
    }

    fn hear(&self, stream: &mut impl Read) -> Option<Asked> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if !matches!(stream.read(&mut byte), Ok(1)) {
                return None;
            }
            self.bytes.fetch_add(1, Ordering::SeqCst);
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let field = |name| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let mut body = vec![0; field("content-length").unwrap_or("0").parse().unwrap()];
        stream.read_exact(&mut body).ok()?;
        let body = String::from_utf8(body).unwrap();
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
        let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
        let form = pairs.map(|(name, value)| (decoded(name), decoded(value))).collect();
        let signed = field("authorization").and_then(|proof| proof.split("Credential=").nth(1)?.split(',').next());
        let access_key = signed.unwrap_or_default().to_owned();
        Some(Asked { action: field("x-acs-action").unwrap_or_default().to_owned(), form, access_key })
    }
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    Reset,
}

/// A ciphertext says what is in it: enough for a KMS that nobody trusts.
pub(crate) fn honest(asked: &Asked) -> Act {
    let field = |name: &str| asked.form.get(name).cloned().unwrap_or_default();
    let context = field("EncryptionContext");
    match asked.action.as_str() {
        "Encrypt" => {
            let (key, blob) = (field("KeyId"), wrapped(&field("KeyId"), &field("Plaintext"), &context));
            good(&json!({ "KeyId": key, "KeyVersionId": "v1", "CiphertextBlob": blob, "RequestId": "R" }))
        }
        "Decrypt" => match unwrapped(&field("CiphertextBlob")) {
            Some([key, plaintext, bound]) if bound == context => {
                good(&json!({ "KeyId": key, "KeyVersionId": "v1", "Plaintext": plaintext, "RequestId": "R" }))
            }
            _ => said(400, "InvalidParameter"),
        },
        "DescribeKey" => {
            let metadata = json!({ "KeyId": field("KeyId"), "KeyState": "Enabled" });
            good(&json!({ "KeyMetadata": metadata, "RequestId": "R" }))
        }
        _ => said(404, "InvalidApi.NotFound"),
    }
}

/// The ciphertext that an honest KMS makes of a base64 plaintext.
pub(crate) fn wrapped(key: &str, plaintext: &str, context: &str) -> String {
    STANDARD.encode(format!("{key}|{plaintext}|{context}"))
}

fn unwrapped(blob: &str) -> Option<[String; 3]> {
    let text = String::from_utf8(STANDARD.decode(blob).ok()?).ok()?;
    let mut parts = text.splitn(3, '|').map(str::to_owned);
    Some([parts.next()?, parts.next()?, parts.next()?])
}

pub(crate) fn good(body: &serde_json::Value) -> Act {
    Act::Say(200, JSON.to_owned(), body.to_string().into_bytes())
}

/// An error in the schema of the KMS.
pub(crate) fn said(status: u16, code: &str) -> Act {
    let body = json!({ "Code": code, "Message": "as the test wants", "RequestId": "R", "HttpStatus": status });
    Act::Say(status, JSON.to_owned(), body.to_string().into_bytes())
}

pub(crate) fn html(status: u16) -> Act {
    Act::Say(status, "content-type: text/html\r\n".to_owned(), b"<html><form>Please log in</form></html>".to_vec())
}

const JSON: &str = "content-type: application/json\r\n";
