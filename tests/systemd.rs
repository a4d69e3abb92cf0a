//! The units as systemd reads them, and a process as systemd starts it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "daemon/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "daemon/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "machine/tool.rs"]
mod tool;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use client::{Client, Target};
use kmsproxy::systemd::{Inherited, Notifier, watchdog_period};
use process::{Daemon, write_private};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tool::have;

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
    let said: Vec<_> = (0..4).map(|_| overhear(&manager)).collect();
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

/// The configuration of a daemon in front of an emulator, with listeners at will, and a client for those.
struct Set {
    emulator: Daemon,
    folder: TempDir,
}

impl Set {
    /// With one listener for each name, address and further settings.
    fn new(listeners: &[(&str, &str, &str)]) -> Self {
        let (emulator, folder) = (Daemon::emulator(&[]), tempfile::tempdir().unwrap());
        let here = folder.path().display().to_string();
        write_private(&folder.path().join("secret"), SECRET);
        let mut config = format!(
            r#"
[upstream.emulator]
kind = "aliyun"
endpoint = "https://{}"
ca_file = "{}"
credentials = {{ source = "file", id = "{}", secret_file = "{}" }}
"#,
            emulator.at("address"),
            emulator.at("ca_file"),
            emulator.at("access_key_id"),
            emulator.at("secret_file"),
        );
        for (name, address, more) in listeners {
            config += &format!(
                r#"
[[listener]]
name = "{name}"
face = "aliyun"
address = "{address}"
upstream = "emulator"
{more}
[[caller]]
name = "{name}"
listener = "{name}"
access_key = {{ id = "LTAI{name}", secret_file = "DIR/secret" }}
allow = [{{ actions = ["Encrypt", "Decrypt"], keys = ["*"] }}]
"#
            );
        }
        let certificates = Path::new(emulator.at("ca_file")).parent().unwrap().display().to_string();
        let config = config.replace("DIR", &here).replace("CERTIFICATES", &certificates);
        write_private(&folder.path().join("kmsproxy.toml"), &config);
        Self { emulator, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Starts `kmsproxy serve` at the first connection, as systemd would with a `NOTIFY_SOCKET`.
    fn activate(&self, sockets: &[&str], names: &str, environment: &[&str]) -> (Activated, UnixDatagram) {
        let manager = manager(&self.folder.path().join("notify"));
        let config = self.path("kmsproxy.toml");
        let mut arguments: Vec<_> = sockets.iter().map(|socket| format!("--listen={socket}")).collect();
        arguments.push(format!("--fdname={names}"));
        arguments.push(format!("--setenv=NOTIFY_SOCKET={}", self.path("notify")));
        arguments.extend(environment.iter().map(|variable| format!("--setenv={variable}")));
        arguments.extend([KMSPROXY, "serve", "--config", &config].map(str::to_owned));
        (socket_activate(&arguments.iter().map(String::as_str).collect::<Vec<_>>()), manager)
    }

    fn target(&self, listener: &str, address: &str, tls: bool) -> Target {
        Target {
            address: address.to_owned(),
            ca_file: tls.then(|| self.emulator.at("ca_file").to_owned()),
            access_key: format!("LTAI{listener}"),
            secret: SECRET.to_owned(),
            page: None,
        }
    }

    /// Wraps and unwraps through `client`.
    async fn round_trip(&self, client: &mut Client) {
        let plaintext = "YSBkYXRhIGVuY3J5cHRpb24ga2V5";
        let key = self.emulator.at("key_id");
        let (status, wrapped) = client.call("Encrypt", &[("KeyId", key), ("Plaintext", plaintext)]).await;
        assert_eq!((status, &wrapped["KeyId"]), (200, &key.into()), "{wrapped}");
        let blob = wrapped["CiphertextBlob"].as_str().unwrap();
        let (status, unwrapped) = client.call("Decrypt", &[("CiphertextBlob", blob)]).await;
        assert_eq!((status, &unwrapped["Plaintext"]), (200, &plaintext.into()), "{unwrapped}");
    }
}

#[test]
fn the_daemon_serves_the_socket_that_it_inherits_and_shows_systemd_that_it_lives() {
    if !have("systemd-socket-activate") {
        return;
    }
    let set = Set::new(&[("ack", "systemd:ack", ""), ("own", "unix:DIR/own.sock", "")]);
    let [ack, own] = ["ack.sock", "own.sock"].map(|name| set.path(name));
    let (mut daemon, manager) = set.activate(&[&ack], "ack", &["WATCHDOG_USEC=400000"]);
    assert!(!Path::new(&own).exists(), "not started yet");
    let runtime = Runtime::new().unwrap();
    // The first connection starts it, and is served.
    let client = set.target("ack", &format!("unix:{ack}"), false);
    let mut client = runtime.block_on(client.connect());
    assert_eq!(hear(&manager), "READY=1");
    let said: Vec<_> = (0..3).map(|_| hear(&manager)).collect();
    assert_eq!(said, ["WATCHDOG=1"; 3]);
    runtime.block_on(async {
        set.round_trip(&mut client).await;
        let own = set.target("own", &format!("unix:{own}"), false);
        set.round_trip(&mut own.connect().await).await;
    });

    // What does not turn says nothing: silence for two and a half times what systemd waits.
    daemon.signal("-STOP");
    eventually("it stands still", || is_stopped(daemon.child.id()).then_some(()));
    manager.set_nonblocking(true).unwrap();
    while manager.recv(&mut [0; 64]).is_ok() {}
    manager.set_nonblocking(false).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(manager.recv(&mut [0; 64]).is_err());
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    daemon.signal("-CONT");
    assert_eq!(hear(&manager), "WATCHDOG=1");

    drop(client);
    daemon.signal("-TERM");
    assert_eq!(hear_other(&manager), "STOPPING=1");
    assert_eq!(daemon.ended().code(), Some(0));
    assert!(Path::new(&ack).exists(), "an inherited socket is not its own to remove");
    assert!(!Path::new(&own).exists());
}

#[test]
fn while_a_reload_waits_for_its_file_the_daemon_lives_serves_and_can_be_stopped() {
    if !have("systemd-socket-activate") {
        return;
    }
    let set = Set::new(&[("ack", "systemd:ack", "")]);
    let ack = set.path("ack.sock");
    let (mut daemon, manager) = set.activate(&[&ack], "ack", &["WATCHDOG_USEC=400000"]);
    let runtime = Runtime::new().unwrap();
    let client = set.target("ack", &format!("unix:{ack}"), false);
    let mut client = runtime.block_on(client.connect());
    assert_eq!(hear(&manager), "READY=1");
    // As a file on a server that has gone away: whoever opens it waits.
    let config = set.path("kmsproxy.toml");
    fs::remove_file(&config).unwrap();
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    daemon.signal("-HUP");
    assert!(hear_other(&manager).starts_with("RELOADING=1\n"));
    // Five times as long as systemd waits.
    let said: Vec<_> = (0..10).map(|_| hear(&manager)).collect();
    assert_eq!(said, ["WATCHDOG=1"; 10]);
    runtime.block_on(set.round_trip(&mut client));
    daemon.signal("-TERM");
    assert_eq!(hear_other(&manager), "STOPPING=1");
    drop(client);
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn an_inherited_tcp_socket_is_served_with_tls_and_nobody_watches_unless_asked() {
    if !have("systemd-socket-activate") {
        return;
    }
    let tls = r#"tls = { certificate_file = "CERTIFICATES/server.pem", key_file = "CERTIFICATES/server.key" }"#;
    let set = Set::new(&[("ack", "systemd:ack", tls)]);
    let address = free_address().to_string();
    let (mut daemon, manager) = set.activate(&[&address], "ack", &[]);
    let target = set.target("ack", &address, true);
    Runtime::new().unwrap().block_on(async {
        let mut client = target.connect().await;
        set.round_trip(&mut client).await;
        set.round_trip(&mut client).await;
    });
    assert_eq!(hear(&manager), "READY=1");
    daemon.signal("-TERM");
    assert_eq!(hear(&manager), "STOPPING=1", "and no turn of the watchdog between");
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn an_inherited_tcp_socket_without_tls_is_a_wrong_configuration() {
    if !have("systemd-socket-activate") {
        return;
    }
    let set = Set::new(&[("ack", "systemd:ack", "")]);
    let address = free_address().to_string();
    let (mut daemon, _manager) = set.activate(&[&address], "ack", &[]);
    let _connection = TcpStream::connect(&address).unwrap();
    assert_eq!(daemon.ended().code(), Some(78));
    daemon.said("TCP without TLS can be read by others");
}

#[test]
fn a_socket_that_is_configured_and_not_inherited_is_a_wrong_configuration() {
    if !have("systemd-socket-activate") {
        return;
    }
    let set = Set::new(&[("ack", "systemd:ack", "")]);
    let other = set.path("other.sock");
    let (mut daemon, _manager) = set.activate(&[&other], "other", &[]);
    let _connection = UnixStream::connect(&other).unwrap();
    assert_eq!(daemon.ended().code(), Some(78));
    daemon.said("systemd:ack: no socket of that name was inherited");
}

#[test]
fn an_inherited_socket_that_nobody_serves_is_named_in_the_log() {
    if !have("systemd-socket-activate") {
        return;
    }
    let set = Set::new(&[("ack", "systemd:ack", "")]);
    let [ack, stray] = ["ack.sock", "stray.sock"].map(|name| set.path(name));
    let (daemon, manager) = set.activate(&[&stray, &ack], "stray:ack", &[]);
    let _connection = UnixStream::connect(&ack).unwrap();
    assert_eq!(hear(&manager), "READY=1");
    daemon.signal("-TERM");
    assert_eq!(hear(&manager), "STOPPING=1", "it may be stopped as soon as it is ready");
    let said = daemon.said("draining");
    let warned: Vec<_> = said.lines().filter(|line| line.contains("WARN") && line.contains("no listener")).collect();
    assert_eq!(warned.len(), 1, "{said}");
    assert!(warned[0].contains("\"stray\""), "{said}");
}

#[test]
fn the_command_line_of_the_unit_is_one_that_the_program_takes() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("kmsproxy.toml").display().to_string();
    let line = setting("kmsproxy.service", "ExecStart").replace("/etc/kmsproxy/kmsproxy.toml", &missing);
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some("/usr/bin/kmsproxy"));
    let arguments: Vec<_> = words.collect();
    assert!(arguments.contains(&missing.as_str()), "{arguments:?}");
    let output = Command::new(KMSPROXY).args(&arguments).output().unwrap();
    // 64 would be a command line that it does not understand.
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&missing), "{said}");
}

