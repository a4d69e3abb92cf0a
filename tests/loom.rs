//! Every order in which one thread can fill the cache and another close the door, on the daemon's own ledger.
//!
//! The sources are compiled as they are, with loom's locks in the place of `src/sync.rs`, and memory like any other in the place
//! of `src/guard.rs`: `ledger`, `ledger/scope`, `lease` and its order of closings, and `seal`. Under loom are the locks of the
//! ledger and of each scope. Not under loom: the cache (moka's own locks) and the flights (tokio's channel), which
//! `tests/shuttle.rs` schedules; guarded memory; and the counters of entries and of seals, on which nothing is decided here.

#![allow(dead_code, unreachable_pub, unused_imports)]
#![allow(clippy::print_stdout, clippy::unwrap_used)]

#[path = "../src"]
mod source {
    pub(crate) mod chance;
    pub(crate) mod clock;
    pub(crate) mod fault;
    pub(crate) mod kms;
    pub(crate) mod lease;
    pub(crate) mod ledger;
    pub(crate) mod seal;
    pub(crate) mod secret;
}
#[path = "shuttle/guard.rs"]
mod guard;
#[path = "loom/sync.rs"]
mod sync;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use libtest_mimic::{Arguments, Failed, Trial};
use loom::sync::atomic::AtomicBool;

use clock::{Clock, Manual};
use fault::{Fault, Kind};
use kms::{Ciphertext, Decrypt, Extra, KeyId};
use lease::{Asked, Epoch, Stale, Terms};
use ledger::{Kept, Ledger, Scope};
use source::{chance, clock, fault, kms, lease, ledger, seal, secret};

/// How a filler takes in what the KMS allowed.
type Keep = fn(&Ledger, &Scope, Asked) -> Option<Kept>;

/// How the door is closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Close {
    Refuse,
    Suspend,
}

/// One upstream, and what its KMS said.
struct Stage {
    ledger: Ledger,
    clock: Arc<Manual>,
    /// The news that closes the door has arrived.
    heard: AtomicBool,
}

/// What a filler was left with.
struct Fill {
    kept: Option<Kept>,
    /// The news had arrived when the question was sent.
    after: bool,
}

impl Stage {
    fn new() -> Arc<Self> {
        let clock = Arc::new(Manual::at(Timestamp::UNIX_EPOCH));
        let ledger = Ledger::new("test", Terms::default(), Arc::<Manual>::clone(&clock));
        Arc::new(Self { ledger, clock, heard: AtomicBool::new(false) })
    }

    fn scope(&self) -> Arc<Scope> {
        self.ledger.scope(&KeyId::new(KEY), None)
    }

    fn fill(&self, keep: Keep) -> Fill {
        let asked = self.ledger.ask();
        let after = self.heard.load(Ordering::SeqCst);
        Fill { kept: keep(&self.ledger, &self.scope(), asked), after }
    }

    /// As [`Stage::fill`], but the question is marked only when the answer is there.
    fn fill_marked_late(&self) -> Fill {
        let after = self.heard.load(Ordering::SeqCst);
        let asked = self.ledger.ask();
        Fill { kept: keep(&self.ledger, &self.scope(), asked), after }
    }

    fn close(&self, close: Close) {
        self.heard.store(true, Ordering::SeqCst);
        match close {
            Close::Refuse => self.ledger.refuse(&KeyId::new(KEY), &Fault::kms(Kind::KeyDisabled)),
            Close::Suspend => self.ledger.suspend_all("a test"),
        }
    }

    fn opens(&self, kept: &Kept) -> bool {
        let Some(sealed) = &kept.sealed else { return self.scope().serves(kept.epoch, self.clock.now()) };
        self.scope().open(kept.epoch, TAG, sealed, self.clock.now()).is_some()
    }

    /// After the door was closed, only what was asked later goes out.
    fn judge(&self, fill: &Fill) {
        let opens = fill.kept.as_ref().is_some_and(|kept| self.opens(kept));
        assert!(!opens || fill.after, "asked before the news, and goes out after it");
    }
}

fn keep(_: &Ledger, scope: &Scope, asked: Asked) -> Option<Kept> {
    scope.keep(asked, &call(), TAG, b"a data key").ok()
}

/// The planted bug: the epoch is checked, and then the lock is taken.
fn keep_after_a_check(ledger: &Ledger, scope: &Scope, asked: Asked) -> Option<Kept> {
    ledger.stands(scope.key(), asked, asked.sent).ok()?;
    keep(ledger, scope, Asked { epoch: Epoch(u64::MAX), ..asked })
}

