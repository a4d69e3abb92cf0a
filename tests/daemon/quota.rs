//! A KMS that grants a hundred calls a second, and more cold DEKs than that: what it is asked, by its own account.
//! `COLD_DEKS=10000 cargo test --test daemon quota -- --nocapture` asks for more of them, and tells the figures.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::flights::ask;
use super::scene::{MACHINE, Scene, Setting};

#[tokio::test]
async fn with_its_quota_written_the_kms_is_asked_no_more_in_any_second_and_throttles_nothing() {
    let _alone = MACHINE.write().await;
    let drained = drain("quota = \"100/s\"").await;
    assert_eq!((drained.throttled, drained.busiest_second <= GRANTED), (0, true), "{drained:?}");
}

#[tokio::test]
async fn with_no_quota_written_the_kms_throttles_two_percent_at_most_and_everything_is_had_in_the_end() {
    let _alone = MACHINE.write().await;
    let drained = drain("").await;
    // The first calls find out, and they are many for so few DEKs: a window's worth.
    let first = 64;
    assert!(drained.throttled <= drained.decided * 2 / 100 + first, "{drained:?}");
}

#[derive(Debug)]
#[expect(dead_code, reason = "all of it is told where a test fails")]
struct Drained {
    seconds: f64,
    decided: usize,
    throttled: usize,
    busiest_second: usize,
    refused: usize,
}

async fn drain(upstream: &'static str) -> Drained {
    let scene = Scene::new(Setting { retries: 2, probe: "1s", lease: "5s", upstream, ..Setting::default() });
    let deks = std::env::var("COLD_DEKS").map_or(DEKS, |deks| deks.parse().unwrap());
    let path: Arc<Path> = Path::new(scene.unix.address.strip_prefix("unix:").unwrap()).into();
    // A key that lives by its probes alone, and the cold ones of another.
    let idle = scene.new_key().await;
    let warm = scene.ciphertexts(&idle, 1).await[0].as_str().into();
    assert_eq!(ask(Arc::clone(&path), warm, Arc::default(), None).await.0, 200);
    let cold = Arc::new(scene.ciphertexts(&scene.key(), deks).await);
    scene.behave(&json!({ "latency": "20ms", "quota": GRANTED })).await;
    sleep(Duration::from_secs(1)).await;
    let before = decisions(&scene).await.len();

    let (next, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (path, cold, next, refused) =
            (Arc::clone(&path), Arc::clone(&cold), Arc::clone(&next), Arc::clone(&refused));
        workers.spawn(async move {
            while let Some(blob) = cold.get(next.fetch_add(1, Ordering::Relaxed)) {
                loop {
                    let (status, body) = ask(Arc::clone(&path), blob.as_str().into(), Arc::default(), None).await;
                    if status == 200 {
                        break;
                    }
                    assert_eq!((status, &body["Code"]), (429, &json!("Rejected.Throttling")), "{body}");
                    refused.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(100)).await;
                }
            }
        });
    }
    workers.join_all().await;

    let decided = decisions(&scene).await.split_off(before);
    // Its lease was in force all the time, or the emulator would be asked again.
    let seen = scene.metrics().await;
    let serving = format!("kmsproxy_lease_state{{upstream=\"emulator\",key=\"{idle}\",state=\"serving\"}} 1");
    assert!(seen.contains(&serving), "{seen}");
    assert!(!seen.contains("kmsproxy_probes_total{upstream=\"emulator\",outcome=\"timed_out\"}"), "{seen}");
    let turned = "kmsproxy_quota_turned_away_total{upstream=\"emulator\",quota=\"crypto\",class=\"probe\"}";
    assert_eq!(scene.metric(turned).await, Some(0.0));
    let drained = Drained::of(&decided, refused.load(Ordering::Relaxed));
    eprintln!("{deks} cold DEKs, {GRANTED} a second granted, {upstream:?}: {drained:?}");
    drained
}

impl Drained {
    fn of(decided: &[Value], refused: usize) -> Self {
        let at: Vec<u64> = decided.iter().map(|decision| decision["at_ns"].as_u64().unwrap()).collect();
        let until = |from: u64| at.partition_point(|&at| at < from + 1_000_000_000);
        let busiest_second = at.iter().enumerate().map(|(index, &from)| until(from) - index).max().unwrap();
        Self {
            seconds: Duration::from_nanos(at[at.len() - 1] - at[0]).as_secs_f64(),
            decided: decided.len(),
            throttled: decided.iter().filter(|decision| decision["outcome"] == "throttled").count(),
            busiest_second,
            refused,
        }
    }
}

async fn decisions(scene: &Scene) -> Vec<Value> {
    let mut all = scene.steer("GET", "/decisions", "").await;
    let mut all: Vec<Value> = std::mem::take(all["decisions"].as_array_mut().unwrap());
    all.sort_by_key(|decision| decision["at_ns"].as_u64());
    all
}

const GRANTED: usize = 100;
const DEKS: usize = 600;
const WORKERS: usize = 100;
