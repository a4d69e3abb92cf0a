//! A listener between the daemon and the emulator that ends TLS on both sides and keeps what the emulator sent.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::client::{Outcome, tls};
use super::process::Daemon;

pub(crate) struct Tap {
    pub(crate) address: String,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    pub(crate) async fn before(emulator: &Daemon) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (there, ca) = (emulator.at("address").to_owned(), emulator.at("ca_file").to_owned());
        let (acceptor, heard) = (acceptor(Path::new(&ca).parent().unwrap()), Arc::<Mutex<Vec<u8>>>::default());
        let keep = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (near, far) = (acceptor.accept(near), TcpStream::connect(&there));
                let (near, far) = (near.await.unwrap(), far.await.unwrap());
                let far = tls(&ca).connect(ServerName::try_from("localhost").unwrap(), far).await.unwrap();
                tokio::spawn(join(near, far, Arc::clone(&keep)));
            }
        });
        Self { address, heard }
    }

    /// The last answer that the emulator sent.
    pub(crate) fn last(&self) -> Outcome {
        let heard = String::from_utf8(self.heard.lock().unwrap().clone()).unwrap();
        let answer = &heard[heard.rfind("HTTP/1.1 ").unwrap()..];
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }
}

async fn join<N, F>(near: N, far: F, heard: Arc<Mutex<Vec<u8>>>)
where
    N: AsyncRead + AsyncWrite + Send + 'static,
    F: AsyncRead + AsyncWrite + Send + 'static,
{
    let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (split(near), split(far));
    tokio::spawn(async move { copy(&mut from_near, &mut to_far).await });
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from_far.read(&mut buffer).await {
        heard.lock().unwrap().extend(&buffer[..count]);
        if to_near.write_all(&buffer[..count]).await.is_err() || to_near.flush().await.is_err() {
            return;
        }
    }
}

fn acceptor(dir: &Path) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_file(dir.join("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(dir.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config).into()
}
