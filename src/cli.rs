//! The command line.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::app;
use crate::audit::Destination;
use crate::audit::verify::Verdict;
use crate::bench::{BENCH_HELP, BenchCommand};
use crate::config::{self, Config, Environment, Mistakes, Plan, Sources, Unbindable};
use crate::ctl;
use crate::verbosity;

mod exit;
mod help;
mod lines;

pub use exit::Exit;
use help::{
    AFTER_HELP, CHECK_HELP, DEV_HELP, EMULATOR_HELP, EXPLAIN_HELP, LOG_LEVEL_HELP, ORDERS_HELP, PURGE_HELP,
    RELOAD_HELP, SERVE_HELP, STATUS_HELP, TOP_HELP,
};
use lines::{Lines, Rest};

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os(), Environment::of_process()).into()
}

/// A local, caching, fail-closed proxy between Kubernetes KMS plugins and a cloud KMS.
///
/// A KMS plugin asks kmsproxy in the place of the KMS. kmsproxy asks the KMS with credentials of its own, remembers
/// what it unwrapped for as long as the KMS goes on allowing it, and closes when the KMS refuses or falls silent.
#[derive(Debug, Parser)]
#[command(name = "kmsproxy", version, after_help = AFTER_HELP, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    logging: Logging,
}

#[derive(Debug, Args)]
struct Logging {
    /// How much to log to standard error: off, error, warn, info, debug or trace, also for one module
    /// (`info,kmsproxy::watch=debug`). Also KMSPROXY_LOG. [default: info]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = filter)]
    log: Option<String>,
    /// In which form to log. Also KMSPROXY_LOG_FORMAT. [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One object for each line, for machines.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon that a configuration file describes
    #[command(after_help = SERVE_HELP)]
    Serve(Serve),
    /// Try it: the daemon in front of an embedded KMS, with everything made up for you
    ///
    /// Makes a certificate authority, a server certificate, an access key and a KMS key, listens with TLS on loopback,
    /// and prints what to paste for each client. Needs no configuration and no cloud account. Ctrl-C ends it; the keys
    /// survive in the state directory.
    #[command(after_help = DEV_HELP)]
    Dev(Embedded<8443>),
    /// Run the embedded KMS alone: Alibaba Cloud KMS on your machine, with failures on demand
    ///
    /// For tests of anything that speaks the Alibaba Cloud KMS OpenAPI. Its keys are software keys in a directory: not
    /// a KMS to keep secrets with.
    #[command(after_help = EMULATOR_HELP)]
    Emulator(Embedded<8444>),
    /// Say everything that is wrong with a configuration, and how to mend it
    ///
    /// Does what `serve` does before it serves: reads the file, follows every reference, tries every TCP address. Tells
    /// all mistakes at once on standard error, each with its line and its remedy.
    #[command(after_help = CHECK_HELP)]
    Check(Check),
    /// Ask a running daemon for its keys: the state of each, and under which versions DEKs were asked for
    ///
    /// Tells after a rotation whether anything was seen under an old version of a key. Asks over the admin socket, which
    /// is for root and for the user that the daemon runs as.
    #[command(after_help = STATUS_HELP)]
    Status(ctl::StatusCommand),
    /// Have a running daemon read its configuration again: whole, or not at all
    ///
    /// Prints what has changed. Whatever is wrong, or takes a restart, is told with its remedy, and then nothing has
    /// changed. SIGHUP does the same, and tells the log alone.
    #[command(after_help = RELOAD_HELP)]
    Reload(ctl::ReloadCommand),
    /// Watch a running daemon: a live view of what status tells; q ends it
    ///
    /// Rates and percentiles are of the last seconds. Asks once a second, and costs the data path nothing.
    #[command(after_help = TOP_HELP)]
    Top(ctl::TopCommand),
    /// Ask a running daemon for its keys: how many DEKs of each are cached, and the state of its lease
    #[command(after_help = ORDERS_HELP)]
    Keys(ctl::KeysCommand),
    /// Have a running daemon wipe what it keeps: all of it, a key's, a caller's, or what answers one ciphertext
    ///
    /// What is wiped is asked of the KMS again when somebody wants it; an answer that was under way does not bring it back.
    /// Leases stay as they are. Connections that may have carried it are closed after what is under way on them.
    #[command(after_help = PURGE_HELP)]
    Purge(ctl::PurgeCommand),
    /// Have a running daemon ask the KMS again for everything that it keeps of a key, and whether the key still works
    ///
    /// In the background, behind what callers ask for; status shows how it goes.
    #[command(after_help = ORDERS_HELP)]
    Refresh(ctl::RefreshCommand),
    /// Have a running daemon end as by SIGTERM: no new connections, what is under way is answered
    #[command(after_help = ORDERS_HELP)]
    Drain(ctl::DrainCommand),
    /// Ask a running daemon what it would do with a ciphertext, read in base64 from standard input, and why
    ///
    /// Asks no KMS, changes nothing, and the ciphertext is not logged.
    #[command(after_help = EXPLAIN_HELP)]
    Explain(ctl::ExplainCommand),
    /// Ask a running daemon how much it logs, or change that until it ends
    #[command(after_help = LOG_LEVEL_HELP)]
    LogLevel(ctl::LogLevelCommand),
    /// Look over an audit log
    Audit(ctl::AuditCommand),
    /// Load a kmsproxy, or a KMS, and measure what comes of it
    ///
    /// Latency counts from a schedule (open loop); one wrong plaintext fails the run. Loads this machine only.
    #[command(after_help = BENCH_HELP)]
    Bench(Box<BenchCommand>),
}

