//! The simulated network in the place of the system's sockets, for what connects and for what listens.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use kmsproxy::listener::foreign::{Accept, Accepting, Duplex};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;
use turmoil::net::{TcpListener, TcpStream};

/// The connections of one host. Where it is crashed, they end in the order in which they began: tokio drops the tasks that own
/// them in an order that depends on how many tasks the process has ever had.
#[derive(Default)]
pub(crate) struct Wires {
    ending: AtomicBool,
    open: Mutex<Vec<Weak<Socket>>>,
}

type Socket = Mutex<Option<TcpStream>>;

impl Wires {
    /// Has `crash` end the host.
    pub(crate) fn end_by(&self, crash: impl FnOnce()) {
        self.ending.store(true, Ordering::Relaxed);
        crash();
        self.ending.store(false, Ordering::Relaxed);
    }

    fn wire(self: &Arc<Self>, stream: TcpStream) -> Wire {
        let socket = Arc::new(Mutex::new(Some(stream)));
        let mut open = self.open.lock().unwrap();
        open.retain(|socket| socket.strong_count() > 0);
        open.push(Arc::downgrade(&socket));
        Wire { socket, wires: Arc::clone(self) }
    }
}

/// Connects the transport of the host with these connections.
#[derive(Clone)]
pub(crate) struct Network(pub(crate) Arc<Wires>);

impl Service<Uri> for Network {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Wire>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let wires = Arc::clone(&self.0);
        Box::pin(async move {
            let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(443));
            TcpStream::connect((host, port)).await.map(|stream| TokioIo::new(wires.wire(stream)))
        })
    }
}

/// One end of a simulated connection.
pub(crate) struct Wire {
    socket: Arc<Socket>,
    wires: Arc<Wires>,
}

impl Wire {
    fn with<T>(&self, act: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut *self.socket.lock().unwrap() {
            Some(stream) => act(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.wires.ending.load(Ordering::Relaxed) {
            let open = std::mem::take(&mut *self.wires.open.lock().unwrap());
            for socket in open.iter().filter_map(Weak::upgrade) {
                drop(socket.lock().unwrap().take());
            }
        }
        drop(self.socket.lock().unwrap().take());
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

/// Where a simulated host listens.
pub(crate) struct Port {
    listener: TcpListener,
    wires: Arc<Wires>,
}

impl Port {
    pub(crate) async fn bind(port: u16, wires: &Arc<Wires>) -> io::Result<Self> {
        let listener = TcpListener::bind(("0.0.0.0", port)).await?;
        Ok(Self { listener, wires: Arc::clone(wires) })
    }
}

impl Accept for Port {
    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn accept(&self) -> Accepting<'_> {
        Box::pin(async {
            let (stream, peer) = self.listener.accept().await?;
            Ok((Box::new(self.wires.wire(stream)) as Box<dyn Duplex>, peer))
        })
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Port")
    }
}
