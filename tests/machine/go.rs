//! Programs in Go, beside the tests that run them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds what is in `tests/PLACE`, with the modules of the file `modules`, as `name`. Go knows what of an earlier build is
/// still good. Nothing where there is no Go, which is said; where nothing may be skipped, that is a failure.
pub(crate) fn build(place: &str, modules: &str, name: &str) -> Option<PathBuf> {
    if !Command::new("go").arg("version").output().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "skipped in CI: Go is not installed");
        eprintln!("SKIPPED: Go is not installed");
        return None;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(place).join(name);
    let mut go = Command::new("go");
    go.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(place));
    go.args(["build", "-buildvcs=false", "-modfile", modules, "-o"]).arg(&program).arg(".");
    let output = go.output().unwrap();
    assert!(output.status.success(), "{go:?}\n{}", String::from_utf8_lossy(&output.stderr));
    Some(program)
}
