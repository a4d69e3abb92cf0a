//! TLS as a listener speaks it, on ring and never by a process-wide default.

pub mod authority;
mod presented;

use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig, SupportedProtocolVersion};
use serde::{Deserialize, Serialize};

pub use self::presented::{Presented, Renewal};
use crate::secret::Secret;

/// How a listener proves itself, and whether its clients must.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The certificate and what leads from it to its root, in PEM, the certificate first.
    pub certificate_file: PathBuf,
    /// The certificate's private key, in PEM (PKCS#8, PKCS#1 or SEC1); not readable by others.
    pub key_file: PathBuf,
    /// CA certificates, in PEM. Where given, no client gets in without a certificate that one of them signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
}

impl Config {
    /// Reads the files and makes of them what a listener needs: TLS 1.3 or 1.2 (for the older SDKs in
    /// ack-kms-plugin), HTTP/1.1, every handshake in full: no tickets, no resumption, no early data.
    ///
    /// # Errors
    /// [`Error`], naming the file and the remedy.
    pub fn server(&self) -> Result<Arc<ServerConfig>, Error> {
        let chain = certificates(&self.certificate_file)?;
        let key = private_key(&self.key_file)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .expect("ring has cipher suites for TLS 1.2 and 1.3");
        let builder = match &self.client_ca_file {
            Some(file) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(file)?), provider())
                    .build()
                    .map_err(|error| Error::unusable(file, error))?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_single_cert(chain, key).map_err(|error| self.mismatch(error))?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(server))
    }

    fn mismatch(&self, error: rustls::Error) -> Error {
        if matches!(error, rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) {
            return Error::Mismatch { certificate: self.certificate_file.clone(), key: self.key_file.clone() };
        }
        Error::unusable(&self.certificate_file, error)
    }
}

/// The DNS and URI names (SANs) of a certificate that was verified already. The subject's common name is no name.
#[must_use]
pub fn names(certificate: &CertificateDer<'_>) -> Arc<[Box<str>]> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else {
        return [].into();
    };
    // A URI has a scheme. One without could pass for a DNS name, which alone has no colon.
    let uris = certificate.valid_uri_names().filter(|uri| uri.contains(':'));
    certificate.valid_dns_names().chain(uris).map(Box::from).collect()
}

/// Why TLS cannot be set up. Says which file, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key's file is open to everyone on the machine.
    #[error("{}: a private key that others can read (mode {mode:04o}); chmod o-rwx it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key is not the certificate's.
    #[error("{}: not the key of the certificate in {}; name a pair that belongs together, the server's certificate first in its file", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The file has no PEM section of the kind.
    #[error("{}: no {what} in it; it must be PEM, from -----BEGIN on", path.display())]
    Nothing {
        /// The file.
        path: PathBuf,
        /// What it should have.
        what: &'static str,
    },
    /// The file cannot be read.
    #[error("{}: {source}; check that it exists and that this user may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was read, and what is in it does not serve.
    #[error("{}: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why; never quotes the file.
        reason: String,
    },
}

impl Error {
    fn unusable(path: &Path, reason: impl Display) -> Self {
        Self::Unusable { path: path.to_owned(), reason: reason.to_string() }
    }

    fn pem(path: &Path, what: &'static str, error: &pem::Error) -> Self {
        if matches!(error, pem::Error::NoItemsFound) {
            return Self::Nothing { path: path.to_owned(), what };
        }
        Self::unusable(path, Malformed(what))
    }
}

/// A PEM error without its details, which may quote the key.
struct Malformed(&'static str);

impl Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} in it is not valid PEM; export it again", self.0)
    }
}

/// The one crypto provider, never installed as the process's default.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| Error::unusable(path, error))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(&open(path)?, path)?;
    let found = CertificateDer::pem_slice_iter(text.expose()).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(certificates) if certificates.is_empty() => Err(Error::pem(path, "certificate", &pem::Error::NoItemsFound)),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(Error::pem(path, "certificate", &error)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let file = open(path)?;
    let mode = file.metadata().map_err(|source| unreadable(path, source))?.permissions().mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(Error::Exposed { path: path.to_owned(), mode });
    }
    let text = read(&file, path)?;
    PrivateKeyDer::from_pem_slice(text.expose()).map_err(|error| Error::pem(path, "private key", &error))
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| unreadable(path, source))
}

