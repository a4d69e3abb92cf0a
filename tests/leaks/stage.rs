//! `kmsproxy serve` with every face, in front of `kmsproxy emulator` over TLS; and everything secret that passes.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::client::{self, Target, get, plain, signed};
use super::memory::Scan;
use super::needles::{Needles, Planted};
use super::process::Daemon;
use super::provider::{self, Stored};

/// What differs between stages.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) lease: &'static str,
    pub(crate) max_age: &'static str,
    /// The path of the configuration becomes the daemon.
    pub(crate) program: Option<fn(&Path) -> Command>,
}

pub(crate) struct Stage {
    pub(crate) emulator: Daemon,
    pub(crate) proxy: Daemon,
    run: TempDir,
}

/// The connections of callers, and what each was given to ask again.
pub(crate) struct Callers {
    tls: Vec<client::Client>,
    unix: Vec<client::Client>,
    providers: Vec<provider::Client>,
    blobs: Vec<String>,
    stored: Vec<(Stored, Vec<u8>)>,
}

impl Stage {
    pub(crate) fn new(setting: Setting) -> Self {
        let emulator = Daemon::emulator(&[]);
        let run = tempfile::tempdir().unwrap();
        let secret = std::fs::read_to_string(emulator.at("secret_file")).unwrap();
        let grants = grants(emulator.at("access_key_id"), secret.trim());
        let text = CONFIG
            .replace("ENDPOINT", emulator.at("address"))
            .replace("CA_DIR", Path::new(emulator.at("ca_file")).parent().unwrap().to_str().unwrap())
            .replace("CA_FILE", emulator.at("ca_file"))
            .replace("GRANTS", &grants)
            .replace("LEASE", setting.lease)
            .replace("MAX_AGE", setting.max_age)
            .replace("KEY", emulator.at("key_id"))
            .replace("RUN", run.path().to_str().unwrap());
        let files = [("local.secret", &*local_secret())];
        let proxy = match setting.program {
            None => Daemon::serve(&text, &files),
            Some(program) => Daemon::serve_as(&text, &files, program),
        };
        Self { emulator, proxy, run }
    }

    /// Everything that is secret in this run; what the KMS makes up is not known before.
    pub(crate) fn credentials(&self) -> Vec<Planted> {
        let secret = std::fs::read_to_string(self.emulator.at("secret_file")).unwrap();
        let of = |way, text: &str| Planted { way, bytes: text.trim().as_bytes().to_vec() };
        vec![
            of("access key secret", &secret),
            of("session token", &session_token()),
            of("a caller's secret", &local_secret()),
        ]
    }

    fn target(&self, listener: &str) -> Target {
        Target {
            address: self.proxy.ready["listeners"][listener].as_str().unwrap().to_owned(),
            ca_file: Some(self.emulator.at("ca_file").to_owned()),
            access_key: "LTAIlocal".to_owned(),
            secret: local_secret(),
            page: None,
        }
    }

    /// Sends [`EACH`] DEKs each way through the daemon, over [`CONNECTIONS`] connections to each face.
    pub(crate) async fn sow(&self, planted: &mut Vec<Planted>) -> Callers {
        let socket = self.run.path().join("k8s.sock");
        let mut callers =
            Callers { tls: Vec::new(), unix: Vec::new(), providers: Vec::new(), blobs: Vec::new(), stored: Vec::new() };
        for _ in 0..CONNECTIONS {
            callers.tls.push(self.target("tls").connect().await);
            callers.unix.push(self.target("unix").connect().await);
            callers.providers.push(provider::Client::connect(&socket).await);
        }
        self.until("the provider serves", async || {
            let Some(probe) = callers.providers[0].encrypt_v2(&[1; 32]).await else { return false };
            callers.providers[0].decrypt(&probe).await.is_some()
        })
        .await;
        let mut straight = Target::of(&self.emulator).connect().await;
        for number in 0..EACH {
            let at = number % CONNECTIONS;
            self.sow_aliyun(&mut callers, &mut straight, at, planted).await;
            let provider = &mut callers.providers[at];
            let dek = derived(planted, "Kubernetes v1");
            let v1 = provider.encrypt_v1(&dek).await.unwrap();
            assert_eq!(provider.decrypt(&v1).await.as_ref(), Some(&dek));
            callers.stored.push((v1, dek));
            let dek = derived(planted, "Kubernetes v2");
            let v2 = provider.encrypt_v2(&dek).await.unwrap();
            assert_eq!(provider.decrypt(&v2).await.as_ref(), Some(&dek));
            callers.stored.push((v2, dek));
        }
        // On some connections what comes in is the last that is secret.
        let key = self.emulator.at("key_id").to_owned();
        for at in 0..CONNECTIONS / 2 {
            for (way, connection) in [("Encrypt, TLS", &mut callers.tls[at]), ("Encrypt, unix", &mut callers.unix[at])]
            {
                let dek = STANDARD.encode(derived(planted, way));
                text(connection.call("Encrypt", &[("KeyId", &key), ("Plaintext", &dek)]).await, "CiphertextBlob");
            }
        }
        callers
    }

