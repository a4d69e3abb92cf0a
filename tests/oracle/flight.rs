//! Promise 7: equal cold Decrypts make one call.

use std::collections::BTreeMap;

use super::history::{Heard, Told, nanos};
use super::index::{Exact, Index};
use super::violation::{Violation, Violations};

pub(super) fn check(index: &Index<'_>, found: &mut Violations) {
    if index.history.heard.is_empty() {
        check_decisions(index, found);
    } else {
        check_questions(index, found);
    }
}

/// By the proxy's own ear: no two equal questions are under way for those who share their answers.
fn check_questions(index: &Index<'_>, found: &mut Violations) {
    for (_, heard) in index.every_heard() {
        let mut under_way: BTreeMap<&str, &Heard> = BTreeMap::new();
        for &question in heard {
            let Some(share) = question.share.as_deref() else { continue };
            let before = under_way.insert(share, question);
            if let Some(before) = before.filter(|before| question.sent_ns < before.received_ns) {
                let what = "two equal questions under way at a time";
                found.push(Violation::new(7, what).heard([before, question]));
            }
        }
    }
}

/// By what the KMS decided while those waited who asked first. Where anything else could have caused a call (a failure,
/// a refusal, a lease that ended), nothing is said.
fn check_decisions(index: &Index<'_>, found: &mut Violations) {
    let mut first: BTreeMap<Exact<'_>, Vec<&[&Told]>> = BTreeMap::new();
    for ((_, exact), told) in &index.told {
        let together = told.iter().take_while(|other| other.sent_ns <= told[0].received_ns).count();
        first.entry(*exact).or_default().push(&told[..together]);
    }
    for (exact, groups) in first {
        let all = || groups.iter().flat_map(|group| group.iter().copied());
        let from = all().map(|told| told.sent_ns).min().unwrap_or(0);
        let to = all().map(Told::latest).max().unwrap_or(0);
        let Some(key) = all().find_map(|told| index.key_of(told)) else { continue };
        let patience = index.lease().min(nanos(index.history.terms.max_age) / 5);
        let disturbed = to - from >= patience || index.refused(key, from, to).is_some();
        if disturbed || !all().all(Told::is_decrypted) {
            continue;
        }
        let decisions = index.unwrapped(exact);
        let while_waiting: Vec<_> = decisions.iter().copied().filter(|it| (from..=to).contains(&it.at_ns)).collect();
        let cold = decisions.first().is_some_and(|first| first.at_ns >= from);
        let probes = (to - from) / (nanos(index.history.terms.probe) / 5 * 4).max(1);
        let calls = groups.len() * index.history.terms.calls_per_flight;
        if cold && while_waiting.len() > calls + usize::try_from(probes).unwrap_or(usize::MAX) {
            let what = "more than one call for equal cold Decrypts";
            found.push(Violation::new(7, what).decided(while_waiting).told(groups.iter().map(|group| group[0])));
        }
    }
}
