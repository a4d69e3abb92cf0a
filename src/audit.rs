//! The audit log: one record for each answer and each refusal, chained by hashes, written by a thread of its own.
//!
//! A cache tears a hole into the cloud's own trail: what is answered from memory, the KMS does not see. This log fills it.
//! [`Audit::accept`] gives a [`Receipt`] once the bounded queue has the record; without one `policy` hands nothing out.
//! What became of a log says [`verify`].

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use metrics::{Counter, Gauge};
use serde::{Deserialize, Serialize};
use tracing::error;

use crate::clock::{Clock, Moment};
use crate::secret::Secret;

mod batch;
mod chain;
mod file;
mod line;
mod members;
mod queue;
mod record;
mod refusals;
mod sink;
mod stamp;
pub mod verify;
mod writer;

pub use batch::{Batch, Entry};
pub use chain::{Chain, Hash, Head, Keys};
pub use record::{After, Outcome, Record, Why};
pub use sink::{Change, Sink};
pub use stamp::Clocks;

use file::{Opened, Tail};
use queue::{Full, Queue};
use refusals::Refusals;
use sink::{JOURNAL, Journal, Stdout};
use stamp::micros;
use writer::Writer;

/// The `[audit]` table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where records go.
    pub sink: SinkName,
    /// The file, for `sink = "file"`.
    pub path: Option<PathBuf>,
    /// Whether nothing is released whose record cannot be written.
    pub required: bool,
    /// How many records may wait for the writer.
    pub queue: usize,
    /// A secret that keys the chain, in a file.
    pub secret_file: Option<PathBuf>,
    /// The secret, in an environment variable.
    pub secret_env: Option<String>,
    /// The secret, in a systemd credential.
    pub secret_credential: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sink: SinkName::Off,
            path: None,
            required: true,
            queue: 16_384,
            secret_file: None,
            secret_env: None,
            secret_credential: None,
        }
    }
}

/// The values of `audit.sink`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkName {
    /// A file.
    File,
    /// The systemd journal.
    Journal,
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
}

/// An audit log as it is to be: `[audit]`, everything looked up.
#[derive(Debug)]
pub struct Terms {
    /// Where to.
    pub destination: Destination,
    /// See [`Config::required`].
    pub required: bool,
    /// See [`Config::queue`].
    pub queue: usize,
    /// What keys the chain, if anything.
    pub secret: Option<Secret>,
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To the end of this file.
    File(PathBuf),
    /// To the systemd journal.
    Journal,
    /// To standard output.
    Stdout,
}

/// How the log is doing, in numbers.
pub struct Meters {
    /// Records written.
    pub written: Counter,
    /// Records lost.
    pub dropped: Counter,
    /// Times that the sink did not take what it was given.
    pub errors: Counter,
    /// Records that wait.
    pub queued: Gauge,
    /// The number of the last record written: an anchor outside of the log.
    pub sequence: Gauge,
    /// 1 while the log cannot be written.
    pub failing: Gauge,
}

impl Meters {
    /// Meters that nobody reads.
    #[must_use]
    pub fn none() -> Self {
        let (counter, gauge) = (Counter::noop, Gauge::noop);
        let [written, dropped, errors] = [counter(), counter(), counter()];
        Self { written, dropped, errors, queued: gauge(), sequence: gauge(), failing: gauge() }
    }
}

/// Where records are handed in. Without a sink everything is accepted, and nothing kept.
pub struct Audit(Option<Arc<Shared>>);

struct Shared {
    queue: Queue,
    refusals: Refusals,
    required: bool,
    keys: Keys,
    clock: Arc<dyn Clock>,
    meters: Meters,
    failing: AtomicBool,
    /// Since when the writer has not finished, in microseconds of the boot clock; 0 while it has nothing to do.
    busy_us: AtomicU64,
    alarm: Alarm,
}

/// Proof that the record of an answer is in the queue, or that nobody demands that it be: only [`Audit::accept`] makes one.
///
/// ```compile_fail
/// let forged = kmsproxy::audit::Receipt(());
/// ```
#[derive(Debug)]
#[must_use]
pub struct Receipt(());

/// The record could not be accepted, and it is required: nothing may be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unaudited;

impl Audit {
    /// No audit log.
    #[must_use]
    pub fn off() -> Arc<Self> {
        Arc::new(Self(None))
    }

    /// Opens the log and starts its writer.
    ///
    /// # Errors
    /// Where the sink cannot be opened at all. That it cannot be written shows later.
    pub fn open(terms: Terms, clock: Arc<dyn Clock>, meters: Meters) -> io::Result<Arc<Self>> {
        let sink = match &terms.destination {
            Destination::File(path) => file::open(path)?,
            Destination::Journal => (Box::new(Journal::open(Path::new(JOURNAL))?) as Box<dyn Sink>, Tail::Empty),
            Destination::Stdout => (Box::new(Stdout::open()?) as Box<dyn Sink>, Tail::Empty),
        };
        Self::start(sink, &terms, clock, meters)
    }

