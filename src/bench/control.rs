//! Asking what is not measured: the emulator's control socket, the daemon's admin socket and its metrics.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::admin::Status;
use crate::clock::Moment;

/// The control socket of an embedded KMS.
#[derive(Clone, Debug)]
pub(super) struct Control(pub(super) PathBuf);

impl Control {
    /// Calls that the KMS has had.
    pub(super) fn calls(&self) -> Option<u64> {
        let calls: Value = ask(&self.0, "GET", "/calls", "").ok()?;
        calls["remote_calls"].as_u64()
    }

    /// The most calls that the KMS decided within one second after `from`, however seconds are cut; of the last 100,000, which
    /// is what it remembers.
    pub(super) fn busiest_second(&self, from: Moment) -> Option<usize> {
        let decided: Decided = ask(&self.0, "GET", "/decisions", "").ok()?;
        let from = from.since(Moment::BOOT).as_nanos();
        let later = decided.decisions.iter().map(|decision| decision.at_ns).filter(|&at| u128::from(at) >= from);
        Some(busiest(later.collect()))
    }

    /// Changes how the KMS behaves, as a whole.
    ///
    /// # Errors
    /// Where it does not obey.
    pub(super) fn behave(&self, behaviour: &Behaviour) -> Result<(), String> {
        let body = json!({
            "latency": format!("{}us", behaviour.latency.as_micros()),
            "quota": behaviour.quota,
            "error_rate": behaviour.error_rate,
            "stall": behaviour.stall,
        });
        ask::<Value>(&self.0, "PUT", "/behaviour", &body.to_string()).map(drop)
    }

    /// Disables or enables a key.
    ///
    /// # Errors
    /// Where it does not obey.
    pub(super) fn turn(&self, key: &str, enabled: bool) -> Result<(), String> {
        let verb = if enabled { "enable" } else { "disable" };
        ask::<Value>(&self.0, "POST", &format!("/keys/{key}/{verb}"), "").map(drop)
    }
}

/// What a KMS remembers of its decisions.
#[derive(Deserialize)]
struct Decided {
    decisions: Vec<Decision>,
}

/// When one was made, on the boot clock.
#[derive(Deserialize)]
struct Decision {
    at_ns: u64,
}

/// How many of `instants`, in nanoseconds, lie within a second at most.
fn busiest(mut instants: Vec<u64>) -> usize {
    instants.sort_unstable();
    let (mut first, mut most) = (0, 0);
    for (last, at) in instants.iter().enumerate() {
        while at - instants[first] >= 1_000_000_000 {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// How an embedded KMS behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Behaviour {
    pub(super) latency: Duration,
    pub(super) quota: Option<u32>,
    pub(super) error_rate: f64,
    pub(super) stall: bool,
}

/// What a daemon says of its leases.
///
/// # Errors
/// Where it says nothing.
pub(super) fn status(admin: &Path) -> Result<Status, String> {
    ask(admin, "GET", "/status", "")
}

/// What a daemon counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metrics(pub(super) SocketAddr);

impl Metrics {
    /// The sum of a metric over all labels; none where nobody tells.
    pub(super) fn sum(self, metric: &str) -> Option<u64> {
        let mut stream = TcpStream::connect_timeout(&self.0, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let text = exchange(&mut stream, "GET", "/metrics", "").ok()?;
        let values =
            text.lines().filter(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with(['{', ' '])));
        Some(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64)
    }
}

fn ask<T: DeserializeOwned>(socket: &Path, method: &str, path: &str, body: &str) -> Result<T, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {method} {path}: {error}", socket.display());
    let mut stream = UnixStream::connect(socket).map_err(|error| failed(&error))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| failed(&error))?;
    let answer = exchange(&mut stream, method, path, body).map_err(|error| failed(&error))?;
    serde_json::from_str(&answer).map_err(|error| failed(&error))
}

fn exchange(stream: &mut (impl Read + Write), method: &str, path: &str, body: &str) -> Result<String, String> {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).map_err(|error| error.to_string())?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("{}: {}", head.lines().next().unwrap_or_default(), body.trim()));
    }
    Ok(body.to_owned())
}

const PATIENCE: Duration = Duration::from_secs(5);
/// A hundred thousand decisions of 400 bytes, and some.
const ANSWER_MAX: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_is_found_however_seconds_are_cut() {
        let millis = |all: &[u64]| busiest(all.iter().map(|at| at * 1_000_000).collect());
        assert_eq!(millis(&[]), 0);
        assert_eq!(millis(&[0, 1000, 2000]), 1, "a second's end is not in it");
        assert_eq!(millis(&[1500, 900, 0, 1100, 1899]), 4);
    }
}
