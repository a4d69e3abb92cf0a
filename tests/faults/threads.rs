//! Threads that do not get their turn. A signal stops a whole process, so single threads are stopped as a debugger does
//! it, which takes root: the daemon lets no other user look into it, not even its own.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::client::attempt;
use super::scene::{MACHINE, Scene, until};
use super::traffic::Traffic;
use super::vitals::threads;
use super::{DEADLINE, SHORT, SLACK, emulator, skipped};

/// F20, each worker thread in turn for the second that the table says.
#[tokio::test]
async fn f20_a_worker_that_stands_still_for_a_second_holds_up_nobody_beyond_the_deadline_and_the_watchdog_hears_on() {
    if !may_stop_threads() {
        return;
    }
    let _alone = MACHINE.write().await;
    let (scene, manager) = watched();
    let blobs = scene.warmed(&scene.key(), 8).await;
    let begun = Instant::now();
    let traffic = Traffic::start(&scene.tls, &blobs);
    traffic.flows().await;
    let workers = threads(scene.proxy.id(), "data");
    for worker in &workers {
        let worker = vec![*worker];
        tokio::task::spawn_blocking(move || stop_for(&worker, STILL)).await.unwrap();
        sleep(STILL / 2).await;
    }
    let history = traffic.stop().await;
    let silence = manager.longest_silence();
    eprintln!(
        "F20: {} workers, each still for {STILL:?}: {} calls, {:.2} % served, longest {:.2?}; the watchdog hears nothing for \
         {silence:.2?} at most",
        workers.len(),
        history.0.len(),
        history.served() * 100.0,
        history.longest()
    );
    assert!(!workers.is_empty());
    assert_eq!(history.outcomes(begun, Instant::now()).len(), 1);
    assert!(history.longest() <= STILL + DEADLINE + SLACK, "{:?}", history.longest());
    assert!(silence < WATCHDOG, "{silence:?}");
}

/// F20, a fifth of the time for five seconds: what a CPU quota of 20 % does, in periods of 100 ms, without a cgroup.
#[tokio::test]
async fn f20_with_a_fifth_of_the_time_deadlines_hold_and_the_watchdog_hears_on() {
    let _alone = MACHINE.write().await;
    let (scene, manager) = watched();
    let blobs = scene.warmed(&scene.key(), 8).await;
    let begun = Instant::now();
    let traffic = Traffic::start(&scene.tls, &blobs);
    traffic.flows().await;
    while begun.elapsed() < Duration::from_secs(5) {
        scene.proxy.signal("-STOP");
        sleep(Duration::from_millis(80)).await;
        scene.proxy.signal("-CONT");
        sleep(Duration::from_millis(20)).await;
    }
    let history = traffic.stop().await;
    let silence = manager.longest_silence();
    eprintln!(
        "F20: a fifth of the time: {} calls, {:.2} % served, longest {:.2?}; the watchdog hears nothing for {silence:.2?} at \
         most",
        history.0.len(),
        history.served() * 100.0,
        history.longest()
    );
    assert!(history.served() >= 0.99, "{:?}", history.outcomes(begun, Instant::now()));
    assert!(history.longest() <= DEADLINE + SLACK, "{:?}", history.longest());
    assert!(silence < WATCHDOG, "{silence:?}");
}

/// F22. The data path hangs as in a deadlock, all of its threads and no other; systemd, which is not here, restarts what
/// says nothing for `WatchdogSec=`. That a process that stands still as a whole says nothing is in `tests/systemd.rs`.
#[tokio::test]
async fn f22_when_the_data_path_hangs_the_watchdog_hears_nothing_though_the_process_lives() {
    if !may_stop_threads() {
        return;
    }
    let _alone = MACHINE.write().await;
    let (scene, manager) = watched();
    let blobs = scene.warmed(&scene.key(), 1).await;
    let workers = threads(scene.proxy.id(), "data");
    let metrics = scene.proxy.at("metrics_address").to_owned();
    until("ready", async || (attempt(&metrics, "GET", "/livez").await?.0 == 200).then_some(())).await;
    let hanging = tokio::task::spawn_blocking(move || stop_for(&workers, HANG));
    sleep(HANG - SLACK).await;
    let (live, _) = attempt(&metrics, "GET", "/livez").await.expect("another thread answers");
    hanging.await.unwrap();
    let silence = manager.longest_silence();
    until("served again", async || (super::traffic::once(&scene.tls, &blobs[0].0).await.0.0 == 200).then_some(()))
        .await;
    let heard = manager.heard();
    until("the watchdog hears again", async || (manager.heard() > heard).then_some(())).await;
    eprintln!("F22: all workers still for {HANG:?}: the watchdog heard nothing for {silence:.2?}, /livez said {live}");
    assert!(silence >= HANG - SLACK && silence >= WATCHDOG, "{silence:?}");
    assert_eq!(live, 503);
}

/// A scene whose daemon reports to a manager of the test, every second at least.
fn watched() -> (Scene, Manager) {
    let manager = Manager::new();
    let notify = format!("NOTIFY_SOCKET={}", manager.folder.path().join("notify").display());
    let watchdog = format!("WATCHDOG_USEC={}", WATCHDOG.as_micros());
    let (overseer, emulator) = emulator();
    let address = emulator.at("address").to_owned();
    (Scene::started_by(&["env", &notify, &watchdog], emulator, &address, SHORT).under(overseer), manager)
}

/// Where systemd would hear the watchdog.
struct Manager {
    folder: TempDir,
    /// Milliseconds.
    silence: Arc<AtomicUsize>,
    heard: Arc<AtomicUsize>,
    end: Arc<AtomicBool>,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (silence, heard, end) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Arc::default());
        let manager = Self { folder, silence: Arc::clone(&silence), heard: Arc::clone(&heard), end: Arc::clone(&end) };
        thread::spawn(move || {
            let mut last: Option<Instant> = None;
            let mut buffer = [0; 256];
            while !AtomicBool::load(&end, Ordering::SeqCst) {
                let length = socket.recv(&mut buffer).unwrap_or(0);
                let since = last.map_or(0, |last| last.elapsed().as_millis());
                silence.fetch_max(usize::try_from(since).unwrap(), Ordering::SeqCst);
                if &buffer[..length] == b"WATCHDOG=1" {
                    last = Some(Instant::now());
                    heard.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        manager
    }

    fn longest_silence(&self) -> Duration {
        Duration::from_millis(self.silence.load(Ordering::SeqCst).try_into().unwrap())
    }

    fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
    }
}

/// Stops these threads of another process, and lets them go after a while. One thread must do all of it.
fn stop_for(threads: &[i32], span: Duration) {
    let threads: Vec<_> = threads.iter().map(|thread| Pid::from_raw(*thread)).collect();
    for &thread in &threads {
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    }
    thread::sleep(span);
    for &thread in &threads {
        ptrace::detach(thread, None).unwrap();
    }
}

fn may_stop_threads() -> bool {
    rustix::process::geteuid().is_root() || skipped("only root may stop single threads of a process that hides")
}

const STILL: Duration = Duration::from_secs(1);
/// `/livez` takes five for granted.
const HANG: Duration = Duration::from_secs(7);
/// What systemd would allow; the unit says ten seconds.
const WATCHDOG: Duration = Duration::from_secs(4);
