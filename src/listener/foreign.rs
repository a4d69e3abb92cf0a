//! Connections that come from elsewhere than the sockets of this system: a network that a test simulates.

use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};

use super::address::Bound;
use super::{Limits, Listener};
use crate::claim::ListenerName;

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

impl Listener {
    /// A listener over another network than the system's. Nothing keeps others from reading along there but `tls`.
    #[must_use]
    pub fn over(name: &str, network: Box<dyn Accept>, tls: Option<Arc<ServerConfig>>, max_connections: usize) -> Self {
        let (name, limits) = (ListenerName::new(name), Limits::default());
        Self { name, bound: Bound::foreign(network), tls, max_connections, limits }
    }
}
