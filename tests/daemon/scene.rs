//! `kmsproxy serve` in front of `kmsproxy emulator`, and the emulator's own account of what it was asked.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep};

use super::client::{Target, get, plain};
use super::overseer::Overseer;
use super::process::Daemon;

/// What a scene is to be like.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) lease: &'static str,
    pub(crate) probe: &'static str,
    pub(crate) retries: u32,
    /// Of one attempt upstream, and of a request.
    pub(crate) timeout: &'static str,
    /// Further lines of the upstream.
    pub(crate) upstream: &'static str,
    /// What stands under `[audit]`, where anything does.
    pub(crate) audit: &'static str,
}

impl Default for Setting {
    /// The daemon's own defaults, but no retries: each call of a client is at most one of the KMS.
    fn default() -> Self {
        Self { lease: "30s", probe: "10s", retries: 0, timeout: "2s", upstream: "", audit: "" }
    }
}

/// Both processes, and how to reach the first.
pub(crate) struct Scene {
    pub(crate) emulator: Daemon,
    pub(crate) proxy: Daemon,
    /// Over TLS, with an access key.
    pub(crate) tls: Target,
    /// Over a unix socket, as whoever can reach it.
    pub(crate) unix: Target,
    /// Checks, at the end, what the clients of both were told.
    #[allow(dead_code, reason = "it is there to be dropped")]
    pub(crate) overseer: Option<Overseer>,
}

impl Scene {
    pub(crate) fn new(setting: Setting) -> Self {
        let overseer = Overseer::new(setting);
        let emulator = Daemon::emulator(&["--decisions", overseer.file().to_str().unwrap()]);
        let address = emulator.at("address").to_owned();
        Self::through(emulator, &address, setting).under(overseer)
    }

    /// The same, with what clients are told held against what the emulator decides, which writes that where `overseer`
    /// says.
    pub(crate) fn under(self, mut overseer: Overseer) -> Self {
        let mut scene = self;
        scene.tls.page = Some(overseer.page("plugin", &["Encrypt", "Decrypt", "GenerateDataKey", "DescribeKey"]));
        scene.unix.page = Some(overseer.page("anyone", &["Decrypt"]));
        scene.overseer = Some(overseer);
        scene
    }

    /// A scene whose proxy reaches the emulator at another address than its own.
    pub(crate) fn through(emulator: Daemon, address: &str, setting: Setting) -> Self {
        Self::started_by(&[], emulator, address, setting)
    }

    /// The same, whose proxy is started by `prefix`.
    pub(crate) fn started_by(prefix: &[&str], emulator: Daemon, address: &str, setting: Setting) -> Self {
        let config = config(&emulator, address, setting);
        let proxy = Daemon::serve_by(prefix, &config, &[("secret", "localsecret")]);
        let listener = |name: &str| proxy.ready["listeners"][name].as_str().unwrap().to_owned();
        let tls = Target {
            address: listener("tls"),
            ca_file: Some(emulator.at("ca_file").into()),
            access_key: "LTAIlocal".into(),
            secret: "localsecret".into(),
            page: None,
        };
        let unix = Target { address: listener("unix"), ca_file: None, ..tls.clone() };
        Self { emulator, proxy, tls, unix, overseer: None }
    }

    /// `count` ciphertexts under `key`, made by the emulator itself, which then forgets that it was asked.
    pub(crate) async fn ciphertexts(&self, key: &str, count: usize) -> Vec<String> {
        let mut straight = Target::of(&self.emulator).connect().await;
        let mut made = Vec::new();
        for number in 0..count {
            let plaintext = format!("REVL{number:04}");
            let (status, body) = straight.call("Encrypt", &[("KeyId", key), ("Plaintext", &plaintext)]).await;
            assert_eq!(status, 200, "{body}");
            made.push(body["CiphertextBlob"].as_str().unwrap().to_owned());
        }
        self.steer("POST", "/calls/reset", "").await;
        made
    }

