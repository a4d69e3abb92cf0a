//! A process that the harness started, and what the kernel books for a process.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::processors::Processors;

/// A child of ours. It is told to stop when this is dropped, and killed where it does not.
pub(super) struct Process {
    child: Child,
    log: PathBuf,
    /// The line that it printed when it was ready.
    pub(super) ready: Value,
}

impl Process {
    /// Starts `binary` with `arguments` on the servers' processors, and waits for its line. What it says else goes into a
    /// file in `dir`.
    ///
    /// # Errors
    /// Where it does not get ready; with the last that it said.
    pub(super) fn start(
        binary: &Path,
        arguments: &[&str],
        dir: &Path,
        processors: &Processors,
    ) -> Result<Self, String> {
        let log = dir.join(format!("{}.log", arguments.first().copied().unwrap_or("process")));
        let failed = |error: io::Error| format!("{}: {error}", binary.display());
        let said = fs::File::create(&log).map_err(failed)?;
        processors.for_servers();
        let child =
            Command::new(binary).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said).spawn();
        processors.for_client();
        let mut process = Self { child: child.map_err(failed)?, log, ready: Value::Null };
        let mut line = String::new();
        if let Some(stdout) = process.child.stdout.take() {
            // What cannot be read is no line, and told as such.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        process.ready = serde_json::from_str(&line).map_err(|_| process.complaint(arguments))?;
        Ok(process)
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A member of the ready line.
    pub(super) fn told(&self, name: &str) -> Result<&str, String> {
        self.ready[name].as_str().ok_or_else(|| format!("the child's ready line has no {name}: {}", self.ready))
    }

    /// Kills it, as a crash would.
    pub(super) fn kill(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn complaint(&self, arguments: &[&str]) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        format!("`kmsproxy {}` did not get ready:\n{}", arguments.join(" "), last.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may be ending just now.
            let _ = kill_process(id, Signal::TERM);
        }
        for _ in 0..TERM_TICKS {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(TERM_TICK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the kernel books for a process, of this user's or by root.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vitals(pub(super) u32);

impl Vitals {
    /// Processor time of all its threads that live, in microseconds.
    pub(super) fn cpu_micros(self) -> Option<f64> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0)).ok()?;
        let nanos = threads.map_while(Result::ok).map(|thread| {
            // A thread may just have ended.
            let stat = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            stat.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0)
        });
        Some(nanos.sum::<f64>() / 1000.0)
    }

    /// Its resident memory.
    pub(super) fn rss_bytes(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

const TERM_TICK: std::time::Duration = std::time::Duration::from_millis(10);
/// A daemon drains before it ends; nobody is left to be drained.
const TERM_TICKS: u32 = 150;
