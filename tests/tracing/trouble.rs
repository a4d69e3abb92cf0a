//! Collectors that are away, refuse, talk nonsense or say nothing: spans are lost and counted, and callers are answered.

use std::time::Duration;

use super::scene::{Scene, parent};
use super::sink::{Manner, Sink, TAKEN};

/// Asks so often, each in a trace of its own that is sampled; each makes two spans.
async fn busy(scene: &Scene, times: u128) {
    for trace in 1..=times {
        let asked = [("KeyId", scene.key()), ("Plaintext", "REVL")];
        assert_eq!(scene.ask("Encrypt", &asked, &[("traceparent", &parent(trace, true))]).await.0, 200);
    }
}

fn before(endpoint: &str, more: &str) -> Scene {
    Scene::new(&format!("[tracing]\nendpoint = \"{endpoint}\"\nsample = 0\n{more}"))
}

/// How many warnings have this text, once there is one: the log is written a moment after what is counted.
async fn lines(scene: &Scene, text: &str) -> usize {
    for _ in 0..PATIENCE {
        let log = scene.proxy.log();
        let found = log.lines().filter(|line| line.contains("WARN") && line.contains(text)).count();
        if found > 0 {
            return found;
        }
        tokio::time::sleep(POLL).await;
    }
    panic!("never logged: {text}\n{}", scene.proxy.log())
}

#[tokio::test]
async fn what_nobody_takes_is_lost_and_told_in_one_line() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let scene = before(&format!("http://{closed}"), "");
    for round in 1..=2 {
        busy(&scene, 2).await;
        scene.count("lost", 4 * round).await;
    }
    assert_eq!(scene.counted("exported").await, 0);
    assert_eq!(lines(&scene, "spans are lost").await, 1, "{}", scene.proxy.log());
}

#[tokio::test]
async fn a_collector_that_is_ill_is_asked_again_and_one_that_refuses_is_not() {
    let [ill, refusing] = [503, 400].map(|status| Sink::new(Manner::Answers(status, b"no")));
    for (sink, attempts) in [(ill, 3), (refusing, 1)] {
        let scene = before(&format!("http://{}", sink.address), "");
        busy(&scene, 1).await;
        scene.count("lost", 2).await;
        assert_eq!(sink.posted().len(), attempts);
        assert_eq!(lines(&scene, "spans are lost").await, 1);
    }
}

#[tokio::test]
async fn an_answer_that_is_no_otlp_is_no_consent_and_what_it_rejects_is_counted() {
    let nonsense = Sink::new(Manner::Answers(200, b"<html>a portal</html>"));
    let scene = before(&format!("http://{}", nonsense.address), "");
    busy(&scene, 1).await;
    scene.count("lost", 2).await;
    assert_eq!((scene.counted("exported").await, nonsense.posted().len()), (0, 1));
    assert!(!scene.proxy.log().contains("portal"), "what it says is repeated nowhere");

    // ExportTraceServiceResponse { partial_success: { rejected_spans: 1 } }
    let choosy = Sink::new(Manner::Answers(200, &[0x0a, 2, 0x08, 1]));
    let scene = before(&format!("http://{}", choosy.address), "");
    busy(&scene, 1).await;
    scene.count("lost", 1).await;
    assert_eq!((scene.counted("exported").await, lines(&scene, "rejected").await), (1, 1));
}

#[tokio::test]
async fn while_a_collector_says_nothing_the_list_fills_and_no_caller_waits() {
    let sink = Sink::new(Manner::Stalls);
    let scene = before(&format!("http://{}", sink.address), "timeout = \"10m\"\nqueue = 4");
    busy(&scene, 1).await;
    while sink.posted().is_empty() {
        tokio::time::sleep(POLL).await;
    }
    busy(&scene, 20).await;
    scene.count("dropped", 36).await;
    assert_eq!((scene.counted("exported").await, scene.counted("lost").await), (0, 0), "two are on their way");
}

#[tokio::test]
async fn over_tls_a_collector_is_believed_by_its_authority_alone_and_has_the_headers_of_the_file() {
    let emulator = super::process::Daemon::emulator(&[]);
    let ca = emulator.at("ca_file").to_owned();
    let sink = Sink::tls(TAKEN, std::path::Path::new(&ca).parent().unwrap());
    let tracing = format!(
        "[tracing]\nendpoint = \"https://localhost:{}/in/traces\"\nsample = 0\nheaders_file = \"DIR/headers\"\n",
        sink.address.port()
    );
    let files = [("headers", "# of the collector\nAuthorization: Bearer canary-of-a-collector\n")];
    let scene = Scene::before(emulator, &[], &format!("{tracing}ca_file = \"{ca}\"\n"), &files);
    busy(&scene, 1).await;
    scene.count("exported", 2).await;
    let posted = sink.posted();
    assert_eq!((posted.len(), &*posted[0].line), (1, "POST /in/traces"));
    assert_eq!(posted[0].headers["authorization"], "Bearer canary-of-a-collector");
    assert_eq!(posted[0].headers["content-type"], "application/x-protobuf");
    assert!(!scene.proxy.log().contains("canary-of-a-collector"));

    let Scene { emulator, .. } = scene;
    let stranger = Scene::before(emulator, &[], &tracing, &files);
    busy(&stranger, 1).await;
    stranger.count("lost", 2).await;
    assert_eq!(sink.posted().len(), 1);
}

const POLL: Duration = Duration::from_millis(20);
/// Polls.
const PATIENCE: usize = 1000;
