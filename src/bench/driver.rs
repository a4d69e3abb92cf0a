//! One thread of the client: begins what is due, reads what comes, and sleeps where there is time for that.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::time::{ClockId, clock_gettime};

use super::course::Course;
use super::deks::Deks;
use super::endpoint::Endpoint;
use super::line::{Line, NO_CONNECTION, Reply, TIMED_OUT, UNPROCESSED};
use super::measured::{Measured, nanos};
use super::source::{Call, Next, Source, What};
use super::speech::{Speech, Terms, Verdict, judge, refused};
use crate::clock::{Clock as _, System};

/// What a driver needs besides its source.
pub(super) struct Drive<'a> {
    pub(super) terms: &'a Terms,
    pub(super) endpoint: &'a Arc<Endpoint>,
    pub(super) deks: &'a Deks,
    pub(super) connections: usize,
    /// For how long a call is waited for.
    pub(super) patience: Duration,
    /// Of the moments in which time is cut.
    pub(super) span: Duration,
    /// Whether it may spin where the next call is due in a moment, or answers are: where it has a processor for itself.
    pub(super) spins: bool,
    pub(super) course: &'a Course,
}

/// Connects, waits for the start that all threads share, and goes through `source`.
///
/// # Errors
/// Where nobody listens to begin with.
pub(super) fn drive(drive: &Drive<'_>, mut source: Box<dyn Source>) -> io::Result<Measured> {
    let opened = Driver::open(drive);
    let opened = opened.map(|mut driver| {
        driver.write_ahead(source.as_mut());
        driver
    });
    // Also where this thread has failed: the others wait for it.
    drive.course.barrier.wait();
    let mut driver = opened?;
    driver.cpu_before = thread_time();
    while driver.turn(source.as_mut())? {}
    driver.measured.client_cpu = thread_time().saturating_sub(driver.cpu_before + driver.spun);
    Ok(driver.measured)
}

struct Driver<'a> {
    drive: &'a Drive<'a>,
    speech: Speech,
    lines: Vec<Line<Call>>,
    /// Lines that may have room, the one that was used longest ago first.
    roomy: VecDeque<usize>,
    /// How each line is watched: which of its sockets, and whether for writing.
    watched: Vec<Option<(u32, bool)>>,
    poll: OwnedFd,
    events: Vec<epoll::Event>,
    /// What has ended; or is to begin again, because the target says that it never looked at it.
    ended: Vec<(Call, bool)>,
    /// Calls that are due and have found no room, or are to begin again.
    held: VecDeque<Call>,
    measured: Measured,
    looked: Duration,
    under_way: usize,
    random: [u8; 32],
    cpu_before: Duration,
    /// Time that went into looking in vain.
    spun: Duration,
}

impl<'a> Driver<'a> {
    fn open(drive: &'a Drive<'a>) -> io::Result<Self> {
        let mut driver = Self {
            drive,
            speech: Speech::new(drive.terms),
            lines: Vec::with_capacity(drive.connections),
            roomy: (0..drive.connections).collect(),
            watched: vec![None; drive.connections],
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
            ended: Vec::new(),
            held: VecDeque::new(),
            measured: Measured::new(drive.span),
            looked: Duration::ZERO,
            under_way: 0,
            random: [0x3C; 32],
            cpu_before: thread_time(),
            spun: Duration::ZERO,
        };
        for index in 0..drive.connections {
            driver.lines.push(Line::open(drive.terms.face, drive.endpoint)?);
            // What HTTP/2 says to begin with.
            driver.flush(index);
        }
        Ok(driver)
    }

    /// Signs what will be asked first, for as long as the load itself is to last and no longer.
    fn write_ahead(&mut self, source: &mut dyn Source) {
        if !self.speech.is_signed() {
            return;
        }
        let until = System.now() + (self.drive.span * 60).min(AHEAD_MAX);
        let foreseen = source.foreseen(AHEAD);
        for (at, what) in foreseen.iter().enumerate() {
            match what {
                What::Decrypt(index) if !at.is_multiple_of(64) || System.now() < until => {
                    self.speech.write_ahead(self.drive.deks, *index);
                }
                What::Decrypt(_) => return,
                What::Encrypt | What::Greeting => {}
            }
        }
    }

    fn now(&self) -> Duration {
        self.drive.course.elapsed()
    }

