//! `/metrics`, `/livez` and `/readyz`, held against the README and against what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use super::client::{bare, get};
use super::process::Daemon;
use super::scene::{Scene, Setting, until};

#[tokio::test]
async fn metrics_are_those_of_the_readme_with_its_labels_and_no_others() {
    let scene = Scene::new(Setting { probe: "1s", retries: 1, timeout: "3s", ..Setting::default() });
    let blobs = scene.ciphertexts(&scene.key(), 2).await;
    let mut client = scene.tls.connect().await;
    for _ in 0..3 {
        assert_eq!(client.call("Decrypt", &[("CiphertextBlob", &blobs[0])]).await.0, 200);
    }
    assert_eq!(client.call("Encrypt", &[("KeyId", "no-such-key"), ("Plaintext", "aGVsbG8=")]).await.0, 404);
    let probed = "kmsproxy_probes_total{upstream=\"emulator\",outcome=\"ok\"}";
    until("a probe", async || scene.metric(probed).await.filter(|count| *count > 0.0)).await;
    scene.behave(&json!({ "error_rate": 1.0 })).await;
    assert_eq!(client.call("Decrypt", &[("CiphertextBlob", &blobs[1])]).await.0, 500);

    let serving = format!("kmsproxy_lease_state{{upstream=\"emulator\",key=\"{}\",state=\"serving\"}}", scene.key());
    for (series, expected) in [
        ("kmsproxy_requests_total{face=\"aliyun\",action=\"Decrypt\",outcome=\"ok\"}", 3.0),
        ("kmsproxy_requests_total{face=\"aliyun\",action=\"Decrypt\",outcome=\"kms_failure\"}", 1.0),
        ("kmsproxy_requests_total{face=\"aliyun\",action=\"Encrypt\",outcome=\"key_not_found\"}", 1.0),
        ("kmsproxy_request_seconds_count{face=\"aliyun\"}", 5.0),
        ("kmsproxy_decrypts_total{upstream=\"emulator\",outcome=\"hit\"}", 2.0),
        ("kmsproxy_decrypts_total{upstream=\"emulator\",outcome=\"miss\"}", 1.0),
        ("kmsproxy_decrypts_total{upstream=\"emulator\",outcome=\"coalesced\"}", 0.0),
        ("kmsproxy_decrypts_total{upstream=\"emulator\",outcome=\"failed\"}", 1.0),
        ("kmsproxy_cache_evictions_total", 0.0),
        ("kmsproxy_build_info{version=\"0.1.0\"}", 1.0),
    ] {
        assert_eq!(scene.metric(series).await, Some(expected), "{series}\n{}", scene.metrics().await);
    }
    // These two are told once a second.
    until("the lease is in force", async || scene.metric(&serving).await.filter(|&state| state == 1.0)).await;
    until("the entries are counted", async || scene.metric("kmsproxy_cache_entries").await.filter(|&n| n == 1.0)).await;
    assert!(scene.metric("kmsproxy_upstream_retries_total{upstream=\"emulator\"}").await >= Some(1.0));

    assert_eq!(shown(&scene.metrics().await), promised());
}

#[tokio::test]
async fn health_is_told_and_nothing_else_is_served_there() {
    let scene = Scene::new(Setting::default());
    let address = scene.proxy.at("metrics_address");
    until("ready", async || (get(address, "/readyz").await == (200, json!("ok\n"))).then_some(())).await;
    assert_eq!(get(address, "/livez").await, (200, json!("ok\n")));
    for path in ["/", "/metrics/", "/livez2", "/debug", "/?Action=Decrypt"] {
        assert_eq!(get(address, path).await.0, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "HEAD"] {
        for path in ["/metrics", "/livez", "/readyz", "/elsewhere"] {
            assert_eq!(bare(address, method, path).await.0, 405, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn whoever_holds_all_its_places_and_says_nothing_makes_room_for_who_asks() {
    let scene = Scene::new(Setting::default());
    let address = scene.proxy.at("metrics_address");
    let mut silent = Vec::new();
    for _ in 0..2 * kmsproxy::admin::CONNECTIONS_MAX {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let asked = tokio::time::timeout(Duration::from_secs(3), get(address, "/livez")).await;
    assert_eq!(asked, Ok((200, json!("ok\n"))));
}

#[tokio::test]
async fn without_credentials_it_is_alive_and_not_ready() {
    let emulator = Daemon::emulator(&[]);
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = format!(
        r#"
[upstream.emulator]
kind = "aliyun"
endpoint = "https://{address}"
ca_file = "{ca}"
credentials = {{ source = "uri", uri = "http://{dead}/credentials" }}
[[listener]]
name = "unix"
face = "aliyun"
address = "unix:DIR/plugin.sock"
upstream = "emulator"
[[caller]]
name = "anyone"
listener = "unix"
allow = [{{ actions = ["Decrypt"], keys = ["*"] }}]
[metrics]
address = "127.0.0.1:0"
"#,
        address = emulator.at("address"),
        ca = emulator.at("ca_file"),
    );
    let proxy = Daemon::serve(&config, &[]);
    let address = proxy.at("metrics_address");
    assert_eq!(get(address, "/readyz").await, (503, json!("upstream emulator has no credentials\n")));
    assert_eq!(get(address, "/livez").await, (200, json!("ok\n")));
}

/// Names and labels in the README's table.
fn promised() -> BTreeMap<String, BTreeSet<String>> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `kmsproxy_"));
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let row = |row: &str| {
        let (name, rest) = row.split_once("` |").unwrap();
        (format!("kmsproxy_{name}"), quoted(rest.split('|').next().unwrap()))
    };
    rows.map(row).collect()
}

/// Names and labels in what was scraped.
fn shown(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let kinds: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let parts = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        let histogram = parts.filter(|name| kinds.get(name) == Some(&"histogram"));
        let known = found.entry(histogram.unwrap_or(name).to_owned()).or_default();
        let labels = labels.split("\",").filter_map(|label| label.split_once("=\"")).map(|(name, _)| name.to_owned());
        known.extend(labels.filter(|label| histogram.is_none() || label != "le"));
    }
    found
}
