//! The one who writes: a thread of its own, so that no disk and no pipe stops a request.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use tracing::{error, info, warn};

use super::Shared;
use super::batch::Batch;
use super::chain::{Chain, Head, Keys};
use super::file::{Opened, Rest, Tail};
use super::record::{After, Event, Why};
use super::sink::{Change, Sink};
use super::stamp::{Clocks, micros};
use crate::clock::Moment;

/// What stands between the queue and the sink.
pub(super) struct Writer {
    shared: Arc<Shared>,
    sink: Box<dyn Sink>,
    chain: Chain,
    run: String,
    /// Taken from the queue, not yet lines.
    batch: Batch,
    dropped: u64,
    /// Lines, of which the sink has taken the first so many bytes.
    lines: Vec<u8>,
    taken: usize,
    /// The old file is left, and the new one is not there yet.
    leaving: Option<After>,
    unsynced: bool,
    synced: Moment,
    /// The last record other than a checkpoint, and the last checkpoint.
    checked: Head,
    checked_at: Moment,
    tidied_at: Moment,
    /// What to tell of the head of the chain, once it is written.
    news: Option<&'static str>,
    told_at: Moment,
}

impl Writer {
    /// Begins to write where `opened` ends.
    pub(super) fn new(shared: Arc<Shared>, (sink, tail): Opened, keys: Keys) -> Self {
        let (head, after, lines) = match tail {
            Tail::Empty => (Head::NONE, After::Nothing, &b""[..]),
            Tail::Record { head, closed, rest } => match (rest, closed) {
                (Rest::Torn, _) => (head, After::Torn, &b"\n"[..]),
                (Rest::Nothing, true) => (head, After::Close, &b""[..]),
                (Rest::Nothing, false) => (head, After::Break, &b""[..]),
                (Rest::NoLineFeed, true) => (head, After::Close, &b"\n"[..]),
                (Rest::NoLineFeed, false) => (head, After::Break, &b"\n"[..]),
            },
            Tail::Unreadable { line_feed: true } => (Head::NONE, After::Unreadable, &b""[..]),
            Tail::Unreadable { line_feed: false } => (Head::NONE, After::Unreadable, &b"\n"[..]),
        };
        let now = shared.clock.now();
        let mut writer = Self {
            shared,
            sink,
            chain: Chain::new(keys, head),
            run: uuid::Uuid::new_v4().to_string(),
            batch: Batch::default(),
            dropped: 0,
            lines: lines.to_vec(),
            taken: 0,
            leaving: None,
            unsynced: false,
            synced: now,
            checked: Head::NONE,
            checked_at: now,
            tidied_at: now,
            news: None,
            told_at: now,
        };
        writer.begin(after);
        writer
    }

    /// Writes until the queue is closed and empty, or the sink has failed for too long after that.
    pub(super) fn run(mut self) {
        let _ended = Ended(Arc::clone(&self.shared));
        let mut patience = CLOSING_TRIES;
        loop {
            let failing = self.shared.failing.load(Ordering::Relaxed);
            if self.batch.is_empty() && !failing {
                self.fetch(TICK);
            }
            let outcome = self.turn();
            self.tell(&outcome);
            let closing = self.shared.queue.is_closing();
            match outcome {
                Ok(()) if closing && self.batch.is_empty() => break,
                Err(_) if closing && patience == 0 => break,
                Err(_) if closing => patience -= 1,
                Ok(()) | Err(_) => {}
            }
            thread::sleep(if self.shared.failing.load(Ordering::Relaxed) { RETRY } else { GATHER });
        }
        self.end();
    }

    fn fetch(&mut self, span: Duration) {
        self.batch.clear();
        self.dropped += self.shared.queue.take(&mut self.batch, span);
        self.shared.meters.queued.set(self.batch.len() as f64);
    }