    async fn sow_aliyun(
        &self,
        callers: &mut Callers,
        straight: &mut client::Client,
        at: usize,
        planted: &mut Vec<Planted>,
    ) {
        let key = self.emulator.at("key_id").to_owned();
        for (way, connection) in [("Decrypt, TLS", &mut callers.tls[at]), ("Decrypt, unix", &mut callers.unix[at])] {
            let dek = STANDARD.encode(derived(planted, way));
            let blob = text(straight.call("Encrypt", &[("KeyId", &key), ("Plaintext", &dek)]).await, "CiphertextBlob");
            assert_eq!(text(connection.call("Decrypt", &[("CiphertextBlob", &blob)]).await, "Plaintext"), dek);
            callers.blobs.push(blob);
        }
        for (way, connection) in [("Encrypt, TLS", &mut callers.tls[at]), ("Encrypt, unix", &mut callers.unix[at])] {
            let dek = STANDARD.encode(derived(planted, way));
            text(connection.call("Encrypt", &[("KeyId", &key), ("Plaintext", &dek)]).await, "CiphertextBlob");
        }
        for (way, connection) in
            [("GenerateDataKey, TLS", &mut callers.tls[at]), ("GenerateDataKey, unix", &mut callers.unix[at])]
        {
            let made = connection.call("GenerateDataKey", &[("KeyId", &key), ("KeySpec", "AES_256")]).await;
            planted.push(Planted { way, bytes: STANDARD.decode(text(made, "Plaintext")).unwrap() });
        }
    }

