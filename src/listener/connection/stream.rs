//! The bytes of a connection, in clear, and how long the peer may refuse to take them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

use crate::listener::crowd::Member;
use crate::listener::foreign::Duplex;

/// Every kind of connection, as one type: hyper and h2 are compiled once.
#[derive(Debug)]
pub(super) enum Transport {
    Foreign(Box<dyn Duplex>),
    ForeignTls(Box<TlsStream<Box<dyn Duplex>>>),
    Tcp(TcpStream),
    TcpTls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
    UnixTls(Box<TlsStream<UnixStream>>),
}

/// A transport that tells the crowd when it hears something, and breaks when the peer stops reading.
#[derive(Debug)]
pub(super) struct Stream {
    transport: Transport,
    /// What was read of the transport, and given back.
    unread: Bytes,
    member: Arc<Member>,
    stall: Duration,
    /// Runs while a write waits for the peer.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    pub(super) const fn new(transport: Transport, member: Arc<Member>, stall: Duration) -> Self {
        Self { transport, unread: Bytes::new(), member, stall, stalled: None }
    }

    /// Whether what is read and written is encrypted underneath.
    pub(super) const fn is_tls(&self) -> bool {
        match self.transport {
            Transport::Foreign(_) | Transport::Tcp(_) | Transport::Unix(_) => false,
            Transport::ForeignTls(_) | Transport::TcpTls(_) | Transport::UnixTls(_) => true,
        }
    }

    /// Takes back what was read last and not understood yet: it is what is read next. Copied, so that the buffer which it lies in,
    /// with all that was read before it, is let go of and wiped.
    pub(super) fn unread(&mut self, bytes: &[u8]) {
        self.unread = [bytes, &self.unread].concat().into();
    }

    /// Reads without telling that anything was heard: it may be a whole request, which begins at once.
    pub(super) fn poll_take(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let length = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread[..length]);
            self.unread.advance(length);
            if self.unread.is_empty() {
                self.unread = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.transport {
            Transport::Foreign(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::ForeignTls(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::TcpTls(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::UnixTls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    fn written<T>(&mut self, cx: &mut Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            if self.stalled.take().is_some() {
                self.member.speak_on();
            }
            return progress;
        }
        let stalled = self.stalled.get_or_insert_with(|| {
            self.member.falter();
            Box::pin(sleep(self.stall))
        });
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = self.poll_take(cx, buf);
        if buf.filled().len() > before {
            self.member.heard();
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Foreign(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::ForeignTls(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::TcpTls(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::UnixTls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.written(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut self.transport {
            Transport::Foreign(stream) => Pin::new(stream).poll_flush(cx),
            Transport::ForeignTls(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Transport::TcpTls(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Transport::UnixTls(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.written(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = match &mut self.transport {
            Transport::Foreign(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::ForeignTls(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::TcpTls(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::UnixTls(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        self.written(cx, closed)
    }
}
