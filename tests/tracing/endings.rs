//! A daemon that ends, and one that has not been told of any collector.

use std::time::{Duration, Instant};

use super::scene::{Scene, parent};
use super::sink::{Manner, Sink, TAKEN};

#[tokio::test]
async fn what_was_not_sent_yet_is_sent_at_the_end() {
    let sink = Sink::new(TAKEN);
    let scene = Scene::new(&format!("[tracing]\nendpoint = \"http://{}\"\nsample = 0\n", sink.address));
    for trace in 1..=3 {
        let asked = [("KeyId", scene.key()), ("Plaintext", "REVL")];
        assert_eq!(scene.ask("Encrypt", &asked, &[("traceparent", &parent(trace, true))]).await.0, 200);
    }
    assert!(scene.proxy.stop("-TERM").success());
    let whole: Vec<u8> = sink.posted().iter().flat_map(|posted| posted.body.to_vec()).collect();
    for trace in 1..=3_u128 {
        let found = whole.windows(16).filter(|window| *window == trace.to_be_bytes()).count();
        assert_eq!(found, 2, "the request of trace {trace}, and the call for it");
    }
}

#[tokio::test]
async fn a_collector_that_says_nothing_does_not_hold_up_the_end() {
    let sink = Sink::new(Manner::Stalls);
    let tracing = format!("[tracing]\nendpoint = \"http://{}\"\nsample = 0\ntimeout = \"10m\"\n", sink.address);
    let scene = Scene::new(&tracing);
    let asked = [("KeyId", scene.key()), ("Plaintext", "REVL")];
    assert_eq!(scene.ask("Encrypt", &asked, &[("traceparent", &parent(1, true))]).await.0, 200);
    let told = told();
    let log = scene.proxy.dir.path().join("log");
    let Scene { proxy, emulator, .. } = scene;
    proxy.signal("-TERM");
    let mut proxy = proxy;
    let ended = loop {
        if let Some(ended) = proxy.ended() {
            break ended;
        }
        assert!(told.elapsed() < Duration::from_secs(12), "it waits for its collector");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ended.success());
    assert!(std::fs::read_to_string(log).unwrap().contains("spans were not sent before the end"));
    drop(emulator);
}

#[tokio::test]
async fn without_an_endpoint_nobody_is_told_whatever_others_say_in_the_environment() {
    let sink = Sink::new(TAKEN);
    let endpoint = format!("OTEL_EXPORTER_OTLP_ENDPOINT=http://{}", sink.address);
    let traces = format!("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://{}/v1/traces", sink.address);
    let scene = Scene::started_by(&["env", &endpoint, &traces, "OTEL_TRACES_SAMPLER=always_on"], "", &[]);
    let asked = [("KeyId", scene.key()), ("Plaintext", "REVL")];
    for trace in 1..=3 {
        assert_eq!(scene.ask("Encrypt", &asked, &[("traceparent", &parent(trace, true))]).await.0, 200);
    }
    for outcome in ["exported", "lost", "dropped"] {
        assert_eq!(scene.counted(outcome).await, 0, "{outcome}");
    }
    assert!(scene.proxy.stop("-TERM").success());
    assert_eq!(sink.connections(), 0);
}

#[tokio::test]
async fn without_a_span_to_send_no_connection_is_made() {
    let sink = Sink::new(TAKEN);
    let scene = Scene::new(&format!("[tracing]\nendpoint = \"http://{}\"\nsample = 0\n", sink.address));
    let asked = [("KeyId", scene.key()), ("Plaintext", "REVL")];
    assert_eq!(scene.ask("Encrypt", &asked, &[]).await.0, 200);
    assert_eq!(scene.ask("Encrypt", &asked, &[("traceparent", &parent(1, false))]).await.0, 200);
    assert!(scene.proxy.stop("-TERM").success());
    assert_eq!(sink.connections(), 0);
}

#[allow(clippy::disallowed_methods, reason = "how long another process takes is measured by our own clock")]
fn told() -> Instant {
    Instant::now()
}
