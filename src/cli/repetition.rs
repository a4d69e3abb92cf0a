//! What repeats in the log is held back, and counted.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::clock::{Clock, Moment};

/// Of warnings and errors that are made at one place in the code, about the same subject, one goes out in [`WINDOW`];
/// the others are counted, and the count goes out with the first line of any kind after the window. What is less than
/// a warning is never held back. Remembers at most [`SUBJECTS_MAX`] subjects; what comes beyond shares one for each
/// place.
#[derive(Clone, Debug)]
pub(super) struct Repetition {
    clock: Arc<dyn Clock>,
    table: Arc<Mutex<Table>>,
}

/// So many lines were held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeldBack {
    pub(super) level: Level,
    pub(super) target: &'static str,
    /// What they said, without their fields.
    pub(super) message: String,
    pub(super) count: u64,
}

impl Repetition {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, table: Arc::default() }
    }

    /// What was held back in windows that have ended since this was last asked.
    pub(super) fn due(&self) -> Vec<HeldBack> {
        let now = self.clock.now();
        let mut table = self.table();
        table.end(now);
        std::mem::take(&mut table.ended)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Repetition {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN {
            return true;
        }
        let mut seen = Seen::default();
        event.record(&mut seen);
        let place = metadata.callsite();
        let line = HeldBack { level: *metadata.level(), target: metadata.target(), message: seen.message, count: 0 };
        self.table().admits(self.clock.now(), Subject { place, about: seen.about.finish() }, line)
    }
}

/// What a line is about: it says the same as another of the same subject, though times, causes and ids may differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    place: Identifier,
    about: u64,
}

#[derive(Debug, Default)]
struct Table {
    windows: HashMap<Subject, Window>,
    /// The earliest end of a window in which something was held back.
    next: Option<Moment>,
    ended: Vec<HeldBack>,
}

#[derive(Debug)]
struct Window {
    end: Moment,
    held: HeldBack,
}

impl Table {
    /// Whether a line about `subject` may go out at `now`.
    fn admits(&mut self, now: Moment, subject: Subject, line: HeldBack) -> bool {
        let shared = Subject { about: 0, ..subject.clone() };
        if self.windows.len() >= SUBJECTS_MAX {
            self.sweep(now);
        }
        let full = self.windows.len() >= SUBJECTS_MAX && !self.windows.contains_key(&subject);
        let subject = if full { shared } else { subject };
        match self.windows.get_mut(&subject) {
            Some(window) if now < window.end => {
                window.held.count += 1;
                self.next = Some(self.next.map_or(window.end, |next| next.min(window.end)));
                false
            }
            Some(_) | None => {
                let before = self.windows.insert(subject, Window { end: now + WINDOW, held: line });
                self.ended.extend(before.map(|window| window.held).filter(|held| held.count > 0));
                true
            }
        }
    }

    /// Ends the windows that are over at `now`, where anything was held back in one.
    fn end(&mut self, now: Moment) {
        if self.next.is_some_and(|next| now >= next) {
            self.sweep(now);
        }
    }

    fn sweep(&mut self, now: Moment) {
        let over = self.windows.extract_if(|_, window| now >= window.end).map(|(_, window)| window.held);
        self.ended.extend(over.filter(|held| held.count > 0));
        self.next = self.windows.values().filter(|window| window.held.count > 0).map(|window| window.end).min();
    }
}

#[derive(Default)]
struct Seen {
    about: DefaultHasher,
    message: String,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a string does not fail.
            let _ = write!(self.message, "{value:?}");
        }
        if SUBJECTS.contains(&field.name()) {
            self.about.write(field.name().as_bytes());
            let _ = write!(Hashed(&mut self.about), "{value:?}");
        }
    }
}

struct Hashed<'a>(&'a mut DefaultHasher);

impl fmt::Write for Hashed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// The fields that say what a line is about.
const SUBJECTS: [&str; 8] = ["upstream", "listener", "caller", "action", "key", "outcome", "state", "name"];
const WINDOW: Duration = Duration::from_secs(10);
const SUBJECTS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use tracing::{info, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::clock::Manual;

    /// Counts what gets through.
    #[derive(Clone, Default)]
    struct Through(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Through {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut seen = Seen::default();
            event.record(&mut seen);
            self.0.lock().unwrap().push(seen.message);
        }
    }

    fn scene() -> (Arc<Manual>, Repetition, Through) {
        let clock = Arc::new(Manual::at(jiff::Timestamp::UNIX_EPOCH));
        (Arc::clone(&clock), Repetition::new(clock), Through::default())
    }

    fn logged(repetition: &Repetition, through: &Through, act: impl FnOnce()) -> Vec<String> {
        let subscriber = tracing_subscriber::registry().with(repetition.clone()).with(through.clone());
        tracing::subscriber::with_default(subscriber, act);
        std::mem::take(&mut *through.0.lock().unwrap())
    }

    fn refused(key: &str, request: u32) {
        warn!(key, request, "refused");
    }

    fn held(count: u64) -> HeldBack {
        let target = "kmsproxy::cli::repetition::tests";
        HeldBack { level: Level::WARN, target, message: "refused".to_owned(), count }
    }

    #[test]
    fn the_same_warning_goes_out_once_in_ten_seconds_and_the_others_are_counted() {
        let (clock, repetition, through) = scene();
        let out = logged(&repetition, &through, || (0..1000).for_each(|request| refused("k", request)));
        assert_eq!((out, repetition.due()), (vec!["refused".to_owned()], vec![]));
        clock.advance(WINDOW);
        let out = logged(&repetition, &through, || refused("k", 1000));
        assert_eq!((out, repetition.due()), (vec!["refused".to_owned()], vec![held(999)]));
        assert_eq!(repetition.due(), [], "and told once");
    }

    #[test]
    fn what_was_held_back_last_is_told_although_nothing_like_it_follows() {
        let (clock, repetition, through) = scene();
        logged(&repetition, &through, || (0..3).for_each(|request| refused("k", request)));
        clock.advance(WINDOW - Duration::from_millis(1));
        assert_eq!(repetition.due(), []);
        clock.advance(Duration::from_millis(1));
        assert_eq!(repetition.due(), [held(2)]);
    }

    #[test]
    fn another_subject_another_place_and_what_is_no_warning_are_told_at_once() {
        let (_, repetition, through) = scene();
        let out = logged(&repetition, &through, || {
            refused("a", 0);
            refused("b", 0);
            warn!(key = "a", "probe failed");
            for _ in 0..3 {
                info!(key = "a", "lease in force");
            }
        });
        assert_eq!(out, ["refused", "refused", "probe failed", "lease in force", "lease in force", "lease in force"]);
    }

    #[test]
    fn a_flood_of_subjects_takes_no_more_memory_and_no_more_lines_than_there_may_be() {
        let (clock, repetition, through) = scene();
        let flood = || (0..10_000).for_each(|key| refused(&format!("k{key}"), 0));
        let out = logged(&repetition, &through, flood);
        assert_eq!(out.len(), SUBJECTS_MAX + 1);
        assert_eq!(repetition.table().windows.len(), SUBJECTS_MAX + 1);
        clock.advance(WINDOW);
        assert_eq!(repetition.due(), [held(10_000 - SUBJECTS_MAX as u64 - 1)]);
        assert_eq!(repetition.table().windows.len(), 0);
    }
}
