//! Log lines, and how many of them were lost.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

use crate::metrics;

/// Hands lines to a thread that writes them to standard error. Where that cannot keep up they are lost, and counted.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    writer: NonBlocking,
    lost: ErrorCounter,
}

impl Lines {
    pub(super) fn to_standard_error() -> (Self, Rest) {
        let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).finish(io::stderr());
        let lost = writer.error_counter();
        (Self { writer, lost }, Rest(Some(guard)))
    }
}

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(line);
        let lost = self.lost.dropped_lines();
        if lost > 0 {
            // Not the difference: the first lines come before there is a registry to count them.
            ::metrics::counter!(metrics::LINES_LOST).absolute(lost as u64);
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What is still to be written when the process ends: dropping it waits for that, and not for ever.
#[derive(Debug)]
pub(super) struct Rest(Option<WorkerGuard>);

impl Drop for Rest {
    fn drop(&mut self) {
        let (done, written) = mpsc::sync_channel(1);
        let guard = self.0.take();
        // Where nobody reads standard error the guard complains on standard output, where nobody may be reading either.
        let waiting = thread::Builder::new().spawn(move || {
            drop(guard);
            // Nobody hears it who has stopped waiting.
            let _ = done.send(());
        });
        if waiting.is_ok() {
            // Too late is as good as never: the process ends.
            let _ = written.recv_timeout(REST_MAX);
        }
    }
}

/// Lines that wait to be written, some 200 bytes each.
const LINES_MAX: usize = 8192;
/// The guard's own patience, and a little more.
const REST_MAX: Duration = Duration::from_millis(1500);
