//! One line of the log: as text or JSON, and fit for journald where that reads it.

use std::fmt;
use std::sync::Arc;

use clap::ValueEnum;
use serde_json::json;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

use super::repetition::{HeldBack, Repetition};
use crate::clock::Clock;

/// In which form to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// One object for each line, for machines.
    Json,
}

/// Where lines go, and in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) format: LogFormat,
    /// journald has the time of each line already, and takes its priority from `<N>` before it (`sd-daemon(3)`).
    pub(super) journal: bool,
}

/// Lines of `F`, in `shape`, each followed by what was held back before it.
#[derive(Debug)]
pub(super) struct Line<F> {
    pub(super) inner: F,
    pub(super) shape: Shape,
    pub(super) repetition: Repetition,
}

impl<S, N, F> FormatEvent<S, N> for Line<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        self.shape.begin(&mut to, *event.metadata().level())?;
        self.inner.format_event(context, to.by_ref(), event)?;
        self.repetition.due().iter().try_for_each(|held| self.shape.tell(&mut to, held))
    }
}

/// Puts another filter in the place of the one before.
pub(super) type Put = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// What of a process's log, from `level` on, goes `to` where, and how; and how another level is put in its place.
pub(super) fn subscriber<W>(
    shape: Shape,
    clock: Arc<dyn Clock>,
    level: &str,
    to: W,
) -> Result<(impl Subscriber + Send + Sync + use<W>, Put), String>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(level).map_err(|error| format!("KMSPROXY_LOG: {error}"))?;
    let repetition = Repetition::new(clock);
    let layer = tracing_subscriber::fmt::layer().with_writer(to).with_ansi(false);
    macro_rules! shaped {
        ($layer:expr) => {{
            let repetition = repetition.clone();
            $layer.map_event_format(|inner| Line { inner, shape, repetition }).boxed()
        }};
    }
    let lines = match (shape.format, shape.journal) {
        (LogFormat::Text, false) => shaped!(layer),
        (LogFormat::Text, true) => shaped!(layer.without_time()),
        (LogFormat::Json, false) => shaped!(layer.json().flatten_event(true)),
        (LogFormat::Json, true) => shaped!(layer.json().flatten_event(true).without_time()),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let put: Put = Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()));
    Ok((tracing_subscriber::registry().with(lines).with(repetition).with(filter), put))
}

impl Shape {
    fn begin(self, to: &mut Writer<'_>, level: Level) -> fmt::Result {
        if self.journal { write!(to, "<{}>", priority(level)) } else { Ok(()) }
    }

    fn tell(self, to: &mut Writer<'_>, held: &HeldBack) -> fmt::Result {
        let HeldBack { level, target, message, count } = held;
        self.begin(to, *level)?;
        let mut time = String::new();
        if !self.journal {
            SystemTime.format_time(&mut Writer::new(&mut time))?;
        }
        let (level, text) = (level.as_str(), format!("{count} more were held back: {message}"));
        match self.format {
            LogFormat::Text if self.journal => writeln!(to, "{level:>5} {target}: {text}"),
            LogFormat::Text => writeln!(to, "{time} {level:>5} {target}: {text}"),
            LogFormat::Json => {
                let mut line = json!({ "level": level, "message": text, "held_back": count, "target": target });
                if !self.journal {
                    line["timestamp"] = time.into();
                }
                writeln!(to, "{line}")
            }
        }
    }
}

/// The priority of an error, for what is said without the log: why a command ends.
pub(super) const LAST_WORDS: &str = "<3>";

/// As in `syslog(3)`.
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;
    use std::time::Duration;

    use tracing::{debug, error, info, warn};

    use super::*;
    use crate::clock::Manual;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written when five lines are logged, the third of them the second once more, and the last after a while.
    fn written(shape: Shape) -> Vec<String> {
        let (sink, clock) = (Sink::default(), Arc::new(Manual::at(jiff::Timestamp::UNIX_EPOCH)));
        let made = sink.clone();
        let subscriber = subscriber(shape, Arc::clone(&clock) as _, "debug", move || made.clone());
        tracing::subscriber::with_default(subscriber.unwrap().0, || {
            error!("cannot");
            for _ in 0..2 {
                warn!(key = "k", "refused");
            }
            debug!("detail");
            clock.advance(Duration::from_secs(10));
            info!(listeners = 2, "serving");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn for_journald_each_line_has_its_priority_and_no_time() {
        let target = "kmsproxy::cli::line::tests";
        let expected = [
            format!("<3>ERROR {target}: cannot"),
            format!("<4> WARN {target}: refused key=\"k\""),
            format!("<7>DEBUG {target}: detail"),
            format!("<6> INFO {target}: serving listeners=2"),
            format!("<4> WARN {target}: 1 more were held back: refused"),
        ];
        assert_eq!(written(Shape { format: LogFormat::Text, journal: true }), expected);
    }

    #[test]
    fn elsewhere_each_line_has_its_time_and_no_priority() {
        let lines = written(Shape { format: LogFormat::Text, journal: false });
        let rests: Vec<_> = lines.iter().map(|line| line.split_once("Z ").unwrap()).collect();
        assert!(rests.iter().all(|(time, _)| time.parse::<jiff::civil::DateTime>().is_ok()), "{lines:?}");
        let ends: Vec<_> = rests.iter().map(|(_, rest)| rest.rsplit(": ").next().unwrap()).collect();
        assert_eq!(ends, ["cannot", "refused key=\"k\"", "detail", "serving listeners=2", "refused"]);
    }

    #[test]
    fn as_json_each_line_is_one_object_behind_its_priority() {
        let lines = written(Shape { format: LogFormat::Json, journal: true });
        let objects: Vec<serde_json::Value> =
            lines.iter().map(|line| serde_json::from_str(line.split_once('>').unwrap().1).unwrap()).collect();
        let told: Vec<_> = objects.iter().map(|one| (one["level"].clone(), one["message"].clone())).collect();
        assert_eq!(told[4], ("WARN".into(), "1 more were held back: refused".into()));
        assert_eq!(objects[1]["key"], "k");
        assert!(objects.iter().all(|one| one.get("timestamp").is_none()));
    }
}
