//! `kmsproxy serve` between the test and its KMS.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kmsproxy::tls::authority::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;
use std::net::TcpStream;
use std::process::Command;

use super::http::{self, Heard, Raw};
use super::kms::{Kms, wrapped};
use super::process::{BINARY, Daemon};
use super::signer::Signer;

/// The daemon, before a KMS.
pub(crate) struct Stage {
    pub(crate) kms: Kms,
    pub(crate) daemon: Daemon,
    ca: String,
}

/// What differs between stages.
pub(crate) struct Setup {
    /// `http://…`, or `https://…` with a CA.
    pub(crate) endpoint: String,
    pub(crate) ca: Option<String>,
    pub(crate) lease: &'static str,
    /// Of a request, and of a question to the KMS.
    pub(crate) timeout: &'static str,
    pub(crate) local_secret: &'static str,
    pub(crate) upstream_secret: &'static str,
    /// The upstream's `credentials`, in place of the file with its secret.
    pub(crate) credentials: Option<String>,
    /// In which form it logs.
    pub(crate) log_format: &'static str,
    /// More of a configuration.
    pub(crate) more: &'static str,
}

impl Setup {
    pub(crate) fn plain(kms: &Kms) -> Self {
        Self {
            endpoint: format!("http://{}", kms.address),
            ca: None,
            // Nothing happens but what the test does.
            lease: r#"{ duration = "1h", probe = "50m" }"#,
            timeout: "2s",
            local_secret: SECRET,
            upstream_secret: "upstreamsecret",
            credentials: None,
            log_format: "text",
            more: "",
        }
    }
}

impl Stage {
    pub(crate) fn new() -> Self {
        let kms = Kms::plain();
        let setup = Setup::plain(&kms);
        Self::set_up(kms, &setup)
    }

    pub(crate) fn set_up(kms: Kms, setup: &Setup) -> Self {
        let authority = Authority::generate(Timestamp::now(), &[]).unwrap();
        let key = std::str::from_utf8(authority.key_pem().expose()).unwrap();
        let ca_file = setup.ca.as_ref().map_or("", |_| r#"ca_file = "DIR/kms-ca.pem""#);
        let config = CONFIG
            .replace("ENDPOINT", &setup.endpoint)
            .replace("CA_FILE", ca_file)
            .replace("LEASE", setup.lease)
            .replace("TIMEOUT", setup.timeout)
            .replace("CREDENTIALS", setup.credentials.as_deref().unwrap_or(IN_A_FILE))
            + setup.more;
        let files = [
            ("server.pem", authority.certificate_pem()),
            ("server.key", key),
            ("local.secret", setup.local_secret),
            ("upstream.secret", setup.upstream_secret),
            ("audit.secret", AUDIT_SECRET),
            ("kms-ca.pem", setup.ca.as_deref().unwrap_or_default()),
        ];
        let daemon = Daemon::serve_as(&config, &files, |path| {
            let mut command = Command::new(BINARY);
            command.args(["serve", "--json", "--log-format", setup.log_format, "--config"]).arg(path);
            command
        });
        Self { kms, daemon, ca: authority.ca_pem().to_owned() }
    }

    pub(crate) fn plain(&self) -> &str {
        self.daemon.ready["listeners"]["plain"].as_str().unwrap()
    }

    pub(crate) fn tls(&self) -> &str {
        self.daemon.ready["listeners"]["tls"].as_str().unwrap()
    }

    /// On a connection of its own.
    pub(crate) fn ask(&self, raw: &Raw) -> Heard {
        http::exchange(&http::connect(self.plain()), &raw.bytes()).expect("an answer")
    }

    pub(crate) fn connect_tls(&self) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        StreamOwned::new(session, http::connect(self.tls()))
    }

    /// What a hostile request is answered: without a question to the KMS, and without a trace for who comes next.
    pub(crate) fn refused(&self, raw: &Raw) -> (u16, String) {
        let before = self.kms.count();
        let refusal = self.ask(raw).refusal();
        assert_eq!(self.kms.count(), before, "the KMS was asked");
        self.assert_serves();
        refusal
    }

