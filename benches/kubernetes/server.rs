//! The two servers that are compared.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{self, Running, text};

/// A provider of its own process.
pub(crate) struct Server {
    running: Running,
    pub(crate) socket: PathBuf,
}

impl Server {
    /// What its threads have used of the processors so far.
    pub(crate) fn cpu_micros(&self) -> f64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.running.0.id())).unwrap();
        let nanos = |thread: std::fs::DirEntry| {
            // A thread may just have ended.
            let stat = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            stat.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0)
        };
        threads.map(|thread| nanos(thread.unwrap())).sum::<f64>() / 1000.0
    }
}

/// kmsproxy in front of the embedded KMS, as it is shipped but for its log.
pub(crate) fn dev(dir: &Path) -> Server {
    let (running, ready) = process::embedded("dev", dir, "0");
    Server { running, socket: text(&ready, "kubernetes_socket").into() }
}

/// The yardstick.
pub(crate) fn echo(dir: &Path) -> Server {
    let socket = dir.join("echo.sock");
    let child = Command::new(std::env::current_exe().unwrap()).arg("--echo").arg(&socket).spawn().unwrap();
    let running = Running(child);
    while UnixStream::connect(&socket).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    Server { running, socket }
}
