//! What systemd and a service say to each other: readiness, watchdog, inherited sockets.
//!
//! Everything here is silent where systemd is absent. The protocols are those of `sd_notify(3)`,
//! `sd_watchdog_enabled(3)` and `sd_listen_fds(3)`.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::process;
use std::time::Duration;

use listenfd::ListenFd;

/// One variable of the environment, by name.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Tells the service manager how the daemon is. Each message waits at most one second for a busy manager.
#[derive(Debug)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// Speaks to `NOTIFY_SOCKET`, a path or an abstract name (`@…`); to nobody if there is none.
    ///
    /// # Errors
    /// The name is neither, or no socket can be made.
    pub fn from_environment(environment: Environment<'_>) -> io::Result<Self> {
        let Some(name) = environment("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(Self(None)) };
        let address = match name.strip_prefix('@') {
            Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
            None if name.starts_with('/') => SocketAddr::from_pathname(&name)?,
            None => return Err(io::Error::new(io::ErrorKind::InvalidInput, "NOTIFY_SOCKET is no unix socket")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self(Some((socket, address))))
    }

    /// Serving: also ends a reload.
    ///
    /// # Errors
    /// As for all messages: it could not be sent.
    pub fn ready(&self) -> io::Result<()> {
        self.send("READY=1")
    }

    /// Draining, soon gone.
    ///
    /// # Errors
    /// It could not be sent.
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1")
    }

    /// One line for `systemctl status`; what follows a line break in `text` is left out, because it would be taken
    /// for another message.
    ///
    /// # Errors
    /// It could not be sent.
    pub fn status(&self, text: &str) -> io::Result<()> {
        self.send(&format!("STATUS={}", text.lines().next().unwrap_or_default()))
    }

    /// Reloading, since `monotonic_usec` on `CLOCK_MONOTONIC` (which `Type=notify-reload` compares). Call
    /// [`ready`](Self::ready) when it is over.
    ///
    /// # Errors
    /// It could not be sent.
    pub fn reloading(&self, monotonic_usec: u64) -> io::Result<()> {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={monotonic_usec}"))
    }

    /// Alive. To be sent only after the parts that must turn have turned.
    ///
    /// # Errors
    /// It could not be sent.
    pub fn watchdog(&self) -> io::Result<()> {
        self.send("WATCHDOG=1")
    }

    fn send(&self, message: &str) -> io::Result<()> {
        let Some((socket, address)) = &self.0 else { return Ok(()) };
        // Addressed anew each time: the socket behind the name may be another after the manager was re-executed.
        socket.send_to_addr(message.as_bytes(), address).map(|_| ())
    }
}

/// How often to send [`Notifier::watchdog`]: half of what systemd waits for. `None` if it does not wait for us.
#[must_use]
pub fn watchdog_period(environment: Environment<'_>) -> Option<Duration> {
    if environment("WATCHDOG_PID").is_some_and(|pid| !is_ours(&pid)) {
        return None;
    }
    let limit_usec: u64 = environment("WATCHDOG_USEC")?.parse().ok()?;
    (limit_usec > 0).then(|| Duration::from_micros(limit_usec) / 2)
}

/// Whether journald reads what is written to `stream`: it names the pipe that it gave us (`JOURNAL_STREAM`).
#[must_use]
pub fn reads(stream: BorrowedFd<'_>, environment: Environment<'_>) -> bool {
    let given = environment("JOURNAL_STREAM").and_then(|given| {
        let (device, inode) = given.split_once(':')?;
        Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?))
    });
    given.is_some() && given == rustix::fs::fstat(stream).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Listening sockets that were opened for us (`LISTEN_FDS`), by the names that `FileDescriptorName=` gave them.
pub struct Inherited {
    sockets: ListenFd,
    names: Vec<String>,
    taken: Vec<bool>,
}

impl Inherited {
    /// Takes over what was passed to this very process; none if `LISTEN_PID` names another, or nobody.
    ///
    /// `environment` must be the process's own: the number of sockets is read there. Call it once, and before there
    /// are threads, because it removes `LISTEN_PID` and `LISTEN_FDS` from the environment.
    #[must_use]
    pub fn take(environment: Environment<'_>) -> Self {
        if !environment("LISTEN_PID").is_some_and(|pid| is_ours(&pid)) {
            return Self { sockets: ListenFd::empty(), names: Vec::new(), taken: Vec::new() };
        }
        let given = environment("LISTEN_FDNAMES").unwrap_or_default();
        let sockets = ListenFd::from_env();
        let names: Vec<_> =
            given.split(':').chain(std::iter::repeat("unknown")).take(sockets.len()).map(str::to_owned).collect();
        let taken = vec![false; names.len()];
        Self { sockets, names, taken }
    }