    /// Connections of a caller who writes requests himself.
    pub(crate) async fn connect(&self) -> Vec<UnixStream> {
        let path = self.run.path().join("plugin.sock");
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            streams.push(UnixStream::connect(&path).await.unwrap());
        }
        streams
    }

    /// Has so many DEKs encrypted under `key`, each by a request that comes in one piece and is seen to go past hyper.
    pub(crate) async fn encrypt_past_hyper(
        &self,
        streams: &mut [UnixStream],
        (key, status): (&str, u16),
        planted: &mut Vec<Planted>,
    ) {
        let target = self.target("unix");
        for number in 0..200 {
            let stream = &mut streams[number % CONNECTIONS];
            let dek = STANDARD.encode(derived(planted, "Encrypt, past hyper"));
            let (head, body) = signed(&target, "Encrypt", &[("KeyId", key), ("Plaintext", &dek)]).into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let fields = head.headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
            let head =
                format!("POST / HTTP/1.1\r\n{}content-length: {}\r\n\r\n", fields.collect::<String>(), body.len());
            stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
            let mut answer = vec![0; 4096];
            let length = timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
            let answer = String::from_utf8_lossy(&answer[..length]);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            // hyper writes the date behind all other fields.
            assert!(answer.find("\r\ndate: ") < answer.find("\r\nx-acs-request-id: "), "by way of hyper: {answer}");
        }
    }

    /// The emulator's control API.
    pub(crate) async fn steer(&self, method: &str, path: &str) -> Value {
        let (status, answer) = plain(&self.emulator.control(), method, path, "").await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    /// The KMS does not answer any more.
    pub(crate) async fn silence(&self) {
        let (status, answer) = plain(&self.emulator.control(), "PUT", "/behaviour", r#"{ "stall": true }"#).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// One series of the proxy's metrics.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let (status, text) = get(self.proxy.at("metrics_address"), "/metrics").await;
        assert_eq!(status, 200);
        let text = text.as_str().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    /// How many calls the KMS has been asked for.
    pub(crate) async fn remote_calls(&self) -> u64 {
        self.steer("GET", "/calls").await["remote_calls"].as_u64().unwrap()
    }

    /// Has the KMS refuse the key, and a caller hear of it; returns when the daemon has drawn the consequences.
    pub(crate) async fn refuse(&self, blob: &str) {
        self.steer("POST", &format!("/keys/{}/disable", self.emulator.at("key_id"))).await;
        let mut straight = self.target("tls").connect().await;
        // Never seen before, so that it must be asked about; what key it is under is not known then.
        let (status, body) = straight.call("Decrypt", &[("CiphertextBlob", blob)]).await;
        assert_eq!((status, body["Code"].as_str()), (409, Some("Rejected.Disabled")));
        let refused = format!(
            "kmsproxy_lease_state{{upstream=\"kms\",key=\"{}\",state=\"refused\"}}",
            self.emulator.at("key_id")
        );
        self.until("the lease is refused", async || self.metric(&refused).await == Some(1.0)).await;
    }

    /// A ciphertext that the daemon has not seen.
    pub(crate) async fn unseen(&self) -> String {
        let mut straight = Target::of(&self.emulator).connect().await;
        let parameters = [("KeyId", self.emulator.at("key_id")), ("Plaintext", "bm90aGluZyBpbiBpdA==")];
        text(straight.call("Encrypt", &parameters).await, "CiphertextBlob")
    }

    pub(crate) async fn until(&self, what: &str, mut met: impl AsyncFnMut() -> bool) -> Duration {
        let begun = Instant::now();
        while !met().await {
            assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}\n{}", tail(&self.proxy.log()));
            sleep(Duration::from_millis(50)).await;
        }
        begun.elapsed()
    }

    /// What another process finds in the daemon, and what that is, where it is more than nothing.
    pub(crate) fn scan(&self, phase: &str, needles: &Needles) -> Scan {
        let scan = Scan::of_process(self.proxy.id(), 0, needles);
        report(phase, &scan, needles);
        scan
    }
}

impl Callers {
    /// Everything once more, which the cache answers.
    pub(crate) async fn ask_again(&mut self) {
        for (number, blob) in self.blobs.iter().enumerate() {
            let at = number / 2 % CONNECTIONS;
            let connection = if number % 2 == 0 { &mut self.tls[at] } else { &mut self.unix[at] };
            text(connection.call("Decrypt", &[("CiphertextBlob", blob)]).await, "Plaintext");
        }
        for (number, (stored, dek)) in self.stored.iter().enumerate() {
            let provider = &mut self.providers[number / 2 % CONNECTIONS];
            assert_eq!(provider.decrypt(stored).await.as_ref(), Some(dek));
        }
    }

    /// The last DEKs of each way once more as what is to be encrypted, so that they have come in last.
    pub(crate) async fn encrypt_again(&mut self, key: &str, needles: &Needles) {
        for at in 0..CONNECTIONS {
            let dek = STANDARD.encode(&needles.last("Encrypt, TLS", at).bytes);
            let parameters = [("KeyId", key), ("Plaintext", &dek)];
            text(self.tls[at].call("Encrypt", &parameters).await, "CiphertextBlob");
            let dek = STANDARD.encode(&needles.last("Encrypt, unix", at).bytes);
            let parameters = [("KeyId", key), ("Plaintext", &dek)];
            text(self.unix[at].call("Encrypt", &parameters).await, "CiphertextBlob");
            self.providers[at].encrypt_v1(&needles.last("Kubernetes v1", at).bytes).await.unwrap();
            self.providers[at].encrypt_v2(&needles.last("Kubernetes v2", at).bytes).await.unwrap();
        }
    }

    /// Whether the daemon has closed all of them.
    pub(crate) fn are_closed(&self) -> bool {
        let http = self.tls.iter().chain(&self.unix).all(client::Client::is_closed);
        http && self.providers.iter().all(provider::Client::is_closed)
    }
}

fn text((status, body): client::Outcome, member: &str) -> String {
    assert_eq!(status, 200, "{body}");
    body[member].as_str().unwrap().to_owned()
}

/// The next DEK: nothing holds it but this process, which the scanned one knows nothing of.
fn derived(planted: &mut Vec<Planted>, way: &'static str) -> Vec<u8> {
    let number = u64::try_from(planted.len()).unwrap();
    let bytes = Sha256::new().chain_update(SEED).chain_update(number.to_be_bytes()).finalize().to_vec();
    planted.push(Planted { way, bytes: bytes.clone() });
    bytes
}

/// Texts that nobody writes by accident, and that appear nowhere in clear but where they are meant to.
fn local_secret() -> String {
    written(b"a caller's secret")
}

fn session_token() -> String {
    written(b"a session token")
}

fn written(name: &[u8]) -> String {
    STANDARD.encode(Sha256::new().chain_update(SEED).chain_update(name).finalize())
}

/// Hands out the emulator's access key with a session token, until the test process ends.
fn grants(id: &str, secret: &str) -> String {
    let end = jiff::Timestamp::now() + Duration::from_secs(3600);
    let grant = json!({ "AccessKeyId": id, "AccessKeySecret": secret, "SecurityToken": session_token(),
        "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), "Code": "Success" })
    .to_string();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if !matches!(stream.read(&mut byte), Ok(1)) {
                    break;
                }
                head.push(byte[0]);
            }
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{grant}", grant.len());
            // Whoever asked may be gone.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

/// Prints a line for each phase, and one for each sort of find.
pub(crate) fn report(phase: &str, scan: &Scan, needles: &Needles) {
    let (mib, finds, secrets) = (scan.bytes >> 20, scan.finds.len(), scan.secrets());
    eprintln!("{phase}: {secrets} of {} secrets in {finds} places, of {mib} MiB", needles.len());
    let mut sorts = std::collections::BTreeMap::new();
    for find in &scan.finds {
        let way = needles.planted(find.planted).way;
        let sort = (way, find.form, find.owner(), find.map.rsplit('/').next().unwrap().to_owned());
        sorts.entry(sort).or_insert_with(Vec::new).push(find);
    }
    for ((way, form, owner, map), finds) in sorts {
        let example = finds[0].neighbourhood();
        eprintln!("  {} × {way}, {form}, {owner}, in {map} at {:#x}: …{example}", finds.len(), finds[0].at);
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// DEKs for each of eight ways.
pub(crate) const EACH: usize = 260;
/// To each of three faces.
const CONNECTIONS: usize = 8;
const SEED: &[u8] = b"planted by tests/leaks";
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);
const CONFIG: &str = r#"
[cache]
max_age = "MAX_AGE"
[upstream.kms]
kind = "aliyun"
endpoint = "https://ENDPOINT"
region = "cn-hangzhou"
ca_file = "CA_FILE"
credentials = { source = "uri", uri = "GRANTS" }
lease = LEASE
[[listener]]
name = "tls"
face = "aliyun"
address = "127.0.0.1:0"
tls = { certificate_file = "CA_DIR/server.pem", key_file = "CA_DIR/server.key" }
upstream = "kms"
[[listener]]
name = "unix"
face = "aliyun"
address = "unix:RUN/plugin.sock"
upstream = "kms"
[[listener]]
name = "k8s"
face = "kubernetes"
address = "unix:RUN/k8s.sock"
upstream = "kms"
key = "KEY"
[[caller]]
name = "tls"
listener = "tls"
access_key = { id = "LTAIlocal", secret_file = "DIR/local.secret" }
allow = [{ actions = ["Encrypt", "Decrypt", "GenerateDataKey"], keys = ["KEY"] }]
[[caller]]
name = "unix"
listener = "unix"
access_key = { id = "LTAIlocal", secret_file = "DIR/local.secret" }
allow = [{ actions = ["Encrypt", "Decrypt", "GenerateDataKey"], keys = ["KEY"] }]
[[caller]]
name = "apiserver"
listener = "k8s"
allow = [{ actions = ["Encrypt", "Decrypt"], keys = ["KEY"] }]
[metrics]
address = "127.0.0.1:0"
"#;