#[derive(Debug, Args)]
struct Configured {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = config::FILE)]
    config: PathBuf,
    /// Change one setting, over the file and the environment; may be given again
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
}

#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    configured: Configured,
    /// Print one machine-readable line to standard output when ready: where it listens
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    configured: Configured,
    /// Print the effective configuration to standard output, defaults filled in, secrets never
    #[arg(long)]
    print: bool,
    /// Take DIR for / when looking for the files that the configuration names, and try no address: for packages and
    /// tests that check a configuration of another machine
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Embedded<const PORT: u16> {
    /// Where keys and certificates are kept, mode 0700 [default: kmsproxy/ in the state directory of this user]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from(([127, 0, 0, 1], PORT)))]
    listen: SocketAddr,
    /// How long the embedded KMS takes for each call, such as 20ms
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = span)]
    kms_latency: Duration,
    /// Append every decision of the embedded KMS to FILE, as a line of JSON: allowed or refused, which key and context,
    /// with digests of ciphertext and plaintext, and when by CLOCK_BOOTTIME. For tests that compare it with what
    /// clients were told
    #[arg(long, value_name = "FILE")]
    decisions: Option<PathBuf>,
    /// Print one machine-readable line to standard output when ready, and nothing else
    #[arg(long)]
    json: bool,
}

/// As [`main`], of a process that was started otherwise: `arguments` begin with the name of the program.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = OsString>, environment: Environment) -> Exit {
    let words: Vec<OsString> = arguments.into_iter().collect();
    let arguments = match Arguments::try_parse_from(&words) {
        Ok(arguments) => arguments,
        Err(message) => return parted(&message),
    };
    let _written = match arguments.logging.start(&environment) {
        Ok(guard) => guard,
        Err(message) => return ended(Exit::Usage, message),
    };
    match arguments.command {
        Command::Serve(serve) => serve.run(environment),
        Command::Check(check) => check.run(environment),
        Command::Status(status) => obeyed(status.run(environment)),
        Command::Reload(reload) => obeyed(reload.run(environment)),
        Command::Top(top) => obeyed(top.run(environment)),
        Command::Keys(keys) => obeyed(keys.run(environment)),
        Command::Purge(purge) => obeyed(purge.run(environment)),
        Command::Refresh(refresh) => obeyed(refresh.run(environment)),
        Command::Drain(drain) => obeyed(drain.run(environment)),
        Command::Explain(explain) => obeyed(explain.run(environment)),
        Command::LogLevel(level) => obeyed(level.run(environment)),
        Command::Audit(audit) => judged(audit.run(&environment)),
        Command::Bench(bench) => {
            bench.run(&words).map_or_else(|failure| ended(Exit::from(&failure), failure), |()| Exit::Done)
        }
        Command::Dev(embedded) => embedded.run(&environment, "dev", app::dev),
        Command::Emulator(embedded) => embedded.run(&environment, "emulator", app::emulator),
    }
}

