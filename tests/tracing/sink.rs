//! What stands in the place of a collector and understands nothing: it keeps every byte, and answers as it is told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// A server on a thread of its own; it ends with the test.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    kept: Arc<Kept>,
    runtime: Option<Runtime>,
}

/// How it answers.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// With a status and a body.
    Answers(u16, &'static [u8]),
    /// Not at all.
    Stalls,
}

#[derive(Default)]
struct Kept {
    connections: AtomicUsize,
    posted: Mutex<Vec<Posted>>,
}

/// What was posted.
#[derive(Clone)]
pub(crate) struct Posted {
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Sink {
    pub(crate) fn new(manner: Manner) -> Self {
        Self::start(manner, None)
    }

    /// The same behind TLS, with the certificate of an emulator: its directory.
    pub(crate) fn tls(manner: Manner, directory: &std::path::Path) -> Self {
        let chain = CertificateDer::pem_file_iter(directory.join("server.pem")).unwrap().map(Result::unwrap);
        let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(chain.collect(), key).unwrap();
        Self::start(manner, Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn start(manner: Manner, tls: Option<TlsAcceptor>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, kept) = (listener.local_addr().unwrap(), Arc::<Kept>::default());
        let accepted = Arc::clone(&kept);
        runtime.spawn(async move { accept(TcpListener::from_std(listener).unwrap(), manner, tls, accepted).await });
        Self { address, kept, runtime: Some(runtime) }
    }

    pub(crate) fn connections(&self) -> usize {
        self.kept.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn posted(&self) -> Vec<Posted> {
        self.kept.posted.lock().unwrap().clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Tests are async themselves, and may not wait for it.
        self.runtime.take().unwrap().shutdown_background();
    }
}

async fn accept(listener: TcpListener, manner: Manner, tls: Option<TlsAcceptor>, kept: Arc<Kept>) {
    while let Ok((stream, _)) = listener.accept().await {
        kept.connections.fetch_add(1, Ordering::SeqCst);
        let (tls, kept) = (tls.clone(), Arc::clone(&kept));
        tokio::spawn(async move {
            match tls {
                None => serve(stream, manner, kept).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, manner, kept).await;
                    }
                }
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, manner: Manner, kept: Arc<Kept>) {
    let service = service_fn(|request: Request<Incoming>| {
        let kept = Arc::clone(&kept);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let line = format!("{} {}", head.method, head.uri);
            kept.posted.lock().unwrap().push(Posted { line, headers: head.headers, body });
            match manner {
                Manner::Answers(status, body) => {
                    let body = Full::new(Bytes::from_static(body));
                    Ok::<_, hyper::Error>(Response::builder().status(status).body(body).unwrap())
                }
                Manner::Stalls => {
                    tokio::time::sleep(FOREVER).await;
                    Ok(Response::new(Full::default()))
                }
            }
        }
    });
    // Whoever goes away has had enough.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// An `ExportTraceServiceResponse` without anything in it.
pub(crate) const TAKEN: Manner = Manner::Answers(200, b"");
const FOREVER: Duration = Duration::from_secs(3600);
