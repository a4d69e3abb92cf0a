//! This program under callgrind, and what that wrote down.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use crate::counted;
use crate::table::{Count, Counts};

/// The option by which this program runs the cases.
pub(crate) const CHILD: &str = "--cases";

/// Runs the cases twice and counts each: with all that it takes, and without what hashing a block and wiping the stack take.
pub(crate) fn count() -> Counts {
    let (all, besides) = (run(&[]), run(&LEFT_OUT));
    let row = |name: &'static str| (name, Count { all: all[name].each(), besides: besides[name].each() });
    counted::ALL.iter().map(|&name| row(name)).collect()
}

/// One run. While one of `without` runs, nothing is counted.
fn run(without: &[&str]) -> HashMap<&'static str, Calls> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("callgrind.out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.args(without.iter().map(|function| format!("--toggle-collect={function}")));
    // The last word: whoever names functions would else count nothing until one is called.
    valgrind.arg("--collect-atstart=yes").arg(std::env::current_exe().unwrap()).arg(CHILD);
    // It complains of system calls that it does not know; the daemon then does without.
    let status = valgrind.stderr(Stdio::null()).status();
    let status = status.expect("valgrind is installed: every distribution has a package of it");
    assert!(status.success(), "a case has failed, or valgrind: {status}; run this program with {CHILD} alone to see");
    let found = calls(&std::fs::read_to_string(out).unwrap());
    for name in counted::ALL {
        assert!(found.contains_key(name), "{name} was not called");
    }
    found
}

/// Calls of a counted function, and all instructions until their return.
#[derive(Default)]
struct Calls {
    count: u64,
    instructions: u64,
}

impl Calls {
    fn each(&self) -> u64 {
        (self.instructions + self.count / 2) / self.count
    }
}

/// Reads the calls of counted functions from callgrind's format: `cfn=(7) name` (the name only where the number is new),
/// then `calls=…`, then a line that ends in the cost of those calls.
fn calls(text: &str) -> HashMap<&'static str, Calls> {
    let mut known: HashMap<&str, &'static str> = HashMap::new();
    let mut found: HashMap<&str, Calls> = HashMap::new();
    let mut called = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        match key {
            "fn" | "cfn" => {
                let (number, name) = value.split_once(' ').unwrap_or((value, ""));
                if let Some(counted) = counted::ALL.iter().find(|counted| is(name, counted)) {
                    known.insert(number, counted);
                }
                if key == "cfn" {
                    called = known.get(number).copied();
                }
            }
            "calls" => {
                let count: u64 = value.split(' ').next().unwrap().parse().unwrap();
                let cost: u64 = lines.next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
                if let Some(name) = called.take() {
                    let calls = found.entry(name).or_default();
                    calls.count += count;
                    calls.instructions += cost;
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether `name`, as callgrind writes it, is the counted function's: its own, not that of something within.
fn is(name: &str, counted: &str) -> bool {
    let after = name.split_once("counted::").and_then(|(_, rest)| rest.strip_prefix(counted));
    after.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') && !rest.contains("closure"))
}

/// What hashes one block: valgrind shows no processor with SHA instructions, so these run in software, ten times what they are
/// in the daemon. And what wipes the stack, which counts by the byte and takes a fraction of that in time. Together they are
/// most of the whole.
const LEFT_OUT: [&str; 3] =
    ["sha1::block_api::compress", "sha2::sha256::soft::unroll::compress", "zeroize::stack::zeroize_stack*"];
