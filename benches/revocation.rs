//! How long plaintexts go on leaving after the KMS has begun to refuse a key, or to say nothing.
//!
//! ```console
//! $ cargo bench --bench revocation                        # 200 keys, all at once; about two and a half minutes
//! ```
//!
//! `kmsproxy serve` on the default terms, in front of `kmsproxy emulator`, over TLS; each trial has a key and a DEK of its
//! own. Three times: keys are disabled one after the other while every DEK is asked for, keys are disabled while nobody asks
//! for anything, and the KMS stops answering while every DEK is asked for. Ends with a failure if anything left that the
//! promises forbid; how quick it was is only printed.

#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

#[path = "revocation/dek.rs"]
mod dek;
#[path = "revocation/figures.rs"]
mod figures;
#[path = "revocation/machine.rs"]
mod machine;
mod process;
#[path = "revocation/scene.rs"]
mod scene;
#[path = "revocation/traffic.rs"]
mod traffic;
#[path = "revocation/trial.rs"]
mod trial;

use std::process::ExitCode;
use std::time::Instant;

use scene::Scene;

fn main() -> ExitCode {
    let begun = Instant::now();
    machine::print();
    let scene = Scene::new();
    println!("{}", figures::HEAD);
    let cases = [trial::with_traffic, trial::without_traffic, trial::under_silence];
    let figures = cases.map(|case| {
        eprintln!("{:3.0} s: the load is {}", begun.elapsed().as_secs_f64(), machine::load());
        let figures = case(&scene);
        figures.print();
        figures
    });
    println!("\n{:.0} s in all, load {}", begun.elapsed().as_secs_f64(), machine::load());
    let clean = figures.iter().all(|figures| figures.violations() == 0);
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
