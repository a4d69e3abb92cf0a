//! `kmsproxy serve` with a listener of each face, in front of `kmsproxy emulator`, its spans sent wherever a test says.

use std::time::Duration;

use http_body_util::Full;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::client::{Outcome, Target, get, plain, signed};
use super::process::Daemon;

/// Both processes.
pub(crate) struct Scene {
    pub(crate) emulator: Daemon,
    pub(crate) proxy: Daemon,
    /// The Alibaba Cloud face, as the caller `plugin`.
    pub(crate) plugin: Target,
}

impl Scene {
    /// With `tracing` in `[tracing]`.
    pub(crate) fn new(tracing: &str) -> Self {
        Self::started_by(&[], tracing, &[])
    }

    /// The same, started by `prefix`, with further files.
    pub(crate) fn started_by(prefix: &[&str], tracing: &str, files: &[(&str, &str)]) -> Self {
        Self::before(Daemon::emulator(&[]), prefix, tracing, files)
    }

    /// The same, before an emulator that runs.
    pub(crate) fn before(emulator: Daemon, prefix: &[&str], tracing: &str, files: &[(&str, &str)]) -> Self {
        let config = config(&emulator, tracing);
        let proxy = Daemon::serve_by(prefix, &config, &[&[("secret", SECRET)], files].concat());
        let plugin = Target {
            address: proxy.ready["listeners"]["plugin"].as_str().unwrap().into(),
            ca_file: None,
            access_key: "LTAIlocal".into(),
            secret: SECRET.into(),
            page: None,
        };
        Self { emulator, proxy, plugin }
    }

    /// The socket of the Kubernetes face.
    pub(crate) fn apiserver(&self) -> &str {
        self.proxy.ready["listeners"]["k8s"].as_str().unwrap().strip_prefix("unix:").unwrap()
    }

    pub(crate) fn key(&self) -> &str {
        self.emulator.at("key_id")
    }

    /// A ciphertext of `plaintext`, base64 both, made by the emulator itself.
    pub(crate) async fn wrapped(&self, plaintext: &str, context: Option<&str>) -> String {
        let context = context.map(|context| ("EncryptionContext", context));
        let parameters: Vec<_> = [("KeyId", self.key()), ("Plaintext", plaintext)].into_iter().chain(context).collect();
        let (status, body) = Target::of(&self.emulator).call("Encrypt", &parameters).await;
        assert_eq!(status, 200, "{body}");
        body["CiphertextBlob"].as_str().unwrap().to_owned()
    }

    /// Has the plugin ask, in the trace that `headers` name.
    pub(crate) async fn ask(&self, action: &str, parameters: &[(&str, &str)], headers: &[(&str, &str)]) -> Outcome {
        let mut request: http::Request<Full<bytes::Bytes>> = signed(&self.plugin, action, parameters);
        for (name, value) in headers {
            request.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        self.plugin.connect().await.send(request).await
    }

    pub(crate) async fn behave(&self, behaviour: &Value) {
        let (status, body) = plain(&self.emulator.control(), "PUT", "/behaviour", &behaviour.to_string()).await;
        assert_eq!(status, 200, "{body}");
    }

    /// How many spans became `outcome`.
    pub(crate) async fn counted(&self, outcome: &str) -> u64 {
        let (status, text) = get(self.proxy.at("metrics_address"), "/metrics").await;
        assert_eq!(status, 200);
        let series = format!("kmsproxy_spans_total{{outcome=\"{outcome}\"}} ");
        let line = text.as_str().unwrap().lines().find_map(|line| line.strip_prefix(&series).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
    }

    /// Waits until so many spans became `outcome`.
    pub(crate) async fn count(&self, outcome: &str, wanted: u64) {
        let begun = Instant::now();
        loop {
            let counted = self.counted(outcome).await;
            if counted >= wanted {
                return assert_eq!(counted, wanted, "{outcome}");
            }
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {wanted} {outcome} spans: {counted}");
            sleep(POLL).await;
        }
    }
}

/// A `traceparent`.
pub(crate) fn parent(trace: u128, sampled: bool) -> String {
    format!("00-{trace:032x}-{SPAN}-0{}", u8::from(sampled))
}

fn config(emulator: &Daemon, tracing: &str) -> String {
    let upstream = json!({
        "address": emulator.at("address"), "ca": emulator.at("ca_file"), "id": emulator.at("access_key_id"),
        "secret": emulator.at("secret_file"), "key": emulator.at("key_id"),
    });
    let mut config = format!("{CONFIG}{tracing}");
    for (name, value) in upstream.as_object().unwrap() {
        config = config.replace(&format!("<{name}>"), value.as_str().unwrap());
    }
    config
}

/// The span that our parents are.
pub(crate) const SPAN: &str = "00f067aa0ba902b7";
/// Of the access key that the plugin signs with.
pub(crate) const SECRET: &str = "canary-of-an-access-key";
const PATIENCE: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(20);

/// Nothing is asked of the KMS but at the start and for the test.
const CONFIG: &str = r#"
[upstream.kms]
kind = "aliyun"
endpoint = "https://<address>"
ca_file = "<ca>"
credentials = { source = "file", id = "<id>", secret_file = "<secret>" }
retries = 0
lease = { duration = "1h", probe = "50m" }
[[listener]]
name = "plugin"
face = "aliyun"
address = "unix:DIR/plugin.sock"
upstream = "kms"
[[caller]]
name = "ack-kms-plugin"
listener = "plugin"
access_key = { id = "LTAIlocal", secret_file = "DIR/secret" }
allow = [{ actions = ["Encrypt", "Decrypt"], keys = ["<key>"] }]
[[listener]]
name = "k8s"
face = "kubernetes"
address = "unix:DIR/k8s.sock"
upstream = "kms"
key = "alias/kmsproxy-dev"
[[caller]]
name = "apiserver"
listener = "k8s"
allow = [{ actions = ["Encrypt"], keys = ["alias/kmsproxy-dev"] }, { actions = ["Decrypt"], keys = ["<key>"] }]
[metrics]
address = "127.0.0.1:0"
"#;