    /// Begins what is due, and reads what has come. Returns whether there is more to do.
    fn turn(&mut self, source: &mut dyn Source) -> io::Result<bool> {
        let next = self.begin_due(source);
        self.account(source);
        if self.drive.course.is_over(self.now()) {
            self.abandon_all();
            self.account(source);
            return Ok(false);
        }
        if next == Next::Over && self.under_way == 0 && self.held.is_empty() {
            return Ok(false);
        }
        let now = self.now();
        let wait = match next {
            Next::At(then) if self.held.is_empty() => self.wait_before(then.saturating_sub(now)),
            // Who sleeps is woken by who answers, which costs the answerer more than the answer of a hit may: a target as fast
            // as its client never meets one that sleeps, and a slower one would pay for each answer.
            Next::Waiting if self.drive.spins && self.under_way > 0 => Duration::ZERO,
            Next::At(_) | Next::Waiting | Next::Over | Next::Call(_) => LOOK_EVERY,
        };
        self.listen(wait)?;
        if self.events.is_empty() && wait.is_zero() {
            self.spun += self.now().saturating_sub(now);
        }
        self.account(source);
        if self.now().saturating_sub(self.looked) > LOOK_EVERY {
            self.abandon_late();
            self.account(source);
        }
        Ok(true)
    }

    /// How long to sleep where the next call is due in `gap`.
    fn wait_before(&self, gap: Duration) -> Duration {
        if self.drive.spins { gap.saturating_sub(WAKING) } else { gap }.min(LOOK_EVERY)
    }

    fn begin_due(&mut self, source: &mut dyn Source) -> Next {
        let open = source.is_open();
        for _ in 0..BATCH {
            let (call, waited) = match self.held.pop_front() {
                Some(held) => (held, true),
                None => match source.next(self.now()) {
                    Next::Call(call) => (call, false),
                    other @ (Next::At(_) | Next::Waiting | Next::Over) => return other,
                },
            };
            let now = self.now();
            if open && now.saturating_sub(call.planned) > self.drive.patience {
                self.measured.failed(NOT_BEGUN.into(), now);
                self.drive.course.failed.fetch_add(1, Ordering::Relaxed);
                source.ended(call.lane, now);
                continue;
            }
            let Some(index) = self.with_room() else {
                self.held.push_front(call);
                return Next::Waiting;
            };
            if open && !waited {
                self.measured.lag.saturating_record(nanos(now.saturating_sub(call.planned)).max(1));
            }
            self.begin(index, call, source);
        }
        Next::At(self.now())
    }

    fn with_room(&mut self) -> Option<usize> {
        while let Some(index) = self.roomy.pop_front() {
            if self.lines[index].has_room() {
                return Some(index);
            }
        }
        None
    }

    fn begin(&mut self, index: usize, call: Call, source: &mut dyn Source) {
        let request = match call.what {
            What::Decrypt(dek) => Some(self.speech.decrypt(self.drive.deks, dek)),
            What::Encrypt => {
                self.random[..8].copy_from_slice(&nanos(call.planned).to_be_bytes());
                Some(self.speech.encrypt(&self.random))
            }
            What::Greeting => self.speech.greet(),
        };
        let Some(request) = request else {
            self.roomy.push_back(index);
            return source.ended(call.lane, call.planned);
        };
        match self.lines[index].begin(&request, call) {
            Ok(()) => {
                self.under_way += 1;
                self.flush(index);
            }
            Err((call, _)) => {
                let now = self.now();
                self.measured.failed(NO_CONNECTION.into(), now);
                self.drive.course.failed.fetch_add(1, Ordering::Relaxed);
                source.ended(call.lane, now);
                // A server that is gone is not to be asked at the speed of a refused connection.
                std::thread::sleep(REFUSED);
            }
        }
        self.roomy.push_back(index);
    }

    fn flush(&mut self, index: usize) {
        let (lines, mut tally) = (&mut self.lines, Tally::new(self.drive, &mut self.measured, &mut self.ended));
        lines[index].flush(&mut |call, reply| tally.take(call, &reply));
        self.watch(index);
    }