    /// As [`Audit::open`], into a sink of another make, in which there is nothing yet.
    ///
    /// # Errors
    /// Where there is no thread to be had.
    pub fn into_sink(sink: Box<dyn Sink>, terms: &Terms, clock: Arc<dyn Clock>) -> io::Result<Arc<Self>> {
        Self::start((sink, Tail::Empty), terms, clock, Meters::none())
    }

    fn start(sink: Opened, terms: &Terms, clock: Arc<dyn Clock>, meters: Meters) -> io::Result<Arc<Self>> {
        let keys = Keys::of(terms.secret.as_ref()).map_err(io::Error::other)?;
        let shared = Arc::new(Shared {
            queue: Queue::new(terms.queue),
            refusals: Refusals::default(),
            required: terms.required,
            keys: keys.clone(),
            clock,
            meters,
            failing: AtomicBool::new(false),
            busy_us: AtomicU64::new(0),
            alarm: Alarm::default(),
        });
        let writer = Writer::new(Arc::clone(&shared), sink, keys);
        thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run())?;
        Ok(Arc::new(Self(Some(shared))))
    }

    /// Takes the record of an answer that is about to be given. It is written within a second, after those before it.
    ///
    /// # Errors
    /// Where the log is required and cannot be written: it failed, it has not moved for a second, or the queue is full.
    /// Where it is not required the record is lost, counted, and the loss recorded as soon as that can be.
    pub fn accept<'r>(&self, record: impl FnOnce() -> Record<'r>) -> Result<Receipt, Unaudited> {
        let Some(shared) = &self.0 else { return Ok(Receipt(())) };
        let at = shared.clock.now();
        let closed = shared.required && shared.troubled(|| at);
        if !closed && shared.push(at, &record()).is_ok() {
            return Ok(Receipt(()));
        }
        if shared.required {
            shared.ring(at, "nothing is released");
            return Err(Unaudited);
        }
        shared.lose(at);
        Ok(Receipt(()))
    }

    /// Takes the record of a refusal, if there is room for it; of a caller that is refused more often than twenty times a
    /// second only the count.
    pub fn note(&self, record: &Record<'_>) {
        let Some(shared) = &self.0 else { return };
        let at = shared.clock.now();
        if shared.refusals.admit(record.caller, at) && shared.push(at, record).is_err() {
            shared.lose(at);
        }
    }

    /// Whether an answer would be accepted now, as far as can be known before there is one.
    ///
    /// # Errors
    /// Where the log is required and cannot be written.
    pub fn ready(&self) -> Result<(), Unaudited> {
        let troubled = |shared: &Arc<Shared>| shared.required && shared.troubled(|| shared.clock.now());
        if self.0.as_ref().is_some_and(troubled) { Err(Unaudited) } else { Ok(()) }
    }

    /// Takes no more, writes what is there, and ends the log in an orderly way. Waits two seconds at most.
    pub fn close(&self) {
        if let Some(shared) = &self.0
            && !shared.queue.close(CLOSING)
        {
            error!("the audit log could not be ended in time; its last records may be lost");
        }
    }
}

impl Drop for Audit {
    /// The writer ends as soon as it has written what is there; nobody waits for it.
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.queue.close(Duration::ZERO);
        }
    }
}

impl Shared {
    fn push(&self, at: Moment, record: &Record<'_>) -> Result<(), Full> {
        self.queue.push(at, record, &self.keys)
    }

    fn troubled(&self, now: impl FnOnce() -> Moment) -> bool {
        self.failing.load(Ordering::Relaxed) || self.stalled(now)
    }

    /// Whether the sink has neither taken nor refused what it was given, for longer than records may wait.
    fn stalled(&self, now: impl FnOnce() -> Moment) -> bool {
        let since = self.busy_us.load(Ordering::Relaxed);
        since != 0 && micros(now()).saturating_sub(since) > STALL_US
    }

    fn busy(&self) {
        let now = micros(self.clock.now()).max(1);
        // One that is busy already stays busy since then.
        let _ = self.busy_us.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn idle(&self) {
        self.busy_us.store(0, Ordering::Relaxed);
    }

    fn lose(&self, at: Moment) {
        self.queue.lose();
        self.meters.dropped.increment(1);
        self.ring(at, "records are lost, and the log will say how many");
    }

    fn ring(&self, at: Moment, consequence: &str) {
        if self.alarm.rings(at) {
            error!(consequence, waiting = self.queue.len(), "the audit log does not keep up or cannot be written");
        }
    }
}

/// Lets one line through every ten seconds.
#[derive(Debug, Default)]
struct Alarm(AtomicU64);

impl Alarm {
    fn rings(&self, now: Moment) -> bool {
        let (now, last) = (micros(now).max(1), self.0.load(Ordering::Relaxed));
        let due = last == 0 || now.saturating_sub(last) >= ALARM_US;
        due && self.0.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Audit(on)" } else { "Audit(off)" })
    }
}

/// How long the writer may be at one thing before the door closes.
const STALL_US: u64 = 1_000_000;
const ALARM_US: u64 = 10_000_000;
const CLOSING: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
