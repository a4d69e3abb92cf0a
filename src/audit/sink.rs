//! Where the log goes.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Somewhere to write lines to. What it was not able to take is offered again.
pub trait Sink: Send {
    /// Takes some of `lines`, from the beginning; says how many bytes.
    ///
    /// # Errors
    /// Why nothing was taken.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize>;

    /// Makes what was taken outlive the machine's power, where the sink can.
    ///
    /// # Errors
    /// Where the disk says no.
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Whether somebody has taken the place of what we write to.
    fn changed(&mut self) -> Change {
        Change::None
    }

    /// Begins anew at the old place.
    ///
    /// # Errors
    /// Where it cannot be opened.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What has happened to the place that we write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was moved away or deleted, or another stands in its place.
    Moved,
    /// Nothing.
    None,
    /// It is shorter than what we wrote.
    Truncated,
}

/// Standard output. It may be a pipe; whoever does not read it stops the writer, and nobody else.
pub(super) struct Stdout(File);

impl Stdout {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }
}

impl Sink for Stdout {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.0.write(lines)
    }
}

/// The journal, by its native protocol: a datagram for each record, as `SYSLOG_IDENTIFIER=kmsproxy-audit`. The journal
/// does not tell what it throws away; the chain does.
pub(super) struct Journal(UnixDatagram);

impl Journal {
    pub(super) fn open(socket: &Path) -> io::Result<Self> {
        let datagrams = UnixDatagram::unbound()?;
        datagrams.set_nonblocking(true)?;
        datagrams.connect(socket)?;
        Ok(Self(datagrams))
    }
}

impl Sink for Journal {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let end = lines.iter().position(|&byte| byte == b'\n').map_or(lines.len(), |at| at + 1);
        // A record has no line feed within, so the simple form of a field will do.
        self.0.send(&[JOURNAL_FIELDS, &lines[..end]].concat())?;
        Ok(end)
    }
}

const JOURNAL_FIELDS: &[u8] = b"PRIORITY=6\nSYSLOG_IDENTIFIER=kmsproxy-audit\nMESSAGE=";
/// Where journald listens.
pub(super) const JOURNAL: &str = "/run/systemd/journal/socket";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_gets_a_datagram_for_each_record_and_one_that_is_full_fails_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut sink = Journal::open(&path).unwrap();
        let lines = b"{\"seq\":1}\n{\"seq\":2}\n";
        let taken = sink.write(lines).unwrap();
        assert_eq!((taken, sink.write(&lines[taken..]).unwrap()), (10, 10));
        let mut received = [0; 1000];
        for seq in 1..=2 {
            let length = journal.recv(&mut received).unwrap();
            let expected = format!("PRIORITY=6\nSYSLOG_IDENTIFIER=kmsproxy-audit\nMESSAGE={{\"seq\":{seq}}}\n");
            assert_eq!(received[..length], *expected.as_bytes());
        }
        let refused = (0..10_000).find_map(|_| sink.write(lines).err());
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::WouldBlock);
    }
}
