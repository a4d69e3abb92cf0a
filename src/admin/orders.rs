//! What the rest of the daemon is asked to do by those who reach the admin socket.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// Hands orders on to whoever carries them out, and waits for what comes of them.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::Sender<Order>);

/// An order to reload, and where the answer goes.
#[derive(Debug)]
pub struct Order(oneshot::Sender<Verdict>);

/// What came of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Verdict {
    /// In a word.
    pub outcome: Outcome,
    /// What has changed, a line for each part: nothing unless it was carried out.
    pub changes: Vec<String>,
    /// Why it was not, each with its remedy: nothing if it was.
    pub reasons: Vec<String>,
}

/// What came of a reload, in a word. But for the first, nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The configuration is in force.
    Reloaded,
    /// It is wrong.
    Mistaken,
    /// It takes a restart.
    Restart,
    /// It cannot be carried out now: an address is taken, a file is gone.
    Impossible,
}

impl Outcome {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Reloaded, Self::Mistaken, Self::Restart, Self::Impossible];

    /// For metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reloaded => "reloaded",
            Self::Mistaken => "mistaken",
            Self::Restart => "restart",
            Self::Impossible => "impossible",
        }
    }

    /// For `systemctl status`.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::Reloaded => "serving",
            Self::Mistaken => "serving by the configuration before: the last one is wrong, see the log",
            Self::Restart => "serving by the configuration before: the last one takes a restart, see the log",
            Self::Impossible => "serving by the configuration before: the last one cannot be carried out, see the log",
        }
    }
}

/// The two ends of a line on which orders are given.
#[must_use]
pub fn orders() -> (Orders, mpsc::Receiver<Order>) {
    let (given, taken) = mpsc::channel(ORDERS_WAITING_MAX);
    (Orders(given), taken)
}

impl Orders {
    /// Has the configuration taken anew; blocks until that is done. None where nobody takes orders (any more).
    #[must_use]
    pub fn reload(&self) -> Option<Verdict> {
        let (answer, verdict) = oneshot::channel();
        self.0.blocking_send(Order(answer)).ok()?;
        verdict.blocking_recv().ok()
    }
}

impl Order {
    /// Says what came of it; whoever asked may be gone.
    pub fn answer(self, verdict: Verdict) {
        let _ = self.0.send(verdict);
    }
}

const ORDERS_WAITING_MAX: usize = 8;
