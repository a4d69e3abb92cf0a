//! The manifests that the project hands out are read by Kubernetes' own parsers, as strictly as they can be.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::apiserver::Era;

#[test]
fn kubernetes_reads_every_manifest_that_is_handed_out() {
    let (Some(mut latest), Some(mut old)) = (Era::Latest.start(), Era::Kube1_31.start()) else { return };
    let (mut configurations, mut pods) = (0, 0);
    for path in manifests() {
        let text = std::fs::read_to_string(&path).unwrap();
        for server in [&mut latest, &mut old] {
            if text.contains("kind: EncryptionConfiguration") {
                server.order(&json!({ "do": "load", "config": path })).ok();
                configurations += 1;
            } else if text.contains("kind: Pod") {
                server.pod(&path).ok();
                pods += 1;
            } else {
                panic!("{}: nobody reads it", path.display());
            }
        }
    }
    assert!(configurations >= 4 && pods >= 4, "{configurations} EncryptionConfigurations and {pods} Pods read");
}

fn manifests() -> Vec<PathBuf> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/kubernetes");
    let entries = std::fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "yaml")).collect();
    found.sort();
    found
}