    /// A good request on a new connection is served as if nothing had been.
    pub(crate) fn assert_serves(&self) {
        let plaintext = STANDARD.encode(uuid::Uuid::new_v4().as_bytes());
        let query = [("Action", "Encrypt"), ("KeyId", "key-1"), ("Plaintext", plaintext.as_str())];
        let heard = self.ask(&one().v1("POST", &query, &[]));
        let blob = wrapped("key-1", &plaintext, "");
        let expected = json!({ "KeyId": "key-1", "KeyVersionId": "v1", "CiphertextBlob": blob, "RequestId": "R" });
        assert_eq!((heard.status, heard.json()), (200, expected));
    }

    /// Decrypt, by V1 in a form.
    pub(crate) fn decrypt(&self, signer: &Signer, blob: &str) -> Heard {
        self.ask(&signer.v1("POST", &[], &[("Action", "Decrypt"), ("CiphertextBlob", blob)]))
    }

    /// The metrics page.
    pub(crate) fn metrics(&self) -> String {
        let stream = http::connect(self.daemon.at("metrics_address"));
        http::exchange(&stream, b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap().body
    }
}

/// May use key-1.
pub(crate) fn one() -> Signer {
    Signer::new("LTAIone", SECRET)
}

/// May use key-2, and shares its cache with [`one`].
pub(crate) fn two() -> Signer {
    Signer::new("LTAItwo", SECRET)
}

/// May use key-2, and shares nothing.
pub(crate) fn three() -> Signer {
    Signer::new("LTAIthree", SECRET)
}

/// A good Decrypt's parameters.
pub(crate) fn decrypting(blob: &str) -> Vec<(&str, &str)> {
    vec![("Action", "Decrypt"), ("CiphertextBlob", blob)]
}

pub(crate) fn with<'a>(pairs: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [pairs, more].concat()
}

const SECRET: &str = "localsecret";
/// What an audit log may be keyed with.
pub(crate) const AUDIT_SECRET: &str = "canary+audit/secret=5d10,of+thirty-two+bytes";
const IN_A_FILE: &str = r#"{ source = "file", id = "LTAIupstream", secret_file = "DIR/upstream.secret" }"#;
const CONFIG: &str = r#"
[upstream.fake]
kind = "aliyun"
endpoint = "ENDPOINT"
region = "cn-hangzhou"
insecure = true
timeout = "TIMEOUT"
credentials = CREDENTIALS
lease = LEASE
CA_FILE
[[listener]]
name = "plain"
face = "aliyun"
address = "127.0.0.1:0"
insecure = true
upstream = "fake"
timeout = "TIMEOUT"
[[listener]]
name = "tls"
face = "aliyun"
address = "127.0.0.1:0"
tls = { certificate_file = "DIR/server.pem", key_file = "DIR/server.key" }
upstream = "fake"
timeout = "TIMEOUT"
[[caller]]
name = "one"
listener = "plain"
access_key = { id = "LTAIone", secret_file = "DIR/local.secret" }
share = "both"
allow = [{ actions = ["Encrypt", "Decrypt", "DescribeKey"], keys = ["key-1"] }]
[[caller]]
name = "two"
listener = "plain"
access_key = { id = "LTAItwo", secret_file = "DIR/local.secret" }
share = "both"
allow = [{ actions = ["Encrypt", "Decrypt", "DescribeKey"], keys = ["key-2"] }]
[[caller]]
name = "three"
listener = "plain"
access_key = { id = "LTAIthree", secret_file = "DIR/local.secret" }
allow = [{ actions = ["Encrypt", "Decrypt", "DescribeKey"], keys = ["key-2"] }]
[[caller]]
name = "secure"
listener = "tls"
access_key = { id = "LTAIsecure", secret_file = "DIR/local.secret" }
allow = [{ actions = ["Encrypt", "Decrypt", "DescribeKey"], keys = ["key-1"] }]
[metrics]
address = "127.0.0.1:0"
"#;
