//! A model of everything that leases depend on, explored whole: the clocks, a KMS that changes its mind, delays, drops and
//! reorders what it says and is believed in nothing but what it must be, two callers, two contexts, two questions under way.
//!
//! What moves a lease is the daemon's own code (`lease::Lease`, `lease::Closings`, `lease::Evidence`), not a copy. Each of
//! ten other designs must be seen to break a promise, or the model sees nothing.

#![allow(clippy::print_stdout)]
#![allow(clippy::wildcard_enum_match_arm, reason = "what a design does not change is as it is")]

#[path = "model/design.rs"]
mod design;
#[path = "model/promises.rs"]
mod promises;
#[path = "model/steps.rs"]
mod steps;
#[path = "model/world.rs"]
mod world;

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use design::{Design, KMSPROXY, MUTANTS};
use steps::Scenario;
use world::Left;

/// Two callers of one scope.
fn callers(design: Design) -> Scenario {
    Scenario { design, callers: 2, scopes: 1, horizon: 2, left: Left { questions: 2, turns: 2, upsets: 1 } }
}

/// One caller with two contexts of a key.
fn contexts(design: Design) -> Scenario {
    Scenario { callers: 1, scopes: 2, ..callers(design) }
}

fn explore(name: &str, scenario: Scenario) {
    #[allow(clippy::disallowed_methods)]
    let begun = Instant::now();
    let checker = scenario.checker().threads(2).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, depth {depth}, {:.1} s", begun.elapsed().as_secs_f64());
    checker.assert_properties();
}

#[test]
fn the_promises_hold_for_two_callers_of_one_scope() {
    explore("two callers of one scope", callers(KMSPROXY));
}

#[test]
fn the_promises_hold_for_two_contexts_of_one_key() {
    explore("two contexts of one key", contexts(KMSPROXY));
}

#[test]
fn every_mutant_breaks_a_promise() {
    for mutant in MUTANTS {
        let checker = callers(mutant).checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let broken = promises::PROMISES.into_iter().filter_map(|promise| Some((promise, checker.discovery(promise)?)));
        let (promise, path) = broken.min_by_key(|(_, path)| path.clone().into_actions().len()).unwrap_or_else(|| {
            panic!("{} breaks nothing in {} states", mutant.name, checker.unique_state_count());
        });
        println!("{}: {} steps to break {promise}", mutant.name, path.into_actions().len());
    }
}
