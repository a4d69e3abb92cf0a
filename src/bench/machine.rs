//! The machine, and what of it a reader of figures must know.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::processors::Processors;
use super::record::{Machine, Phase, Run};

/// What this is measured on.
pub(super) fn machine(processors: &Processors) -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let load = read("/proc/loadavg");
    Machine {
        processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        model: model.map_or_else(|| "an unnamed processor".to_owned(), |(_, name)| name.trim().to_owned()),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        split: processors.to_string(),
        load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
    }
}

/// As many files as the machine allows, for crowds of connections; children inherit it.
pub(super) fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it is not raised, a crowd says that it has too many open files.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Becomes true when somebody wants an end: Ctrl-C or SIGTERM. Then what was measured is told, and children are stopped.
pub(super) fn interrupted() -> Arc<AtomicBool> {
    use tokio::signal::unix::{SignalKind, signal};
    let flag = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&flag);
    let listen = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            told.store(true, Ordering::Relaxed);
            Ok::<_, std::io::Error>(())
        })
    };
    // Without it a signal ends the process at once, as it does by default.
    let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(listen);
    flag
}

/// What makes figures of this run worth less than they look.
pub(super) fn notes(run: &Run) -> Vec<String> {
    let mut notes = Vec::new();
    let phases = || run.targets.iter().flat_map(|target| target.phases.iter().map(move |phase| (target, phase)));
    if phases().any(|(_, phase)| phase.kind == "closed") {
        notes.push(
            "closed loop: callers wait for answers, so that a slow target is asked less; its latencies are not what users \
             of a fixed rate would have"
                .to_owned(),
        );
    }
    if let Some((target, phase)) = phases().find(|(_, phase)| phase.kind == "closed" && phase.client_share > BUSY) {
        let share = phase.client_share * 100.0;
        notes.push(format!(
            "the client was busy for {share:.0} % of {}'s {:?}: the target may be faster than this says; its CPU for a call \
             tells more",
            target.name, phase.name
        ));
    }
    if let Some((target, phase)) = phases().find(|(_, phase)| lags(phase)) {
        notes.push(format!(
            "the client itself began 1 % of its calls more than a millisecond late ({}, {:?}): the highest percentiles are \
             partly the client's, or the machine's",
            target.name, phase.name
        ));
    }
    if let Some((target, phase)) = phases().find(|(_, phase)| falls_short(phase)) {
        notes.push(format!(
            "{} did not keep up with {:.0} calls a second ({:?}): latencies grew for as long as it lasted",
            target.name,
            phase.offered_per_second.unwrap_or_default(),
            phase.name
        ));
    }
    if run.machine.processors < 2 {
        notes.push("client and target share one processor: both figures are of their turns on it".to_owned());
    }
    if run.machine.load > run.machine.processors as f64 / 2.0 {
        notes.push(format!("the machine had other work: its load was {:.1} when this began", run.machine.load));
    }
    notes
}

fn lags(phase: &Phase) -> bool {
    phase.client_lag_p99_us.is_some_and(|lag| lag > LAG_MAX_MICROS)
}

fn falls_short(phase: &Phase) -> bool {
    phase.offered_per_second.is_some_and(|rate| {
        let ended = (phase.answered + phase.failed) as f64 / phase.seconds.max(0.001);
        phase.seconds > 1.0 && ended < rate * 0.9
    })
}

const BUSY: f64 = 0.9;
const LAG_MAX_MICROS: f64 = 1000.0;
