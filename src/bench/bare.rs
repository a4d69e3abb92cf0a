//! The yardstick: a bare responder that answers one constant, of the size of a real answer. It looks at nothing.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::deks::PLAIN_BYTES;
use super::face::Face;
use crate::kms::{Answer, Decrypted, KeyId, KeyVersion, Reply, RequestId};
use crate::secret::Secret;
use crate::tls;
use crate::wire::aliyun::answer;

/// `kmsproxy bench bare-responder`, which the harness starts for itself.
#[derive(Debug, Args)]
pub(super) struct Responder {
    /// The unix socket to listen on; without it, a free port of loopback
    #[arg(long)]
    socket: Option<PathBuf>,
    /// What to speak
    #[arg(long, value_enum, default_value = "aliyun-unsigned")]
    face: Face,
    /// The certificate, for TLS
    #[arg(long, requires = "key_file")]
    certificate_file: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "certificate_file")]
    key_file: Option<PathBuf>,
}

/// What it answers, whatever was asked.
pub(super) const PLAIN: [u8; PLAIN_BYTES] = [0x5A; PLAIN_BYTES];

impl Responder {
    /// Answers until the process is told to stop.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub(super) fn run(&self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(&self) -> io::Result<()> {
        let constant = Constant::new(self.face);
        if let Some(socket) = &self.socket {
            let listener = UnixListener::bind(socket)?;
            announce(&format!("unix:{}", socket.display()));
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::spawn(converse(stream, Arc::clone(&constant)));
            }
        }
        let acceptor = match (&self.certificate_file, &self.key_file) {
            (Some(certificate), Some(key)) => {
                let (certificate_file, key_file) = (certificate.clone(), key.clone());
                let config = tls::Config { certificate_file, key_file, client_ca_file: None };
                Some(tokio_rustls::TlsAcceptor::from(config.server().map_err(io::Error::other)?))
            }
            _ => None,
        };
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        announce(&listener.local_addr()?.to_string());
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (constant, acceptor) = (Arc::clone(&constant), acceptor.clone());
            tokio::spawn(async move {
                match acceptor {
                    None => converse(stream, constant).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            converse(stream, constant).await;
                        }
                    }
                }
            });
        }
    }
}

fn announce(address: &str) {
    use io::Write as _;
    // Whoever started it reads this line; where nobody does, nobody is told.
    let _ = writeln!(io::stdout(), "{}", json!({ "address": address }));
}

struct Constant {
    face: Face,
    body: Bytes,
}

impl Constant {
    fn new(face: Face) -> Arc<Self> {
        let body = if face.api().is_some() { message() } else { json_answer() };
        Arc::new(Self { face, body })
    }
}

fn json_answer() -> Bytes {
    let id = "00000000-0000-4000-8000-000000000000";
    let reply = Reply::Decrypted(Decrypted {
        plaintext: Secret::copied(&PLAIN),
        key: KeyId::new(id),
        version: KeyVersion::new(id),
    });
    Bytes::copy_from_slice(answer::encode(&Answer { reply, request_id: RequestId::new(id) }).expose())
}

/// `DecryptResponse` of either version in its envelope.
fn message() -> Bytes {
    let field = [0x0A, u8::try_from(PLAIN.len()).expect("32 bytes")];
    let length = u32::try_from(field.len() + PLAIN.len()).expect("34 bytes");
    [&[0], &length.to_be_bytes()[..], &field, &PLAIN].concat().into()
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, constant: Arc<Constant>) {
    // A connection that fails is the client's to notice.
    if constant.face.api().is_some() {
        let _ = http2(stream, &constant).await;
        return;
    }
    let answer = |request: Request<Incoming>| {
        let body = constant.body.clone();
        async move {
            // What was sent is to be read, and no more.
            let _ = request.into_body().collect().await;
            let mut response = Response::new(Full::new(body));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json;charset=utf-8"));
            Ok::<_, Infallible>(response)
        }
    };
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
}

async fn http2(stream: impl AsyncRead + AsyncWrite + Unpin, constant: &Constant) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let body = constant.body.clone();
        tokio::spawn(async move {
            let mut sent = request.into_body();
            while let Some(Ok(data)) = sent.data().await {
                sent.flow_control().release_capacity(data.len())?;
            }
            let head = Response::builder().header(CONTENT_TYPE, "application/grpc").body(());
            let mut answer = respond.send_response(head.expect("two constant headers"), false)?;
            answer.send_data(body, false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            answer.send_trailers(trailers)
        });
    }
    Ok(())
}
