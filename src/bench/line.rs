//! A connection with the calls that are under way on it, written by hand: on a machine of few processors the client
//! shall cost a fraction of what it measures.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::endpoint::Endpoint;
use super::face::Face;

mod http1;
mod http2;
mod status;

use http1::Http1;
use http2::Http2;

/// What came back for one call.
#[derive(Debug)]
pub(super) enum Reply<'a> {
    /// HTTP: the status and the body.
    Http(u16, &'a [u8]),
    /// gRPC: a message that is taken for good.
    Message(&'a [u8]),
    /// gRPC: a code other than zero.
    Grpc(u8),
    /// The connection was lost, or what came over it was no answer.
    Lost(&'static str),
}

/// One connection; `T` stands for a call.
pub(super) enum Line<T> {
    /// HTTP/1.1: one call at a time.
    One(Http1<T>),
    /// HTTP/2: many.
    Many(Box<Http2<T>>),
}

/// One request, as it goes out.
pub(super) enum Request<'a> {
    /// Head and body.
    Http1(&'a [u8]),
    /// The path and the enveloped message.
    Grpc(&'static str, &'a [u8]),
}

impl<T> Line<T> {
    /// Connects.
    ///
    /// # Errors
    /// Where nobody listens.
    pub(super) fn open(face: Face, endpoint: &Arc<Endpoint>) -> io::Result<Self> {
        Ok(match face.api() {
            None => Self::One(Http1::open(endpoint)?),
            Some(_) => Self::Many(Box::new(Http2::open(endpoint)?)),
        })
    }

    /// Whether one more call may begin here.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Self::One(line) => line.is_free(),
            Self::Many(line) => line.has_room(),
        }
    }

    /// Calls under way.
    pub(super) fn under_way(&self) -> usize {
        match self {
            Self::One(line) => usize::from(!line.is_free()),
            Self::Many(line) => line.under_way(),
        }
    }

    /// Begins a call; it leaves with [`Line::flush`].
    ///
    /// # Errors
    /// Where a connection that was closed meanwhile cannot be had again; `call` comes back then.
    pub(super) fn begin(&mut self, request: &Request<'_>, call: T) -> Result<(), (T, io::Error)> {
        match (self, request) {
            (Self::One(line), Request::Http1(bytes)) => line.begin(bytes, call),
            (Self::Many(line), Request::Grpc(path, body)) => line.begin(path, body, call),
            (Self::One(_) | Self::Many(_), _) => Err((call, io::Error::other("a request of another face"))),
        }
    }

    /// Sends what is waiting. Calls that cannot be answered any more end.
    pub(super) fn flush(&mut self, ended: &mut dyn FnMut(T, Reply<'_>)) {
        match self {
            Self::One(line) => line.flush(ended),
            Self::Many(line) => line.flush(ended),
        }
    }

    /// Reads what is there, and hands over what has ended.
    pub(super) fn listen(&mut self, ended: &mut dyn FnMut(T, Reply<'_>)) {
        match self {
            Self::One(line) => line.listen(ended),
            Self::Many(line) => line.listen(ended),
        }
    }

    /// Ends the calls of which `late` is true: nobody waits for them any more.
    pub(super) fn abandon(&mut self, late: &mut dyn FnMut(&T) -> bool, ended: &mut dyn FnMut(T, Reply<'_>)) {
        match self {
            Self::One(line) => line.abandon(late, ended),
            Self::Many(line) => line.abandon(late, ended),
        }
    }

    /// What is to be watched: the socket, whether it is to take something, and how many sockets there were before it.
    pub(super) fn watched(&self) -> Option<(BorrowedFd<'_>, bool, u32)> {
        match self {
            Self::One(line) => line.watched(),
            Self::Many(line) => line.watched(),
        }
    }
}

/// Why a call got no answer.
pub(super) const CLOSED: &str = "connection closed";
pub(super) const TIMED_OUT: &str = "no answer in time";
pub(super) const NO_CONNECTION: &str = "no connection";
/// The target says that it never looked at the call: gRPC's clients begin it again, on another connection.
pub(super) const UNPROCESSED: &str = "told to go";
const NOT_HTTP: &str = "no HTTP";
