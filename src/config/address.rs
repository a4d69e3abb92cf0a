//! Where to listen.

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// An address to listen on, as the configuration writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `127.0.0.1:8443`, `[::1]:8443`: an address, never a host name, so that nothing needs to be resolved.
    Tcp(SocketAddr),
    /// `unix:/run/kmsproxy/ack.sock`, absolute and at most 107 bytes (`sockaddr_un`).
    Unix(PathBuf),
    /// `unix:@ack`, in the network namespace's table of names: at most 107 bytes, printable. It has no permissions;
    /// whoever is in that namespace can connect.
    Abstract(String),
    /// `systemd:ack`: the inherited socket of that `FileDescriptorName=`.
    Systemd(String),
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(name) = text.strip_prefix("unix:@") {
            return abstract_name(name);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(Path::new(path));
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            let good = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains([':', '/', ' ']);
            return if good { Ok(Self::Systemd(name.to_owned())) } else { Err("names no systemd socket") };
        }
        text.parse().map(Self::Tcp).map_err(|_| "is not an address")
    }

    /// Whether only processes of this machine can reach it, going by the address alone.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) | Self::Abstract(_) | Self::Systemd(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

fn abstract_name(name: &str) -> Result<Address, &'static str> {
    let good = !name.is_empty() && name.len() <= PATH_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_graphic());
    if good { Ok(Address::Abstract(name.to_owned())) } else { Err("names no abstract socket") }
}

fn unix(path: &Path) -> Result<Address, &'static str> {
    if !path.is_absolute() {
        return Err("names a socket without an absolute path");
    }
    // `unix:///@name` is how an EncryptionConfiguration writes an abstract socket; here it would be a file.
    if path.parent() == Some(Path::new("/")) && path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"@")) {
        return Err("names a file at the root that begins with @; an abstract socket is written \"unix:@NAME\"");
    }
    if path.as_os_str().len() > PATH_BYTES_MAX {
        return Err("names a socket with a path of more than 107 bytes");
    }
    Ok(Address::Unix(path.to_owned()))
}

/// How addresses are written, for remedies.
pub(super) const FORMS: &str = "write an address and a port (\"127.0.0.1:8443\"), \"unix:/run/kmsproxy/NAME.sock\", \"unix:@NAME\" or \"systemd:NAME\"";

// `sun_path` has 108 bytes; the last of a path and the first of an abstract name is a zero.
const PATH_BYTES_MAX: usize = 107;
// systemd's limit for FileDescriptorName=.
const NAME_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_reads_and_prints_back() {
        for text in ["127.0.0.1:8443", "[::1]:0", "unix:/run/kmsproxy/ack.sock", "unix:@ack", "systemd:ack"] {
            assert_eq!(Address::parse(text).map(|address| address.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_would_have_to_be_guessed_is_refused() {
        for text in [
            "localhost:8443",
            "8443",
            "",
            "unix:ack.sock",
            "unix:@",
            "unix:@a b",
            "unix:/@ack",
            "unix:///@ack",
            "systemd:",
            "systemd:a:b",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
        assert!(Address::parse(&format!("unix:@{}", "a".repeat(107))).is_ok());
        assert!(Address::parse(&format!("unix:@{}", "a".repeat(108))).is_err());
        assert!(Address::parse(&format!("unix:/{}", "a".repeat(107))).is_err());
    }
}
