//! The file descriptors of the process: what the daemon needs for itself is set aside, its listeners share the rest.
//!
//! Without a descriptor no connection to the KMS can be opened, and leases would lapse for no other reason than that many
//! are connected here.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

use super::Error;
use crate::admin;
use crate::config::{Kms, Plan};
use crate::listener;
use crate::upstream::transport::LOOKUPS_MAX;

/// The descriptors that there are, as they were when nothing was open yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptors {
    limit: usize,
    open: usize,
}

impl Descriptors {
    /// Raises the soft limit to the hard one. To be called once, before anything is opened.
    pub(super) fn raised() -> Self {
        Self { limit: raised(), open: already_open() }
    }

    /// Lowers the connections of each listener to its part of what there is.
    pub(super) fn allot(&self, mut plan: Plan) -> Result<Plan, Error> {
        let allotment = Allotment::of(&plan, self.limit, self.open);
        if let Some(shortfall) = allotment.shortfall() {
            warn!("{shortfall}");
        }
        let parts = allotment.parts().ok_or_else(|| Error::Config(allotment.too_few()))?;
        debug!(limit = allotment.limit, own = allotment.own, connections = parts.iter().sum::<usize>(), "descriptors");
        for (listener, part) in plan.listeners.iter_mut().zip(parts) {
            listener.config.max_connections = part;
        }
        Ok(plan)
    }
}

/// What the operator is to know of the limit of this process, where it is too low for all connections that `plan` allows:
/// what follows, and the remedy. The daemon's limit may be another, if something else starts it.
#[must_use]
pub fn shortfall(plan: &Plan) -> Option<String> {
    Allotment::of(plan, count(getrlimit(Resource::Nofile).maximum), already_open()).shortfall()
}

/// Who gets how many.
#[derive(Debug)]
struct Allotment {
    limit: usize,
    /// For the daemon itself.
    own: usize,
    /// Names of listeners, each with the connections that it is configured for.
    wanted: Vec<(String, usize)>,
}

impl Allotment {
    fn of(plan: &Plan, limit: usize, open: usize) -> Self {
        let name = |config: &listener::Config| (config.name.clone(), config.max_connections);
        let wanted = plan.listeners.iter().map(|listener| name(&listener.config)).collect();
        Self { limit, own: own(plan, open), wanted }
    }

    /// The part of each listener, none larger than it wants; nothing where one would have next to none. Who wants little has
    /// that; the others have the same.
    fn parts(&self) -> Option<Vec<usize>> {
        let mut left = self.limit.saturating_sub(self.own);
        let mut hungriest_last: Vec<_> = self.wanted.iter().map(|(_, wanted)| *wanted).enumerate().collect();
        hungriest_last.sort_by_key(|(_, wanted)| *wanted);
        let mut parts = vec![0; self.wanted.len()];
        for (served, (at, wanted)) in hungriest_last.into_iter().enumerate() {
            let part = wanted.min(left / (self.wanted.len() - served));
            if part < wanted.min(PART_LEAST) {
                return None;
            }
            parts[at] = part;
            left -= part;
        }
        Some(parts)
    }

    fn shortfall(&self) -> Option<String> {
        let Some(parts) = self.parts() else { return Some(self.too_few()) };
        let less = self.wanted.iter().zip(parts).filter(|((_, wanted), part)| part < wanted);
        let less: Vec<_> = less.map(|((name, wanted), part)| format!("{name} {part} in place of {wanted}")).collect();
        let Self { limit, own, .. } = self;
        (!less.is_empty()).then(|| {
            format!(
                "the limit of open files is {limit}, and kmsproxy keeps {own} of them for itself: its listeners have \
                 fewer connections than max_connections says ({})\n  remedy: {}",
                less.join(", "),
                self.remedy()
            )
        })
    }

    fn too_few(&self) -> String {
        let Self { limit, own, .. } = self;
        format!(
            "the limit of open files is {limit}, and kmsproxy keeps {own} of them for itself: too few are left for its \
             listeners\n  remedy: {}",
            self.remedy()
        )
    }

    fn remedy(&self) -> String {
        let all = self.wanted.iter().fold(self.own, |sum, (_, wanted)| sum.saturating_add(*wanted));
        format!("raise it to {all} (LimitNOFILE= of the unit, ulimit -Hn), or lower max_connections and max_in_flight")
    }
}

