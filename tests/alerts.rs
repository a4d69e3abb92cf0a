//! The shipped alerts and dashboard: well formed by the judgement of their own tools, whole, and leading to a runbook.
//! That what they ask for exists is seen to in `tests/daemon/queries.rs`.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "machine/go.rs"]
mod go;
#[path = "alerts/judge.rs"]
mod judge;
#[path = "machine/tool.rs"]
mod tool;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kmsproxy::kms::Action;
use serde::Deserialize;
use serde_json::Value;
use tool::have;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    #[allow(dead_code, reason = "it is there to be there")]
    name: String,
    rules: Vec<Alert>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alert {
    alert: String,
    #[allow(dead_code, reason = "promtool reads it")]
    expr: String,
    r#for: String,
    labels: Labels,
    annotations: Annotations,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
    severity: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Annotations {
    summary: String,
    description: String,
    runbook: String,
}

fn alerts() -> Vec<Alert> {
    let rules: Rules =
        serde_saphyr::from_str(&fs::read_to_string(file("config/prometheus/alerts.yml")).unwrap()).unwrap();
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(file("config/grafana/kmsproxy.json")).unwrap()).unwrap()
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn each_alert_fires_when_it_should_and_not_when_it_should_not() {
    if !have("promtool") {
        return;
    }
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(file("config/prometheus")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}\n{said}");
        assert!(said.contains("SUCCESS"), "{said}");
    }
}

#[test]
fn each_alert_is_tried_both_ways() {
    let tests: Value =
        serde_saphyr::from_str(&fs::read_to_string(file("config/prometheus/alerts.test.yml")).unwrap()).unwrap();
    let tried = tests["tests"].as_array().unwrap().iter().flat_map(|test| test["alert_rule_test"].as_array().unwrap());
    let (mut fired, mut quiet) = (BTreeSet::new(), BTreeSet::new());
    for one in tried {
        let name = one["alertname"].as_str().unwrap().to_owned();
        let fires = !one["exp_alerts"].as_array().unwrap().is_empty();
        if fires { &mut fired } else { &mut quiet }.insert(name);
    }
    let all: BTreeSet<String> = alerts().into_iter().map(|alert| alert.alert).collect();
    assert_eq!((&fired, &quiet), (&all, &all));
}

#[test]
fn each_alert_says_how_bad_it_is_and_leads_to_its_runbook() {
    let guide = fs::read_to_string(file("docs/operations.md")).unwrap();
    let headings: BTreeSet<&str> = guide.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let Alert { alert: name, r#for: wait, labels, annotations, .. } = alert;
        assert!(["page", "ticket", "note"].contains(&labels.severity.as_str()), "{name}: {}", labels.severity);
        assert!(wait.ends_with(['s', 'm']), "{name}: {wait}");
        assert!(!annotations.summary.is_empty() && !annotations.description.is_empty(), "{name}");
        assert_eq!(annotations.runbook, format!("docs/operations.md#{}", name.to_lowercase()), "{name}");
        assert!(headings.contains(name.as_str()), "docs/operations.md has no \"### {name}\"");
        assert!(names.insert(name.clone()), "{name} is there twice");
    }
    let runbooks: BTreeSet<String> =
        headings.into_iter().filter(|heading| heading.starts_with("Kmsproxy")).map(str::to_owned).collect();
    assert_eq!(runbooks, names, "runbooks of alerts that there are");
}

#[test]
fn the_guide_names_every_right_that_the_daemon_can_make_use_of_and_no_other() {
    let guide = fs::read_to_string(file("docs/operations.md")).unwrap();
    let (_, part) = guide.split_once("## What it may do at the cloud").unwrap();
    let (part, _) = part.split_once("\n## ").unwrap();
    let all: BTreeSet<&str> = Action::ALL.into_iter().map(Action::name).collect();
    let quoted: BTreeSet<&str> = part
        .split(['`', '"', ' '])
        .map(|word| word.strip_prefix("kms:").unwrap_or(word))
        .filter(|word| ["Decrypt", "Describe", "Encrypt", "Generate", "List"].iter().any(|verb| word.starts_with(verb)))
        .collect();
    assert_eq!(quoted, all);
}

#[test]
fn the_dashboard_is_one_that_grafana_can_import_on_any_machine() {
    let dashboard = dashboard();
    // What Grafana 9 and 10 write.
    assert_eq!(dashboard["schemaVersion"], 38);
    assert_eq!(dashboard.get("id"), None, "an id would be that of one installation");
    let first = &dashboard["templating"]["list"][0];
    assert_eq!(
        (&first["name"], &first["type"], &first["query"]),
        (&"datasource".into(), &"datasource".into(), &"prometheus".into())
    );
    let source = serde_json::json!({ "type": "prometheus", "uid": "${datasource}" });
    let panels = dashboard["panels"].as_array().unwrap();
    let rows: Vec<&str> =
        panels.iter().filter(|panel| panel["type"] == "row").map(|row| row["title"].as_str().unwrap()).collect();
    assert_eq!(
        rows,
        [
            "At a glance",
            "Traffic",
            "Cache",
            "Leases",
            "Upstream",
            "Quota",
            "Memory",
            "Audit",
            "Configuration",
            "Tracing"
        ]
    );
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is taken");
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"], source, "{title}");
        assert!(KINDS.contains(&panel["type"].as_str().unwrap()), "{title}: {}", panel["type"]);
        assert!(
            UNITS.contains(&panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default()),
            "{title}: its unit"
        );
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"], source, "{title}");
        }
    }
    let places: Vec<_> = panels.iter().map(place).collect();
    for (at, (title, x, y)) in places.iter().enumerate() {
        assert!(x.end <= COLUMNS, "{title} stands out of the page");
        let over = places[..at].iter().find(|(_, other_x, other_y)| overlap(x, other_x) && overlap(y, other_y));
        assert!(over.is_none(), "{title} lies over {}", over.unwrap().0);
    }
}

type Place = (String, std::ops::Range<u64>, std::ops::Range<u64>);

fn place(panel: &Value) -> Place {
    let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
    (panel["title"].to_string(), at("x")..at("x") + at("w"), at("y")..at("y") + at("h"))
}

fn overlap(a: &std::ops::Range<u64>, b: &std::ops::Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

const KINDS: [&str; 4] = ["stat", "state-timeline", "table", "timeseries"];
const UNITS: [&str; 4] = ["percentunit", "reqps", "s", "short"];
const COLUMNS: u64 = 24;
