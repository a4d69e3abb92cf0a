//! What a listener presents to those who connect, taken anew when its files change.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::watch;

use super::{Config, Error};
use crate::stamp::Stamp;

/// A certificate with its key, and the authorities of clients, as last read without a mistake.
#[derive(Debug)]
pub struct Presented {
    config: Option<Config>,
    server: ArcSwap<ServerConfig>,
    looks: Mutex<Looks>,
    /// How often the authorities of clients have changed.
    authorities: watch::Sender<u64>,
}

/// The files as they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    server: [Option<Stamp>; 2],
    clients: Option<Stamp>,
}

#[derive(Debug, Default)]
struct Looks {
    /// When they were last tried, whether or not they served.
    tried: Seen,
    /// When they last served.
    taken: Seen,
}

/// What a look at the files brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Nothing: they are as they were.
    Same,
    /// From now on handshakes are by what is in them.
    Taken,
}

impl Presented {
    /// Reads the files of `config`.
    ///
    /// # Errors
    /// As [`Config::server`].
    pub fn read(config: &Config) -> Result<Arc<Self>, Error> {
        let seen = Seen::of(config);
        let server = ArcSwap::new(config.server()?);
        let looks = Mutex::new(Looks { tried: seen, taken: seen });
        Ok(Arc::new(Self { config: Some(config.clone()), server, looks, authorities: watch::Sender::new(0) }))
    }

    /// What no file stands behind.
    #[must_use]
    pub fn fixed(server: Arc<ServerConfig>) -> Arc<Self> {
        let (server, looks) = (ArcSwap::new(server), Mutex::default());
        Arc::new(Self { config: None, server, looks, authorities: watch::Sender::new(0) })
    }

    /// What the next handshake is by.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.load_full()
    }

    /// Looks whether the files have changed, and takes what is in them if it serves. Connections stay, unless they were
    /// let in by authorities that are others now: those are told to go, see [`Presented::authorities`].
    ///
    /// # Errors
    /// As [`Config::server`], once for each change; what was presented before still is.
    pub fn renew(&self) -> Result<Renewal, Error> {
        let Some(config) = &self.config else { return Ok(Renewal::Same) };
        let now = Seen::of(config);
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.tried == now {
            return Ok(Renewal::Same);
        }
        looks.tried = now;
        self.server.store(config.server()?);
        if std::mem::replace(&mut looks.taken, now).clients != now.clients {
            self.authorities.send_modify(|times| *times += 1);
        }
        Ok(Renewal::Taken)
    }

    /// Changes when clients must prove themselves to others than before.
    #[must_use]
    pub fn authorities(&self) -> watch::Receiver<u64> {
        self.authorities.subscribe()
    }
}

impl Seen {
    fn of(config: &Config) -> Self {
        let stamp = |path: &Path| Stamp::of(path);
        let server = [stamp(&config.certificate_file), stamp(&config.key_file)];
        Self { server, clients: config.client_ca_file.as_deref().and_then(stamp) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use jiff::Timestamp;
    use tempfile::TempDir;

    use super::super::authority::Authority;
    use super::*;

    /// Puts `bytes` in the place of a file, as certificate managers do.
    fn put(folder: &TempDir, name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let (path, fresh) = (folder.path().join(name), folder.path().join("fresh"));
        fs::write(&fresh, bytes).unwrap();
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&fresh, &path).unwrap();
        path
    }

    fn issue(folder: &TempDir) -> Config {
        let authority = Authority::generate(Timestamp::now(), &[]).unwrap();
        Config {
            certificate_file: put(folder, "server.pem", authority.certificate_pem().as_bytes()),
            key_file: put(folder, "server.key", authority.key_pem().expose()),
            client_ca_file: Some(put(folder, "ca.pem", authority.ca_pem().as_bytes())),
        }
    }

    #[test]
    fn what_has_changed_is_taken_and_what_has_not_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let presented = Presented::read(&issue(&folder)).unwrap();
        let first = presented.server();
        assert_eq!(presented.renew().unwrap(), Renewal::Same);
        assert!(Arc::ptr_eq(&first, &presented.server()));
        issue(&folder);
        assert_eq!(presented.renew().unwrap(), Renewal::Taken);
        assert!(!Arc::ptr_eq(&first, &presented.server()));
        assert_eq!(presented.renew().unwrap(), Renewal::Same);
    }

    #[test]
    fn broken_files_are_told_once_and_what_served_before_is_kept_until_they_are_mended() {
        let folder = tempfile::tempdir().unwrap();
        let presented = Presented::read(&issue(&folder)).unwrap();
        let first = presented.server();
        // A certificate that came before its key.
        let other = Authority::generate(Timestamp::now(), &[]).unwrap();
        put(&folder, "server.pem", other.certificate_pem().as_bytes());
        assert!(matches!(presented.renew(), Err(Error::Mismatch { .. })));
        assert_eq!(presented.renew().unwrap(), Renewal::Same);
        assert!(Arc::ptr_eq(&first, &presented.server()));
        put(&folder, "server.key", other.key_pem().expose());
        assert_eq!(presented.renew().unwrap(), Renewal::Taken);
        assert!(!Arc::ptr_eq(&first, &presented.server()));
    }

    #[test]
    fn other_authorities_of_clients_are_told_and_another_certificate_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let presented = Presented::read(&issue(&folder)).unwrap();
        let told = presented.authorities();
        let other = Authority::generate(Timestamp::now(), &[]).unwrap();
        put(&folder, "server.key", other.key_pem().expose());
        put(&folder, "server.pem", other.certificate_pem().as_bytes());
        assert_eq!((presented.renew().unwrap(), told.has_changed().unwrap()), (Renewal::Taken, false));
        put(&folder, "ca.pem", other.ca_pem().as_bytes());
        assert_eq!((presented.renew().unwrap(), told.has_changed().unwrap()), (Renewal::Taken, true));
    }
}
