//! A log file that may be rotated under the daemon.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::chain::Head;
use super::line::{Line, What};
use super::sink::{Change, Sink};

/// The file at a path, opened to append, mode 0600 where we make it. While it is ours it is locked: two daemons that wrote
/// to one file would tear each other's chain. A device or a named pipe will do as well, without the lock.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// How long it is as far as we know.
    length: u64,
}

/// How a file ended when we opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// There was nothing.
    Empty,
    /// With a record.
    Record {
        head: Head,
        /// It is a `closed`.
        closed: bool,
        /// What follows it up to the end.
        rest: Rest,
    },
    /// With something else.
    Unreadable {
        /// And a line feed.
        line_feed: bool,
    },
}

/// What stands after the last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Its line feed.
    Nothing,
    /// Not even that.
    NoLineFeed,
    /// The beginning of another.
    Torn,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<(Self, Tail)> {
        let file = append_to(path)?;
        let length = file.metadata()?.len();
        let tail = if length == 0 { Tail::Empty } else { tail(path, length)? };
        Ok((Self { path: path.to_owned(), file, length }, tail))
    }
}

impl Sink for LogFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let taken = self.file.write(lines)?;
        self.length += taken as u64;
        Ok(taken)
    }

    fn sync(&mut self) -> io::Result<()> {
        if is_regular(&self.file.metadata()?) { self.file.sync_data() } else { Ok(()) }
    }

    fn changed(&mut self) -> Change {
        let Ok(ours) = self.file.metadata() else { return Change::Moved };
        let same = |there: Metadata| (there.dev(), there.ino()) == (ours.dev(), ours.ino());
        if !fs::metadata(&self.path).is_ok_and(same) {
            return Change::Moved;
        }
        if is_regular(&ours) && ours.len() < self.length { Change::Truncated } else { Change::None }
    }

    fn reopen(&mut self) -> io::Result<()> {
        // What was emptied in place is still ours, and locked by us.
        if self.changed() == Change::Moved {
            self.file = append_to(&self.path)?;
        }
        self.length = self.file.metadata()?.len();
        Ok(())
    }
}

/// A sink, and how it was found.
pub(super) type Opened = (Box<dyn Sink>, Tail);

/// Opens the file at `path`.
pub(super) fn open(path: &Path) -> io::Result<Opened> {
    let (file, tail) = LogFile::open(path)?;
    Ok((Box::new(file), tail))
}

fn append_to(path: &Path) -> io::Result<File> {
    // Without NONBLOCK a pipe that nobody reads would stop us here, and not where it is counted.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    if is_regular(&file.metadata()?) {
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            io::Error::new(io::ErrorKind::ResourceBusy, "another process (a second kmsproxy?) has it locked")
        })?;
    }
    Ok(file)
}

fn is_regular(metadata: &Metadata) -> bool {
    metadata.is_file()
}

fn tail(path: &Path, length: u64) -> io::Result<Tail> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut end = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut end)?;
    Ok(read_tail(&end))
}

fn read_tail(end: &[u8]) -> Tail {
    let (lines, cut) = end.split_at(end.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
    let record = |line: &[u8], rest| {
        let line = Line::parse(line)?;
        Some(Tail::Record { head: line.head, closed: matches!(line.event, What::Closed(_)), rest })
    };
    if let Some(whole) = record(cut, Rest::NoLineFeed) {
        return whole;
    }
    let rest = if cut.is_empty() { Rest::Nothing } else { Rest::Torn };
    let last = lines.strip_suffix(b"\n").and_then(|lines| lines.rsplit(|&byte| byte == b'\n').next());
    last.and_then(|last| record(last, rest)).unwrap_or(Tail::Unreadable { line_feed: cut.is_empty() })
}

/// More than the longest record.
const TAIL_BYTES: u64 = 64 * 1024;
