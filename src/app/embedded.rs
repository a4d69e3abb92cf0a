//! What `dev` and `emulator` run on: a state directory with the embedded KMS, a throw-away CA, a server certificate
//! and an access key, and the words that say how to use them.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::tls::authority::Authority;

/// The files in a state directory that are not the KMS's own.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
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
        let state = Self { dir };
        if !state.certificates_are_fresh() {
            state.write_certificates()?;
        }
        if !state.secret_file().exists() {
            write_private(&state.secret_file(), &random_text()?)?;
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

    /// Where the embedded KMS keeps its keys.
    #[must_use]
    pub fn kms_dir(&self) -> PathBuf {
        self.dir.join("kms")
    }

    fn certificates_are_fresh(&self) -> bool {
        let age = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok()?.elapsed().ok();
        [self.ca_file(), self.certificate_file(), self.key_file()]
            .iter()
            .all(|path| age(path).is_some_and(|age| age.as_secs() < CERTIFICATE_SECONDS))
    }

    fn write_certificates(&self) -> io::Result<()> {
        let authority = Authority::generate().map_err(io::Error::other)?;
        fs::write(self.ca_file(), authority.ca_pem())?;
        fs::write(self.certificate_file(), authority.certificate_pem())?;
        write_private(&self.key_file(), authority.key_pem())
    }
}

/// What is known once everything listens.
#[derive(Debug)]
pub struct Ready<'a> {
    /// The files.
    pub state: &'a State,
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
        json!({
            "address": self.address,
            "ca_file": self.state.ca_file(),
            "access_key_id": ACCESS_KEY_ID,
            "secret_file": self.state.secret_file(),
            "key_id": self.key_id,
            "metrics_address": self.metrics_address,
            "control_address": format!("unix:{}", self.state.control_socket().display()),
        })
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

Python SDK, aliyun-python-sdk-kms:
  client = AcsClient("{ACCESS_KEY_ID}", open("{secret}").read(), "cn-hangzhou", port={port}, verify="{ca}")
  request = EncryptRequest(); request.set_KeyId("{key}"); request.set_Plaintext("aGVsbG8=")
  request.set_endpoint("127.0.0.1"); request.set_protocol_type("https"); request.set_accept_format("JSON")
  print(client.do_action_with_exception(request))

Python SDK, alibabacloud_kms20160120:
  config = Config(access_key_id="{ACCESS_KEY_ID}", access_key_secret=open("{secret}").read(),
                  endpoint="{address}", protocol="https", ca="{ca}", region_id="cn-hangzhou")
  print(Client(config).encrypt(EncryptRequest(key_id="{key}", plaintext="aGVsbG8=")))

Node SDK, @alicloud/kms20160120 (run with NODE_EXTRA_CA_CERTS={ca}):
  const client = new Client(new Config({{ accessKeyId: '{ACCESS_KEY_ID}', accessKeySecret: fs.readFileSync('{secret}', 'utf8'),
    endpoint: '{address}', protocol: 'https', regionId: 'cn-hangzhou' }}));
  console.log(await client.encrypt(new EncryptRequest({{ keyId: '{key}', plaintext: 'aGVsbG8=' }})));

aliyun CLI:
  SSL_CERT_FILE={ca} aliyun kms Encrypt --endpoint {address} --region cn-hangzhou --mode AK \
    --access-key-id {ACCESS_KEY_ID} --access-key-secret "$(cat {secret})" --KeyId {key} --Plaintext aGVsbG8=

ack-kms-plugin:
  ACK_KMS_DOMAIN={address} ACK_KMS_REGION_ID=cn-hangzhou ACCESS_KEY_ID={ACCESS_KEY_ID} \
  ACCESS_KEY_SECRET="$(cat {secret})" SSL_CERT_FILE={ca} ack-kms-plugin --key-id={key} --path-to-unix-socket=/tmp/kms.sock
"#,
            metrics = self.metrics_address,
            control = control.display(),
        );
        text
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use io::Write;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
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
