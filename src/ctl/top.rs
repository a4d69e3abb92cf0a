//! `kmsproxy top`: what `status` tells, once a second, on a terminal.

use std::io;
use std::time::Duration;

use clap::Args;
use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::orders::Asking;
use super::{Daemon, Error};
use crate::config::Environment;

mod course;
mod drawing;

use course::Course;

/// `kmsproxy top`.
#[derive(Debug, Args)]
pub struct TopCommand {
    #[command(flatten)]
    daemon: Daemon,
    /// Ask so often, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
}

impl TopCommand {
    /// Draws until somebody ends it. The terminal is as it was afterwards, also after a panic or a signal.
    ///
    /// # Errors
    /// See [`Error`]: also where the daemon cannot be asked at the first time. Later, that is shown.
    pub fn run(self, environment: Environment) -> Result<(), Error> {
        let every = Duration::from_secs(self.every);
        let asking = Asking::at(self.daemon, environment)?;
        let mut course = Course::default();
        course.heard(asking.status()?);
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(Error::Terminal)?;
        // It puts the terminal back as it was where anything panics.
        let mut terminal = ratatui::try_init().map_err(Error::Terminal)?;
        let ended = runtime.block_on(watch(&mut terminal, asking, course, every));
        let restored = ratatui::try_restore();
        // A thread may wait for a key that never comes.
        runtime.shutdown_background();
        ended.and(restored).map_err(Error::Terminal)
    }
}

async fn watch(terminal: &mut DefaultTerminal, asking: Asking, mut course: Course, every: Duration) -> io::Result<()> {
    let mut told = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let [terminate, interrupt, hangup] = &mut told;
    let (terminate, interrupt, hangup) = (taken(terminate)?, taken(interrupt)?, taken(hangup)?);
    let mut keys = keys();
    let (ask, mut answers) = answers(asking);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        terminal.draw(|frame| drawing::draw(frame, &course))?;
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            event = keys.recv() => match event {
                Some(Event::Key(key)) if ends(&key) => return Ok(()),
                // Another size: drawn anew.
                Some(_) => {}
                None => return Ok(()),
            },
            // Where one is under way, that is enough.
            _ = ticks.tick() => drop(ask.try_send(())),
            Some(answer) = answers.recv() => match answer {
                Ok(status) => course.heard(status),
                Err(error) => course.failed(&error),
            },
        }
    }
}

fn taken(signal: &mut io::Result<tokio::signal::unix::Signal>) -> io::Result<&mut tokio::signal::unix::Signal> {
    signal.as_mut().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

fn ends(key: &KeyEvent) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (control_c || matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc))
}

/// What is pressed, from a thread that waits for it; ends with the terminal.
fn keys() -> mpsc::Receiver<Event> {
    let (heard, keys) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        while let Ok(event) = crossterm::event::read() {
            if heard.blocking_send(event).is_err() {
                return;
            }
        }
    });
    keys
}

/// A thread that asks whenever it is told to.
fn answers(asking: Asking) -> (mpsc::Sender<()>, mpsc::Receiver<Result<crate::admin::Status, Error>>) {
    let (ask, mut asked) = mpsc::channel(1);
    let (answer, answers) = mpsc::channel(1);
    std::thread::spawn(move || {
        while asked.blocking_recv().is_some() {
            if answer.blocking_send(asking.status()).is_err() {
                return;
            }
        }
    });
    (ask, answers)
}

const KEYS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_and_escape_and_control_c_end_it_and_nothing_else_does() {
        let key = |code, modifiers| KeyEvent::new(code, modifiers);
        for ending in [
            key(KeyCode::Char('q'), KeyModifiers::NONE),
            key(KeyCode::Esc, KeyModifiers::NONE),
            key(KeyCode::Char('c'), KeyModifiers::CONTROL),
        ] {
            assert!(ends(&ending), "{ending:?}");
        }
        for other in [key(KeyCode::Char('c'), KeyModifiers::NONE), key(KeyCode::Enter, KeyModifiers::NONE)] {
            assert!(!ends(&other), "{other:?}");
        }
    }
}
