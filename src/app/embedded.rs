//! What `dev` and `emulator` run on: a state directory with the embedded KMS, a throw-away CA, a server certificate
//! and an access key, and the words that say how to use them.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use super::{Environment, Error, House, Loaded, Mode, runtime_error};
use crate::clock::{Clock, System};
use crate::config::{self, Address, Sources};
use crate::kms::Action;
use crate::systemd::Inherited;
use crate::tls::authority::Authority;
use crate::upstream::local::DEFAULT_ALIAS;

/// What `kmsproxy dev` and `kmsproxy emulator` were told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where everything survives; made if need be.
    pub state_dir: PathBuf,
    /// Where the face listens.
    pub listen: SocketAddr,
    /// How slow the embedded KMS is.
    pub kms_latency: Duration,
    /// Where its decisions are written down.
    pub decisions: Option<PathBuf>,
    /// One machine-readable line when ready, in place of instructions.
    pub json: bool,
}

/// Runs the embedded KMS behind the Alibaba Cloud face: as a daemon with cache and leases, or straight.
///
/// # Errors
/// See [`Error`].
pub fn run(options: &Options, environment: Environment<'_>, mode: Mode) -> Result<(), Error> {
    let wrong = |error: io::Error| Error::Config(format!("{}: {error}", options.state_dir.display()));
    let state = State::prepare(&options.state_dir).map_err(wrong)?;
    state.write_config(options, mode).map_err(wrong)?;
    let house = House::build(state.load()?, environment, mode)?;
    let local = house.local().ok_or_else(|| Error::Runtime("the plan has no embedded KMS".to_owned()))?;
    if let Some(file) = &options.decisions {
        local.write_decisions(file).map_err(|error| Error::Config(format!("{}: {error}", file.display())))?;
    }
    let key_id = local.ensure_default_key().map_err(runtime_error)?.as_str().to_owned();
    let steering = super::private("control", &Address::Unix(state.control_socket()), &mut Inherited::take(&|_| None))?;
    let address = house.addresses().into_iter().next().map(|(_, address)| address).unwrap_or_default();
    let metrics_address = house.metrics_address().map(|address| address.to_string()).unwrap_or_default();
    let ready = Ready { state: &state, mode, address, key_id, metrics_address };
    let announcement = if options.json { ready.json().to_string() } else { ready.instructions() };
    house.run(environment, Some(steering), || super::print(&announcement))
}

/// The files in a state directory that are not the KMS's own.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    /// Locked for as long as this lives: nothing is written into a directory that another daemon runs on.
    _locked: fs::File,
}

