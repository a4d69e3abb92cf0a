//! One connection, from handshake to close, and the time it may take for each part.

mod stream;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::{ServerConfig, ServerConnection};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use self::stream::{Stream, Transport};
use super::Limits;
use super::crowd::{Member, Order, Place};
use crate::claim::{ListenerName, Peer, PeerOrigin, UnixPeer};
use crate::tls;

/// What all connections of a listener have in common.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) listener: ListenerName,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) limits: Limits,
}

/// A connection as accepted.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Serves one connection until it ends, is told to, or takes too long. Never fails: what went wrong with one peer is
/// nobody else's affair.
pub(super) async fn serve<S, F, B>(socket: Socket, place: Place, terms: Arc<Terms>, service: S)
where
    S: Fn(Arc<Peer>, Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (member, limits) = (place.member(), terms.limits);
    let opened = tokio::select! {
        opened = timeout(limits.handshake, open(socket, &terms)) => opened.ok().flatten(),
        () = member.told() => None,
    };
    let Some((transport, peer)) = opened else {
        return;
    };
    let peer = Arc::new(peer);
    member.expect();
    let stream = Stream::new(transport, Arc::clone(member), limits.stall);
    let old = Instant::now() + limits.age;
    let answer = service_fn(|request| {
        let (busy, answering) = (member.begin(), service(Arc::clone(&peer), request));
        async move {
            let mut response = answering.await;
            if Instant::now() >= old {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            drop(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let http = http().serve_connection(TokioIo::new(stream), answer);
    let mut http = pin!(http);
    let mut told = pin!(member.told());
    let mut timer = pin!(sleep_until(due(member, &limits)));
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = http.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
            match obey(member) {
                Obedience::Close => return Poll::Ready(None),
                Obedience::Finish => http.as_mut().graceful_shutdown(),
                Obedience::Carry => {}
            }
            if overdue(timer.as_mut(), member, &limits, cx) {
                return Poll::Ready(None);
            }
            if told.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            told.set(member.told());
        }
    })
    .await;
    if let Some(Err(error)) = ended {
        // Only the kind of failure: hyper's errors carry no bytes of the request.
        tracing::debug!(listener = terms.listener.as_str(), %error, "connection ended");
    }
}

enum Obedience {
    Carry,
    Close,
    Finish,
}

fn obey(member: &Member) -> Obedience {
    match member.order() {
        Order::Stay => Obedience::Carry,
        Order::Yield if member.busy() => {
            member.stay();
            Obedience::Carry
        }
        Order::Yield if member.hearing() => Obedience::Close,
        Order::Yield | Order::Leave => Obedience::Finish,
        Order::Cut => Obedience::Close,
    }
}

/// Whether what the connection is doing takes too long. The timer is set anew only when it fires: what is due moves
/// with every request, and mostly away.
fn overdue(mut timer: Pin<&mut Sleep>, member: &Member, limits: &Limits, cx: &mut Context<'_>) -> bool {
    let due = due(member, limits);
    if due < timer.deadline() {
        timer.as_mut().reset(due);
    }
    while timer.as_mut().poll(cx).is_ready() {
        if Instant::now() >= due {
            return true;
        }
        timer.as_mut().reset(due);
    }
    false
}

fn due(member: &Member, limits: &Limits) -> Instant {
    let span = match (member.busy(), member.hearing()) {
        (true, _) => limits.request,
        (false, true) => limits.head,
        (false, false) => limits.idle,
    };
    member.since() + span
}

fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    // hyper's own timeout makes no difference between an idle connection and half a head; ours does. Its
    // `pipeline_flush` would be a little faster, but keeps an answer back for as long as anything is unread: half a
    // next request, a body that was refused, the rest of a head that was too long.
    http.header_read_timeout(None).max_buf_size(HEAD_MAX).pipeline_flush(false).writev(false).half_close(false);
    http
}

/// Shakes hands and finds out what the socket tells of the other end. `None` where the handshake failed.
async fn open(socket: Socket, terms: &Terms) -> Option<(Transport, Peer)> {
    let origin = match &socket {
        Socket::Tcp(stream, peer) => {
            // Fails only on a socket that is closed already, which the first read will tell.
            let _ = stream.set_nodelay(true);
            PeerOrigin::Tcp(*peer)
        }
        Socket::Unix(stream) => {
            let credentials = stream.peer_cred().ok();
            PeerOrigin::Unix(credentials.map(|peer| UnixPeer { uid: peer.uid(), gid: peer.gid() }))
        }
    };
    let (transport, certificate_names) = match (socket, &terms.tls) {
        (Socket::Tcp(stream, _), None) => (Transport::Tcp(stream), [].into()),
        (Socket::Unix(stream), None) => (Transport::Unix(stream), [].into()),
        (Socket::Tcp(stream, _), Some(tls)) => {
            let stream = accepted(terms, TlsAcceptor::from(Arc::clone(tls)).accept(stream).await)?;
            let names = certificate_names(stream.get_ref().1);
            (Transport::TcpTls(Box::new(stream)), names)
        }
        (Socket::Unix(stream), Some(tls)) => {
            let stream = accepted(terms, TlsAcceptor::from(Arc::clone(tls)).accept(stream).await)?;
            let names = certificate_names(stream.get_ref().1);
            (Transport::UnixTls(Box::new(stream)), names)
        }
    };
    Some((transport, Peer { listener: terms.listener.clone(), origin, certificate_names }))
}

fn accepted<T>(terms: &Terms, handshake: std::io::Result<T>) -> Option<T> {
    handshake
        .inspect_err(|error| tracing::debug!(listener = terms.listener.as_str(), %error, "TLS handshake failed"))
        .ok()
}

fn certificate_names(session: &ServerConnection) -> Arc<[Box<str>]> {
    session.peer_certificates().and_then(<[_]>::first).map_or_else(|| [].into(), tls::names)
}

/// Bytes of a request's head: clients of Alibaba Cloud put up to 32 KiB of query into it. Over it, hyper answers 431.
const HEAD_MAX: usize = 64 * 1024;
