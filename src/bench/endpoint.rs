//! Where load may go: this machine, unless somebody answers for more.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::stream::Stream;
use crate::upstream::transport::Trust;

/// An address that was looked up and may be loaded.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    text: String,
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    Unix(PathBuf),
    Abstract(String),
    Plain(SocketAddr),
    Tls(SocketAddr, ServerName<'static>, Arc<ClientConfig>),
}

/// Whether load may leave this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Loopback and unix sockets.
    Machine,
    /// Wherever the address leads: `--i-own-this-target`.
    Anywhere,
}

impl Endpoint {
    /// Reads `unix:/path`, `unix:@name`, `http://host:port` or `https://host[:port]`, and looks names up: load goes to
    /// the addresses that were judged here, whatever the name means later.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub(super) fn parse(text: &str, ca: Option<&Path>, reach: Reach) -> Result<Self, String> {
        let way = if let Some(name) = text.strip_prefix("unix:@") {
            Way::Abstract(name.to_owned())
        } else if let Some(path) = text.strip_prefix("unix:") {
            // Three slashes, as an EncryptionConfiguration has it, are one.
            Way::Unix(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
        } else if let Some(rest) = text.strip_prefix("http://") {
            Way::Plain(resolve(text, rest, 80, reach)?)
        } else if let Some(rest) = text.strip_prefix("https://") {
            let address = resolve(text, rest, 443, reach)?;
            let host = host(rest).trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(host).map_err(|_| format!("{text}: no name that a certificate has"))?;
            Way::Tls(address, name, Arc::new(client(ca)?))
        } else {
            return Err(format!("{text}: {FORMS}"));
        };
        Ok(Self { text: text.to_owned(), way })
    }

    /// `Host`, as clients send it.
    pub(super) fn host(&self) -> &str {
        let rest = self.text.split_once("://").map_or("localhost", |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }

    /// Connects, and no longer waits for anything afterwards.
    ///
    /// # Errors
    /// Where nobody listens.
    pub(super) fn connect(&self) -> io::Result<Stream> {
        match &self.way {
            Way::Unix(path) => Stream::unix(UnixStream::connect(path)?),
            Way::Abstract(name) => {
                Stream::unix(UnixStream::connect_addr(&UnixAddr::from_abstract_name(name.as_bytes())?)?)
            }
            Way::Plain(address) => Stream::plain(TcpStream::connect_timeout(address, CONNECT_MAX)?),
            Way::Tls(address, name, config) => {
                let session = ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
                Stream::tls(TcpStream::connect_timeout(address, CONNECT_MAX)?, session)
            }
        }
    }

    /// Whether gRPC can be spoken there: kube-apiserver knows unix sockets only.
    pub(super) const fn is_unix(&self) -> bool {
        matches!(self.way, Way::Unix(_) | Way::Abstract(_))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn host(rest: &str) -> &str {
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => authority,
    }
}

fn resolve(text: &str, rest: &str, port: u16, reach: Reach) -> Result<SocketAddr, String> {
    let authority = rest.split('/').next().unwrap_or(rest);
    let named = host(rest).len() < authority.len();
    let looked_up =
        if named { authority.to_socket_addrs() } else { (host(rest).trim_matches(['[', ']']), port).to_socket_addrs() };
    let mut found = looked_up.map_err(|error| format!("{text}: {error}\n  remedy: {FORMS}"))?;
    let address = found.next().ok_or_else(|| format!("{text}: this name has no address"))?;
    if !address.ip().is_loopback() && reach == Reach::Machine {
        return Err(format!(
            "{text} is not on this machine ({}), and load on a machine of somebody else's is an attack\n  \
             remedy: if it is yours to load, say so with --i-own-this-target",
            address.ip()
        ));
    }
    Ok(address)
}

fn client(ca: Option<&Path>) -> Result<ClientConfig, String> {
    let trust = match ca {
        Some(file) => Trust::nobody().with_file(file).map_err(|error| error.to_string())?,
        None => Trust::platform(),
    };
    Ok(trust.client())
}

const FORMS: &str =
    "write unix:/PATH, unix:@NAME, http://127.0.0.1:PORT or https://HOST:PORT, or one of spawn, emulator, bare";
const CONNECT_MAX: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loaded_unless_somebody_answers_for_it() {
        for text in ["http://127.0.0.1:1", "http://[::1]:1", "unix:/run/x.sock", "unix:@x", "https://127.0.0.1"] {
            assert!(Endpoint::parse(text, None, Reach::Machine).is_ok(), "{text}");
        }
        for text in ["http://192.0.2.1:80", "https://192.0.2.1", "http://0.0.0.0:80", "https://[2001:db8::1]:443"] {
            let refused = Endpoint::parse(text, None, Reach::Machine).unwrap_err();
            assert!(refused.contains("--i-own-this-target"), "{refused}");
            assert!(Endpoint::parse(text, None, Reach::Anywhere).is_ok(), "{text}");
        }
        for text in ["", "/run/x.sock", "ftp://127.0.0.1"] {
            assert!(Endpoint::parse(text, None, Reach::Anywhere).is_err(), "{text}");
        }
    }

    #[test]
    fn the_host_is_as_it_was_written() {
        let host = |text| Endpoint::parse(text, None, Reach::Machine).unwrap().host().to_owned();
        assert_eq!(host("https://127.0.0.1:8443/"), "127.0.0.1:8443");
        assert_eq!(host("unix:/run/x.sock"), "localhost");
    }
}