    /// The names, in order, of all that was inherited, taken or not.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The names, in order, of what nobody has taken.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        self.names().zip(&self.taken).filter(|(_, taken)| !**taken).map(|(name, _)| name)
    }

    /// The next unix stream listener named `name`, non-blocking; several may have one name and come in order.
    pub fn take_unix(&mut self, name: &str) -> Option<UnixListener> {
        let listener = self.next(name, ListenFd::take_unix_listener)?;
        listener.set_nonblocking(true).ok()?;
        Some(listener)
    }

    /// The next TCP listener named `name`, non-blocking; several may have one name and come in order.
    pub fn take_tcp(&mut self, name: &str) -> Option<TcpListener> {
        let listener = self.next(name, ListenFd::take_tcp_listener)?;
        listener.set_nonblocking(true).ok()?;
        Some(listener)
    }

    fn next<L>(&mut self, name: &str, take: fn(&mut ListenFd, usize) -> io::Result<Option<L>>) -> Option<L> {
        let Self { sockets, names, taken } = self;
        let named = names.iter().zip(taken).enumerate().filter(|(_, (given, _))| *given == name);
        // An error means a socket of another kind: it stays where it is, for the other function to take.
        named.into_iter().find_map(|(index, (_, taken))| {
            let listener = take(sockets, index).ok().flatten()?;
            *taken = true;
            Some(listener)
        })
    }
}

impl fmt::Debug for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inherited").field(&self.names).finish()
    }
}

fn is_ours(pid: &str) -> bool {
    pid.parse() == Ok(process::id())
}

/// How long a message may wait for the manager to read those before it.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        move |asked: &str| pairs.iter().find(|(name, _)| name == asked).map(|(_, value)| value.clone())
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn every_message_reaches_the_manager_as_systemd_spells_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::from_environment(&environment(&[("NOTIFY_SOCKET", path.to_str().unwrap())])).unwrap();
        notifier.ready().unwrap();
        notifier.status("3 keys\nREADY=1").unwrap();
        notifier.reloading(123_456).unwrap();
        notifier.watchdog().unwrap();
        notifier.stopping().unwrap();
        let all: Vec<_> = (0..5).map(|_| heard(&manager)).collect();
        assert_eq!(all, ["READY=1", "STATUS=3 keys", "RELOADING=1\nMONOTONIC_USEC=123456", "WATCHDOG=1", "STOPPING=1"]);
    }

    #[test]
    fn an_abstract_socket_is_reached_too() {
        let name = format!("kmsproxy-test-{}", process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier = Notifier::from_environment(&environment(&[("NOTIFY_SOCKET", &format!("@{name}"))])).unwrap();
        notifier.ready().unwrap();
        assert_eq!(heard(&manager), "READY=1");
    }

    #[test]
    fn without_a_manager_everything_is_said_to_nobody() {
        let notifier = Notifier::from_environment(&environment(&[])).unwrap();
        notifier.ready().unwrap();
        notifier.stopping().unwrap();
    }

    #[test]
    fn a_name_that_is_no_unix_socket_is_an_error() {
        let made = Notifier::from_environment(&environment(&[("NOTIFY_SOCKET", "vsock:2:1234")]));
        assert_eq!(made.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_watchdog_turns_twice_in_its_limit_and_only_for_us() {
        let own = process::id().to_string();
        let period = |pairs: &[(&str, &str)]| watchdog_period(&environment(pairs));
        assert_eq!(period(&[("WATCHDOG_USEC", "10000000")]), Some(Duration::from_secs(5)));
        assert_eq!(period(&[("WATCHDOG_USEC", "10000000"), ("WATCHDOG_PID", &own)]), Some(Duration::from_secs(5)));
        assert_eq!(period(&[("WATCHDOG_USEC", "10000000"), ("WATCHDOG_PID", "1")]), None);
        assert_eq!(period(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(period(&[("WATCHDOG_USEC", "soon")]), None);
        assert_eq!(period(&[]), None);
    }

    #[test]
    fn a_stream_is_the_journals_only_where_it_is_the_one_that_was_given() {
        use std::os::fd::AsFd;
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let [given, other] = ["given", "other"].map(|name| std::fs::File::create(folder.path().join(name)).unwrap());
        let known = given.metadata().unwrap();
        let stream = format!("{}:{}", known.dev(), known.ino());
        let named = environment(&[("JOURNAL_STREAM", &stream)]);
        assert!(reads(given.as_fd(), &named));
        assert!(!reads(other.as_fd(), &named), "redirected since");
        assert!(!reads(given.as_fd(), &environment(&[])));
        assert!(!reads(given.as_fd(), &environment(&[("JOURNAL_STREAM", "1:x")])));
    }

    #[test]
    fn sockets_meant_for_another_process_are_left_alone() {
        let mut inherited = Inherited::take(&environment(&[("LISTEN_PID", "1"), ("LISTEN_FDS", "2")]));
        assert_eq!(inherited.names().count(), 0);
        assert!(inherited.take_unix("ack").is_none());
        assert!(inherited.take_tcp("ack").is_none());
    }
}