impl Serve {
    fn run(self, environment: Environment) -> Exit {
        let sources = self.configured.sources(environment, None);
        let (config, plan) = match config::load(&sources) {
            Ok(loaded) => loaded,
            Err(mistakes) => return mistaken(&mistakes),
        };
        let recorded = plan.audit.as_ref().is_some_and(|audit| audit.destination == Destination::Stdout);
        if self.json && recorded {
            return ended(Exit::Usage, "--json would stand among the records of audit.sink = \"stdout\"");
        }
        match free(&plan) {
            Ok(()) => finished(app::serve(app::Loaded { sources, config, plan }, self.json)),
            Err(exit) => exit,
        }
    }
}

fn free(plan: &Plan) -> Result<(), Exit> {
    plan.try_addresses().map_err(|unbindable| match unbindable {
        Unbindable::Mistaken(mistakes) => mistaken(&mistakes),
        taken @ Unbindable::Taken { .. } => ended(Exit::Taken, taken),
    })
}

impl Configured {
    fn sources(self, environment: Environment, root: Option<PathBuf>) -> Sources {
        Sources { file: self.config, environment, overrides: self.overrides, root }
    }
}

impl Check {
    fn run(self, environment: Environment) -> Exit {
        let sources = self.configured.sources(environment, self.root);
        let (config, plan) = match config::load(&sources) {
            Ok(loaded) => loaded,
            Err(mistakes) => return mistaken(&mistakes),
        };
        let tried = if sources.root.is_some() { Ok(()) } else { plan.try_addresses() };
        if let Err(Unbindable::Mistaken(mistakes)) = &tried {
            return mistaken(mistakes);
        }
        if let Err(error) = Self::verdict(self.print, &config) {
            return ended(Exit::Runtime, error);
        }
        if let Some(shortfall) = sources.root.is_none().then(|| app::descriptors::shortfall(&plan)).flatten() {
            say(format_args!("warning: {shortfall}"));
        }
        tried.map_or_else(|taken| ended(Exit::Taken, taken), |()| Exit::Done)
    }

    /// Says that the configuration is valid: to standard output, or to the other stream where the configuration itself
    /// is printed, so that the output reads back.
    fn verdict(print: bool, config: &Config) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if !print {
            return writeln!(out, "configuration is valid");
        }
        let text = config.to_toml().map_err(io::Error::other)?;
        say("configuration is valid");
        out.write_all(text.as_bytes())
    }
}

type Start = fn(&app::Options, app::Environment<'_>) -> Result<(), app::Error>;

impl<const PORT: u16> Embedded<PORT> {
    fn run(self, environment: &Environment, name: &str, start: Start) -> Exit {
        let default = || environment.state_home().map(|home| home.join("kmsproxy").join(name));
        let Some(state_dir) = self.state_dir.or_else(default) else {
            return ended(Exit::Usage, "neither XDG_STATE_HOME nor HOME is set\n  remedy: give --state-dir DIR");
        };
        let Self { listen, kms_latency, decisions, json, .. } = self;
        finished(start(&app::Options { state_dir, listen, kms_latency, decisions, json }, &environment.lookup()))
    }
}

impl Logging {
    /// Lines are written by a thread of their own, and dropped where that cannot keep up: a standard error that nobody
    /// reads shall not stop a request. What is left is written when the rest is dropped.
    fn start(&self, environment: &Environment) -> Result<Rest, String> {
        let level = self.log.as_deref().or_else(|| environment.text("KMSPROXY_LOG")).unwrap_or(LOG_DEFAULT);
        let filter = EnvFilter::try_new(level).map_err(|error| format!("KMSPROXY_LOG: {error}"))?;
        let format = match (self.log_format, environment.text("KMSPROXY_LOG_FORMAT")) {
            (Some(format), _) => format,
            (None, Some(format)) => {
                LogFormat::from_str(format, false).map_err(|_| "KMSPROXY_LOG_FORMAT: write text or json".to_owned())?
            }
            (None, None) => LogFormat::Text,
        };
        let (lines, rest) = Lines::to_standard_error();
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines).with_ansi(false);
        let started = match format {
            LogFormat::Text => {
                let builder = builder.with_filter_reloading();
                let handle = builder.reload_handle();
                verbosity::begin(level, move |filter| handle.reload(filter).map_err(|error| error.to_string()));
                builder.try_init()
            }
            LogFormat::Json => {
                let builder = builder.json().flatten_event(true).with_filter_reloading();
                let handle = builder.reload_handle();
                verbosity::begin(level, move |filter| handle.reload(filter).map_err(|error| error.to_string()));
                builder.try_init()
            }
        };
        started.map_err(|error| error.to_string()).map(|()| rest)
    }
}

