//! `kmsproxy bench`: load on any face, from outside, and what it came to.
//!
//! The client is a process that speaks to sockets: it uses of this crate what writes and signs requests, and nothing of
//! what answers them. `docs/bench.md` is for who uses it.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::clock::{Clock as _, Deadline, System};

mod bare;
mod choice;
mod compare;
mod control;
mod course;
mod deks;
mod driver;
mod endpoint;
mod face;
mod help;
mod line;
mod load;
mod machine;
mod measured;
mod page;
mod preparation;
mod process;
mod processors;
mod progress;
pub mod record;
mod scenario;
mod source;
mod spawned;
mod speech;
mod stage;
mod stream;
mod table;
mod target;

use choice::Choice;
pub use help::BENCH_HELP;
use help::{
    CHURN_HELP, COLD_HELP, DISABLE_HELP, HIT_HELP, IDLE_HELP, MIXED_HELP, OUTAGE_HELP, RESTART_HELP, STORM_HELP,
};
use processors::Processors;
use progress::Progress;
use record::{Run, SCHEMA};
use scenario::Scenario;
use stage::{House, Stage};

/// `kmsproxy bench`.
#[derive(Debug, Args)]
pub struct BenchCommand {
    #[command(subcommand)]
    plot: Plot,
}

#[derive(Debug, Subcommand)]
enum Plot {
    /// Cached DEKs, steadily: what a hit costs, and how long it takes
    #[command(after_help = HIT_HELP)]
    Hit(Played<scenario::hit::Hit>),
    /// Everybody wants one DEK that nobody has: how many remote calls, and when the last waiter has it
    #[command(after_help = STORM_HELP)]
    Storm(Played<scenario::storm::Storm>),
    /// kube-apiservers start: how long until each has read its Secrets, with a cold cache, a warm one, and after a crash
    #[command(after_help = RESTART_HELP)]
    Restart(Played<scenario::restart::Restart>),
    /// Many DEKs that nobody has, against a quota: how near to the least possible time, and what was refused
    #[command(after_help = COLD_HELP)]
    Cold(Played<scenario::cold::Cold>),
    /// Few DEKs often, many seldom (Zipf), and writes between: the share of remote calls, and latencies as users have them
    #[command(after_help = MIXED_HELP)]
    Mixed(Played<scenario::mixed::Mixed>),
    /// Connections that have asked once and say nothing more: what each costs in memory
    #[command(after_help = IDLE_HELP)]
    Idle(Played<scenario::idle::Idle>),
    /// Ciphertexts that come once flood a set that is read all the time: what that does to the set
    #[command(after_help = CHURN_HELP)]
    Churn(Played<scenario::churn::Churn>),
    /// The revocation drill: seconds from disabling the key to the last plaintext, with traffic and without
    #[command(after_help = DISABLE_HELP)]
    Disable(Played<scenario::disable::Disable>),
    /// The KMS stalls, fails, throttles and comes back: what hits and cold reads get meanwhile
    #[command(after_help = OUTAGE_HELP)]
    Outage(Played<scenario::outage::Outage>),
    /// Make one page of runs that were written down with --json
    Report(Report),
    /// Answer one constant to everything: the yardstick that --compare starts for itself
    #[command(hide = true)]
    BareResponder(bare::Responder),
}

#[derive(Debug, Args)]
struct Played<S: Args> {
    #[command(flatten)]
    own: S,
    #[command(flatten)]
    common: Common,
}

/// What all scenarios take.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    choice: Choice,
    /// How often the whole is done; with --compare both targets in turns, and then 5 times unless written
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Load")]
    rounds: Option<u32>,
    /// Connections, which are kept [default: as many as the callers; of HTTP/2 up to 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000), help_heading = "Load")]
    connections: Option<u32>,
    /// Threads of the client
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64), help_heading = "Load")]
    client_threads: u32,
    /// How long a call is waited for; later it counts as failed
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = span, help_heading = "Load")]
    patience: Duration,
    /// When everything ends in any case, preparations included
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = long_span, help_heading = "Load")]
    time_limit: Duration,
    /// Print one object of JSON to standard output in place of the table; docs/bench.md has its shape
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Write a page with plots to FILE: whole in itself, for any browser
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    report: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Report {
    /// What --json printed
    #[arg(value_name = "RUN.json", required = true)]
    runs: Vec<PathBuf>,
    /// The page
    #[arg(long, value_name = "FILE", default_value = "bench.html")]
    report: PathBuf,
}

