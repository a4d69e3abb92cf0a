//! Where a listener listens, and how it gets there.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use rustix::io::Errno;
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};

use super::foreign::Accept;
use super::{BindError, Ownership, Socket};

/// Where to listen, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `unix:@name`, in the network namespace's table instead of a file system.
    Abstract(String),
    /// `unix:/path`.
    File(PathBuf),
    /// `systemd:name`, bound by the service manager.
    Inherited(String),
    /// An IP address and port; never a host name, which may resolve to anything.
    Tcp(SocketAddr),
}

impl Address {
    /// The permissions of the socket file.
    ///
    /// # Errors
    /// Where `configured` is not octal, or there is no socket file.
    pub(super) fn mode(&self, configured: Option<&str>) -> Result<Mode, BindError> {
        match (configured, self) {
            (None, _) => Ok(MODE_DEFAULT),
            (Some(text), Self::File(_)) => u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o777)
                .map(Mode::from_raw_mode)
                .ok_or_else(|| BindError::Mode(text.to_owned())),
            (Some(text), Self::Abstract(_) | Self::Inherited(_) | Self::Tcp(_)) => {
                Err(BindError::Mode(text.to_owned()))
            }
        }
    }
}

impl FromStr for Address {
    type Err = BindError;

    fn from_str(text: &str) -> Result<Self, BindError> {
        let parsed = match text.split_once(':') {
            Some(("systemd", name)) if !name.is_empty() => Some(Self::Inherited(name.to_owned())),
            Some(("unix", path)) if path.starts_with('/') => Some(Self::File(path.into())),
            Some(("unix", path)) => {
                path.strip_prefix('@').filter(|name| !name.is_empty()).map(|name| Self::Abstract(name.to_owned()))
            }
            _ => text.parse().ok().map(Self::Tcp),
        };
        parsed.ok_or_else(|| BindError::Address(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::File(path) => write!(f, "unix:{}", path.display()),
            Self::Inherited(name) => write!(f, "systemd:{name}"),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// Where a socket turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    /// An IP address and the port in use.
    Tcp(SocketAddr),
    /// A path, or `@name`.
    Unix(String),
}

impl LocalAddress {
    /// Whether what goes through a socket here stays private.
    pub(super) fn allows(&self, privacy: Privacy) -> Result<(), BindError> {
        let private = match (self, privacy) {
            (Self::Unix(_), _) | (_, Privacy::Encrypted | Privacy::Public) => true,
            (Self::Tcp(address), Privacy::Loopback) => address.ip().is_loopback(),
            (Self::Tcp(_), Privacy::Unix) => false,
        };
        if private { Ok(()) } else { Err(BindError::Plain(self.clone())) }
    }
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// What keeps others from reading along, and so which sockets will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privacy {
    /// TLS: any socket.
    Encrypted,
    /// The operator's word: unix sockets and loopback.
    Loopback,
    /// Nothing, and there is no need: any socket.
    Public,
    /// Nothing but the socket: unix sockets.
    Unix,
}

/// A socket whose queue is open.
#[derive(Debug)]
pub(super) struct Bound {
    /// The socket file that goes when the listener does, and before its socket; an inherited one is not ours to remove.
    file: Option<Arc<SocketFile>>,
    socket: Std,
    address: LocalAddress,
}

/// A socket file of ours: it goes with the last who listens there.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Still listening, so whoever wants the path finds it taken: the file is ours. If it cannot be removed, the
        // next to bind there replaces it.
        let _ = fs::remove_file(&self.0);
    }
}

#[derive(Debug)]
enum Std {
    Foreign(Box<dyn Accept>),
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Bound {
    pub(super) fn bind(address: &Address, mode: Mode, owner: Ownership, privacy: Privacy) -> Result<Self, BindError> {
        let failed = |error: io::Error| failed(address, error);
        let socket = match address {
            Address::Inherited(_) => return Err(BindError::NotInherited(address.clone())),
            Address::Tcp(ip) => {
                LocalAddress::Tcp(*ip).allows(privacy)?;
                let socket = TcpListener::bind(ip).map_err(failed)?;
                listen(&socket, QUEUE).map_err(io::Error::from).map_err(failed)?;
                Std::Tcp(socket)
            }
            Address::Abstract(name) => {
                let name = SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(io::Error::from);
                let socket = bind_unix(&name.map_err(failed)?, mode).map_err(failed)?;
                listen(&socket, QUEUE).map_err(io::Error::from).map_err(failed)?;
                Std::Unix(socket.into())
            }
            Address::File(path) => Std::Unix(bind_file(address, path, mode, owner)?),
        };
        let file = if let Address::File(path) = address { Some(Arc::new(SocketFile(path.clone()))) } else { None };
        Ok(Self { address: socket.address().map_err(failed)?, socket, file })
    }

    pub(super) fn adopt(socket: OwnedFd, address: &Address) -> Result<Self, BindError> {
        let stranger = |_| BindError::Inherited(address.clone());
        let listening = socket_type(&socket).map_err(stranger)? == SocketType::STREAM
            && socket_acceptconn(&socket).map_err(stranger)?;
        let socket = match socket_domain(&socket).map_err(stranger)? {
            AddressFamily::INET | AddressFamily::INET6 if listening => Std::Tcp(socket.into()),
            AddressFamily::UNIX if listening => Std::Unix(socket.into()),
            _ => return Err(BindError::Inherited(address.clone())),
        };
        let local = socket.address().map_err(|error| failed(address, error))?;
        Ok(Self { socket, address: local, file: None })
    }

    pub(super) fn foreign(network: Box<dyn Accept>) -> Self {
        Self { address: LocalAddress::Tcp(network.address()), socket: Std::Foreign(network), file: None }
    }

    pub(super) const fn address(&self) -> &LocalAddress {
        &self.address
    }

    /// The same socket once more: who has it can listen there when this one does not any more.
    pub(super) fn duplicate(&self) -> io::Result<Self> {
        let socket = match &self.socket {
            Std::Foreign(_) => return Err(io::ErrorKind::Unsupported.into()),
            Std::Tcp(socket) => Std::Tcp(socket.try_clone()?),
            Std::Unix(socket) => Std::Unix(socket.try_clone()?),
        };
        Ok(Self { file: self.file.clone(), socket, address: self.address.clone() })
    }

    /// Hands the socket to the runtime.
    pub(super) fn listen(self) -> io::Result<Acceptor> {
        let listener = match self.socket {
            Std::Foreign(network) => Tokio::Foreign(network),
            Std::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                Tokio::Tcp(tokio::net::TcpListener::from_std(socket)?)
            }
            Std::Unix(socket) => {
                socket.set_nonblocking(true)?;
                Tokio::Unix(tokio::net::UnixListener::from_std(socket)?)
            }
        };
        Ok(Acceptor { _file: self.file, listener })
    }
}

impl Std {
    fn address(&self) -> io::Result<LocalAddress> {
        match self {
            Self::Foreign(network) => Ok(LocalAddress::Tcp(network.address())),
            Self::Tcp(socket) => socket.local_addr().map(LocalAddress::Tcp),
            Self::Unix(socket) => {
                use std::os::linux::net::SocketAddrExt as _;
                let address = socket.local_addr()?;
                let name = address.as_abstract_name().map(|name| format!("@{}", String::from_utf8_lossy(name)));
                let path = || address.as_pathname().map_or_else(String::new, |path| path.display().to_string());
                Ok(LocalAddress::Unix(name.unwrap_or_else(path)))
            }
        }
    }
}

/// What connections come out of.
#[derive(Debug)]
pub(super) struct Acceptor {
    /// Before the socket, so that it goes while that still listens.
    _file: Option<Arc<SocketFile>>,
    listener: Tokio,
}

#[derive(Debug)]
enum Tokio {
    Foreign(Box<dyn Accept>),
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Acceptor {
    pub(super) async fn accept(&self) -> io::Result<Socket> {
        match &self.listener {
            Tokio::Foreign(network) => network.accept().await.map(|(stream, peer)| Socket::Foreign(stream, peer)),
            Tokio::Tcp(listener) => listener.accept().await.map(|(stream, peer)| Socket::Tcp(stream, peer)),
            Tokio::Unix(listener) => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
        }
    }
}

/// Binds a socket file. One that nobody listens on any more is replaced; the folder is locked meanwhile, so that two
/// daemons that start at once do not replace each other's. It listens when everything about it is as it shall be.
fn bind_file(address: &Address, path: &Path, mode: Mode, owner: Ownership) -> Result<UnixListener, BindError> {
    let failed = |error: io::Error| failed(address, error);
    let name = SocketAddrUnix::new(path).map_err(io::Error::from).map_err(failed)?;
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let lock = File::open(folder).map_err(failed)?;
    lock_folder(&lock).map_err(failed)?;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::InTheWay(path.to_owned())),
        Ok(_) if !abandoned(&name).map_err(failed)? => return Err(BindError::Taken(address.clone())),
        Ok(_) => fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let socket = bind_unix(&name, mode).map_err(failed)?;
    // The owner last: whoever gives a file away can set its permissions no more.
    let set = fs::set_permissions(path, Permissions::from_mode(mode.as_raw_mode())).map_err(failed);
    set.and_then(|()| owner.apply(path)).inspect_err(|_| drop(fs::remove_file(path)))?;
    listen(&socket, QUEUE).map_err(io::Error::from).map_err(failed)?;
    Ok(socket.into())
}

/// Never waits for ever: whoever can read the folder could hold its lock.
fn lock_folder(folder: &File) -> io::Result<()> {
    for _ in 0..LOCK_ATTEMPTS {
        match flock(folder, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            other => return other.map_err(io::Error::from),
        }
    }
    Err(Errno::ADDRINUSE.into())
}

fn abandoned(name: &SocketAddrUnix) -> io::Result<bool> {
    match connect(unix_socket()?, name) {
        Err(Errno::CONNREFUSED) => Ok(true),
        // Not allowed to connect, or its queue is full: somebody's, then.
        Ok(()) | Err(Errno::ACCESS | Errno::PERM | Errno::AGAIN | Errno::PROTOTYPE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn bind_unix(name: &SocketAddrUnix, mode: Mode) -> io::Result<OwnedFd> {
    let socket = unix_socket()?;
    // Before bind: the file is born with at most these permissions, whatever the umask.
    fchmod(socket.as_fd(), mode)?;
    bind(&socket, name)?;
    Ok(socket)
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

pub(super) fn failed(address: &Address, source: io::Error) -> BindError {
    let remedy = match Errno::from_io_error(&source) {
        Some(Errno::ADDRINUSE) => return BindError::Taken(address.clone()),
        Some(Errno::ACCESS | Errno::PERM) => "give this user the right to bind there, or choose another address",
        Some(Errno::ADDRNOTAVAIL) => "this machine has no such address; see `ip address`",
        Some(Errno::NOENT | Errno::NOTDIR) => "create the folder first",
        Some(Errno::NAMETOOLONG) => "a socket's path has at most 107 bytes; choose a shorter one",
        _ => "choose another address",
    };
    BindError::Io { address: address.clone(), source, remedy }
}

const MODE_DEFAULT: Mode = Mode::from_raw_mode(0o660);
/// Connections that wait to be accepted; the kernel's `somaxconn` may be less.
const QUEUE: i32 = 1024;
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ip_unix_or_inherited_and_are_written_as_they_are_read() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        for (text, address) in [
            ("127.0.0.1:8443", tcp("127.0.0.1:8443")),
            ("[::1]:0", tcp("[::1]:0")),
            ("unix:/run/ack.sock", Address::File("/run/ack.sock".into())),
            ("unix:@ack", Address::Abstract("ack".to_owned())),
            ("systemd:ack", Address::Inherited("ack".to_owned())),
        ] {
            assert_eq!(text.parse::<Address>().unwrap(), address);
            assert_eq!(address.to_string(), text);
        }
        for text in ["", "localhost:8443", "8443", "127.0.0.1", "unix:", "unix:relative", "unix:@", "systemd:"] {
            assert!(matches!(text.parse::<Address>(), Err(BindError::Address(said)) if said == text), "{text}");
        }
    }

    #[test]
    fn a_mode_is_octal_and_belongs_to_a_file() {
        let file = Address::File("/run/ack.sock".into());
        assert_eq!(file.mode(None).unwrap(), Mode::from_raw_mode(0o660));
        assert_eq!(file.mode(Some("0600")).unwrap(), Mode::from_raw_mode(0o600));
        for text in ["rw", "0999", "1777", ""] {
            assert!(matches!(file.mode(Some(text)), Err(BindError::Mode(_))), "{text}");
        }
        assert!(Address::Abstract("ack".to_owned()).mode(Some("0600")).is_err());
    }

    #[test]
    fn plain_tcp_needs_the_operators_word_and_loopback() {
        let at = |text: &str| LocalAddress::Tcp(text.parse().unwrap());
        assert!(matches!(at("127.0.0.1:1").allows(Privacy::Unix), Err(BindError::Plain(_))));
        assert!(matches!(at("10.0.0.1:1").allows(Privacy::Loopback), Err(BindError::Plain(_))));
        assert!(at("127.0.0.1:1").allows(Privacy::Loopback).is_ok());
        assert!(at("10.0.0.1:1").allows(Privacy::Encrypted).is_ok());
        assert!(LocalAddress::Unix("/run/ack.sock".to_owned()).allows(Privacy::Unix).is_ok());
    }
}
