//! The life of a DEK, and what is found in each part of it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kmsproxy::cli;
use kmsproxy::config::Environment;
use tokio::io::AsyncReadExt as _;
use tokio::time::{sleep, timeout};

use super::memory::{Scan, arena, core, last_core};
use super::needles::{Needles, Planted};
use super::process::BINARY;
use super::stage::{Setting, Stage, report};

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_cached_nothing_is_found_once_the_connections_rest_and_of_what_is_refused_nothing_at_all() {
    let stage = Stage::new(QUIET);
    let mut planted = stage.credentials();
    let mut callers = stage.sow(&mut planted).await;
    let (needles, unseen) = (Needles::new(planted), stage.unseen().await);
    assert!(needles.len() >= 2_000);

    sleep(REST).await;
    let resting = stage.scan("cached, at rest", &needles);
    assert_eq!(resting.secrets(), 0);
    let file = stage.proxy.dir.path().join("core");
    if core(stage.proxy.id(), &file) {
        let dumped = Scan::of_file(&file, &needles);
        report("core, cached", &dumped, &needles);
        assert_eq!(dumped.secrets(), 0);
        std::fs::remove_file(&file).unwrap();
    }

    let before = stage.remote_calls().await;
    callers.ask_again().await;
    assert_eq!(stage.remote_calls().await, before, "all of it was cached, and is served");
    callers.encrypt_again(stage.emulator.at("key_id"), &needles).await;
    let busy = stage.scan("in use a moment ago", &needles);
    assert_eq!(busy.closed, ["/secretmem", "[vvar]", "[vvar_vclock]"], "what cannot be read");
    assert!(busy.secrets() < needles.len() / 4);
    stage.refuse(&unseen).await;
    sleep(Duration::from_millis(700)).await;
    assert!(callers.are_closed(), "the daemon closes what has carried DEKs of the key");
    let refused = stage.scan("refused", &needles);
    // Connections of now, on which nothing but refusals came.
    assert!(refused.finds.iter().all(|find| needles.planted(find.planted).way == "session token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_came_in_past_hyper_nothing_is_found_though_its_connection_is_as_it_was() {
    let stage = Stage::new(QUIET);
    let (mut planted, mut streams) = (Vec::new(), stage.connect().await);
    // What policy refuses goes nowhere else: right after the last answer nothing is left.
    stage.encrypt_past_hyper(&mut streams, ("another", 403), &mut planted).await;
    let refused = stage.scan("came in past hyper and was refused just now", &Needles::new(planted));
    // Upstream it lies in hyper's buffers for as long as their connections are open.
    let mut planted = Vec::new();
    stage.encrypt_past_hyper(&mut streams, (stage.emulator.at("key_id"), 200), &mut planted).await;
    sleep(UPSTREAM_REST).await;
    let encrypted = stage.scan("came in past hyper a moment ago", &Needles::new(planted));
    assert_eq!((refused.secrets(), encrypted.secrets()), (0, 0));
    for stream in &mut streams {
        assert!(timeout(Duration::ZERO, stream.read_u8()).await.is_err(), "it is open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_scan_finds_deks_in_a_daemon_that_does_not_wipe_what_it_frees() {
    let stage = Stage::new(Setting { program: Some(stock), ..QUIET });
    let mut planted = stage.credentials();
    let callers = stage.sow(&mut planted).await;
    let (needles, unseen) = (Needles::new(planted), stage.unseen().await);
    sleep(REST).await;
    assert!(stage.scan("stock allocator: cached, at rest", &needles).secrets() > 0);
    drop(callers);
    stage.refuse(&unseen).await;
    sleep(Duration::from_millis(700)).await;
    assert!(stage.scan("stock allocator: refused", &needles).secrets() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sealing_keys_are_in_guarded_memory_only_and_end_with_what_they_seal() {
    // What lies in guarded memory can be seen where none may be locked.
    let stage = Stage::new(Setting { max_age: "6s", program: Some(unlocked), ..QUIET });
    let mut planted = stage.credentials();
    let callers = stage.sow(&mut planted).await;
    let (start, slots) = arena(stage.proxy.id());
    let keys = slots.iter().flat_map(|slot| pieces(slot));
    let keys: Vec<_> = keys.map(|piece| Planted { way: "sealing key", bytes: piece.to_vec() }).collect();
    eprintln!("{} sealing keys, {} pieces of guarded memory", sealing(&slots), keys.len());
    // Beside them is what verifies callers' signatures.
    assert!(slots.len() > sealing(&slots) && sealing(&slots) > OWN_KEYS && keys.len() >= 10);
    let keys = Needles::new(keys);
    let scan = Scan::of_process(stage.proxy.id(), start, &keys);
    report("sealing keys outside of guarded memory", &scan, &keys);
    assert_eq!(scan.secrets(), 0);

    // Nobody asks for anything from here on, and nothing is refreshed.
    stage.silence().await;
    let needles = Needles::new(planted);
    let took =
        stage.until("the entries expire", async || stage.metric("kmsproxy_cache_entries").await == Some(0.0)).await;
    let wiped = async || sealing(&arena(stage.proxy.id()).1) == OWN_KEYS;
    let waited = stage.until("their sealing key is wiped", wiped).await;
    eprintln!("expired after {took:?}, sealing key wiped {waited:?} later");
    let expired = stage.scan("expired", &needles);
    assert_eq!(expired.secrets(), 0);
    drop(callers);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_last_moment_of_a_daemon_that_ends_nothing_is_left() {
    let stage = Stage::new(QUIET);
    let mut planted = stage.credentials();
    let callers = stage.sow(&mut planted).await;
    let needles = Needles::new(planted);
    let file = stage.emulator.dir.path().join("core");
    if last_core(stage.proxy.id(), &file) {
        let dumped = Scan::of_file(&file, &needles);
        report("at exit_group(2)", &dumped, &needles);
        assert_eq!(dumped.secrets(), 0);
    }
    drop(callers);
}

/// How many slots hold an AES key, which takes more of them than what HMAC needs.
fn sealing(slots: &[Vec<u8>]) -> usize {
    slots.iter().filter(|slot| pieces(slot).count() >= 10).count()
}

fn pieces(slot: &[u8]) -> impl Iterator<Item = &[u8]> {
    slot.chunks(32).filter(|piece| is_random(piece))
}

/// Neither zeroes nor a pattern.
fn is_random(piece: &[u8]) -> bool {
    let mut seen = [false; 256];
    piece.iter().for_each(|&byte| seen[usize::from(byte)] = true);
    seen.iter().filter(|&&seen| seen).count() > 20
}

/// As it is shipped, where nothing may be locked.
fn unlocked(config: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "prlimit", "--memlock=0"]);
    command.args([BINARY, "serve", "--json", "--config"]).arg(config);
    command
}

/// With the allocator of the system: this very program, which has no other.
fn stock(config: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "phases::a_daemon_on_the_stock_allocator", "--nocapture"]).env(STOCK, config);
    command
}

#[test]
fn a_daemon_on_the_stock_allocator() {
    let Some(config) = std::env::var_os(STOCK) else { return };
    let arguments = ["kmsproxy".into(), "serve".into(), "--config".into(), config, "--json".into()];
    // How it ends is of no interest.
    let _ = cli::run(arguments, Environment::of_process());
}

/// The process's own key, which seals credentials.
const OWN_KEYS: usize = 1;
/// Nothing happens but what the test does.
const QUIET: Setting = Setting { lease: r#"{ duration = "1h", probe = "50m" }"#, max_age: "24h", program: None };
/// After which nothing is left in the buffers of connections on which nothing is said: upstream they are closed within
/// twice a second, of callers a second after the last answer, and HTTP/2 takes a moment to say goodbye.
const REST: Duration = Duration::from_secs(4);
/// After which connections upstream that nothing is said on are closed.
const UPSTREAM_REST: Duration = Duration::from_millis(1200);
/// In whose process the configuration is that it names.
const STOCK: &str = "LEAKS_STOCK_ALLOCATOR";
