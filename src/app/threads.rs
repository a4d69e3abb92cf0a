//! The threads of the process, all of them bounded: a unit that says `TasksMax=` must hold the most that there can be.

use tokio::runtime::{Builder, Runtime};

use super::{Error, runtime_error};
use crate::upstream::transport::LOOKUPS_MAX;

/// The runtime of the data path.
pub(super) fn data_path() -> Result<Runtime, Error> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(cores.min(WORKERS_MAX)).max_blocking_threads(LOOKUPS_MAX + BLOCKING_MAX);
    builder.thread_name("data").enable_all().build().map_err(runtime_error)
}

/// The runtime of what stands beside it, on the thread of whoever runs it.
pub(super) fn aside() -> Result<Runtime, Error> {
    Builder::new_current_thread().max_blocking_threads(BLOCKING_MAX).enable_all().build().map_err(runtime_error)
}

/// Workers of the data path. A proxy to a KMS of 1,000 calls a second has no use for more, however many cores there are.
const WORKERS_MAX: usize = 16;
/// Threads of a runtime that wait for the system, lookups of names aside.
const BLOCKING_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_unit_allows_every_thread_that_there_can_be() {
        // The first, the one beside the data path, and those of the audit log and of the log (the writer, and who waits
        // for it at the end).
        let single = 1 + 1 + 1 + 2;
        let most = single + WORKERS_MAX + LOOKUPS_MAX + 2 * BLOCKING_MAX;
        let unit = include_str!("../../systemd/kmsproxy.service");
        for limit in ["TasksMax=", "LimitNPROC="] {
            let written = unit.lines().find_map(|line| line.strip_prefix(limit)).unwrap();
            assert!(written.parse::<usize>().unwrap() >= most, "{limit}{written}, and {most} threads");
        }
    }
}