/// Why a run has no result, or none that counts.
#[derive(Debug)]
pub enum Failure {
    /// The command line asks for what cannot be.
    Usage(String),
    /// It ran, and could not go on.
    Runtime(String),
    /// A plaintext was wrong, in that phase.
    Wrong(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Runtime(why) => f.write_str(why),
            Self::Wrong(phase) => write!(
                f,
                "{phase}: a plaintext came back that is not the one that was put in. The run was ended there\n  \
                 remedy: do not use this target; whoever wrote with it may be unable to read"
            ),
        }
    }
}

impl BenchCommand {
    /// Runs it, and prints what it came to.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(self, command: &[OsString]) -> Result<(), Failure> {
        use scenario::{churn, cold, disable, hit, idle, mixed, outage, restart, storm};
        let deks = deks::Deks::default;
        match self.plot {
            Plot::Hit(play) => play.play("hit", command, |options, side| {
                let mut options = options.clone();
                options.deks = side.deks.unwrap_or(options.deks);
                Box::new(hit::Hits { options, deks: deks(), each: None })
            }),
            Plot::Storm(play) => play.play("storm", command, |options, _| Box::new(storm::Storms(options.clone()))),
            Plot::Restart(play) => play.play("restart", command, |options, _| {
                Box::new(restart::Restarts { options: options.clone(), deks: deks() })
            }),
            Plot::Cold(play) => play.play("cold", command, |options, _| Box::new(cold::Colds(options.clone()))),
            Plot::Mixed(play) => play.play("mixed", command, |options, _| {
                Box::new(mixed::Mixture { options: options.clone(), deks: deks(), round: 0 })
            }),
            Plot::Idle(play) => play
                .play("idle", command, |options, _| Box::new(idle::Idlers { options: options.clone(), deks: deks() })),
            Plot::Churn(play) => play
                .play("churn", command, |options, _| Box::new(churn::Churns { options: options.clone(), hot: deks() })),
            Plot::Disable(play) => play.play("disable", command, |options, _| {
                Box::new(disable::Drill { options: options.clone(), deks: deks() })
            }),
            Plot::Outage(play) => play.play("outage", command, |options, _| {
                Box::new(outage::Outages { options: options.clone(), deks: deks() })
            }),
            Plot::Report(report) => report.run(),
            Plot::BareResponder(responder) => responder.run().map_err(|error| Failure::Runtime(error.to_string())),
        }
    }
}

impl<S: Args> Played<S> {
    fn play(
        self,
        name: &str,
        command: &[OsString],
        scenario: impl Fn(&S, &choice::Side) -> Box<dyn Scenario>,
    ) -> Result<(), Failure> {
        let Self { own, common } = self;
        let sides = common.choice.sides().map_err(Failure::Usage)?;
        let mut scenarios: Vec<_> = sides.iter().map(|side| scenario(&own, side)).collect();
        if let Some((side, _)) = sides.iter().zip(&scenarios).find(|(side, own)| side.is_bare() && !own.takes_bare()) {
            return Err(Failure::Usage(format!(
                "{} answers a constant: it plays `hit`, `idle` and `storm` only",
                side.text
            )));
        }
        machine::raise_open_files();
        let processors = if common.choice.shares(&sides) { Processors::shared() } else { Processors::parted() };
        let interrupted = machine::interrupted();
        let house = House {
            processors,
            progress: Progress::new(false),
            interrupted,
            begun: System.now(),
            deadline: Deadline::after(System.now(), common.time_limit),
            patience: common.patience,
            threads: common.client_threads,
            connections: common.connections.map(|connections| connections as usize),
        };
        let mut run = begun(name, command, &house);
        house.processors.for_client();
        let mut stages = Vec::new();
        for (side, scenario) in sides.iter().zip(&scenarios) {
            let target = common.choice.open(side, scenario.as_ref(), &house)?;
            run.targets.push(record::Target {
                name: side.text.clone(),
                address: target.endpoint.to_string(),
                face: target.terms.face,
                phases: Vec::new(),
            });
            stages.push(Stage::new(target, &house));
        }
        let played = rounds(&mut run, &mut stages, &mut scenarios, common.rounds);
        drop(stages);
        if house.interrupted.load(Ordering::Relaxed) {
            run.interrupted = true;
            run.notes.push("this run was ended early, by a signal or by --time-limit".to_owned());
        }
        drop(house);
        common.tell(&mut run)?;
        played
    }
}

