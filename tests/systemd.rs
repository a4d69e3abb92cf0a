//! The units as systemd reads them, and a process as systemd starts it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use kmsproxy::systemd::{Inherited, Notifier, watchdog_period};

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !have("systemd-analyze") {
        return;
    }
    let folder = units_with_a_stub();
    let units = UNITS.map(|unit| folder.path().join(unit));
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    // An unknown setting is a warning only, and leaves the status at success.
    assert_eq!((said.as_ref(), output.status.code()), ("", Some(0)));
}

#[test]
fn the_service_is_exposed_no_more_than_promised() {
    if !have("systemd-analyze") {
        return;
    }
    let folder = units_with_a_stub();
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager"]).arg(folder.path().join("kmsproxy.service"));
    let output = analyze.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let overall = said.lines().find_map(|line| line.split_once("Overall exposure level for kmsproxy.service: "));
    let score: f64 = overall.unwrap().1.split(' ').next().unwrap().parse().unwrap();
    assert!(score <= EXPOSURE_MAX, "{said}");
}

#[test]
fn a_process_adopts_its_sockets_by_name_and_reports_to_the_manager() {
    const NAME: &str = "a_process_adopts_its_sockets_by_name_and_reports_to_the_manager";
    if env::var(CHILD).is_ok() {
        return adopt_and_report();
    }
    if !have("systemd-socket-activate") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [first, second, notify] = ["first.sock", "second.sock", "notify"].map(|name| folder.path().join(name));
    let manager = manager(&notify);
    let tcp = free_address();
    let this = env::current_exe().unwrap();
    let _activated = socket_activate(&[
        &format!("--listen={}", first.display()),
        &format!("--listen={tcp}"),
        &format!("--listen={}", second.display()),
        "--fdname=ack:metrics:ack",
        &format!("--setenv=NOTIFY_SOCKET={}", notify.display()),
        "--setenv=WATCHDOG_USEC=3000000",
        &format!("--setenv={CHILD}=1"),
        this.to_str().unwrap(),
        "--exact",
        NAME,
        "--nocapture",
    ]);
    // The first connection starts it.
    let mut streams = (UnixStream::connect(&first).unwrap(), UnixStream::connect(&second).unwrap());
    let mut metrics = TcpStream::connect(tcp).unwrap();
    let said: Vec<_> = (0..4).map(|_| hear(&manager)).collect();
    assert_eq!(said, ["STATUS=ack metrics ack, every 1.5s", "READY=1", "WATCHDOG=1", "STOPPING=1"]);
    assert_eq!(read_all(&mut streams.0), "first");
    assert_eq!(read_all(&mut streams.1), "second");
    assert_eq!(read_all(&mut metrics), "metrics");
}

/// What the process started by the test above does.
fn adopt_and_report() {
    let environment = |name: &str| env::var(name).ok();
    let notifier = Notifier::from_environment(&environment).unwrap();
    let period = watchdog_period(&environment).unwrap();
    let mut inherited = Inherited::take(&environment);
    let names: Vec<_> = inherited.names().map(str::to_owned).collect();
    assert!(inherited.take_tcp("ack").is_none(), "of another kind");
    assert!(inherited.take_unix("nobody").is_none(), "of another name");
    let (first, second) = (inherited.take_unix("ack").unwrap(), inherited.take_unix("ack").unwrap());
    let metrics = inherited.take_tcp("metrics").unwrap();
    assert!(inherited.take_unix("ack").is_none(), "each is taken once");
    notifier.status(&format!("{}, every {period:?}", names.join(" "))).unwrap();
    notifier.ready().unwrap();
    notifier.watchdog().unwrap();
    notifier.stopping().unwrap();
    first.set_nonblocking(false).unwrap();
    second.set_nonblocking(false).unwrap();
    metrics.set_nonblocking(false).unwrap();
    first.accept().unwrap().0.write_all(b"first").unwrap();
    second.accept().unwrap().0.write_all(b"second").unwrap();
    metrics.accept().unwrap().0.write_all(b"metrics").unwrap();
}

/// A process that is killed when this goes.
struct Activated(Child);

impl Drop for Activated {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `systemd-socket-activate` with `arguments` (options, then the program and its own) and returns when it
/// listens at every `--listen=`. At the first connection it becomes the program, which keeps its process id.
///
/// The program sees of the environment only what `--setenv=` passes. What it writes on standard error is shown.
fn socket_activate(arguments: &[&str]) -> Activated {
    let mut command = Command::new("systemd-socket-activate");
    let mut child = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let activated = Activated(child);
    let wanted = arguments.iter().filter(|argument| argument.starts_with("--listen=")).count();
    let listening = lines.by_ref().filter(|line| line.contains("Listening on")).take(wanted).count();
    assert_eq!(listening, wanted, "systemd-socket-activate listens at every address");
    thread::spawn(move || lines.for_each(|line| eprintln!("{line}")));
    activated
}

/// Where systemd would hear `READY=1`.
fn manager(path: &Path) -> UnixDatagram {
    let manager = UnixDatagram::bind(path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    manager
}

fn hear(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let length = manager.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// A port that was just free, at a loopback address that belongs to this process alone: nobody else takes it meanwhile.
fn free_address() -> SocketAddr {
    let [_, b, c, d] = process::id().to_be_bytes();
    let ours = Ipv4Addr::new(127, b | 0x80, c, d | 1);
    TcpListener::bind((ours, 0)).unwrap().local_addr().unwrap()
}

fn read_all(stream: &mut impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A copy of the units, with a program that exists wherever the tests run.
fn units_with_a_stub() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(unit)).unwrap();
        let text = text.replace("ExecStart=/usr/bin/kmsproxy ", "ExecStart=/bin/true ");
        std::fs::write(folder.path().join(unit), text).unwrap();
    }
    folder
}

/// Whether `tool` is there. Says so if not; where nothing may be skipped, that is a failure.
fn have(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    if !there {
        eprintln!("SKIPPED: there is no {tool} on this machine");
        assert_ne!(env::var("CI").as_deref(), Ok("true"), "nothing may be skipped in CI");
    }
    there
}

const UNITS: [&str; 2] = ["kmsproxy.service", "kmsproxy.socket"];
/// `systemd-analyze security`, from 0 (best) to 10.
const EXPOSURE_MAX: f64 = 1.2;
const PATIENCE: Duration = Duration::from_secs(30);
const CHILD: &str = "KMSPROXY_TEST_CHILD";
