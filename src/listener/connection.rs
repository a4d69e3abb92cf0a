//! One connection, from accept to close: what its socket tells of the other end, and the time it may take for each
//! part, whatever is spoken on it.

mod http1;
mod http2;
mod stream;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;

use rustls::ServerConnection;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, timeout};
use tokio_rustls::TlsAcceptor;

pub(super) use self::http1::Http1;
pub use self::http2::Answer;
pub(super) use self::http2::Http2;
use self::stream::{Stream, Transport};
use super::crowd::{Member, Order, Place};
use super::foreign::Duplex;
use super::{Confidential, Limits};
use crate::claim::{ListenerName, Peer, PeerOrigin, UnixPeer};
use crate::tls;

/// What all connections of a listener have in common.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) listener: ListenerName,
    pub(super) tls: Option<Arc<tls::Presented>>,
    pub(super) limits: Limits,
}

/// A connection as accepted.
#[derive(Debug)]
pub(super) enum Socket {
    Foreign(Box<dyn Duplex>, SocketAddr),
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// A connection whose other end is known, and which may speak.
#[derive(Debug)]
pub(super) struct Opened {
    stream: Stream,
    peer: Arc<Peer>,
    member: Arc<Member>,
    limits: Limits,
}

/// What is spoken on a connection.
pub(super) trait Protocol: Clone + Send + Sync + 'static {
    /// Why a conversation ended before its time. Carries no bytes of a request.
    type Error: std::error::Error;

    /// Serves a connection until it ends, is told to, or takes too long.
    fn converse(self, opened: Opened) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Serves one connection until it ends, is told to, or takes too long. Never fails: what went wrong with one peer is
/// nobody else's affair.
pub(super) async fn serve<P: Protocol>(socket: Socket, place: Place, terms: Arc<Terms>, protocol: P) {
    let (member, limits) = (place.member(), terms.limits);
    // In a box: a handshake takes more memory than all that follows it.
    let opened = tokio::select! {
        biased;
        opened = timeout(limits.handshake, Box::pin(open(socket, &terms))) => opened.ok().flatten(),
        () = sent_away(member) => None,
    };
    let Some((transport, peer)) = opened else {
        return;
    };
    member.expect();
    let stream = Stream::new(transport, Arc::clone(member), limits.stall);
    let opened = Opened { stream, peer: Arc::new(peer), member: Arc::clone(member), limits };
    if let Err(error) = protocol.converse(opened).await {
        tracing::debug!(listener = terms.listener.as_str(), %error, "connection ended");
    }
}

/// Resolves when there is no time left for who has not asked yet: at once for who is to make room, after a moment for who
/// is to leave, since its question may be on its way.
async fn sent_away(member: &Member) {
    loop {
        match member.order() {
            Order::Stay => member.told().await,
            Order::Leave => {
                let _ = timeout(LINGER_HEARING, member.told()).await;
                return;
            }
            Order::Yield | Order::Cut => return,
        }
    }
}

/// Whether `due` has come. The timer is set anew only when it fires: what is due moves with every request, and mostly
/// away.
fn overdue(mut timer: Pin<&mut Sleep>, due: Instant, cx: &mut Context<'_>) -> bool {
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

/// Shakes hands and finds out what the socket tells of the other end. `None` where the handshake failed.
async fn open(socket: Socket, terms: &Terms) -> Option<(Transport, Peer)> {
    let origin = match &socket {
        Socket::Foreign(_, peer) => PeerOrigin::Tcp(*peer),
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
    let tls = terms.tls.as_ref().map(|presented| presented.server());
    let (transport, certificate_names) = match (socket, tls) {
        (Socket::Foreign(stream, _), None) => (Transport::Foreign(stream), [].into()),
        (Socket::Tcp(stream, _), None) => (Transport::Tcp(stream), [].into()),
        (Socket::Unix(stream), None) => (Transport::Unix(stream), [].into()),
        (Socket::Foreign(stream, _), Some(tls)) => {
            let stream = accepted(terms, TlsAcceptor::from(tls).accept(stream).await)?;
            let names = certificate_names(stream.get_ref().1);
            (Transport::ForeignTls(Box::new(stream)), names)
        }
        (Socket::Tcp(stream, _), Some(tls)) => {
            let stream = accepted(terms, TlsAcceptor::from(tls).accept(stream).await)?;
            let names = certificate_names(stream.get_ref().1);
            (Transport::TcpTls(Box::new(stream)), names)
        }
        (Socket::Unix(stream), Some(tls)) => {
            let stream = accepted(terms, TlsAcceptor::from(tls).accept(stream).await)?;
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

/// How long a connection that is told to leave waits for a question that may be on its way already: answered, it says that
/// it will close, and nobody meets a closed connection who did not have the time to look.
const LINGER: std::time::Duration = std::time::Duration::from_millis(250);
/// The same for one that has not shaken hands yet, or is in the midst of a question.
const LINGER_HEARING: std::time::Duration = std::time::Duration::from_secs(1);
