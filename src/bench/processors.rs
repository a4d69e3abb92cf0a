//! Which processors the client has, and which the servers: a client beside a server on one processor measures the
//! scheduler's turns of some milliseconds.

use std::fmt;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors of this process, in two halves where it starts its own target.
#[derive(Clone)]
pub(super) struct Processors {
    client: Vec<usize>,
    servers: Vec<usize>,
}

impl Processors {
    /// Halves of what there is now; with one processor alone there are none.
    pub(super) fn parted() -> Self {
        let all = Self::shared();
        let half = all.client.len() / 2;
        if half == 0 {
            return all;
        }
        let (client, servers) = all.client.split_at(half);
        Self { client: client.to_vec(), servers: servers.to_vec() }
    }

    /// All for both: a target that was there before has its processors already.
    pub(super) fn shared() -> Self {
        let all = sched_getaffinity(None).map(|all| (0..CpuSet::MAX_CPU).filter(|&at| all.is_set(at)).collect());
        let all: Vec<usize> = all.unwrap_or_default();
        Self { client: all.clone(), servers: all }
    }

    pub(super) fn are_parted(&self) -> bool {
        self.client != self.servers
    }

    /// What this thread starts from now on is a server.
    pub(super) fn for_servers(&self) {
        pin(&self.servers);
    }

    /// What this thread does and starts from now on is the client's.
    pub(super) fn for_client(&self) {
        pin(&self.client);
    }
}

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |all: &[usize]| all.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        if self.are_parted() {
            write!(f, "client on processor {}, servers on {}", list(&self.client), list(&self.servers))
        } else {
            write!(f, "client and target share processor {}", list(&self.client))
        }
    }
}

fn pin(processors: &[usize]) {
    let mut set = CpuSet::new();
    processors.iter().for_each(|&processor| set.set(processor));
    // Where it is not allowed, the scheduler does as it likes, and the figures are a little worse.
    let _ = sched_setaffinity(None, &set);
}
