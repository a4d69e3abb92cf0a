//! grpcio with the `:authority` of each era of kube-apiserver.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::objects::READY;
use super::stage::{QUIET, Stage, until};

#[tokio::test]
async fn grpcio_is_served_whatever_authority_it_sends() {
    let Some(python) = python() else { return };
    let stage = Stage::new(QUIET);
    let served = json!({
        "version": "v1beta1", "v1": true, "status": ["v2", "ok"], "same key_id": true, "v2": true,
    });
    let expected = json!({ "path": served, "escaped path": served, "localhost": served });
    until("all three eras", READY, || {
        let output = Command::new(&python)
            .arg(format!("{}/eras.py", super::HERE))
            .arg(stage.socket("k8s"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        if seen == expected { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;
}

/// A Python with grpcio, in an environment of its own, made once.
fn python() -> Option<PathBuf> {
    if !super::runs("python3", &["-m", "venv", "--help"]) {
        return super::skipped("python3 with venv is not installed");
    }
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubernetes/grpcio");
    let (stamp, python) = (home.join("stamp"), home.join("bin/python"));
    if std::fs::read_to_string(&stamp).is_ok_and(|found| found == GRPCIO) {
        return Some(python);
    }
    let _ = std::fs::remove_dir_all(&home);
    super::must(Command::new("python3").args(["-m", "venv"]).arg(&home));
    super::must(Command::new(home.join("bin/pip")).args(["install", "--quiet", GRPCIO]));
    std::fs::write(stamp, GRPCIO).unwrap();
    Some(python)
}

const GRPCIO: &str = "grpcio==1.85.1";
