//! How the daemon is, in a few lines: before the keys of each upstream, which have their own tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Told, columns};
use crate::admin::status::{Listening, Quota, Refused, Status, Upstream};

pub(super) fn daemon(told: Told<'_>) -> String {
    let status = told.status;
    let mut text = String::from("\n");
    match status.obstacles.as_slice() {
        [] => text.push_str("ready"),
        obstacles => {
            let _ = write!(text, "NOT READY: {}", obstacles.join("; "));
        }
    }
    let _ = write!(text, ", sealing keys in {} memory", named(&status.memory));
    if let Some(log) = &status.log {
        let _ = write!(text, ", log {}", plain(log));
    }
    let cache = status.cache;
    let _ = write!(text, "\ncache     {} of {} DEKs", cache.entries, cache.capacity);
    if cache.evictions > 0 {
        let _ = write!(text, ", {} THROWN OUT because it was full", cache.evictions);
    }
    if status.warm_up_left > 0 {
        let _ = write!(text, ", {} from before the start still to be unwrapped", status.warm_up_left);
    }
    let _ = write!(text, "\nrequests  {}", counts(&status.requests));
    if let Some((half, nearly)) = status.latency.percentile(50.0).zip(status.latency.percentile(99.0)) {
        let _ = write!(text, "; half within {}, 99 % within {}", span(half), span(nearly));
    }
    text.push('\n');
    text.push_str(&listeners(&status.listeners));
    text
}

fn listeners(all: &[Listening]) -> String {
    let head = ["LISTENER", "ADDRESS", "CONNECTED", "IN FLIGHT"].map(str::to_owned);
    let rows = all.iter().map(|one| {
        let connected = format!("{} of {}", one.connections, one.max_connections);
        [one.name.clone(), one.address.clone(), connected, one.in_flight.to_string()]
    });
    if all.is_empty() { String::new() } else { format!("\n{}", columns(head, rows.collect(), 2)) }
}

pub(super) fn upstream(told: Told<'_>, upstream: &Upstream) -> String {
    let Upstream { name, decrypts, .. } = upstream;
    let mut text = format!("\nupstream {name}: ");
    match upstream.health.as_str() {
        "answering" => text.push_str("the KMS answers"),
        "silent" => text.push_str("the KMS IS SILENT"),
        _ => text.push_str("the KMS was not asked yet"),
    }
    if let Some(at) = upstream.answered_at {
        let _ = write!(text, ", last heard of {}", told.ago(at));
    }
    if let (Some(at), Some(failure)) = (upstream.failed_at, &upstream.failure) {
        let _ = write!(text, "; last failure {}: {}", told.ago(at), plain(failure));
    }
    if !upstream.credentials {
        text.push_str("; THERE ARE NO CREDENTIALS for it");
    }
    if let Some(ratio) = hit_ratio(decrypts) {
        let _ = write!(text, "\n  Decrypts  {ratio} from memory; {}", counts(decrypts));
    }
    let _ = write!(text, "\n  asked     {}", counts(&upstream.attempts));
    if let Some((half, nearly)) = upstream.latency.percentile(50.0).zip(upstream.latency.percentile(99.0)) {
        let _ = write!(text, "; half within {}, 99 % within {}", span(half), span(nearly));
    }
    text.push('\n');
    upstream.quotas.iter().filter_map(quota).for_each(|line| text.push_str(&line));
    text.push_str(&refusals(told, &upstream.refusals));
    text
}

/// Nothing where there is neither a limit nor anybody who felt one.
fn quota(quota: &Quota) -> Option<String> {
    let [taken, waiting, turned_away] =
        [&quota.taken, &quota.waiting, &quota.turned_away].map(|by_class| by_class.values().sum::<u64>());
    let limit = if quota.limit > 0 { format!("{}/s", quota.limit) } else { "no limit known".to_owned() };
    let told = quota.limit > 0 || waiting > 0 || turned_away > 0;
    let name = &quota.quota;
    told.then(|| format!("  quota     {name}: {limit}, {taken} taken, {waiting} waiting, {turned_away} turned away\n"))
}

fn refusals(told: Told<'_>, all: &[Refused]) -> String {
    let head = ["REFUSED", "TIMES", "CALLER", "ACTION", "WHY"].map(str::to_owned);
    let rows = all.iter().take(REFUSALS_SHOWN).map(|one| {
        let why = one.key.as_ref().map_or_else(|| one.why.clone(), |key| format!("{key}: {}", one.why));
        [told.ago(one.at), one.times.to_string(), one.caller.clone(), one.action.clone(), plain(&why)]
    });
    if all.is_empty() { String::new() } else { format!("\n{}", columns(head, rows.collect(), 2)) }
}

/// How many of a hundred Decrypts were answered from memory.
fn hit_ratio(decrypts: &BTreeMap<String, u64>) -> Option<String> {
    let of = |outcome: &str| decrypts.get(outcome).copied().unwrap_or_default();
    let all: u64 = decrypts.values().sum();
    // Tenths of a percent, and never a hundred where there was one that was not.
    (all > 0).then(|| of("hit") * 1000 / all).map(|permille| format!("{}.{} %", permille / 10, permille % 10))
}

/// `12 ok, 3 key_disabled`: what there was, the most first.
fn counts(by_word: &BTreeMap<String, u64>) -> String {
    let mut all: Vec<_> = by_word.iter().filter(|(_, count)| **count > 0).collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let words: Vec<_> = all.into_iter().map(|(word, count)| format!("{count} {word}")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// Microseconds, in a unit for people.
pub(in super::super) fn span(micros: u64) -> String {
    match micros {
        ..1_000 => format!("{micros} us"),
        1_000..10_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        10_000..1_000_000 => format!("{} ms", micros / 1000),
        1_000_000.. => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

/// Without what a terminal would obey.
pub(in super::super) fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

fn named(memory: &str) -> &str {
    if memory.is_empty() { "unknown" } else { memory }
}

/// Whether a status has what an overview shows; an older daemon has not.
pub(super) const fn is_told(status: &Status) -> bool {
    !status.memory.is_empty()
}

const REFUSALS_SHOWN: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_a_hundred_only_where_everything_was_a_hit() {
        let of = |hit: u64, miss: u64| hit_ratio(&BTreeMap::from([("hit".to_owned(), hit), ("miss".to_owned(), miss)]));
        assert_eq!(of(0, 0), None);
        assert_eq!(of(99_999, 1).unwrap(), "99.9 %");
        assert_eq!(of(5, 0).unwrap(), "100.0 %");
    }

    #[test]
    fn a_span_has_one_unit_and_a_word_cannot_steer_a_terminal() {
        let spans = [7, 999, 1_200, 43_000, 2_500_000].map(span);
        assert_eq!(spans, ["7 us", "999 us", "1.2 ms", "43 ms", "2.5 s"]);
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a?[2Jb?");
    }
}
