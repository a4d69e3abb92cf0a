//! What is in spans, by the Collector's own reading.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::collector::{Collector, Span};
use super::grpc;
use super::scene::{SPAN, Scene, parent};

/// The collector, and a daemon that sends to it and draws nothing.
fn stage(more: &str) -> Option<(Collector, Scene)> {
    let collector = Collector::start()?;
    let scene = Scene::new(&format!("[tracing]\nendpoint = \"{}\"\nsample = 0\n{more}", collector.url));
    Some((collector, scene))
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The attributes without the KMS's request id, which is there and different each time.
fn known(span: &Span) -> BTreeMap<String, String> {
    let mut known = span.attributes.clone();
    assert!(known.remove("kmsproxy.kms.request_id").is_some(), "{span:?}");
    known
}

fn of(spans: &[Span], trace: u128, kind: u64) -> Span {
    let mut those = spans.iter().filter(|span| span.trace == format!("{trace:032x}") && span.kind == kind);
    let span = those.next().unwrap_or_else(|| panic!("no span of kind {kind} in trace {trace:x}: {spans:#?}"));
    assert_eq!(those.next(), None);
    span.clone()
}

const SERVER: u64 = 2;
const CLIENT: u64 = 3;

#[tokio::test]
async fn a_miss_a_hit_and_a_refusal_of_the_alibaba_face_are_told_in_the_traces_of_who_asked() {
    let Some((collector, scene)) = stage("service_name = \"kms-of-node-7\"") else { return };
    let blob = scene.wrapped("REVL", None).await;
    let state = ("tracestate", "rojo=1,congo=t61rcWkgMzE");
    for trace in [0xa1, 0xa2] {
        let (status, body) =
            scene.ask("Decrypt", &[("CiphertextBlob", &blob)], &[("traceparent", &parent(trace, true)), state]).await;
        assert_eq!((status, &body["Plaintext"]), (200, &json!("REVL")));
    }
    let refused = [("KeyId", "a-key-of-others"), ("Plaintext", "REVL")];
    assert_eq!(scene.ask("Encrypt", &refused, &[("traceparent", &parent(0xa3, true))]).await.0, 403);
    let spans = collector.spans(4).await;

    let miss = of(&spans, 0xa1, SERVER);
    let common = [
        ("rpc.system.name", "aliyun"),
        ("rpc.method", "Decrypt"),
        ("kmsproxy.caller", "ack-kms-plugin"),
        ("kmsproxy.listener", "plugin"),
        ("kmsproxy.key", scene.key()),
        ("http.response.status_code", "200"),
    ];
    assert_eq!(known(&miss), pairs(&[&common[..], &[("kmsproxy.outcome", "miss")]].concat()));
    assert_eq!((&*miss.name, &*miss.parent, &*miss.state, miss.failed), ("Decrypt", SPAN, state.1, false));
    assert_eq!(miss.flags, 0x301, "sampled, and its parent is another process's");
    assert_eq!((miss.says("kmsproxy.kms.request_id").unwrap().len(), &miss.links[..]), (36, &[][..]));
    assert_eq!(miss.resource["service.name"], "kms-of-node-7");
    assert_eq!(miss.resource["service.version"], env!("CARGO_PKG_VERSION"));

    let call = of(&spans, 0xa1, CLIENT);
    let asked = pairs(&[("rpc.method", "Decrypt"), ("kmsproxy.upstream", "kms"), ("kmsproxy.key", scene.key())]);
    assert_eq!(known(&call), asked);
    assert_eq!((&call.parent, &call.state, call.flags, call.failed), (&miss.id, &miss.state, 0x101, false));
    assert!(0 < call.nanos && call.nanos <= miss.nanos, "{} of {}", call.nanos, miss.nanos);

    let hit = of(&spans, 0xa2, SERVER);
    assert_eq!(known(&hit), pairs(&[&common[..], &[("kmsproxy.outcome", "hit")]].concat()));
    let filled = |span: &Span| span.says("kmsproxy.kms.request_id").map(str::to_owned);
    assert_eq!(filled(&hit), filled(&call), "the call that filled the cache");

    let refused = of(&spans, 0xa3, SERVER);
    let said = [
        ("rpc.system.name", "aliyun"),
        ("rpc.method", "Encrypt"),
        ("kmsproxy.caller", "ack-kms-plugin"),
        ("kmsproxy.listener", "plugin"),
        ("http.response.status_code", "403"),
        ("kmsproxy.outcome", "refused"),
        ("error.type", "forbidden"),
    ];
    assert_eq!(refused.attributes, pairs(&said), "and no name that a caller made up");
    assert!(!refused.failed, "it is the caller's affair");
}

#[tokio::test]
async fn what_the_kms_refuses_is_told_in_its_own_words() {
    let Some((collector, scene)) = stage("") else { return };
    let garbage = [("CiphertextBlob", "R0FSQkFHRQ==")];
    let (status, body) = scene.ask("Decrypt", &garbage, &[("traceparent", &parent(0xe1, true))]).await;
    let call = of(&collector.spans(2).await, 0xe1, CLIENT);
    let said = [
        ("rpc.method", "Decrypt"),
        ("kmsproxy.upstream", "kms"),
        ("error.type", "invalid_ciphertext"),
        ("http.response.status_code", &*status.to_string()),
        ("kmsproxy.kms.code", body["Code"].as_str().unwrap()),
        ("kmsproxy.kms.request_id", body["RequestId"].as_str().unwrap()),
    ];
    assert_eq!((call.attributes, call.failed), (pairs(&said), true));
}

#[tokio::test]
async fn calls_of_kube_apiserver_are_told_in_the_trace_of_their_metadata() {
    let Some((collector, scene)) = stage("") else { return };
    let (sampled, unsampled) = (parent(0xb1, true), parent(0xb2, false));
    grpc::round(scene.apiserver(), b"a seed", &[("traceparent", &unsampled)]).await;
    assert_eq!(grpc::stranger(scene.apiserver(), &[("traceparent", &parent(0xb3, true))]).await, "5");
    grpc::round(scene.apiserver(), b"another seed", &[("traceparent", &sampled)]).await;
    let spans = collector.spans(5).await;
    assert_eq!(spans.len(), 5, "none of the unsampled: {spans:#?}");

    let served: Vec<_> = spans.iter().filter(|span| span.kind == SERVER && span.trace.ends_with("b1")).collect();
    let common = [
        ("rpc.system.name", "grpc"),
        ("rpc.response.status_code", "OK"),
        ("kmsproxy.caller", "apiserver"),
        ("kmsproxy.listener", "k8s"),
        ("kmsproxy.key", scene.key()),
    ];
    for (span, method, outcome) in [(served[0], "Encrypt", "encrypted"), (served[1], "Decrypt", "miss")] {
        let name = format!("v2.KeyManagementService/{method}");
        let own = [("rpc.method", &*name), ("kmsproxy.outcome", outcome)];
        assert_eq!((known(span), &*span.parent), (pairs(&[&common[..], &own].concat()), SPAN));
        assert_eq!((&span.name, span.flags), (&name, 0x301));
    }
    let stranger = of(&spans, 0xb3, SERVER);
    let said = [
        ("rpc.system.name", "grpc"),
        ("rpc.method", "v2.KeyManagementService/Decrypt"),
        ("rpc.response.status_code", "NOT_FOUND"),
        ("kmsproxy.caller", "apiserver"),
        ("kmsproxy.listener", "k8s"),
        ("kmsproxy.outcome", "refused"),
        ("error.type", "key_not_found"),
    ];
    assert_eq!((stranger.attributes, stranger.failed), (pairs(&said), false));
}

#[tokio::test]
async fn whoever_waits_for_the_flight_of_another_is_linked_to_the_call_that_answers_both() {
    let Some((collector, scene)) = stage("") else { return };
    let blob = scene.wrapped("REVL", None).await;
    scene.behave(&json!({ "latency": "400ms" })).await;
    let parents = [parent(0xc1, true), parent(0xc2, true)];
    let (parameters, headers) = ([("CiphertextBlob", &*blob)], parents.each_ref().map(|it| [("traceparent", &**it)]));
    let second = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        scene.ask("Decrypt", &parameters, &headers[1]).await
    };
    let (first, second) = tokio::join!(scene.ask("Decrypt", &parameters, &headers[0]), second);
    assert_eq!((first.0, second.0), (200, 200));
    let spans = collector.spans(3).await;
    let (leader, follower, call) = (of(&spans, 0xc1, SERVER), of(&spans, 0xc2, SERVER), of(&spans, 0xc1, CLIENT));
    assert_eq!((leader.says("kmsproxy.outcome"), leader.links.len()), (Some("miss"), 0));
    assert_eq!(follower.says("kmsproxy.outcome"), Some("coalesced"));
    assert_eq!((&call.parent, &*follower.parent), (&leader.id, SPAN));
    assert_eq!(follower.links, [(call.trace, call.id)]);
}

#[tokio::test]
async fn a_parent_that_is_not_well_formed_is_none_and_a_draw_decides() {
    let Some(collector) = Collector::start() else { return };
    let scene = Scene::new(&format!("[tracing]\nendpoint = \"{}\"\nsample = 1\n", collector.url));
    let blob = scene.wrapped("REVL", None).await;
    let malformed = format!("{}-more", parent(0xd1, true));
    assert_eq!(scene.ask("Decrypt", &[("CiphertextBlob", &blob)], &[("traceparent", &malformed)]).await.0, 200);
    let spans = collector.spans(2).await;
    let served = spans.iter().find(|span| span.kind == SERVER).unwrap();
    assert_ne!(served.trace, format!("{:032x}", 0xd1));
    assert_eq!((&*served.parent, served.flags, served.trace.len()), ("", 0x101, 32));
    assert_eq!(spans.iter().filter(|span| span.trace == served.trace).count(), 2, "its call as well");
}
