//! hyper's server on a connection on which all has come in: without a runtime, a clock or a thread.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;

/// A request as it was heard.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard {
    pub method: String,
    pub path: String,
    pub query: String,
    /// In the order of their names, which are in lower case; those of one name as they came.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Heard {
    pub fn new(method: &str, path: &str, query: &str, mut fields: Vec<(String, Vec<u8>)>, body: &[u8]) -> Self {
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
        Self { method, path, query, fields, body: body.to_vec() }
    }
}

/// The requests in `bytes`, where they are whole requests to the last byte.
pub fn hear(bytes: &[u8]) -> Option<Vec<Heard>> {
    let all = RefCell::new(Vec::new());
    let service = service_fn(|request: Request<Incoming>| {
        let all = &all;
        async move {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let fields = head.headers.iter().map(|(name, it)| (name.to_string(), it.as_bytes().to_vec())).collect();
                let (uri, body) = (head.uri, body.to_bytes());
                // A whole URI is not for us, whatever its path.
                let path = if uri.authority().is_some() { "elsewhere" } else { uri.path() };
                let heard = Heard::new(head.method.as_str(), path, uri.query().unwrap_or(""), fields, &body);
                all.borrow_mut().push(heard);
            }
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    // As the listener has it.
    let mut server = http1::Builder::new();
    server.header_read_timeout(None).max_buf_size(64 * 1024).pipeline_flush(false).writev(false).half_close(true);
    let mut connection = pin!(server.serve_connection(Whole(bytes), service));
    let mut cx = Context::from_waker(Waker::noop());
    // Each part of a body may take another; nothing is waited for but ourselves.
    for _ in 0..POLLS_MAX {
        if let Poll::Ready(ended) = connection.as_mut().poll(&mut cx) {
            return ended.ok().map(|()| all.take());
        }
    }
    panic!("it waits for something else");
}

/// A connection whose answers nobody reads.
struct Whole<'a>(&'a [u8]);

impl Read for Whole<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let (now, later) = self.0.split_at(self.0.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for Whole<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const POLLS_MAX: usize = 100_000;
