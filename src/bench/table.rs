//! A run, as people read it.

use std::fmt::Write as _;

use super::record::{Comparison, Phase, Run, Target};

/// The whole of it. Loops that are not open are marked as such wherever they stand.
pub(super) fn render(run: &Run) -> String {
    let mut text = String::new();
    let machine = &run.machine;
    // Writing to a String cannot fail.
    let _ = writeln!(text, "kmsproxy bench {}, {}", run.scenario, run.at.strftime("%Y-%m-%d %H:%M:%S UTC"));
    let _ = writeln!(text, "{}, {}; load {:.2}", machine.model, machine.split, machine.load);
    for target in &run.targets {
        put_target(target, &mut text);
    }
    if let Some(comparison) = &run.comparison {
        put_comparison(comparison, &mut text);
    }
    for note in &run.notes {
        let _ = writeln!(text, "\nnote: {note}");
    }
    let wrong = if run.wrong == 0 { "none was wrong".to_owned() } else { format!("{} WERE WRONG", run.wrong) };
    let _ = writeln!(text, "\n{} answers were verified, {wrong}", run.verified);
    text
}

fn put_target(target: &Target, text: &mut String) {
    let _ = writeln!(text, "\n{} ({}, {})", target.name, target.face, target.address);
    let width = target.phases.iter().map(|phase| title(phase).chars().count()).max().unwrap_or(0).max(5);
    let _ = writeln!(
        text,
        "  {:width$} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7} {:>8} {:>7}",
        "µs", "answered", "a second", "p50", "p90", "p99", "p99.9", "p99.99", "max", "CPU", "remote", "MiB"
    );
    for phase in &target.phases {
        put_phase(phase, width, text);
    }
}

fn put_phase(phase: &Phase, width: usize, text: &mut String) {
    let latency = phase.latency_us;
    let micros = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), short);
    let cells = [
        micros(latency.map(|latency| latency.p50)),
        micros(latency.map(|latency| latency.p90)),
        micros(latency.map(|latency| latency.p99)),
        micros(latency.map(|latency| latency.p999)),
        micros(latency.map(|latency| latency.p9999)),
        micros(latency.map(|latency| latency.max)),
    ];
    let _ = write!(text, "  {:width$} {:>9} {:>9.0}", title(phase), phase.answered, phase.per_second);
    for cell in cells {
        let _ = write!(text, " {cell:>8}");
    }
    let cpu = phase.cpu_us_per_call.map_or_else(|| "–".to_owned(), |cpu| format!("{cpu:.1}"));
    let remote = phase.remote_calls.map_or_else(|| "–".to_owned(), |calls| calls.to_string());
    let memory = phase.rss_bytes.map_or_else(|| "–".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1048576.0));
    let _ = writeln!(text, " {cpu:>7} {remote:>8} {memory:>7}");
    for (class, count) in &phase.errors {
        let _ = writeln!(text, "    {count} × {class}");
    }
    for (name, value) in &phase.figures {
        let _ = writeln!(text, "    {name}: {value:.3}");
    }
}

/// The phase with its loop: nobody shall take a closed loop's latencies for an open one's.
fn title(phase: &Phase) -> String {
    let kind = match (phase.offered_per_second, phase.callers) {
        (Some(rate), _) => format!("open, {rate:.0}/s"),
        (None, Some(callers)) => format!("CLOSED, {callers} callers"),
        (None, None) => phase.kind.clone(),
    };
    let round = if phase.round > 1 { format!(" #{}", phase.round) } else { String::new() };
    format!("{}{round} [{kind}]", phase.name)
}

fn put_comparison(comparison: &Comparison, text: &mut String) {
    let Comparison { of, to, rounds, ratios } = comparison;
    let _ = writeln!(text, "\n{of} ÷ {to}, medians of {rounds} rounds in turns");
    let width = ratios.iter().map(|ratio| ratio.phase.chars().count()).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "  {:width$} {:16} {:>10} {:>10} {:>7}   least to most",
        "",
        "",
        clipped(of),
        clipped(to),
        "ratio"
    );
    for ratio in ratios {
        let noisy = if ratio.noisy { "   TOO NOISY TO JUDGE" } else { "" };
        let _ = writeln!(
            text,
            "  {:width$} {:16} {:>10} {:>10} {:>7.2}   {:.2} to {:.2}{noisy}",
            ratio.phase,
            ratio.measure,
            short(ratio.of),
            short(ratio.to),
            ratio.median,
            ratio.least,
            ratio.most
        );
    }
    if ratios.iter().any(|ratio| ratio.noisy) {
        let _ = writeln!(
            text,
            "  Too noisy: fewer than 3 rounds, or one round's ratio above {} times another's. Try more rounds, longer\n  \
             ones, or a machine with nothing else to do.",
            super::compare::NOISE_MAX
        );
    }
}

fn clipped(name: &str) -> String {
    name.chars().take(10).collect()
}

fn short(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}
