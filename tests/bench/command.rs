//! Running the command.

use std::process::{Command, Stdio};

use kmsproxy::bench::record::{Run, SCHEMA};

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// `kmsproxy bench` with `arguments`, to its end.
pub(crate) fn bench(arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmsproxy"));
    let output = command.arg("bench").args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// The same, which must end with `code`.
pub(crate) fn ended(arguments: &[&str], code: i32) -> Said {
    let said = bench(arguments);
    assert_eq!(said.code, code, "{arguments:?}: {said:?}");
    said
}

/// The run that `--json` prints, read whole: one line, of the shape that is documented.
pub(crate) fn run(arguments: &[&str]) -> Run {
    let said = ended(&[arguments, &["--json"]].concat(), 0);
    assert_eq!(said.out.lines().count(), 1, "{said:?}");
    let run: Run = serde_json::from_str(&said.out).unwrap();
    assert_eq!(run.schema, SCHEMA);
    assert_eq!((run.scenario.as_str(), run.interrupted), (arguments[0], false));
    assert_eq!(run.command[1..3], ["bench", arguments[0]]);
    run
}