#[test]
fn the_reload_of_the_unit_is_a_command_that_the_program_takes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kmsproxy.toml");
    fs::write(&file, format!("[admin]\naddress = \"unix:{}/admin.sock\"\n", folder.path().display())).unwrap();
    let line = setting("kmsproxy.service", "ExecReload").replace("/etc/kmsproxy/kmsproxy.toml", file.to_str().unwrap());
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some("/usr/bin/kmsproxy"));
    let output = Command::new(KMSPROXY).args(words).output().unwrap();
    // It understood, and found nobody.
    assert_eq!(output.status.code(), Some(70), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(output.stderr).unwrap().contains("nothing listens there"));
}

#[test]
fn the_shipped_configurations_name_the_socket_that_the_unit_passes() {
    let passed = format!("\"systemd:{}\"", setting("kmsproxy.socket", "FileDescriptorName"));
    let mut examples = 0;
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        for address in text.lines().filter_map(|line| line.strip_prefix("address = \"systemd:")) {
            assert_eq!(format!("\"systemd:{address}"), passed);
            examples += 1;
        }
    }
    assert!(examples > 0);
}

/// The one value of `name` in a unit.
fn setting(unit: &str, name: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(unit)).unwrap();
    let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let value = values.next().unwrap().to_owned();
    assert_eq!(values.next(), None, "{name} is set once");
    value
}

fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().is_some_and(|state| state.starts_with('T'))
}

/// A process that is killed when this goes.
struct Activated {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Activated {
    /// Sends it a signal, such as `-TERM`.
    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// How it ended.
    fn ended(&mut self) -> ExitStatus {
        eventually("it ends", || self.child.try_wait().unwrap())
    }

    /// What it wrote on standard error, once that holds `text`.
    fn said(&self, text: &str) -> String {
        eventually(text, || Some(self.said.lock().unwrap().clone()).filter(|said| said.contains(text)))
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        eprintln!("{}", self.said.lock().unwrap());
    }
}

/// Starts `systemd-socket-activate` with `arguments` (options, then the program and its own) and returns when it
/// listens at every `--listen=`. At the first connection it becomes the program, which keeps its process id.
///
/// The program sees of the environment only what `--setenv=` passes.
fn socket_activate(arguments: &[&str]) -> Activated {
    let mut command = Command::new("systemd-socket-activate");
    let mut child = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let said = Arc::<Mutex<String>>::default();
    let activated = Activated { child, said: Arc::clone(&said) };
    let wanted = arguments.iter().filter(|argument| argument.starts_with("--listen=")).count();
    let listening = lines.by_ref().filter(|line| line.contains("Listening on")).take(wanted).count();
    assert_eq!(listening, wanted, "systemd-socket-activate listens at every address");
    thread::spawn(move || lines.for_each(|line| *said.lock().unwrap() += &(line + "\n")));
    activated
}

/// Asks again and again until there is something.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        match look() {
            Some(found) => return found,
            None => thread::sleep(LOOK),
        }
    }
    panic!("waited in vain: {what}")
}

