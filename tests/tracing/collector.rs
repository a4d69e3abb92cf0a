//! The program beside this file: built, started, listened to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::go;

/// A running receiver, killed when dropped.
pub(crate) struct Collector {
    child: Child,
    /// Where it receives.
    pub(crate) url: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

/// A span as the Collector understood it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) name: String,
    /// 2 is of who was asked, 3 of who asked.
    pub(crate) kind: u64,
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty for none.
    pub(crate) parent: String,
    pub(crate) state: String,
    pub(crate) flags: u64,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Trace and span of each.
    pub(crate) links: Vec<(String, String)>,
    pub(crate) failed: bool,
    pub(crate) nanos: u64,
    /// Whose it is.
    pub(crate) resource: BTreeMap<String, String>,
}

impl Collector {
    /// `None`, with a line that says so, where Go is not installed.
    pub(crate) fn start() -> Option<Self> {
        let mut child = Command::new(program()?).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let url = lines.next().expect("it says where it receives");
        let spans = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&spans);
        std::thread::spawn(move || lines.for_each(|line| heard.lock().unwrap().extend(read(&line))));
        Some(Self { child, url, spans })
    }

    /// All it has, once there are `count`.
    pub(crate) async fn spans(&self, count: usize) -> Vec<Span> {
        let begun = Instant::now();
        loop {
            let spans = self.spans.lock().unwrap().clone();
            if spans.len() >= count {
                return spans;
            }
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {count} spans: {spans:#?}");
            sleep(POLL).await;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Span {
    /// The attribute of that name.
    pub(crate) fn says(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }
}

fn read(line: &str) -> Vec<Span> {
    let request: Value = serde_json::from_str(line).unwrap();
    let mut spans = Vec::new();
    for source in list(&request["resourceSpans"]) {
        let resource = attributes(&source["resource"]["attributes"]);
        for scope in list(&source["scopeSpans"]) {
            assert_eq!(scope["scope"]["name"], "kmsproxy");
            spans.extend(list(&scope["spans"]).iter().map(|span| one(span, &resource)));
        }
    }
    spans
}

fn one(span: &Value, resource: &BTreeMap<String, String>) -> Span {
    let at = |name: &str| span[name].as_str().unwrap_or_default().parse::<u64>().unwrap();
    Span {
        name: text(&span["name"]),
        kind: span["kind"].as_u64().unwrap(),
        trace: text(&span["traceId"]),
        id: text(&span["spanId"]),
        parent: text(&span["parentSpanId"]),
        state: text(&span["traceState"]),
        flags: span["flags"].as_u64().unwrap(),
        attributes: attributes(&span["attributes"]),
        links: list(&span["links"]).iter().map(|link| (text(&link["traceId"]), text(&link["spanId"]))).collect(),
        failed: span["status"]["code"] == 2,
        nanos: at("endTimeUnixNano") - at("startTimeUnixNano"),
        resource: resource.clone(),
    }
}

fn attributes(list: &Value) -> BTreeMap<String, String> {
    let pair = |pair: &Value| {
        let value = &pair["value"];
        (text(&pair["key"]), text(value.get("stringValue").unwrap_or(&value["intValue"])))
    };
    self::list(list).iter().map(pair).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Built once.
fn program() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| go::build("tracing", "go.mod", "collector")).as_deref()
}

const PATIENCE: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(20);
