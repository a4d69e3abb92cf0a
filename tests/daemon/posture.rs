//! What the process has given up: core dumps, being read by others of the same user, new privileges.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

#[test]
fn nobody_of_the_same_user_reads_the_process_and_it_leaves_no_core() {
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("kmsproxy");
    std::fs::copy(env!("CARGO_BIN_EXE_kmsproxy"), &binary).unwrap();
    chown(dir.path(), Some(user()), None).unwrap();
    let state = dir.path().join("state").display().to_string();
    let mut daemon = as_user(Command::new(&binary));
    daemon.args(["dev", "--listen", "127.0.0.1:0", "--json", "--state-dir", &state]);
    let daemon = Running(daemon.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()).ready();
    let other = Running(as_user(Command::new("sleep")).arg("60").spawn().unwrap());

    let about = |what: &str| std::fs::read_to_string(format!("/proc/{}/{what}", daemon.0.id())).unwrap();
    let core = about("limits").lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>(), ["Max", "core", "file", "size", "0", "0", "bytes"]);
    assert!(about("status").lines().any(|line| line == "NoNewPrivs:\t1"));

    for file in ["environ", "mem", "maps"] {
        // The kernel gives the files of an undumpable process to root.
        let owner = |process: &Running| std::fs::metadata(format!("/proc/{}/{file}", process.0.id())).unwrap().uid();
        assert_eq!(owner(&daemon), 0, "{file}");
    }
    for file in ["environ", "maps", "auxv"] {
        assert!(readable(&other, file), "{file}: this user could read a process that allows it");
        assert!(!readable(&daemon, file), "{file}");
    }
}

/// Whether another process of the same user can read a file of `process`.
fn readable(process: &Running, file: &str) -> bool {
    let path = format!("/proc/{}/{file}", process.0.id());
    as_user(Command::new("cat")).arg(path).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

/// As ourselves, or where we are root, who may read everything, as somebody else.
pub(super) fn as_user(mut command: Command) -> Command {
    if rustix::process::geteuid().is_root() {
        command.uid(user()).gid(user());
    }
    command.current_dir(Path::new("/"));
    command
}

pub(super) fn user() -> u32 {
    let own = rustix::process::geteuid();
    if own.is_root() { NOBODY_IN_PARTICULAR } else { own.as_raw() }
}

/// Killed when dropped.
struct Running(Child);

impl Running {
    fn ready(mut self) -> Self {
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with('{'), "not ready: {line:?}");
        self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const NOBODY_IN_PARTICULAR: u32 = 23_456;