/// Plays all rounds; what was measured until something stood in the way is in the run.
fn rounds(
    run: &mut Run,
    stages: &mut [Stage<'_>],
    scenarios: &mut [Box<dyn Scenario>],
    rounds: Option<u32>,
) -> Result<(), Failure> {
    let rounds = rounds.unwrap_or(if stages.len() > 1 { ROUNDS } else { 1 });
    // A responder that answers a constant is asked with the bytes that the other is asked with.
    let mut order: Vec<usize> = (0..stages.len()).collect();
    order.sort_by_key(|&at| stages[at].target.is_bare());
    for &at in &order {
        if stages[at].target.is_bare() {
            stages[at].echo =
                order.first().and_then(|&other| scenarios[other].deks().cloned()).filter(|deks| deks.len() > 0);
        }
        scenarios[at].prepare(&mut stages[at])?;
    }
    let mut outcome = Ok(());
    for round in 1..=rounds {
        // Not always the same one first.
        order.sort_unstable();
        if round % 2 == 0 {
            order.reverse();
        }
        for &at in &order {
            match scenarios[at].round(&mut stages[at]) {
                Ok(phases) => {
                    let phases = phases.into_iter().map(|phase| record::Phase { round, ..phase });
                    run.targets[at].phases.extend(phases);
                }
                Err(failure) => outcome = Err(failure),
            }
            if outcome.is_err() || stages[at].house.interrupted.load(Ordering::Relaxed) {
                return summed(run, stages, round.saturating_sub(1), outcome);
            }
        }
    }
    summed(run, stages, rounds, outcome)
}

fn summed(run: &mut Run, stages: &[Stage<'_>], rounds: u32, outcome: Result<(), Failure>) -> Result<(), Failure> {
    run.verified = stages.iter().map(|stage| stage.verified).sum();
    run.wrong = stages.iter().map(|stage| stage.wrong).sum();
    run.comparison = compare::compare(&run.targets, rounds);
    run.notes = machine::notes(run);
    outcome?;
    let phases = || run.targets.iter().flat_map(|target| &target.phases);
    if phases().all(|phase| phase.answered == 0) {
        let class = phases().flat_map(|phase| phase.errors.keys()).next().map_or("nothing was asked", String::as_str);
        return Err(Failure::Runtime(format!("no call was answered: {class}")));
    }
    Ok(())
}

fn begun(name: &str, command: &[OsString], house: &House) -> Run {
    Run {
        schema: SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        scenario: name.to_owned(),
        command: command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        at: System.wall(),
        machine: machine::machine(&house.processors),
        targets: Vec::new(),
        comparison: None,
        notes: Vec::new(),
        verified: 0,
        wrong: 0,
        interrupted: false,
    }
}

impl Common {
    fn tell(&self, run: &mut Run) -> Result<(), Failure> {
        if run.targets.iter().all(|target| target.phases.is_empty()) {
            return Ok(());
        }
        let text = if self.json {
            let json = serde_json::to_string(run).map_err(|error| Failure::Runtime(error.to_string()))?;
            json + "\n"
        } else {
            table::render(run)
        };
        // A reader that went away, as head does, has what it wanted.
        let _ = io::stdout().lock().write_all(text.as_bytes());
        self.report.as_deref().map_or(Ok(()), |file| write_page(file, std::slice::from_ref(run)))
    }
}

impl Report {
    fn run(&self) -> Result<(), Failure> {
        let read = |path: &PathBuf| {
            let failed = |error: &dyn fmt::Display| Failure::Runtime(format!("{}: {error}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
            let run: Run = serde_json::from_str(&text).map_err(|error| failed(&error))?;
            if run.schema == SCHEMA { Ok(run) } else { Err(failed(&format!("{} is not {SCHEMA}", run.schema))) }
        };
        let runs = self.runs.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        write_page(&self.report, &runs)
    }
}

fn write_page(file: &Path, runs: &[Run]) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Runtime(format!("{}: {error}", file.display()));
    std::fs::write(file, page::render(runs)).map_err(failed)
}

/// A time with a unit, of at most ten minutes.
fn span(text: &str) -> Result<Duration, String> {
    long_span(text).and_then(|span| if span <= SPAN_MAX { Ok(span) } else { Err("at most 10m".to_owned()) })
}

fn long_span(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|_| "write a number with a unit, such as 10s".to_owned())?;
    let span = Duration::try_from(span).map_err(|_| "a time is not negative".to_owned())?;
    if span <= LIMIT_MAX { Ok(span) } else { Err("at most 6h".to_owned()) }
}

const ROUNDS: u32 = 5;
const SPAN_MAX: Duration = Duration::from_secs(600);
const LIMIT_MAX: Duration = Duration::from_secs(6 * 3600);
