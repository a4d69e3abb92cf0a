//! What the shipped alerts and dashboard ask for, held against what a running daemon shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::scene::{Scene, Setting, until};

#[tokio::test]
async fn every_metric_and_label_that_alerts_and_dashboard_ask_for_is_one_that_the_daemon_shows() {
    let scene = Scene::new(Setting { probe: "1s", ..Setting::default() });
    let blobs = scene.ciphertexts(&scene.key(), 1).await;
    let mut client = scene.tls.connect().await;
    assert_eq!(client.call("Decrypt", &[("CiphertextBlob", &blobs[0])]).await.0, 200);
    assert_eq!(client.call("Encrypt", &[("KeyId", "no-such-key"), ("Plaintext", "aGVsbG8=")]).await.0, 404);
    until("a refusal is told", async || scene.metrics().await.contains("kmsproxy_key_refused{").then_some(())).await;
    until("a probe", async || scene.metrics().await.contains("kmsproxy_probes_total{").then_some(())).await;
    scene.behave(&json!({ "error_rate": 0.0 })).await;

    let shown = Shown::of(&scene.metrics().await);
    let (alerts, dashboard) = (alerts(), dashboard());
    assert!(alerts.len() > 20 && dashboard.len() > 40, "{} and {}", alerts.len(), dashboard.len());
    let missing: Vec<String> = alerts
        .iter()
        .chain(&dashboard)
        .flat_map(|query| query.lacks(&shown))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));

    // And the other way: whoever adds a metric says where an operator sees it.
    let asked: BTreeSet<&str> =
        dashboard.iter().flat_map(|query| &query.series).map(|one| bare(&one.metric, &shown.1)).collect();
    let unseen: Vec<_> = shown.0.keys().filter(|metric| !asked.contains(metric.as_str())).collect();
    assert!(unseen.is_empty(), "on no panel: {unseen:?}");
}

#[test]
fn a_name_a_label_and_a_word_that_do_not_exist_are_seen() {
    let shown =
        Shown::of("# TYPE kmsproxy_b histogram\nkmsproxy_a{state=\"serving\"} 1\nkmsproxy_b_bucket{le=\"1\"} 1\n");
    let lacks = |text: &str| Query::new("q", text).lacks(&shown);
    let none: [&str; 0] = [];
    assert_eq!(lacks("sum by (state, instance) (kmsproxy_a{state=~\"serving|refused\", job=\"x\"}) + up"), none);
    assert_eq!(lacks("histogram_quantile(0.9, sum by (le) (rate(kmsproxy_b_bucket[5m])))"), none);
    assert_eq!(lacks("kmsproxy_c"), ["q: there is no kmsproxy_c"]);
    assert_eq!(lacks("kmsproxy_b"), ["q: kmsproxy_b is a histogram"]);
    assert_eq!(lacks("kmsproxy_a{key=\"k\"}"), ["q: kmsproxy_a has no label key"]);
    assert_eq!(lacks("sum by (key) (kmsproxy_a)"), ["q: nothing in it has the label key"]);
    assert_eq!(lacks("kmsproxy_a and on (key) kmsproxy_a"), ["q: nothing in it has the label key"]);
    assert_eq!(lacks("kmsproxy_a{state=~\"serving|happy\"}"), ["q: kmsproxy_a is never state=\"happy\""]);
}

/// What a daemon shows: the labels of each metric, with the values that were seen; and which are histograms.
struct Shown(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>, BTreeSet<String>);

impl Shown {
    fn of(text: &str) -> Self {
        let histograms: BTreeSet<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram").map(str::to_owned))
            .collect();
        let mut metrics: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("kmsproxy_")) {
            for series in series(line) {
                let labels = metrics.entry(bare(&series.metric, &histograms).to_owned()).or_default();
                for (label, value) in series.matchers {
                    labels.entry(label).or_default().insert(value);
                }
            }
        }
        Self(metrics, histograms)
    }
}

/// A histogram's name without the part of it that a series is.
fn bare<'a>(metric: &'a str, histograms: &BTreeSet<String>) -> &'a str {
    let part = ["_bucket", "_sum", "_count"].iter().find_map(|part| metric.strip_suffix(part));
    part.filter(|name| histograms.contains(*name)).unwrap_or(metric)
}

/// One expression in PromQL, and where it stands.
struct Query {
    place: String,
    series: Vec<Series>,
    grouped: Vec<String>,
}

