//! Whose certificates are believed.

use std::fmt;
use std::path::Path;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::Error;
use crate::tls;

/// Whose certificates are believed.
#[derive(Clone, Debug)]
pub struct Trust(RootCertStore);

impl Trust {
    /// The platform's roots: `SSL_CERT_FILE`, `SSL_CERT_DIR` or the distribution's bundle. May be empty, on a machine
    /// without any; then every handshake fails.
    #[must_use]
    pub fn platform() -> Self {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a platform root certificate was passed over");
        }
        let (believed, _) = roots.add_parsable_certificates(found.certs);
        if believed == 0 {
            tracing::warn!(
                "this platform has no root certificates: install ca-certificates, or only ca_file is believed"
            );
        }
        Self(roots)
    }

    /// Nobody's, to be added to.
    #[must_use]
    pub fn nobody() -> Self {
        Self(RootCertStore::empty())
    }

    /// With the certificates of a PEM file added: a KMS instance has a CA of its own.
    ///
    /// # Errors
    /// Where the file cannot be read, holds no certificate, or holds one that is not a certificate.
    pub fn with_file(mut self, path: &Path) -> Result<Self, Error> {
        let unreadable = |error: &dyn fmt::Display| Error::CaFile(path.to_owned(), error.to_string());
        let listed = CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))?;
        let mut count = 0;
        for certificate in listed {
            let certificate = certificate.map_err(|error| unreadable(&error))?;
            self.0.add(certificate).map_err(|error| unreadable(&error))?;
            count += 1;
        }
        if count == 0 {
            return Err(unreadable(&"no CERTIFICATE block in it"));
        }
        Ok(self)
    }

    /// A client that believes these, by TLS 1.2 or newer, and resumes no session.
    ///
    /// # Panics
    /// Never: *ring* has suites for both versions.
    #[must_use]
    pub fn client(self) -> ClientConfig {
        let mut client = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(tls::VERSIONS)
            .expect("ring has suites for TLS 1.2 and 1.3")
            .with_root_certificates(self.0)
            .with_no_client_auth();
        // A resumed session shows no certificate: one that has expired since would count for days.
        client.resumption = Resumption::disabled();
        client
    }
}
