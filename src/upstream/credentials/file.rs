//! An access key that lies ready: in the environment, a file or a systemd credential.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::guard::Full;
use crate::seal::AtRest;
use crate::secret::Secret;
use crate::stamp::Stamp;
use crate::upstream::credentials::{Config, Credentials, Environment, Fetch, Fetching, Lack};

/// An access key whose id is known. A secret in a file is read again at each fetch.
#[derive(Debug)]
pub struct AccessKey {
    id: String,
    secret: Held,
    token: Option<AtRest>,
    seen: Mutex<Option<Stamp>>,
}

#[derive(Debug)]
enum Held {
    Here(AtRest),
    InFile(PathBuf),
}

impl AccessKey {
    /// From `ALIBABA_CLOUD_ACCESS_KEY_ID`, `…_SECRET` and `ALIBABA_CLOUD_SECURITY_TOKEN`.
    ///
    /// # Errors
    /// [`Lack::Absent`] where id or secret is not set.
    pub fn from_environment(env: Environment<'_>) -> Result<Self, Lack> {
        let value = |name: &str| env(name).filter(|value| !value.is_empty());
        let need = |name: &str| value(name).ok_or_else(|| Lack::absent(format!("{name} is not set")));
        let id = need("ALIBABA_CLOUD_ACCESS_KEY_ID")?;
        let secret = Secret::new(need("ALIBABA_CLOUD_ACCESS_KEY_SECRET")?.into_bytes());
        let token = value("ALIBABA_CLOUD_SECURITY_TOKEN").map(|token| Secret::new(token.into_bytes()));
        Self::fixed(&id, &secret, token.as_ref())
    }

    /// One that was read already.
    ///
    /// # Errors
    /// [`Lack::Failed`] where there is no guarded memory to keep it.
    pub(super) fn fixed(id: &str, secret: &Secret, token: Option<&Secret>) -> Result<Self, Lack> {
        let secret = Held::Here(AtRest::new(secret)?);
        let token = token.map(AtRest::new).transpose()?;
        Ok(Self { id: id.to_owned(), secret, token, seen: Mutex::default() })
    }

    /// From `id` and one of `secret_file`, `secret_env` and `secret_credential`. A file is read once, to see that it
    /// can be.
    ///
    /// # Errors
    /// [`Lack::Absent`] without an id or with none or several places for the secret; [`Lack::Failed`] where the
    /// secret is not at its place, or others can read it.
    pub fn from_config(config: &Config, env: Environment<'_>) -> Result<Self, Lack> {
        let id = config.id.clone().ok_or_else(|| Lack::absent("credentials.id is not set"))?;
        let secret = match (&config.secret_file, &config.secret_env, &config.secret_credential) {
            (Some(path), None, None) => Held::InFile(path.clone()),
            (None, Some(name), None) => {
                let value = env(name).filter(|value| !value.is_empty());
                let value = value.ok_or_else(|| Lack::failed(format!("{name} (credentials.secret_env) is not set")))?;
                Held::Here(AtRest::new(&Secret::new(value.into_bytes()))?)
            }
            (None, None, Some(name)) => Held::InFile(systemd_credential(name, env)?),
            _ => {
                return Err(Lack::absent(
                    "credentials need exactly one of secret_file, secret_env and secret_credential",
                ));
            }
        };
        let key = Self { id, secret, token: None, seen: Mutex::default() };
        key.read()?;
        Ok(key)
    }

    fn read(&self) -> Result<Secret, Lack> {
        match &self.secret {
            Held::Here(secret) => Ok(secret.open()),
            Held::InFile(path) => {
                // The stamp is taken first: a change while reading is then seen at the next look.
                let stamp = Stamp::of(path);
                let secret = read_secret(path)?;
                *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamp;
                Ok(secret)
            }
        }
    }
}

impl From<Full> for Lack {
    fn from(full: Full) -> Self {
        Self::failed(full.to_string())
    }
}

impl Fetch for AccessKey {
    fn fetch(&self) -> Fetching<'_> {
        Box::pin(async {
            Ok(Credentials {
                id: self.id.clone(),
                secret: self.read()?,
                token: self.token.as_ref().map(AtRest::open),
                expires: None,
                principal: self.id.as_str().into(),
            })
        })
    }

    fn changed(&self) -> bool {
        match &self.secret {
            Held::Here(_) => false,
            Held::InFile(path) => Stamp::of(path) != *self.seen.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// Reads a secret that stands alone in a file, without the white space around it: one line of printable ASCII.
///
/// # Errors
/// [`Lack::Failed`] where it cannot be read, is empty, is longer than 4 KiB, or can be read by others.
pub fn read_secret(path: &Path) -> Result<Secret, Lack> {
    let whole = read_private(path, SECRET_BYTES_MAX)?;
    alone(&whole, path)
}

/// As [`read_secret`], for a session token that a platform put there with a mode of its own choice, of at most 16 KiB.
pub(super) fn read_token(path: &Path) -> Result<Secret, Lack> {
    let whole = read(path, TOKEN_BYTES_MAX, 0)?;
    alone(&whole, path)
}

fn alone(whole: &Secret, path: &Path) -> Result<Secret, Lack> {
    let bytes = whole.expose().trim_ascii();
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(Lack::failed(format!("{} must hold the secret alone, in printable ASCII", path.display())));
    }
    Ok(Secret::copied(bytes))
}

/// Reads a file that only its owner and group may read, of at most `limit` bytes.
pub(super) fn read_private(path: &Path, limit: u64) -> Result<Secret, Lack> {
    read(path, limit, OTHERS_MAY_READ)
}

fn read(path: &Path, limit: u64, forbidden_mode: u32) -> Result<Secret, Lack> {
    let failed = |why: &dyn std::fmt::Display| Lack::failed(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            return Lack::absent(format!("{} is not there", path.display()));
        }
        failed(&error)
    })?;
    let found = file.metadata().map_err(|error| failed(&error))?;
    if found.mode() & forbidden_mode != 0 {
        return Err(failed(&"others can read it; chmod o-rwx"));
    }
    // One more than the file has, so that reading to the end never makes the buffer grow and leave a copy.
    let room = usize::try_from(found.len().min(limit) + 1).unwrap_or(0);
    let mut bytes = Vec::with_capacity(room);
    let outcome = file.take(limit + 1).read_to_end(&mut bytes);
    let secret = Secret::new(bytes);
    outcome.map_err(|error| failed(&error))?;
    if secret.len() as u64 > limit {
        return Err(failed(&format!("over {limit} bytes")));
    }
    Ok(secret)
}

fn systemd_credential(name: &str, env: Environment<'_>) -> Result<PathBuf, Lack> {
    if name.is_empty() || name.contains('/') || name == ".." {
        return Err(Lack::failed("credentials.secret_credential must be a plain name"));
    }
    let directory = env("CREDENTIALS_DIRECTORY").ok_or_else(|| {
        Lack::failed("CREDENTIALS_DIRECTORY is not set: secret_credential needs systemd's LoadCredential=")
    })?;
    Ok(PathBuf::from(directory).join(name))
}

const SECRET_BYTES_MAX: u64 = 4096;
const TOKEN_BYTES_MAX: u64 = 16 * 1024;
const OTHERS_MAY_READ: u32 = 0o004;
