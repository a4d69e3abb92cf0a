//! The time limits of a listener's connections.

use std::time::Duration;

use super::FaceName;

/// How long a connection may take for what, and for how long it may be at all. The defaults are tuned for clients on
/// the same machine; longer ones let hostile peers hold their places longer.
///
/// HTTP/2 connections that are idle or old are told by GOAWAY: a call that was under way is still answered, and then a
/// second remains to close. Frames that are no calls (pings, settings) neither keep a connection nor count as half a
/// head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From `accept` to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the first byte of a request's head (of the first request: from the handshake) to its last. In HTTP/2 while
    /// no call is in flight: of any frame, and of the client's preface.
    pub head: Duration,
    /// From the head of a request to the service's answer. The service has its own, shorter deadline; this one holds
    /// where it fails. In HTTP/2, where it resets the stream alone, to the last of the answer that the client's window
    /// has room for.
    pub request: Duration,
    /// From one answer to the first byte of the next request; in this time the answer must have been read, too.
    pub idle: Duration,
    /// From one answer, while nothing more is said, until what the buffers of the connection hold of it is wiped. In
    /// HTTP/1.1 the connection stays, unless a plaintext came in over TLS, and a tenth of a second is all it takes; in HTTP/2,
    /// where a plaintext went in or out, it is told to go, as one that is idle. No more than `idle`.
    pub rest: Duration,
    /// For which a client may refuse to take any byte of what is written to it.
    pub stall: Duration,
    /// After which an answer closes its connection (HTTP/2: GOAWAY, at once), so that its buffers are wiped.
    pub age: Duration,
    /// For requests in flight when the listener shuts down.
    pub drain: Duration,
    /// Whether HTTP/1.1 looks for a hang-up while it answers, and then drops the request; it takes a buffer for each request.
    pub watchful: bool,
}

impl Limits {
    /// For a KMS of trials, whose clients keep connections as they do to a real one: none is let go of before it is idle.
    /// (Where both ends did so after a second, a client's next question would meet the end of its connection.) What it does
    /// not answer for a while, because it plays dead, is dropped with whoever asked.
    #[must_use]
    pub const fn of_a_kms(self) -> Self {
        Self { rest: self.idle, watchful: true, ..self }
    }

    /// The defaults for `face`.
    #[must_use]
    pub fn of(face: FaceName) -> Self {
        let limits = Self::default();
        match face {
            FaceName::Aliyun => limits,
            FaceName::Kubernetes => Self { idle: IDLE_KUBERNETES, ..limits },
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(5),
            request: Duration::from_secs(120),
            idle: Duration::from_secs(60),
            rest: Duration::from_secs(1),
            stall: Duration::from_secs(5),
            age: Duration::from_secs(600),
            drain: Duration::from_secs(15),
            watchful: false,
        }
    }
}

/// kube-apiserver asks for Status once a minute, the listener's default idle time, so that each would meet a connection that
/// is just being closed. In two and a half minutes one may fail to come, and the next still finds it open.
const IDLE_KUBERNETES: Duration = Duration::from_secs(150);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_kube_apiserver_outlives_two_of_its_status_periods() {
        let status_period = Duration::from_secs(60);
        let (kubernetes, aliyun) = (Limits::of(FaceName::Kubernetes), Limits::of(FaceName::Aliyun));
        assert!(kubernetes.idle > 2 * status_period && kubernetes.idle < kubernetes.age);
        assert_eq!(aliyun, Limits { idle: aliyun.idle, ..kubernetes }, "nothing else differs");
    }
}
