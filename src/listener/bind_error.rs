//! Why a listener cannot be had.

use std::io;
use std::path::PathBuf;

use super::address::{Address, LocalAddress};
use crate::tls;

/// Why a listener cannot be had. Says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address says nothing that can be bound.
    #[error(
        "address {0:?}: write \"127.0.0.1:8443\", \"[::1]:8443\", \"unix:/path\", \"unix:@name\" or \"systemd:name\""
    )]
    Address(String),
    /// The file system or the kernel does not let us give the socket file away.
    #[error("{}: cannot give the socket to its owner and group: {source}; {remedy}", .path.display())]
    GiveAway {
        /// The socket file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// No such group.
    #[error("group {0:?}: {1}; write the name of a group of this machine, or its number")]
    Group(String, #[source] io::Error),
    /// The inherited descriptor is not a listening stream socket.
    #[error(
        "{0}: the inherited descriptor is not a listening TCP or unix stream socket; use ListenStream= with Accept=no"
    )]
    Inherited(Address),
    /// Something else than a socket is where the socket shall be. It is left alone.
    #[error("{}: there is a file that is not a socket; move it away or choose another path", .0.display())]
    InTheWay(PathBuf),
    /// The kernel refused.
    #[error("{address}: {source}; {remedy}")]
    Io {
        /// What was to be bound.
        address: Address,
        /// Why not.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// `mode` is not one, or there is no file to have it.
    #[error("mode {0:?}: write octal permissions such as \"0660\", and only for \"unix:/path\"")]
    Mode(String),
    /// A limit of no connections.
    #[error("max_connections = 0 would serve nobody: write 1 or more")]
    NoConnections,
    /// `systemd:name` and nothing inherited.
    #[error("{0}: no socket of that name was inherited; set FileDescriptorName= in the .socket unit and start that")]
    NotInherited(Address),
    /// TCP, where only unix sockets will do.
    #[error(
        "{0}: kube-apiserver connects to unix sockets only; write \"unix:/path\" or \"unix:@name\", or ListenStream=/path in the .socket unit"
    )]
    NotUnix(Address),
    /// No such user.
    #[error("owner {0:?}: {1}; write the name of a user of this machine, or its number")]
    Owner(String, #[source] io::Error),
    /// There is no file to have an owner.
    #[error("{0}: owner and group are of a socket file; remove them, or write \"unix:/path\"")]
    Ownerless(Address),
    /// TCP without TLS.
    #[error(
        "{0}: TCP without TLS can be read by others; add tls = {{ … }}, use \"unix:/path\", or write insecure = true on a loopback address"
    )]
    Plain(LocalAddress),
    /// Another process listens there.
    #[error("{0}: another process listens there; stop it or choose another address")]
    Taken(Address),
    /// The certificate or key does not serve.
    #[error("tls: {0}")]
    Tls(#[from] tls::Error),
}
