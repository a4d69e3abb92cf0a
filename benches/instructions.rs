//! How many instructions a hit takes, whole and part by part, and whether that is more than it was.
//!
//! ```console
//! $ cargo bench --profile dev --config benches/instructions/build.toml --bench instructions            # the gate of .ci/run
//! $ cargo bench --profile dev --config benches/instructions/build.toml --bench instructions -- --renew # writes the table
//! $ cargo bench --bench instructions                       # of a release build; compared with nothing
//! ```
//!
//! Valgrind's callgrind counts, exactly and without hardware counters: this program runs itself under it, and what is
//! called through a function of [`counted`] is told apart by that function's name. No second is measured here.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "instructions/audit.rs"]
mod audit;
#[path = "instructions/callgrind.rs"]
mod callgrind;
#[path = "instructions/cases.rs"]
mod cases;
#[path = "instructions/counted.rs"]
mod counted;
#[path = "instructions/kms.rs"]
mod kms;
#[path = "instructions/provider.rs"]
mod provider;
#[path = "instructions/requests.rs"]
mod requests;
#[path = "instructions/table.rs"]
mod table;
#[path = "instructions/world.rs"]
mod world;

use std::process::ExitCode;

use table::{Counts, Table};

/// As in the binary: what is freed is wiped, and counted.
#[global_allocator]
static ALLOCATOR: kmsproxy::Allocator = kmsproxy::ALLOCATOR;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [callgrind::CHILD] => {
            cases::run();
            ExitCode::SUCCESS
        }
        [] => check(&callgrind::count()),
        ["--renew"] => {
            Table::of(&callgrind::count()).write();
            ExitCode::SUCCESS
        }
        _ => panic!("none of these is an option: {arguments:?}"),
    }
}

fn check(counts: &Counts) -> ExitCode {
    let table = Table::read();
    if !table::is_built_for() {
        println!("{}", table::listed(counts));
        println!("not compared: the table is of the build that benches/instructions/build.toml describes");
        return ExitCode::SUCCESS;
    }
    println!("{}", table.beside(counts));
    if let Some(other) = table.of_another_compiler() {
        println!("not compared: the table is of {}, and this is {other}\n  {}", table.compiler, table::RENEW);
        return if std::env::var_os("CI").is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let complaints = table.complaints(counts);
    for complaint in &complaints {
        println!("{complaint}");
    }
    if complaints.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("  look for what was added to the way of a hit; where it is worth that much,\n  {}", table::RENEW);
    ExitCode::FAILURE
}