    /// Gives the sink what there is.
    ///
    /// # Errors
    /// Where it does not take it. Nothing is lost by that: the next turn offers it again.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        if !self.batch.is_empty() || !self.lines.is_empty() {
            self.shared.busy();
        }
        self.flush()?;
        self.follow()?;
        self.encode()?;
        self.keep()?;
        self.shared.idle();
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.taken < self.lines.len() {
            let taken = match self.sink.write(&self.lines[self.taken..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.taken += taken;
            self.unsynced = true;
        }
        self.lines.clear();
        self.taken = 0;
        // What one storm took is not kept for ever.
        self.lines.shrink_to(LINES_KEPT);
        Ok(())
    }

    /// Follows a file that was rotated away: says so at its end, and goes on in the next.
    fn follow(&mut self) -> io::Result<()> {
        if self.leaving.is_none() {
            match self.sink.changed() {
                Change::None => return Ok(()),
                Change::Moved => {
                    self.append(&mut self.clocks(), &Event::Closed { why: Why::Rotation });
                    self.leaving = Some(After::Rotation);
                }
                Change::Truncated => {
                    warn!("the audit log was emptied in place; what was written in that moment may be lost");
                    self.leaving = Some(After::Truncation);
                }
            }
        }
        self.flush()?;
        self.sink.sync()?;
        self.sink.reopen()?;
        if let Some(after) = self.leaving.take() {
            self.begin(after);
        }
        self.flush()
    }

    fn begin(&mut self, after: After) {
        let run = mem::take(&mut self.run);
        let keyed = self.chain.is_keyed();
        self.append(&mut self.clocks(), &Event::Opened { run: &run, keyed, after });
        self.run = run;
        self.news = Some("begun");
    }

    /// Makes lines of what was taken from the queue, and gives the sink so many at once as do not push out of the processor's
    /// near memory what those who answer have there.
    fn encode(&mut self) -> io::Result<()> {
        let mut clocks = self.clocks();
        let dropped = mem::take(&mut self.dropped);
        if dropped > 0 {
            self.append(&mut clocks, &Event::Gap { dropped });
        }
        while let Some(entry) = self.batch.take() {
            self.chain.append(&mut self.lines, |keys, line| entry.write(keys, &mut clocks, line));
            self.shared.meters.written.increment(1);
            if self.lines.len() >= LINES_AT_ONCE {
                self.flush()?;
            }
        }
        if clocks.now().since(self.tidied_at) >= TICK {
            self.tidied_at = clocks.now();
            self.count_refusals(&mut clocks);
            self.check(&mut clocks);
        }
        self.flush()
    }

    fn count_refusals(&mut self, clocks: &mut Clocks) {
        for (caller, refusals) in self.shared.refusals.suppressed() {
            self.append(clocks, &Event::Suppressed { caller: &caller, refusals });
        }
    }

    /// A checkpoint a minute after the last, where there was anything since.
    fn check(&mut self, clocks: &mut Clocks) {
        if self.chain.head() != self.checked && clocks.now().since(self.checked_at) >= CHECKPOINT {
            self.append(clocks, &Event::Checkpoint);
            (self.checked, self.checked_at) = (self.chain.head(), clocks.now());
            if clocks.now().since(self.told_at) >= ANCHOR {
                self.news = Some("goes on");
            }
        }
    }

    /// Into the ordinary log, where whoever can rewrite this one may not reach: `kmsproxy audit verify --anchor`.
    fn anchor(&mut self, what: &'static str) {
        info!(anchor = %self.chain.head(), what, "audit chain");
        self.told_at = self.shared.clock.now();
    }

    fn keep(&mut self) -> io::Result<()> {
        self.shared.meters.sequence.set(self.chain.head().seq as f64);
        if let Some(news) = self.news.take() {
            self.anchor(news);
        }
        let now = self.shared.clock.now();
        if self.unsynced && now.since(self.synced) >= SYNC {
            self.sink.sync()?;
            (self.unsynced, self.synced) = (false, now);
        }
        Ok(())
    }

    /// The last record says that it is the last.
    fn end(&mut self) {
        match self.last_lines().and_then(|()| self.sink.sync()) {
            Ok(()) => self.anchor("ended"),
            Err(error) => error!(%error, "the audit log could not be ended; its last records are lost"),
        }
        self.shared.meters.sequence.set(self.chain.head().seq as f64);
    }

    fn last_lines(&mut self) -> io::Result<()> {
        // What was taken and not written comes before what was not taken yet.
        self.encode()?;
        self.fetch(Duration::ZERO);
        self.encode()?;
        let mut clocks = self.clocks();
        self.count_refusals(&mut clocks);
        self.append(&mut clocks, &Event::Closed { why: Why::Stop });
        self.flush()
    }

    fn append(&mut self, clocks: &mut Clocks, event: &Event<'_>) {
        self.chain.append(&mut self.lines, |_, line| event.write(clocks.now(), clocks, line));
        self.shared.meters.written.increment(1);
    }

    fn clocks(&self) -> Clocks {
        Clocks::read(&*self.shared.clock)
    }

    /// Tells of a failure when it begins and every so often, and of its end.
    fn tell(&self, outcome: &io::Result<()>) {
        let failing = match outcome {
            Ok(()) => false,
            // A full pipe fails only once it has been full for too long.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.shared.stalled(|| self.shared.clock.now()) || self.shared.failing.load(Ordering::Relaxed)
            }
            Err(_) => true,
        };
        let before = self.shared.failing.swap(failing, Ordering::SeqCst);
        self.shared.meters.failing.set(f64::from(u8::from(failing)));
        if let Err(error) = outcome {
            self.shared.meters.errors.increment(1);
            self.shared.meters.queued.set((self.batch.len() + self.shared.queue.len()) as f64);
            if failing && self.shared.alarm.rings(self.shared.clock.now()) {
                let consequence = if self.shared.required { "nothing is released" } else { "records will be lost" };
                error!(%error, consequence, "the audit log cannot be written");
            }
        } else if before {
            info!("the audit log can be written again");
        }
    }
}

/// However the writer ends, also by a panic: from then on nothing is accepted.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.failing.store(true, Ordering::SeqCst);
        self.0.queue.end();
        if thread::panicking() {
            self.0.meters.failing.set(1.0);
            error!(at = micros(self.0.clock.now()), "the audit log's writer crashed; restart kmsproxy");
        }
    }
}

/// How long the writer sleeps while there is nothing to do but to look after the file.
const TICK: Duration = Duration::from_millis(500);
/// How long records gather before they are written together.
const GATHER: Duration = Duration::from_millis(3);
const RETRY: Duration = Duration::from_millis(100);
pub(super) const CLOSING_TRIES: u32 = 10;
const SYNC: Duration = Duration::from_secs(1);
const CHECKPOINT: Duration = Duration::from_secs(60);
const ANCHOR: Duration = Duration::from_secs(3600);
pub(super) const LINES_AT_ONCE: usize = 48 * 1024;
const LINES_KEPT: usize = 64 * 1024;