fn read(file: &File, path: &Path) -> Result<Secret, Error> {
    // Sized before it is filled: a buffer that grows leaves copies behind.
    let mut text = Vec::with_capacity(FILE_MAX);
    file.take(FILE_MAX as u64).read_to_end(&mut text).map_err(|source| unreadable(path, source))?;
    let text = Secret::new(text);
    if text.len() == FILE_MAX {
        return Err(Error::unusable(path, "over 1 MiB; name a file with only what is needed"));
    }
    Ok(text)
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::Unreadable { path: path.to_owned(), source }
}

/// What is spoken on either side: nothing older than TLS 1.2.
pub static VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
/// Bytes of a PEM file; a whole platform's roots are 250 KB.
const FILE_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use jiff::Timestamp;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConnection, ServerConnection};
    use tempfile::TempDir;

    use super::authority::Authority;
    use rustls::ClientConfig;

    use super::*;

    /// Writes an authority's certificates into a new folder.
    fn files(authority: &Authority) -> (TempDir, Config) {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            path
        };
        write("ca.pem", authority.ca_pem().as_bytes());
        let certificate_file = write("server.pem", authority.certificate_pem().as_bytes());
        let key_file = write("server.key", authority.key_pem().expose());
        (folder, Config { certificate_file, key_file, client_ca_file: None })
    }

    fn authority() -> Authority {
        Authority::generate(Timestamp::now(), &[]).unwrap()
    }

    /// Lets both sides talk until they agree or one gives up.
    fn handshake(
        client: ClientConfig,
        server: Arc<ServerConfig>,
        name: &str,
    ) -> Result<ServerConnection, rustls::Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(server)?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(server)
    }

    fn trusting(certificates: Vec<CertificateDer<'static>>) -> ClientConfig {
        let mut trusted = RootCertStore::empty();
        certificates.into_iter().for_each(|certificate| trusted.add(certificate).unwrap());
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .unwrap()
            .with_root_certificates(trusted)
            .with_no_client_auth()
    }

    #[test]
    fn an_authority_certifies_the_loopback_names_and_no_others() {
        let (folder, config) = files(&authority());
        let server = config.server().unwrap();
        let client = || trusting(certificates(&folder.path().join("ca.pem")).unwrap());
        for name in ["127.0.0.1", "::1", "localhost"] {
            assert!(handshake(client(), Arc::clone(&server), name).is_ok(), "{name}");
        }
        assert!(handshake(client(), Arc::clone(&server), "kms.example").is_err());
        let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        assert!(handshake(trusting(vec![stranger.cert.der().clone()]), server, "localhost").is_err());
    }

    #[test]
    fn tls_1_2_is_spoken_and_http_1_1_is_chosen() {
        let (folder, config) = files(&authority());
        let mut trusted = RootCertStore::empty();
        trusted.add(certificates(&folder.path().join("ca.pem")).unwrap().remove(0)).unwrap();
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(trusted)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let server = handshake(client, config.server().unwrap(), "localhost").unwrap();
        assert_eq!(server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
        assert_eq!(server.alpn_protocol(), Some(&b"http/1.1"[..]));
    }

    #[test]
    fn names_are_the_dns_and_uri_names_and_nothing_that_poses_as_one() {
        let mut parameters =
            rcgen::CertificateParams::new(vec!["ack.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        for uri in ["spiffe://cluster/ack", "vault.example"] {
            parameters.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().unwrap()));
        }
        let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        assert_eq!(&*names(certificate.der()), &["ack.example".into(), "spiffe://cluster/ack".into()]);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let (_folder, config) = files(&authority());
        fs::set_permissions(&config.key_file, Permissions::from_mode(0o644)).unwrap();
        let error = config.server().unwrap_err().to_string();
        let file = config.key_file.display();
        assert_eq!(error, format!("{file}: a private key that others can read (mode 0644); chmod o-rwx it"));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let ((_folder, mut config), (_other, stranger)) = (files(&authority()), files(&authority()));
        config.key_file = stranger.key_file;
        assert!(matches!(config.server().unwrap_err(), Error::Mismatch { key, .. } if key == config.key_file));
    }

    #[test]
    fn files_that_are_missing_empty_or_swapped_are_named() {
        let (folder, config) = files(&authority());
        let mut broken = config.clone();
        broken.certificate_file = folder.path().join("missing.pem");
        assert!(
            matches!(broken.server().unwrap_err(), Error::Unreadable { path, .. } if path == broken.certificate_file)
        );
        broken = Config { key_file: config.certificate_file.clone(), ..config.clone() };
        assert!(matches!(broken.server().unwrap_err(), Error::Nothing { what: "private key", .. }));
        broken = Config { certificate_file: config.key_file.clone(), ..config };
        assert!(matches!(broken.server().unwrap_err(), Error::Nothing { what: "certificate", .. }));
    }
}
