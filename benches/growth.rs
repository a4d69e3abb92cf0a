//! How much memory a cached DEK takes: the cache alone, in a process of its own for each size.
//!
//! ```console
//! $ cargo bench --profile dev --bench growth
//! $ cargo bench --profile dev --bench growth -- --deks 1000000   # one size
//! ```
//!
//! Two threads keep the answers, as the daemon's do; ciphertexts have 96 bytes, DEKs 32, all under one key. Shown is resident
//! memory less that of a process that has filled nothing: first when the last is kept and the cache has been swept ten times,
//! then when the daemon's walks were made: for refreshes, and to write the working set.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may")]

use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kmsproxy::auth::CallerName;
use kmsproxy::cache::{Cache, Config, Fill};
use kmsproxy::clock::System;
use kmsproxy::kms::{Ciphertext, Decrypt, Extra, KeyId, KeyVersion, RequestId};
use kmsproxy::lease::Terms;
use kmsproxy::ledger::Ledger;
use kmsproxy::warm::Keeper;

/// As in the binary: what is freed is wiped.
#[global_allocator]
static ALLOCATOR: kmsproxy::Allocator = kmsproxy::ALLOCATOR;

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u32>().ok()
    };
    if let Some(deks) = value("--fill") {
        return fill(deks);
    }
    let sizes = value("--deks").map_or_else(|| SIZES.to_vec(), |deks| vec![0, deks]);
    println!("{:>9}  {:>14} {:>9}  {:>14} {:>9}", "DEKs", "kept, bytes", "each more", "walked, bytes", "each more");
    let (mut before, mut empty) = ([0; 3], [0; 3]);
    for size in sizes {
        let [deks, kept, walked] = measured(size);
        if deks == 0 {
            (before, empty) = ([0, kept, walked], [0, kept, walked]);
            continue;
        }
        let each = |at: usize, now: i64| (now - before[at]) / (deks - before[0]);
        let (kept_each, walked_each) = (each(1, kept), each(2, walked));
        let (kept_all, walked_all) = (kept - empty[1], walked - empty[2]);
        println!("{deks:>9}  {kept_all:>14} {kept_each:>9}  {walked_all:>14} {walked_each:>9}");
        before = [deks, kept, walked];
    }
}

/// What a process of its own has found: how many there are, and resident bytes with them, before and after it was walked.
fn measured(deks: u32) -> [i64; 3] {
    let output = Command::new(std::env::current_exe().unwrap()).args(["--fill", &deks.to_string()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<_> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn fill(deks: u32) {
    let config = Config { capacity: u64::from(deks.max(CAPACITY)), ..Config::default() };
    let cache = Arc::new(Cache::new(&config, &[]).unwrap());
    let ledger = Ledger::new("kms", Terms::default(), Arc::new(System));
    thread::scope(|scope| {
        for half in 0..2 {
            let (cache, ledger) = (&cache, &ledger);
            scope.spawn(move || (half..deks).step_by(2).for_each(|number| keep(cache, ledger, number)));
        }
    });
    for _ in 0..10 {
        cache.count();
        cache.sweep(ledger.ask().sent);
    }
    let kept = resident();
    let hottest = cache.hottest().len();
    let mut round = cache.round("kms", ledger.ask().sent, 1);
    while round.step() {}
    assert!(round.end().is_empty());
    assert_eq!(hottest as u64, cache.len());
    let dir = tempfile::tempdir().unwrap();
    Keeper::open(dir.path().join("set"), Duration::from_secs(30), Arc::clone(&cache)).save();
    println!("{hottest} {kept} {}", resident());
}

fn keep(cache: &Cache, ledger: &Ledger, number: u32) {
    let ciphertext = Ciphertext::new(number.to_be_bytes().repeat(24));
    let call = Decrypt { ciphertext, key: None, context: None, dry_run: false, extra: Extra::default() };
    let fill = Fill {
        fingerprint: cache.fingerprint("kms", &CallerName::new("caller"), &call),
        share: &CallerName::new("caller"),
        call: &call,
        asked: ledger.ask(),
        key: &KeyId::new("key"),
        version: &KeyVersion::new("1"),
        plaintext: &number.to_be_bytes().repeat(8),
        source: &RequestId::random(),
    };
    cache.keep(ledger, &fill).unwrap();
}

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

const SIZES: [u32; 5] = [0, 4_000, 20_000, 100_000, 1_000_000];
/// What it has room for, as by default, where no more are kept.
const CAPACITY: u32 = 100_000;