/// What clap has to say, which is help and the version as well as errors.
fn parted(message: &clap::Error) -> Exit {
    let asked = matches!(message.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    // Nothing can be done about a closed terminal.
    let _ = message.print();
    if asked { Exit::Done } else { Exit::Usage }
}

fn finished(result: Result<(), app::Error>) -> Exit {
    match result {
        Ok(()) => Exit::Done,
        Err(error) => ended(Exit::from(&error), error),
    }
}

fn obeyed(result: Result<(), ctl::Error>) -> Exit {
    match result {
        Ok(()) => Exit::Done,
        Err(ctl::Error::Configuration(mistakes)) => mistaken(&mistakes),
        Err(error) => ended(if error.is_configuration() { Exit::Configuration } else { Exit::Runtime }, error),
    }
}

fn judged(result: Result<Verdict, ctl::AuditError>) -> Exit {
    match result {
        Ok(Verdict::Whole) => Exit::Done,
        Ok(Verdict::Incomplete) => Exit::Incomplete,
        Ok(Verdict::Broken) => Exit::Broken,
        Err(error @ ctl::AuditError::Usage(_)) => ended(Exit::Usage, error),
        Err(error @ ctl::AuditError::Unread(_)) => ended(Exit::Runtime, error),
    }
}

fn mistaken(mistakes: &Mistakes) -> Exit {
    for mistake in mistakes.list() {
        say(format_args!("error: {mistake}"));
    }
    let count = mistakes.list().len();
    say(format_args!("{count} {} in the configuration", if count == 1 { "mistake" } else { "mistakes" }));
    Exit::Configuration
}

fn ended(exit: Exit, message: impl std::fmt::Display) -> Exit {
    say(format_args!("error: {message}"));
    exit
}

fn say(message: impl std::fmt::Display) {
    // Nobody listens on a closed standard error; the exit code still tells.
    let _ = writeln!(io::stderr().lock(), "{message}");
}

fn filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn span(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|_| "write a number with a unit, such as 20ms".to_owned())?;
    Duration::try_from(span).map_err(|_| "a time is not negative".to_owned())
}

const LOG_DEFAULT: &str = "info";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_exit_code_is_told_in_the_help_and_is_its_own() {
        let codes = [
            (Exit::Done, 0),
            (Exit::Incomplete, 1),
            (Exit::Usage, 64),
            (Exit::Broken, 65),
            (Exit::Runtime, 70),
            (Exit::Taken, 75),
            (Exit::Configuration, 78),
        ];
        for (exit, code) in codes {
            assert_eq!(ExitCode::from(exit), ExitCode::from(code));
            assert!(AFTER_HELP.contains(&format!("\n{code:>4}  ")), "{code}");
        }
    }

    #[test]
    fn a_latency_has_a_unit_and_is_not_negative() {
        assert_eq!(span("20ms"), Ok(Duration::from_millis(20)));
        assert!(span("20").is_err());
        assert!(span("-20ms").is_err());
    }
}
