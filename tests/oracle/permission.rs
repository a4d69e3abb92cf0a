//! Promises 1 and 8: the policy in force at the release.

use super::history::{DECRYPT, Grant, OK, Policy, Told};
use super::index::Index;
use super::violation::{Violation, Violations};

pub(super) fn check<'h>(index: &Index<'h>, told: &'h Told, found: &mut Violations) {
    let policies = &index.history.policies;
    let (earliest, latest) = (index.earliest(told), told.latest());
    if told.outcome != OK || policies.is_empty() {
        return;
    }
    let key = index.key_of(told);
    let ends = policies.iter().skip(1).map(|next| next.from_ns).chain([u64::MAX]);
    let mut in_force = policies.iter().zip(ends).filter(|(policy, end)| policy.from_ns <= latest && earliest <= *end);
    if in_force.any(|(policy, _)| allows(policy, told, key)) {
        return;
    }
    let promise = if told.action == DECRYPT { 1 } else { 8 };
    let violation = Violation::new(promise, "an answer that no policy in force gave to this caller").told([told]);
    found.push(match index.policy(latest).map(|policy| policy.from_ns) {
        None | Some(0) => violation,
        Some(since) => violation.noted(since, "another policy in force"),
    });
}

fn allows(policy: &Policy, told: &Told, key: Option<&str>) -> bool {
    let covers = |grant: &Grant| {
        let listed = |listed: &String| listed == "*" || Some(listed.as_str()) == key;
        grant.actions.iter().any(|action| action == told.action) && grant.keys.iter().any(listed)
    };
    policy.grants.get(&told.caller).is_some_and(covers)
}
