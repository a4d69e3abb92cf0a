//! What the kernel knows of a process.

use std::fs;
use std::time::Duration;

use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Vitals {
    pub(crate) resident_kib: u64,
    pub(crate) peak_kib: u64,
    pub(crate) threads: u64,
    pub(crate) descriptors: usize,
}

impl Vitals {
    pub(crate) fn of(process: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            value.trim_matches([':', ' ', '\t']).split(' ').next().unwrap().parse().unwrap()
        };
        Self {
            resident_kib: field("VmRSS"),
            peak_kib: field("VmHWM"),
            threads: field("Threads"),
            descriptors: fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(),
        }
    }
}

/// How much of one core a process uses.
pub(crate) struct Work {
    process: u32,
    began: Instant,
    used: Duration,
}

impl Work {
    pub(crate) fn of(process: u32) -> Self {
        Self { process, began: Instant::now(), used: used(process) }
    }

    pub(crate) fn share(&self) -> f64 {
        (used(self.process) - self.used).as_secs_f64() / self.began.elapsed().as_secs_f64()
    }
}

fn used(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // Behind the name in parentheses and the state: utime and stime are the 14th and 15th of all.
    let fields: Vec<u64> = stat.rsplit_once(") ").unwrap().1.split(' ').filter_map(|word| word.parse().ok()).collect();
    Duration::from_secs(fields[10] + fields[11]) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap()
}

/// The threads of a process that are called `name`.
pub(crate) fn threads(process: u32, name: &str) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|task| task.unwrap().path());
    let called =
        |task: &std::path::PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
    tasks.filter(called).map(|task| task.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect()
}