struct Series {
    metric: String,
    /// Each label with a value that it shall have; of a pattern, each alternative.
    matchers: Vec<(String, String)>,
}

impl Query {
    fn new(place: &str, text: &str) -> Self {
        let groups = ["by (", "on ("].iter().flat_map(|opening| text.split(opening).skip(1));
        let grouped = groups
            .flat_map(|rest| rest.split(')').next().unwrap().split(','))
            .map(|label| label.trim().to_owned())
            .collect();
        Self { place: place.to_owned(), series: series(text), grouped }
    }

    /// What it asks for and will never get.
    fn lacks(&self, Shown(metrics, histograms): &Shown) -> Vec<String> {
        let (mut lacks, mut labels) = (Vec::new(), BTreeSet::from(["instance", "job", "le"]));
        for Series { metric, matchers } in &self.series {
            let Some(known) = metrics.get(bare(metric, histograms)) else {
                lacks.push(format!("{}: there is no {metric}", self.place));
                continue;
            };
            if histograms.contains(metric) {
                lacks.push(format!("{}: {metric} is a histogram", self.place));
            }
            labels.extend(known.keys().map(String::as_str));
            for (label, value) in matchers.iter().filter(|(label, _)| !labels_of_prometheus(label)) {
                match known.get(label) {
                    None => lacks.push(format!("{}: {metric} has no label {label}", self.place)),
                    Some(seen) if seen.contains(value) || is_a_word(value) || value.starts_with('$') => {}
                    Some(_) => lacks.push(format!("{}: {metric} is never {label}=\"{value}\"", self.place)),
                }
            }
        }
        let strange = self.grouped.iter().filter(|label| !labels.contains(label.as_str()));
        lacks.extend(strange.map(|label| format!("{}: nothing in it has the label {label}", self.place)));
        lacks
    }
}

fn labels_of_prometheus(label: &str) -> bool {
    ["instance", "job"].contains(&label)
}

/// Whether the sources know it as a word for an outcome or a state: what comes of events that are not brought about here.
fn is_a_word(value: &str) -> bool {
    let quoted = format!("\"{value}\"");
    ["src/fault.rs", "src/ledger/report.rs", "src/guard.rs", "src/governor/queue.rs", "src/governor.rs"]
        .iter()
        .any(|file| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap().contains(&quoted))
}

/// Our metrics in `text`, with what stands in braces behind them.
fn series(text: &str) -> Vec<Series> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("kmsproxy_") {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if text[..at].ends_with(word) {
            continue;
        }
        let end = text[at..].find(|c| !word(c)).map_or(text.len(), |length| at + length);
        let braces = text[end..].strip_prefix('{').map(|rest| &rest[..rest.find('}').unwrap()]);
        found.push(Series { metric: text[at..end].to_owned(), matchers: braces.map(matchers).unwrap_or_default() });
    }
    found
}

fn matchers(braces: &str) -> Vec<(String, String)> {
    // No value here has a comma or a quotation mark in it.
    let pairs = braces.split(',').filter_map(|pair| pair.split_once('='));
    let pairs = pairs.flat_map(|(label, value)| {
        let quoted = &value[value.find('"').unwrap() + 1..value.rfind('"').unwrap()];
        let label = label.trim().trim_end_matches('!').to_owned();
        quoted.split('|').map(|one| (label.clone(), one.to_owned())).collect::<Vec<_>>()
    });
    pairs.collect()
}

fn alerts() -> Vec<Query> {
    let file: Value = serde_saphyr::from_str(&shipped("prometheus/alerts.yml")).unwrap();
    let groups = file["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    rules.map(|rule| Query::new(rule["alert"].as_str().unwrap(), rule["expr"].as_str().unwrap())).collect()
}

fn dashboard() -> Vec<Query> {
    let file: Value = serde_json::from_str(&shipped("grafana/kmsproxy.json")).unwrap();
    let mut queries = Vec::new();
    for panel in file["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push(Query::new(title, target["expr"].as_str().unwrap()));
        }
    }
    for variable in file["templating"]["list"].as_array().unwrap() {
        if let Some(definition) = variable["definition"].as_str() {
            queries.push(Query::new(variable["name"].as_str().unwrap(), definition));
        }
    }
    queries
}

fn shipped(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(path)).unwrap()
}
