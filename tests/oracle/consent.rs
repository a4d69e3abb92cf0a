//! Promises 1, 2, 5, 6 and 8: a plaintext rests on what the KMS allowed, for exactly this, not too long ago, and for who
//! asks.

use super::history::{Decision, OK, Told, nanos};
use super::index::{Index, exact_of};
use super::violation::{Violation, Violations};

pub(super) fn check<'h>(index: &Index<'h>, told: &'h Told, found: &mut Violations) {
    if let Some(violation) = unfounded(index, told) {
        found.push(violation);
    }
    if let Some(violation) = outlived(index, told).or_else(|| outlived_as_heard(index, told)) {
        found.push(violation);
    }
    found_stepped(index, told, found);
}

type Holds<'a> = &'a dyn Fn(&Decision) -> bool;

/// Narrows down what the KMS decided on this ciphertext to what this plaintext can rest on.
fn unfounded<'h>(index: &Index<'h>, told: &'h Told) -> Option<Violation> {
    let (latest, earliest) = (told.latest(), index.earliest(told));
    let age = nanos(index.history.terms.max_age);
    let asked = index.first_asked(told);
    let keys_agree = |made: &Decision| told.key.is_none() || told.key == made.key;
    let mut left: Vec<&Decision> = exact_of(told).map_or_else(Vec::new, |exact| index.unwrapped(exact).to_vec());
    let steps: [(u8, &str, Holds<'_>); 5] = [
        (1, "a plaintext that the KMS gave nobody for this ciphertext and context", &|made| {
            made.outcome == OK && made.at_ns <= latest
        }),
        (8, "another plaintext than the KMS gave for this ciphertext and context", &|made| {
            made.plaintext == told.plaintext
        }),
        (8, "a plaintext under the name of another key", &keys_agree),
        (1, "a plaintext later than cache.max_age after the KMS allowed exactly this", &|made| {
            earliest < made.at_ns.saturating_add(age)
        }),
        (8, "a plaintext that was unwrapped before this caller asked for it", &|made| made.at_ns >= asked),
    ];
    for (promise, what, holds) in steps {
        let nearest = left.last().copied();
        left.retain(|made| holds(made));
        if left.is_empty() {
            return Some(Violation::new(promise, what).decided(nearest).told([told]));
        }
    }
    None
}

/// By the KMS's own clock: a question was sent before it was decided.
fn outlived<'h>(index: &Index<'h>, told: &'h Told) -> Option<Violation> {
    let scope = index.scope_of(told)?;
    let before = |consent: &&&Decision| consent.at_ns <= told.latest();
    let last = index.consents(scope).iter().rev().find(before).copied()?;
    if index.earliest(told) < last.at_ns.saturating_add(index.lease()) {
        return None;
    }
    let refusal = index.refused(scope.0, last.at_ns, told.latest());
    let (promise, what) = match refusal {
        Some(_) => (2, "a plaintext later than lease.duration after the last consent of a KMS that refuses"),
        None => (5, "a plaintext later than lease.duration after the last consent of a KMS that is silent"),
    };
    Some(Violation::new(promise, what).decided([last]).decided(refusal).told([told]))
}

/// By the proxy's own ear, where the test has it: from when the question was sent.
fn outlived_as_heard<'h>(index: &Index<'h>, told: &'h Told) -> Option<Violation> {
    if index.history.heard.is_empty() {
        return None;
    }
    let heard = index.heard_consents(index.scope_of(told)?).iter().filter(|heard| heard.received_ns <= told.latest());
    let last = heard.max_by_key(|heard| heard.sent_ns).copied();
    if last.is_some_and(|last| index.earliest(told) < last.sent_ns.saturating_add(index.lease())) {
        return None;
    }
    let what = "a plaintext later than lease.duration after the last question that the KMS consented to was sent";
    Some(Violation::new(2, what).heard(last).told([told]))
}

/// A step of the wall clock is seen at the first look after it, and everybody who asks looks once a second.
fn found_stepped<'h>(index: &Index<'h>, told: &'h Told, found: &mut Violations) {
    let Some(scope) = index.scope_of(told) else { return };
    let seen = index.history.steps.iter().filter(|step| **step + LOOK <= told.sent_ns);
    let Some(&step) = seen.max() else { return };
    let consents = index.consents(scope);
    if consents.iter().any(|consent| (step..=told.latest()).contains(&consent.at_ns)) {
        return;
    }
    let last = consents.iter().rev().find(|consent| consent.at_ns <= told.latest()).copied();
    let violation = Violation::new(6, "a plaintext on consent from before a step of the wall clock");
    found.push(violation.decided(last).noted(step, "the wall clock is set").told([told]));
}

const LOOK: u64 = 1_000_000_000;
