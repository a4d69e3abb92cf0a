//! Connections that come from elsewhere than the sockets of this system: a network that a test simulates.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// The bytes of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Duplex for T {}

/// A connection on its way, and the address of its other end.
pub type Accepting<'a> = Pin<Box<dyn Future<Output = io::Result<(Box<dyn Duplex>, SocketAddr)>> + Send + 'a>>;

/// Where connections come out of.
pub trait Accept: Debug + Send + Sync {
    /// Where it listens.
    fn address(&self) -> SocketAddr;

    /// The next connection. Errors are taken for those of `accept(2)`.
    fn accept(&self) -> Accepting<'_>;
}
