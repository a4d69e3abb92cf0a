//! A connection that never waits.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustls::ClientConnection;

/// One connection. Reads and writes end with `WouldBlock` where they would have to wait.
pub(super) enum Stream {
    /// To a unix socket.
    Unix(UnixStream),
    /// TCP in clear.
    Plain(TcpStream),
    /// TLS; the handshake is made on the way of the first bytes.
    Tls(Box<Session>),
}

/// TLS over TCP.
pub(super) struct Session {
    tls: ClientConnection,
    tcp: TcpStream,
}

impl Stream {
    pub(super) fn unix(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self::Unix(stream))
    }

    pub(super) fn plain(tcp: TcpStream) -> io::Result<Self> {
        ready(&tcp)?;
        Ok(Self::Plain(tcp))
    }

    pub(super) fn tls(tcp: TcpStream, mut tls: ClientConnection) -> io::Result<Self> {
        // The handshake is finished here, so that a call does not pay for it that is the first on its connection.
        let mut waiting = &tcp;
        waiting.set_read_timeout(Some(HANDSHAKE_MAX))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut waiting)?;
        }
        ready(&tcp)?;
        Ok(Self::Tls(Box::new(Session { tls, tcp })))
    }

    /// Writes what goes; what does not is still the caller's.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Plain(tcp) => tcp.write(bytes),
            Self::Tls(session) => session.write(bytes),
        }
    }

    /// Reads once; zero is the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Plain(tcp) => tcp.read(buffer),
            Self::Tls(session) => session.read(buffer),
        }
    }

    /// Whether there is something of ours that the kernel has not taken yet.
    pub(super) fn holds_back(&self) -> bool {
        matches!(self, Self::Tls(session) if session.tls.wants_write())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Plain(tcp) => tcp.as_fd(),
            Self::Tls(session) => session.tcp.as_fd(),
        }
    }
}

impl Session {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.drain()?;
        let taken = self.tls.writer().write(bytes)?;
        match self.drain() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.tcp)?;
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Most servers do not say goodbye before they close; the answer's length tells what is missing.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                done => return done,
            }
            if self.tls.read_tls(&mut self.tcp)? == 0 {
                return Ok(0);
            }
            self.tls.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

fn ready(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_read_timeout(None)?;
    tcp.set_nodelay(true)?;
    tcp.set_nonblocking(true)
}

const HANDSHAKE_MAX: std::time::Duration = std::time::Duration::from_secs(5);
