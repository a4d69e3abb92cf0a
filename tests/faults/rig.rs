//! `kmsproxy serve` before a KMS that does what the test tells it to, with a unix socket for each caller.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::SHORT;
use super::client::Target;
use super::kms::{Decided, Kms, wrapped};
use super::oracle::history::{DECRYPT, Decision, OK, digest};
use super::overseer::Overseer;
use super::process::Daemon;
use super::scene::Setting;
use super::traffic::Wrapped;

pub(crate) struct Rig {
    /// Checks, at the end, what the callers were told.
    overseer: Overseer,
    pub(crate) kms: Kms,
    pub(crate) daemon: Daemon,
}

/// What differs between rigs.
pub(crate) struct Plan<'a> {
    /// What starts the daemon.
    pub(crate) prefix: &'a [&'a str],
    /// Names of callers, each with its upstream. Upstream `x` asks as `LTAIx`, unless `credentials` say otherwise.
    pub(crate) callers: &'a [(&'static str, &'a str)],
    pub(crate) credentials: Option<&'a str>,
    /// The timeout is of a request; of one question to the KMS it is a second.
    pub(crate) setting: Setting,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self { prefix: &[], callers: &[("one", "kms")], credentials: None, setting: SHORT }
    }
}

impl Rig {
    pub(crate) fn new(kms: Kms, plan: &Plan<'_>) -> Self {
        let Setting { lease, probe, retries, timeout, upstream: _, audit: _ } = plan.setting;
        let mut config = "[metrics]\naddress = \"127.0.0.1:0\"\n".to_owned();
        let mut upstreams: Vec<_> = plan.callers.iter().map(|(_, upstream)| *upstream).collect();
        upstreams.dedup();
        for upstream in upstreams {
            let file = format!(r#"{{ source = "file", id = "LTAI{upstream}", secret_file = "DIR/secret" }}"#);
            config += &UPSTREAM
                .replace("NAME", upstream)
                .replace("ADDRESS", &kms.address)
                .replace("CREDENTIALS", plan.credentials.unwrap_or(&file))
                .replace("RETRIES", &retries.to_string())
                .replace("LEASE", lease)
                .replace("PROBE", probe);
        }
        for (caller, upstream) in plan.callers {
            config += &CALLER.replace("NAME", caller).replace("UPSTREAM", upstream).replace("TIMEOUT", timeout);
        }
        let decided = kms.decided();
        let overseer = Overseer::of_kms(plan.setting, move || decided().iter().map(decision).collect());
        let daemon = Daemon::serve_by(plan.prefix, &config, &[("secret", "upstreamsecret")]);
        Self { overseer, kms, daemon }
    }

    /// How `name` reaches the daemon: once for each, so that its calls are on one page.
    pub(crate) fn caller(&mut self, name: &'static str) -> Target {
        let address = self.daemon.ready["listeners"][name].as_str().unwrap().to_owned();
        let page = Some(self.overseer.page(name, &["Encrypt", "Decrypt"]));
        Target { address, ca_file: None, access_key: String::new(), secret: String::new(), page }
    }
}

/// As an emulator would have written it down. What did not go out whole is nobody's consent.
fn decision(decided: &Decided) -> Decision {
    let (status, body) = decided.said.clone().unwrap_or((0, Vec::new()));
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let bytes = |text: Option<&str>| text.and_then(|text| STANDARD.decode(text).ok()).map(|bytes| digest(&bytes));
    let given = decided.asked.form.get("CiphertextBlob").map(String::as_str);
    let outcome = match (status, body["Code"].as_str()) {
        (200, _) => OK,
        (_, Some("Forbidden.NoPermission")) => "no_permission",
        (_, Some(other)) => other,
        (_, None) => "none",
    };
    Decision {
        at_ns: decided.at_ns,
        action: decided.asked.action.clone(),
        identity: Some(decided.asked.access_key.clone()),
        key: body["KeyId"].as_str().map(str::to_owned),
        version: body["KeyVersionId"].as_str().map(str::to_owned),
        context: None,
        ciphertext: bytes(if decided.asked.action == DECRYPT { given } else { body["CiphertextBlob"].as_str() }),
        plaintext: bytes(body["Plaintext"].as_str()),
        outcome: outcome.to_owned(),
    }
}

/// Ciphertexts under `key` that an honest KMS unwraps, all different.
pub(crate) fn ciphertexts(key: &str, name: &str, count: usize) -> Vec<Wrapped> {
    let plaintext = |number| format!("{name}{:0width$}", number, width = 16 - name.len());
    (0..count).map(|number| (wrapped(key, &plaintext(number), ""), plaintext(number))).collect()
}

const UPSTREAM: &str = r#"
[upstream.NAME]
kind = "aliyun"
endpoint = "http://ADDRESS"
region = "cn-hangzhou"
insecure = true
credentials = CREDENTIALS
timeout = "1s"
retries = RETRIES
lease = { duration = "LEASE", probe = "PROBE" }
"#;
const CALLER: &str = r#"
[[listener]]
name = "NAME"
face = "aliyun"
address = "unix:DIR/NAME.sock"
upstream = "UPSTREAM"
timeout = "TIMEOUT"
[[caller]]
name = "NAME"
listener = "NAME"
allow = [{ actions = ["Encrypt", "Decrypt"], keys = ["*"] }]
"#;