impl State {
    /// Makes what is missing in `dir`: certificates when they are absent or getting old, the access key once.
    ///
    /// # Errors
    /// Where the directory is open to others, or cannot be written.
    pub fn prepare(dir: &Path) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(dir)?;
        let dir = dir.canonicalize()?;
        if fs::metadata(&dir)?.permissions().mode() & 0o077 != 0 {
            let remedy = format!("{} is open to others: chmod 700 {0}", dir.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, remedy));
        }
        let locked = private(&dir.join("lock"))?;
        rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let remedy = "another kmsproxy runs on it: stop that one, or give --state-dir another directory";
            io::Error::new(io::ErrorKind::ResourceBusy, remedy)
        })?;
        let state = Self { dir, _locked: locked };
        if !state.certificates_are_fresh() {
            state.write_certificates()?;
        }
        if !state.secret_file().exists() {
            write_private(&state.secret_file(), random_text()?.as_bytes())?;
        }
        Ok(state)
    }

    /// The CA to be trusted by clients.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The server certificate.
    #[must_use]
    pub fn certificate_file(&self) -> PathBuf {
        self.dir.join("server.pem")
    }

    /// Its key.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.dir.join("server.key")
    }

    /// The secret of [`ACCESS_KEY_ID`].
    #[must_use]
    pub fn secret_file(&self) -> PathBuf {
        self.dir.join("access-key.secret")
    }

    /// Where the embedded KMS is steered.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Where `kmsproxy status` asks.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    /// Where kube-apiserver may ask; not in the emulator.
    #[must_use]
    pub fn kubernetes_socket(&self) -> PathBuf {
        self.dir.join("kms.sock")
    }

    /// Where the embedded KMS keeps its keys.
    #[must_use]
    pub fn kms_dir(&self) -> PathBuf {
        self.dir.join("kms")
    }

    fn config_file(&self) -> PathBuf {
        self.dir.join("kmsproxy.toml")
    }

    /// The configuration of this daemon, written out: an example to start from, and read back like any other.
    fn write_config(&self, options: &Options, mode: Mode) -> io::Result<()> {
        let text = format!(
            r#"# Written anew at each start of `kmsproxy dev` or `kmsproxy emulator`.
[upstream.local]
kind = "local"
state_dir = "{kms}"
latency = "{latency}ms"

[[listener]]
name = "local"
face = "aliyun"
address = "{listen}"
tls = {{ certificate_file = "{certificate}", key_file = "{key}" }}
upstream = "local"

[[caller]]
name = "local"
listener = "local"
access_key = {{ id = "{ACCESS_KEY_ID}", secret_file = "{secret}" }}
allow = [{{ actions = {actions}, keys = ["*"] }}]

[metrics]
address = "127.0.0.1:0"

[admin]
address = "unix:{admin}"
page = {page}

[working_set]
file = "{working_set}"
{kubernetes}"#,
            kms = self.kms_dir().display(),
            latency = options.kms_latency.as_millis(),
            listen = options.listen,
            certificate = self.certificate_file().display(),
            key = self.key_file().display(),
            secret = self.secret_file().display(),
            actions = json!(Action::ALL.map(Action::name)),
            admin = self.admin_socket().display(),
            page = mode == Mode::Cached,
            working_set = self.dir.join("working-set").display(),
            kubernetes = match mode {
                Mode::Cached => self.kubernetes_config(),
                Mode::Straight => String::new(),
            },
        );
        write_private(&self.config_file(), text.as_bytes())
    }

    fn kubernetes_config(&self) -> String {
        format!(
            r#"
[[listener]]
name = "kubernetes"
face = "kubernetes"
address = "unix:{}"
upstream = "local"
key = "{DEFAULT_ALIAS}"

[[caller]]
name = "kubernetes"
listener = "kubernetes"
allow = [{{ actions = ["Decrypt", "Encrypt"], keys = ["*"] }}]
"#,
            self.kubernetes_socket().display(),
        )
    }

    fn load(&self) -> Result<Loaded, Error> {
        // Nothing from the environment: a development daemon is what its command line says.
        let sources = Sources {
            file: self.config_file(),
            environment: config::Environment::default(),
            overrides: Vec::new(),
            root: None,
        };
        let (config, plan) = config::load(&sources).map_err(|mistakes| Error::Config(mistakes.to_string()))?;
        Ok(Loaded { sources, config, plan })
    }

    fn certificates_are_fresh(&self) -> bool {
        let age = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok()?.elapsed().ok();
        [self.ca_file(), self.certificate_file(), self.key_file()]
            .iter()
            .all(|path| age(path).is_some_and(|age| age.as_secs() < CERTIFICATE_SECONDS))
    }

    fn write_certificates(&self) -> io::Result<()> {
        let authority = Authority::generate(System.wall(), &[]).map_err(io::Error::other)?;
        fs::write(self.ca_file(), authority.ca_pem())?;
        fs::write(self.certificate_file(), authority.certificate_pem())?;
        write_private(&self.key_file(), authority.key_pem().expose())
    }
}

/// What is known once everything listens.
#[derive(Debug)]
pub struct Ready<'a> {
    /// The files.
    pub state: &'a State,
    /// The daemon or the emulator.
    pub mode: Mode,
    /// Where the Alibaba Cloud face listens.
    pub address: String,
    /// A key that may be used.
    pub key_id: String,
    /// Where metrics are.
    pub metrics_address: String,
}

