//! What this runs on, and what else runs there.

use std::fs::read_to_string;

pub(crate) fn print() {
    let cpus = read_to_string("/proc/cpuinfo").unwrap();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("a processor without a name", |(_, model)| model);
    let cores = std::thread::available_parallelism().unwrap();
    println!("{}: {cores} × {model}", jiff::Timestamp::now().strftime("%F %H:%M UTC"));
}

/// Processes that want a processor, over one, five and fifteen minutes.
pub(crate) fn load() -> String {
    let load = read_to_string("/proc/loadavg").unwrap();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
