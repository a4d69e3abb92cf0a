//! A daemon that ends and comes back, while somebody else holds its sockets: systemd, or whoever does what it does.

use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::client::Target;
use super::grpc;
use super::process::{BINARY, Daemon, write_private};
use super::stage::kmsproxy;
use super::strict::{Strict, Tally};

/// Whoever holds the sockets, and starts the daemon with them.
struct Holder {
    folder: tempfile::TempDir,
    sockets: [UnixListener; 2],
}

impl Holder {
    fn new(emulator: &Daemon) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sockets = NAMES.map(|name| {
            let listener = UnixListener::bind(folder.path().join(name)).unwrap();
            // As systemd's Backlog=; the listening process says how long its queue is, too.
            rustix::net::listen(&listener, 1024).unwrap();
            listener
        });
        write_private(&folder.path().join("secret"), "localsecret");
        let config = CONFIG
            .replace("DIR", folder.path().to_str().unwrap())
            .replace("ADDRESS", emulator.at("address"))
            .replace("CA", emulator.at("ca_file"))
            .replace("UPSTREAM_ID", emulator.at("access_key_id"))
            .replace("UPSTREAM_SECRET", emulator.at("secret_file"))
            .replace("KEY", emulator.at("key_id"));
        write_private(&folder.path().join("kmsproxy.toml"), &config);
        Self { folder, sockets }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Starts a daemon with the sockets, and returns when it is ready, with how long that took.
    fn start(&self) -> (Child, Duration) {
        let [plugin, kubernetes] =
            self.sockets.each_ref().map(|socket| Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
        let begun = Instant::now();
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT, BINARY, "serve", "--json", "--config", &self.path("kmsproxy.toml")])
            .env("HELD_LOG", self.path("log"))
            .stdin(plugin)
            .stdout(Stdio::piped())
            .stderr(kubernetes)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with('{'), "{line}{}", std::fs::read_to_string(self.path("log")).unwrap_or_default());
        (child, begun.elapsed())
    }
}

/// Ends it as systemd does, and waits for its end.
fn terminate(mut child: Child) -> Duration {
    let begun = Instant::now();
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    begun.elapsed()
}

/// Callers over both sockets, without a pause.
struct Load {
    http: Strict,
    grpc: Vec<JoinHandle<Tally>>,
    over: Arc<AtomicBool>,
}

impl Load {
    async fn start(emulator: &Daemon, holder: &Holder) -> Self {
        let mut blobs = Vec::new();
        let mut straight = Target::of(emulator).connect().await;
        for number in 0..8 {
            let plaintext = format!("REVL{number:04}");
            let parameters = [("KeyId", emulator.at("key_id")), ("Plaintext", &plaintext)];
            let (_, body) = straight.call("Encrypt", &parameters).await;
            blobs.push((body["CiphertextBlob"].as_str().unwrap().to_owned(), plaintext));
        }
        let path = holder.path("kubernetes");
        let wrapped = grpc::wrap(&path, SEED).await;
        let over = Arc::new(AtomicBool::new(false));
        let call = |_| {
            let over = Arc::clone(&over);
            let end = move || over.load(Ordering::Relaxed);
            tokio::spawn(grpc::decrypt_until(path.clone(), wrapped.clone(), SEED.to_vec(), end))
        };
        let grpc = (0..4).map(call).collect();
        Self { http: Strict::start(8, &target(&holder.path("plugin")), &blobs), grpc, over }
    }

    async fn stop(self) -> [Tally; 2] {
        self.over.store(true, Ordering::Relaxed);
        let mut grpc = Tally::default();
        for call in self.grpc {
            grpc = grpc.and(call.await.unwrap());
        }
        [self.http.stop().await, grpc]
    }
}

fn target(socket: &str) -> Target {
    Target {
        address: format!("unix:{socket}"),
        ca_file: None,
        access_key: "LTAIlocal".into(),
        secret: "localsecret".into(),
        page: None,
    }
}