    fn listen(&mut self, wait: Duration) -> io::Result<()> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::try_from(wait.as_nanos()).unwrap_or(0).min(999_999_999) };
        self.events.clear();
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for at in 0..self.events.len() {
            let index = usize::try_from(self.events[at].data.u64()).expect("a line's place");
            let (lines, mut tally) = (&mut self.lines, Tally::new(self.drive, &mut self.measured, &mut self.ended));
            let line = &mut lines[index];
            line.flush(&mut |call, reply| tally.take(call, &reply));
            line.listen(&mut |call, reply| tally.take(call, &reply));
            self.watch(index);
            self.roomy.push_back(index);
        }
        Ok(())
    }

    /// Has the kernel watch the line's socket as it is now.
    fn watch(&mut self, index: usize) {
        let Some((socket, writes, opened)) = self.lines[index].watched() else {
            self.watched[index] = None;
            return;
        };
        let wanted = Some((opened, writes));
        if self.watched[index] == wanted {
            return;
        }
        let flags = if writes { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        let data = epoll::EventData::new_u64(index as u64);
        let known = self.watched[index].is_some_and(|(before, _)| before == opened);
        let done = if known {
            epoll::modify(&self.poll, socket, data, flags)
        } else {
            epoll::add(&self.poll, socket, data, flags)
        };
        // A socket that cannot be watched is one whose calls end in time by being late.
        self.watched[index] = done.ok().and(wanted);
    }

    fn abandon_late(&mut self) {
        let now = self.now();
        self.looked = now;
        let patience = self.drive.patience;
        self.abandon(&mut |call| now.saturating_sub(call.planned) > patience);
    }

    fn abandon_all(&mut self) {
        self.abandon(&mut |_| true);
    }

    fn abandon(&mut self, late: &mut dyn FnMut(&Call) -> bool) {
        for index in 0..self.lines.len() {
            if self.lines[index].under_way() == 0 {
                continue;
            }
            let (lines, mut tally) = (&mut self.lines, Tally::new(self.drive, &mut self.measured, &mut self.ended));
            lines[index].abandon(late, &mut |call, reply| tally.take(call, &reply));
            self.watch(index);
            self.roomy.push_back(index);
        }
    }

    /// Tells the source what has ended.
    fn account(&mut self, source: &mut dyn Source) {
        let now = self.now();
        for (call, again) in self.ended.drain(..) {
            self.under_way -= 1;
            if again {
                self.held.push_back(call);
            } else {
                source.ended(call.lane, now);
            }
        }
        // Lines are told of more than once; the list must not grow by that.
        if self.roomy.len() > 4 * self.lines.len() + EVENTS {
            self.roomy.clear();
            let lines = &self.lines;
            self.roomy.extend((0..lines.len()).filter(|&index| lines[index].has_room()));
        }
    }
}

/// Weighs answers.
struct Tally<'t> {
    drive: &'t Drive<'t>,
    measured: &'t mut Measured,
    ended: &'t mut Vec<(Call, bool)>,
}

impl<'t> Tally<'t> {
    fn new(drive: &'t Drive<'t>, measured: &'t mut Measured, ended: &'t mut Vec<(Call, bool)>) -> Self {
        Self { drive, measured, ended }
    }

    fn take(&mut self, call: Call, reply: &Reply<'_>) {
        let (course, now) = (self.drive.course, self.drive.course.elapsed());
        if matches!(reply, Reply::Lost(UNPROCESSED)) {
            return self.ended.push((call, true));
        }
        let verdict = match call.what {
            What::Decrypt(dek) => judge(reply, self.drive.deks.plain(dek)),
            What::Encrypt | What::Greeting => refused(reply).map_or(Verdict::Right, Verdict::Failed),
        };
        match verdict {
            Verdict::Right => {
                self.measured.good(call.planned, now);
                course.good.fetch_add(1, Ordering::Relaxed);
                if matches!(call.what, What::Decrypt(_)) {
                    course.last_plaintext.fetch_max(nanos(now), Ordering::Relaxed);
                }
            }
            Verdict::Wrong => {
                self.measured.wrong += 1;
                course.wrong.store(true, Ordering::Relaxed);
            }
            Verdict::Failed(class) => {
                // The end of a run is not the target's failure.
                if !(matches!(reply, Reply::Lost(TIMED_OUT)) && course.stop.load(Ordering::Relaxed)) {
                    self.measured.failed(class, now);
                    course.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.ended.push((call, false));
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A call that found no connection free until nobody would have waited for it any more.
const NOT_BEGUN: &str = "not begun in time";
/// Requests that are signed ahead, some 600 bytes each. The daemon remembers 262,144 nonces: those of older seconds go first.
const AHEAD: usize = 120_000;
const AHEAD_MAX: Duration = Duration::from_secs(2);
const EVENTS: usize = 256;
/// Calls that are begun before what has come is read.
const BATCH: usize = 64;
/// How late the kernel may wake who sleeps.
const WAKING: Duration = Duration::from_micros(150);
/// How often late calls are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const REFUSED: Duration = Duration::from_millis(1);
