//! Grafana's own tools, on the dashboard: the program beside this file, which is built here. There is no Grafana in it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use super::{dashboard, file, go};

#[test]
fn grafanas_schema_and_grafanas_linter_find_nothing_in_the_dashboard() {
    if let Some(found) = findings(&dashboard()) {
        assert!(found.is_empty(), "{found}");
    }
}

#[test]
fn they_find_what_is_planted() {
    // Where, what is put there, and what is then said.
    let planted = [
        ("/panels/1/titel", json!("Daemons"), "schema: panels[1].Panel: unexpected field 'titel'\n".to_owned()),
        (
            "/panels/8/targets/0/exprr",
            json!(""),
            "schema: panels[8].targets[0].Dataquery: unexpected field 'exprr'\n".into(),
        ),
        (
            "/panels/1/options/justifyMode",
            json!(3),
            "schema: panels[1].options.justifyMode: json: cannot unmarshal number into Go value of type \
             common.BigValueJustifyMode\n"
                .into(),
        ),
        (
            QUERY,
            json!("sum(up{job=~\"$job\",instance=~\"$instance\"}"),
            refused(
                "promql",
                "sum(up{job=~\"$job\",instance=~\"$instance\"}",
                "1:42: parse error: unclosed left parenthesis",
            ),
        ),
        (
            QUERY,
            json!("rate(up{job=~\"$job\",instance=~\"$instance\"}[5m])"),
            refused(
                "rate-interval",
                "rate(up{job=~\"$job\",instance=~\"$instance\"}[5m])",
                "should use $__rate_interval",
            ),
        ),
        (
            QUERY,
            json!("up{instance=~\"$instance\"}"),
            refused("job", "up{instance=~\"$instance\"}", "job selector not found"),
        ),
    ];
    for (place, value, said) in planted {
        let mut broken = dashboard();
        let (parent, name) = place.rsplit_once('/').unwrap();
        broken.pointer_mut(parent).unwrap()[name] = value;
        let Some(found) = findings(&broken) else { return };
        assert_eq!(found, said, "{place}");
    }
}

/// What the linter says of the query at `QUERY`.
fn refused(rule: &str, query: &str, why: &str) -> String {
    format!(
        "target-{rule}-rule: Dashboard 'kmsproxy', panel 'Requests', target idx '0' invalid PromQL query '{query}': {why}\n"
    )
}

const QUERY: &str = "/panels/8/targets/0/expr";

/// A line for each thing that they find, or nothing where they cannot be had.
fn findings(dashboard: &Value) -> Option<String> {
    let mut judge = Command::new(program()?);
    judge.arg(file("tests/alerts/lint.yml")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = judge.spawn().unwrap();
    child.stdin.take().unwrap().write_all(dashboard.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Built once.
fn program() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| go::build("alerts", "go.mod", "judge")).as_deref()
}