fn told(spans: &mut [Duration]) -> String {
    spans.sort();
    format!("{:.0?} (median), {:.0?} (longest)", spans[spans.len() / 2], spans[spans.len() - 1])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_behind_held_sockets_fail_no_request_of_whoever_honours_a_goodbye() {
    let restarts = std::env::var("RESTARTS").map_or(RESTARTS, |text| text.parse().unwrap());
    let emulator = Daemon::emulator(&[]);
    let holder = Arc::new(Holder::new(&emulator));
    let (mut child, first) = holder.start();
    let load = Load::start(&emulator, &holder).await;
    let (mut ready, mut drained) = (vec![first], Vec::new());
    for _ in 0..restarts {
        sleep(Duration::from_millis(100)).await;
        let holder = Arc::clone(&holder);
        let turn = tokio::task::spawn_blocking(move || (terminate(child), holder.start()));
        let (drain, (next, took)) = turn.await.unwrap();
        child = next;
        ready.push(took);
        drained.push(drain);
    }
    let [http, grpc] = load.stop().await;
    terminate(child);
    for (name, tally) in [("HTTP/1.1", &http), ("gRPC", &grpc)] {
        let Tally { served, failed, longest, connections } = tally;
        eprintln!(
            "{restarts} restarts, {name}: {served} served over {connections} connections, {failed:?} failed, longest \
             {longest:.0?}"
        );
    }
    eprintln!("{restarts} restarts: ready after {}; drained in {}", told(&mut ready), told(&mut drained));
    http.assert_all_served();
    grpc.assert_all_served();
    // Not a speed: a bound for a debug build on a machine that has much else to do.
    assert!(ready.iter().all(|took| *took < Duration::from_secs(10)), "{ready:?}");
}

#[tokio::test]
async fn a_socket_that_is_listened_on_is_never_taken_and_one_that_a_dead_daemon_left_is_not_in_the_way() {
    let emulator = Daemon::emulator(&[]);
    let holder = Holder::new(&emulator);
    let own = holder.path("own.sock");
    let config = std::fs::read_to_string(holder.path("kmsproxy.toml")).unwrap();
    let config = config.replace("systemd:plugin", &format!("unix:{own}"));
    let config = config.replace("systemd:kubernetes", &format!("unix:{}", holder.path("k8s.sock")));
    let first = Daemon::serve(&config, &[]);
    let file = first.dir.path().join("kmsproxy.toml").display().to_string();
    let second = kmsproxy(&["serve", "--config", &file]);
    assert_eq!(second.status.code(), Some(75), "{}", String::from_utf8_lossy(&second.stderr));
    let target = target(&own);
    let served = async || {
        let parameters = [("KeyId", emulator.at("key_id")), ("Plaintext", "aGVsbG8=")];
        target.call("Encrypt", &parameters).await.0
    };
    assert_eq!(served().await, 200, "the first still listens");
    assert_eq!(first.stop("-KILL").code(), None);
    assert!(Path::new(&own).exists());
    let _third = Daemon::serve(&config, &[]);
    assert_eq!(served().await, 200);
}

const NAMES: [&str; 2] = ["plugin", "kubernetes"];
const RESTARTS: usize = 20;
const SEED: &[u8] = b"a seed of kube-apiserver";
/// Becomes the daemon, as whose the sockets are passed: they come as standard input and standard error.
const SCRIPT: &str = r#"export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=plugin:kubernetes
exec "$0" "$@" 3<&0 4<&2 0</dev/null 2>>"$HELD_LOG""#;
const CONFIG: &str = r#"
[upstream.emulator]
kind = "aliyun"
endpoint = "https://ADDRESS"
ca_file = "CA"
credentials = { source = "file", id = "UPSTREAM_ID", secret_file = "UPSTREAM_SECRET" }
[[listener]]
name = "plugin"
face = "aliyun"
address = "systemd:plugin"
upstream = "emulator"
[[listener]]
name = "kubernetes"
face = "kubernetes"
address = "systemd:kubernetes"
upstream = "emulator"
key = "KEY"
[[caller]]
name = "plugin"
listener = "plugin"
access_key = { id = "LTAIlocal", secret_file = "DIR/secret" }
allow = [{ actions = ["Encrypt", "Decrypt"], keys = ["*"] }]
[[caller]]
name = "kubernetes"
listener = "kubernetes"
allow = [{ actions = ["Encrypt", "Decrypt"], keys = ["*"] }]
"#;