/// Where systemd would hear `READY=1`.
fn manager(path: &Path) -> UnixDatagram {
    let manager = UnixDatagram::bind(path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    manager
}

/// The next message, whatever it is.
fn overhear(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let length = manager.recv(&mut buffer).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// The next message that is more than words for people.
fn hear(manager: &UnixDatagram) -> String {
    loop {
        let said = overhear(manager);
        if !said.starts_with("STATUS=") {
            return said;
        }
    }
}

/// The next message that is no turn of the watchdog.
fn hear_other(manager: &UnixDatagram) -> String {
    loop {
        let said = hear(manager);
        if said != "WATCHDOG=1" {
            return said;
        }
    }
}

/// A port that was just free, at a loopback address that belongs to this process alone: nobody else takes it meanwhile.
fn free_address() -> SocketAddr {
    let [_, b, c, d] = std::process::id().to_be_bytes();
    let ours = Ipv4Addr::new(127, b | 0x80, c, d | 1);
    TcpListener::bind((ours, 0)).unwrap().local_addr().unwrap()
}

fn read_all(stream: &mut impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A copy of the units, with a program that exists wherever the tests run.
fn units_with_a_stub() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for unit in UNITS {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(unit)).unwrap();
        let text = text.replace("=/usr/bin/kmsproxy ", "=/bin/true ");
        fs::write(folder.path().join(unit), text).unwrap();
    }
    folder
}

const KMSPROXY: &str = env!("CARGO_BIN_EXE_kmsproxy");
const SECRET: &str = "a-secret-of-the-test";
const LOOK: Duration = Duration::from_millis(10);
const UNITS: [&str; 2] = ["kmsproxy.service", "kmsproxy.socket"];
/// `systemd-analyze security`, from 0 (best) to 10.
const EXPOSURE_MAX: f64 = 1.2;
const PATIENCE: Duration = Duration::from_secs(30);
const CHILD: &str = "KMSPROXY_TEST_CHILD";
