//! Which processors the client has, and which the servers: a client beside a server on one processor measures the
//! scheduler's turns of some milliseconds.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors of this process, in two halves.
pub(crate) struct Processors {
    client: CpuSet,
    servers: CpuSet,
}

impl Processors {
    /// As they are now; with one alone there are no halves.
    pub(crate) fn parted() -> Self {
        let all = sched_getaffinity(None).unwrap();
        let each: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&processor| all.is_set(processor)).collect();
        let half = each.len() / 2;
        let set = |processors: &[usize]| {
            let mut set = CpuSet::new();
            processors.iter().for_each(|&processor| set.set(processor));
            set
        };
        if half == 0 {
            Self { client: all, servers: all }
        } else {
            Self { client: set(&each[..half]), servers: set(&each[half..]) }
        }
    }

    /// What this thread starts from now on is a server.
    pub(crate) fn for_servers(&self) {
        sched_setaffinity(None, &self.servers).unwrap();
    }

    /// What this thread does and starts from now on is the client's.
    pub(crate) fn for_client(&self) {
        sched_setaffinity(None, &self.client).unwrap();
    }
}