    /// One ciphertext under the emulator's first key.
    pub(crate) async fn ciphertext(&self) -> String {
        self.ciphertexts(&self.key(), 1).await.remove(0)
    }

    pub(crate) fn key(&self) -> String {
        self.emulator.at("key_id").to_owned()
    }

    /// A key of its own.
    pub(crate) async fn new_key(&self) -> String {
        self.steer("POST", "/keys", "").await["key_id"].as_str().unwrap().to_owned()
    }

    /// The emulator's control API.
    pub(crate) async fn steer(&self, method: &str, path: &str, body: &str) -> Value {
        let (status, answer) = plain(&self.emulator.control(), method, path, body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    pub(crate) async fn behave(&self, behaviour: &Value) {
        self.steer("PUT", "/behaviour", &behaviour.to_string()).await;
    }

    pub(crate) async fn disable(&self, key: &str) {
        self.steer("POST", &format!("/keys/{key}/disable"), "").await;
    }

    pub(crate) async fn enable(&self, key: &str) {
        self.steer("POST", &format!("/keys/{key}/enable"), "").await;
    }

    pub(crate) async fn calls(&self) -> Value {
        self.steer("GET", "/calls", "").await
    }

    /// How many calls of `action` ended as `outcome` at the emulator.
    pub(crate) async fn counted(&self, action: &str, outcome: &str) -> u64 {
        self.calls().await["outcomes"][action][outcome].as_u64().unwrap_or(0)
    }

    /// What the proxy's `/metrics` says.
    pub(crate) async fn metrics(&self) -> String {
        let (status, text) = get(self.proxy.at("metrics_address"), "/metrics").await;
        assert_eq!(status, 200);
        text.as_str().unwrap().to_owned()
    }

    /// One series of it, written as Prometheus does.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics().await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }
}

/// What `/calls` says of so many Decrypts that went well, and of nothing else.
pub(crate) fn decrypts(count: u64) -> Value {
    json!({ "remote_calls": count, "under_way": 0, "outcomes": { "Decrypt": { "ok": count } } })
}

/// Polls until `found` finds something.
pub(crate) async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        sleep(POLL).await;
    }
}

pub(crate) fn config(emulator: &Daemon, address: &str, setting: Setting) -> String {
    let dir = Path::new(emulator.at("ca_file")).parent().unwrap().display().to_string();
    let Setting { lease, probe, retries, timeout, upstream, audit } = setting;
    format!(
        r#"
[upstream.emulator]
kind = "aliyun"
endpoint = "https://{address}"
region = "cn-hangzhou"
ca_file = "{ca}"
credentials = {{ source = "file", id = "{id}", secret_file = "{secret}" }}
retries = {retries}
timeout = "{timeout}"
{upstream}
lease = {{ duration = "{lease}", probe = "{probe}" }}
[[listener]]
name = "tls"
face = "aliyun"
address = "127.0.0.1:0"
tls = {{ certificate_file = "{dir}/server.pem", key_file = "{dir}/server.key" }}
upstream = "emulator"
timeout = "{timeout}"
[[listener]]
name = "unix"
face = "aliyun"
address = "unix:DIR/plugin.sock"
upstream = "emulator"
timeout = "{timeout}"
max_connections = 20000
max_in_flight = 20000
[[caller]]
name = "plugin"
listener = "tls"
access_key = {{ id = "LTAIlocal", secret_file = "DIR/secret" }}
allow = [{{ actions = ["Encrypt", "Decrypt", "GenerateDataKey", "DescribeKey"], keys = ["*"] }}]
[[caller]]
name = "anyone"
listener = "unix"
allow = [{{ actions = ["Decrypt"], keys = ["*"] }}]
[metrics]
address = "127.0.0.1:0"
[audit]
{audit}
"#,
        ca = emulator.at("ca_file"),
        id = emulator.at("access_key_id"),
        secret = emulator.at("secret_file"),
    )
}

/// Tests that measure times share this; those that take the whole machine have it alone.
pub(crate) static MACHINE: RwLock<()> = RwLock::const_new(());

const PATIENCE: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(20);