fn call() -> Decrypt {
    let ciphertext = Ciphertext::new(vec![1]);
    Decrypt { ciphertext, key: None, context: None, dry_run: false, extra: Extra::default() }
}

/// Whether the scope is there before the race, with something in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Kept,
}

fn one_filler(before: Before, keep_it: Keep, close: Close) {
    let stage = Stage::new();
    let old = (before == Before::Kept).then(|| stage.fill(keep));
    let filler = {
        let stage = Arc::clone(&stage);
        loom::thread::spawn(move || stage.fill(keep_it))
    };
    stage.close(close);
    let filled = filler.join().unwrap();
    stage.judge(&filled);
    // What was kept before a suspension goes out again by a consent from after it; before a refusal, never.
    if let Some(old) = old.filter(|_| close == Close::Refuse || !filled.after) {
        stage.judge(&old);
    }
}

fn two_fillers(close: Close) {
    let stage = Stage::new();
    let fillers = [(); 2].map(|()| {
        let stage = Arc::clone(&stage);
        loom::thread::spawn(move || stage.fill(keep))
    });
    stage.close(close);
    let filled = fillers.map(|filler| filler.join().unwrap());
    // After a suspension, a consent to what one asked later lets out what the other kept before.
    let renewed = close == Close::Suspend && filled.iter().any(|fill| fill.after);
    filled.iter().filter(|_| !renewed).for_each(|fill| stage.judge(fill));
}

/// Explores `body` in every order, or in those with at most so many preemptions; how many there were.
fn explore(preemptions: Option<usize>, body: fn()) -> Result<usize, usize> {
    let orders = Arc::new(AtomicUsize::new(0));
    let counted = {
        let orders = Arc::clone(&orders);
        move || {
            orders.fetch_add(1, Ordering::SeqCst);
            body();
        }
    };
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 10_000;
    let held = catch_unwind(AssertUnwindSafe(|| builder.check(counted)));
    let orders = orders.load(Ordering::SeqCst);
    held.map(|()| orders).map_err(|_| orders)
}

fn holds(name: &'static str, preemptions: Option<usize>, body: fn()) -> Trial {
    Trial::test(name, move || match explore(preemptions, body) {
        Ok(orders) => {
            println!("{name}: {orders} orders");
            Ok(())
        }
        Err(orders) => Err(Failed::from(format!("broken in order {orders}"))),
    })
}

fn is_found(name: &'static str, body: fn()) -> Trial {
    Trial::test(name, move || match explore(None, body) {
        Ok(orders) => Err(Failed::from(format!("not found in {orders} orders"))),
        Err(orders) => {
            println!("{name}: in order {orders}");
            Ok(())
        }
    })
}

fn main() -> ExitCode {
    let trials = vec![
        holds("a_refusal_beats_a_fill_in_every_order", None, || one_filler(Before::Kept, keep, Close::Refuse)),
        holds("a_refusal_beats_the_first_fill_of_a_scope_in_every_order", None, || {
            one_filler(Before::Nothing, keep, Close::Refuse);
        }),
        holds("a_suspension_beats_a_fill_in_every_order", None, || one_filler(Before::Kept, keep, Close::Suspend)),
        holds("a_suspension_beats_the_first_fill_of_a_scope_in_every_order", None, || {
            one_filler(Before::Nothing, keep, Close::Suspend);
        }),
        holds("a_refusal_beats_two_fills_in_every_order_of_three_preemptions", Some(3), || two_fillers(Close::Refuse)),
        holds("a_suspension_beats_two_fills_in_every_order_of_three_preemptions", Some(3), || {
            two_fillers(Close::Suspend)
        }),
        is_found("an_epoch_that_is_checked_outside_of_the_lock_is_found", || {
            one_filler(Before::Kept, keep_after_a_check, Close::Refuse);
        }),
        is_found("a_question_that_is_marked_when_its_answer_is_there_is_found", || {
            let stage = Stage::new();
            let filler = {
                let stage = Arc::clone(&stage);
                loom::thread::spawn(move || stage.fill_marked_late())
            };
            stage.close(Close::Refuse);
            stage.judge(&filler.join().unwrap());
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

const KEY: &str = "key-1";
const TAG: &[u8] = b"fingerprint";
