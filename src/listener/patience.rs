//! What to do when a connection cannot be accepted.

use std::io;
use std::time::Duration;

use rustix::io::Errno;

/// How often `accept` has failed in a row. What one peer caused is passed over, what the machine lacks is waited for,
/// and nothing is tried in a tight loop, whatever the kernel says.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failures: u32,
}

impl Patience {
    /// How long to wait after `error`; `None` where it is final.
    pub(super) fn after(&mut self, error: &io::Error) -> Option<Duration> {
        self.failures += 1;
        let waited_for = match Errno::from_io_error(error)? {
            Errno::BADF | Errno::FAULT | Errno::INVAL | Errno::NOTSOCK => return None,
            // The connection went before it was accepted, or the network reports its error here (accept(2)).
            Errno::CONNABORTED
            | Errno::CONNRESET
            | Errno::INTR
            | Errno::AGAIN
            | Errno::PERM
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NONET
            | Errno::TIMEDOUT => self.failures > FAILURES_PASSED_OVER,
            // No descriptors, no memory; and whatever we do not know.
            _ => true,
        };
        if !waited_for {
            return Some(Duration::ZERO);
        }
        if self.failures.is_power_of_two() {
            tracing::warn!(%error, failures = self.failures, "cannot accept connections");
        }
        Some(PAUSE_FIRST.saturating_mul(1 << self.failures.min(6)).min(PAUSE_LONGEST))
    }
}

/// Failures of `accept` in a row that are put down to peers.
const FAILURES_PASSED_OVER: u32 = 16;
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_LONGEST: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_does_is_passed_over_and_what_is_lacking_is_waited_for() {
        let after = |errno: Errno| Patience::default().after(&errno.into());
        assert_eq!(after(Errno::CONNABORTED), Some(Duration::ZERO));
        assert_eq!(after(Errno::MFILE), Some(Duration::from_millis(10)));
        assert_eq!(after(Errno::BADF), None);
    }

    #[test]
    fn no_error_is_retried_without_pause_for_ever() {
        let mut patience = Patience::default();
        let pauses: Vec<_> = (0..20).map(|_| patience.after(&Errno::CONNABORTED.into())).collect();
        assert_eq!(pauses[15], Some(Duration::ZERO));
        assert_eq!(pauses[16..], [Some(PAUSE_LONGEST); 4]);
    }
}
