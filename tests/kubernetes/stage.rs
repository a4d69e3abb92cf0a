//! `kmsproxy serve` with Kubernetes sockets, in front of `kmsproxy emulator` over TLS, and the emulator's own account.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::client::{Target, plain};
use super::process::Daemon;

/// Both processes; the first can be started again.
pub(crate) struct Stage {
    pub(crate) emulator: Daemon,
    proxy: Option<Daemon>,
    config: String,
    /// Sockets, which outlive a daemon, and files of the test.
    run: TempDir,
}

impl Stage {
    /// With the socket `k8s`, for the emulator's first key and both versions, and `plugin`, on which ack-kms-plugin
    /// would be a client.
    pub(crate) fn new(lease: &str) -> Self {
        Self::with(Daemon::emulator(&[]), lease, PLAIN)
    }

    /// With `listeners`, in which `RUN` stands for the directory of sockets and `KEY` for the id of the emulator's
    /// first key.
    pub(crate) fn with(emulator: Daemon, lease: &str, listeners: &str) -> Self {
        let run = tempfile::tempdir().unwrap();
        let listeners = listeners.replace("KEY", emulator.at("key_id"));
        let config = format!("{}{listeners}", upstream(&emulator, lease));
        let config = config.replace("RUN", run.path().to_str().unwrap());
        let mut stage = Self { emulator, proxy: None, config, run };
        stage.start();
        stage
    }

    pub(crate) fn start(&mut self) {
        self.proxy = Some(Daemon::serve(&self.config, &[("secret", "localsecret")]));
    }

    /// As an orderly shutdown does.
    pub(crate) fn stop(&mut self) {
        let proxy = self.proxy.take().expect("a daemon that runs");
        assert!(proxy.stop("-TERM").success());
    }

    /// The socket of a listener.
    pub(crate) fn socket(&self, listener: &str) -> PathBuf {
        self.run.path().join(format!("{listener}.sock"))
    }

    /// A file that does not exist yet.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.run.path().join(name)
    }

    /// A client of an Alibaba Cloud face.
    pub(crate) fn aliyun(&self, listener: &str) -> Target {
        Target {
            address: format!("unix:{}", self.socket(listener).display()),
            ca_file: None,
            access_key: "LTAIlocal".into(),
            secret: "localsecret".into(),
            page: None,
        }
    }

    pub(crate) async fn disable(&self, key: &str) {
        steer(&self.emulator, "POST", &format!("/keys/{key}/disable"), "").await;
    }

    pub(crate) async fn enable(&self, key: &str) {
        steer(&self.emulator, "POST", &format!("/keys/{key}/enable"), "").await;
    }

    pub(crate) async fn rotate(&self, key: &str) {
        steer(&self.emulator, "POST", &format!("/keys/{key}/rotate"), "").await;
    }

    pub(crate) async fn behave(&self, behaviour: &Value) {
        steer(&self.emulator, "PUT", "/behaviour", &behaviour.to_string()).await;
    }

    /// How many calls the emulator has been asked for.
    pub(crate) async fn remote_calls(&self) -> u64 {
        steer(&self.emulator, "GET", "/calls", "").await["remote_calls"].as_u64().unwrap()
    }

    /// How many of them were of `action`, whatever came of them.
    pub(crate) async fn counted(&self, action: &str) -> u64 {
        let calls = steer(&self.emulator, "GET", "/calls", "").await;
        let outcomes = calls["outcomes"][action].as_object();
        outcomes.map_or(0, |outcomes| outcomes.values().map(|count| count.as_u64().unwrap()).sum())
    }
}

/// An emulator's control API.
pub(crate) async fn steer(emulator: &Daemon, method: &str, path: &str, body: &str) -> Value {
    let (status, answer) = plain(&emulator.control(), method, path, body).await;
    assert_eq!(status, 200, "{method} {path}: {answer}");
    answer
}

/// Polls until `found` finds something, and says how long that took.
pub(crate) async fn until<T>(
    what: &str,
    patience: Duration,
    mut found: impl FnMut() -> Result<T, String>,
) -> (T, Duration) {
    let begun = Instant::now();
    loop {
        match found() {
            Ok(found) => return (found, begun.elapsed()),
            Err(seen) => assert!(begun.elapsed() < patience, "waited {patience:?} in vain: {what}; still {seen}"),
        }
        sleep(POLL).await;
    }
}

fn upstream(emulator: &Daemon, lease: &str) -> String {
    format!(
        r#"
[upstream.kms]
kind = "aliyun"
endpoint = "https://{address}"
region = "cn-hangzhou"
ca_file = "{ca}"
credentials = {{ source = "file", id = "{id}", secret_file = "{secret}" }}
retries = 0
timeout = "2s"
lease = {lease}
[metrics]
address = "127.0.0.1:0"
"#,
        address = emulator.at("address"),
        ca = emulator.at("ca_file"),
        id = emulator.at("access_key_id"),
        secret = emulator.at("secret_file"),
    )
}

/// Nothing is asked of the KMS but at the start and for the test.
pub(crate) const QUIET: &str = r#"{ duration = "1h", probe = "50m" }"#;
/// What happens at the KMS is soon known.
pub(crate) const BRISK: &str = r#"{ duration = "3s", probe = "1s" }"#;
/// The two of that.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
pub(crate) const PROBE: Duration = Duration::from_secs(1);

const PLAIN: &str = r#"
[[listener]]
name = "k8s"
face = "kubernetes"
address = "unix:RUN/k8s.sock"
upstream = "kms"
key = "alias/kmsproxy-dev"
[[caller]]
name = "apiserver"
listener = "k8s"
allow = [{ actions = ["Encrypt"], keys = ["alias/kmsproxy-dev"] }, { actions = ["Decrypt"], keys = ["KEY"] }]
[[listener]]
name = "plugin"
face = "aliyun"
address = "unix:RUN/plugin.sock"
upstream = "kms"
[[caller]]
name = "ack-kms-plugin"
listener = "plugin"
access_key = { id = "LTAIlocal", secret_file = "DIR/secret" }
allow = [{ actions = ["Encrypt", "Decrypt"], keys = ["KEY"] }]
"#;
pub(crate) const POLL: Duration = Duration::from_millis(50);