impl Ready<'_> {
    /// One machine-readable line.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut line = json!({
            "address": self.address,
            "ca_file": self.state.ca_file(),
            "access_key_id": ACCESS_KEY_ID,
            "secret_file": self.state.secret_file(),
            "key_id": self.key_id,
            "metrics_address": self.metrics_address,
            "admin_socket": self.state.admin_socket(),
            "control_address": format!("unix:{}", self.state.control_socket().display()),
        });
        if self.mode == Mode::Cached {
            line["kubernetes_socket"] = json!(self.state.kubernetes_socket());
        }
        line
    }

    /// What a newcomer pastes, for each client. Names files that hold secrets; shows none.
    #[must_use]
    pub fn instructions(&self) -> String {
        let (ca, secret) = (self.state.ca_file(), self.state.secret_file());
        let (ca, secret, address, key) = (ca.display(), secret.display(), &self.address, &self.key_id);
        let port = address.rsplit(':').next().unwrap_or_default();
        let control = self.state.control_socket();
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            r#"
kmsproxy listens on https://{address}   (Ctrl-C stops it)

  key         {key}   (alias/kmsproxy-dev)
  access key  {ACCESS_KEY_ID}, its secret in {secret}
  CA          {ca}
  metrics     http://{metrics}/metrics
  control     curl --unix-socket {control} http://localhost/keys
  status      kmsproxy status --socket {admin}   (or `top`, or http://{metrics}/ in a browser)

Python SDK, aliyun-python-sdk-kms:
  from aliyunsdkcore.client import AcsClient
  from aliyunsdkkms.request.v20160120.EncryptRequest import EncryptRequest
  client = AcsClient("{ACCESS_KEY_ID}", open("{secret}").read(), "cn-hangzhou", port={port}, verify="{ca}")
  request = EncryptRequest(); request.set_KeyId("{key}"); request.set_Plaintext("aGVsbG8=")
  request.set_endpoint("127.0.0.1"); request.set_protocol_type("https"); request.set_accept_format("JSON")
  print(client.do_action_with_exception(request))

Python SDK, alibabacloud_kms20160120:
  from alibabacloud_kms20160120.client import Client
  from alibabacloud_kms20160120.models import EncryptRequest
  from alibabacloud_tea_openapi.models import Config
  config = Config(access_key_id="{ACCESS_KEY_ID}", access_key_secret=open("{secret}").read(),
                  endpoint="{address}", protocol="https", ca="{ca}", region_id="cn-hangzhou")
  print(Client(config).encrypt(EncryptRequest(key_id="{key}", plaintext="aGVsbG8=")))

Node SDK, @alicloud/kms20160120 (run with NODE_EXTRA_CA_CERTS={ca}):
  const fs = require('fs'), {{ default: Client, EncryptRequest }} = require('@alicloud/kms20160120');
  const {{ Config }} = require('@alicloud/rpc-client');
  const client = new Client(new Config({{ accessKeyId: '{ACCESS_KEY_ID}', accessKeySecret: fs.readFileSync('{secret}', 'utf8'),
    endpoint: '{address}', protocol: 'https', regionId: 'cn-hangzhou' }}));
  client.encrypt(new EncryptRequest({{ keyId: '{key}', plaintext: 'aGVsbG8=' }})).then(console.log);

aliyun CLI:
  SSL_CERT_FILE={ca} aliyun kms Encrypt --endpoint {address} --region cn-hangzhou --mode AK \
    --access-key-id {ACCESS_KEY_ID} --access-key-secret "$(cat {secret})" --KeyId {key} --Plaintext aGVsbG8=

ack-kms-plugin:
  ACK_KMS_DOMAIN={address} ACK_KMS_REGION_ID=cn-hangzhou ACCESS_KEY_ID={ACCESS_KEY_ID} \
  ACCESS_KEY_SECRET="$(cat {secret})" SSL_CERT_FILE={ca} ack-kms-plugin --key-id={key} --path-to-unix-socket=/tmp/kms.sock
"#,
            metrics = self.metrics_address,
            control = control.display(),
            admin = self.state.admin_socket().display(),
        );
        if self.mode == Mode::Cached {
            text.push_str(&self.kubernetes_instructions());
        }
        text
    }

    fn kubernetes_instructions(&self) -> String {
        format!(
            r#"
kube-apiserver, --encryption-provider-config=FILE (apiVersion: v1 and --feature-gates=KMSv1=true for KMS v1):
  apiVersion: apiserver.config.k8s.io/v1
  kind: EncryptionConfiguration
  resources:
    - resources: [secrets]
      providers:
        - kms:
            apiVersion: v2
            name: kmsproxy
            endpoint: unix://{}
            timeout: 3s
        - identity: {{}}
"#,
            self.state.kubernetes_socket().display(),
        )
    }
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use io::Write;
    private(path)?.write_all(content)
}

/// An empty file that only its owner can open.
fn private(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn random_text() -> io::Result<String> {
    let mut bytes = [0; 15];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// The one access key of a development daemon.
pub const ACCESS_KEY_ID: &str = "LTAIkmsproxydev";
/// Certificates are valid for 30 days and made anew after 25.
const CERTIFICATE_SECONDS: u64 = 25 * 24 * 3600;