/// The most that the daemon needs beside the connections of its listeners.
fn own(plan: &Plan, open: usize) -> usize {
    let upstreams = plan.upstreams.iter().map(|upstream| match &upstream.kms {
        Kms::Aliyun(config) => config.connections_max().saturating_add(CREDENTIALS),
        Kms::Local(_) => EMBEDDED + SOCKET + admin::CONNECTIONS_MAX,
    });
    let beside = [plan.metrics.is_some(), plan.admin.is_some()].into_iter().filter(|there| *there).count();
    let audit = if plan.audit.is_some() { AUDIT } else { 0 };
    let tracing = if plan.tracing.is_some() { EXPORTER } else { 0 };
    let rest = open
        + UNNAMED
        + tracing
        + LOOKUPS_MAX * LOOKUP
        + audit
        + beside * (SOCKET + admin::CONNECTIONS_MAX)
        + plan.listeners.len() * (SOCKET + HELD);
    upstreams.fold(rest, usize::saturating_add)
}

/// Standard streams, what systemd passes, what a parent forgot to close.
fn already_open() -> usize {
    fs::read_dir("/proc/self/fd").map_or(STREAMS, Iterator::count)
}

/// Nothing here calls `select`, which is why limits above 1024 are not the default of every process.
fn raised() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    count(if raised.is_ok() { maximum } else { current })
}

fn count(limit: Option<u64>) -> usize {
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// A listener that has fewer is none.
const PART_LEAST: usize = 8;
/// The listening socket, and a connection that is accepted and waits for its place.
const SOCKET: usize = 2;
/// The listening socket once more, to be handed on at a reload.
const HELD: usize = 1;
/// For the credentials of an upstream: two connections, each to two addresses at once.
const CREDENTIALS: usize = 4;
/// What a lookup of a name holds: a socket for each of three name servers.
const LOOKUP: usize = 3;
/// The file, its successor at a rotation, and its end that is read.
const AUDIT: usize = 3;
/// For the collector: a connection to each of two addresses at once, and one that rests.
const EXPORTER: usize = 3;
/// The files of an embedded KMS.
const EMBEDDED: usize = 4;
/// Event loops (four of each runtime), signals, the notification socket, files that are read again; and sockets whose
/// place is given up a moment before they are closed.
const UNNAMED: usize = 32;
const STREAMS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn allotment(limit: usize, wanted: &[usize]) -> Allotment {
        let named = wanted.iter().enumerate().map(|(at, wanted)| (format!("l{at}"), *wanted)).collect();
        Allotment { limit, own: 100, wanted: named }
    }

    #[test]
    fn where_there_is_enough_each_listener_has_what_it_wants_and_nothing_is_said() {
        let enough = allotment(100 + 16 + 1024, &[1024, 16]);
        assert_eq!((enough.parts(), enough.shortfall()), (Some(vec![1024, 16]), None));
        assert_eq!(allotment(usize::MAX, &[usize::MAX, 1]).parts().map(|parts| parts[1]), Some(1));
    }

    #[test]
    fn where_there_is_less_who_wants_little_has_it_and_the_others_share_the_rest_evenly() {
        assert_eq!(allotment(100 + 216, &[20_000, 16, 1024]).parts(), Some(vec![100, 16, 100]));
        assert_eq!(allotment(100 + 17, &[9, 9]).parts(), Some(vec![8, 9]));
    }

    #[test]
    fn what_is_kept_for_the_daemon_is_never_given_to_a_listener() {
        for limit in 0..400 {
            let given = allotment(limit, &[64, 128, 1, 1024]).parts();
            assert!(given.is_none_or(|parts| parts.iter().sum::<usize>() + 100 <= limit), "{limit}");
        }
    }

    #[test]
    fn a_listener_that_would_have_next_to_nothing_is_not_started() {
        assert_eq!(allotment(100 + 15, &[64, 64]).parts(), None);
        assert_eq!(allotment(100 + 16, &[64, 64]).parts(), Some(vec![8, 8]));
        assert_eq!(allotment(50, &[64]).parts(), None);
        assert_eq!(allotment(100 + 3, &[3]).parts(), Some(vec![3]), "unless it wants no more");
    }

    #[test]
    fn a_shortfall_is_told_with_its_numbers_and_its_remedy() {
        let remedy =
            "raise it to 1140 (LimitNOFILE= of the unit, ulimit -Hn), or lower max_connections and max_in_flight";
        let told = |limit| allotment(limit, &[1024, 16]).shortfall();
        assert_eq!(told(1140), None);
        let text = "the limit of open files is 256, and kmsproxy keeps 100 of them for itself: its listeners have fewer \
                    connections than max_connections says (l0 140 in place of 1024)";
        assert_eq!(told(256), Some(format!("{text}\n  remedy: {remedy}")));
        let text = "the limit of open files is 105, and kmsproxy keeps 100 of them for itself: too few are left for its \
                    listeners";
        assert_eq!(told(105), Some(format!("{text}\n  remedy: {remedy}")));
    }
}
