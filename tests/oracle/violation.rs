//! A broken promise and the events that show it.

use std::collections::BTreeMap;
use std::fmt;

use super::history::{Decision, Heard, Told};

/// The events of one violation, and no others.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    promise: u8,
    what: String,
    lines: Vec<(u64, String)>,
}

impl Violation {
    pub(super) fn new(promise: u8, what: impl Into<String>) -> Self {
        Self { promise, what: what.into(), lines: Vec::new() }
    }

    pub(super) fn decided<'a>(mut self, decisions: impl IntoIterator<Item = &'a Decision>) -> Self {
        self.lines.extend(decisions.into_iter().map(|decision| (decision.at_ns, decided(decision))));
        self
    }

    pub(super) fn told<'a>(mut self, told: impl IntoIterator<Item = &'a Told>) -> Self {
        self.lines.extend(told.into_iter().map(|told| (told.latest(), said(told))));
        self
    }

    pub(super) fn heard<'a>(mut self, heard: impl IntoIterator<Item = &'a Heard>) -> Self {
        self.lines.extend(heard.into_iter().map(|heard| (heard.received_ns, listened(heard))));
        self
    }

    pub(super) fn noted(mut self, at_ns: u64, line: &str) -> Self {
        self.lines.push((at_ns, line.to_owned()));
        self
    }

    /// Fewer lines first, and then the shorter time.
    fn length(&self) -> (usize, u64) {
        let times = self.lines.iter().map(|(at, _)| *at);
        (self.lines.len(), times.clone().max().unwrap_or(0) - times.min().unwrap_or(0))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "promise {}: {}", self.promise, self.what)?;
        let mut lines = self.lines.clone();
        // At one instant, as they were given: the cause before what rests on it.
        lines.sort_by_key(|(at, _)| *at);
        let first = lines.first().map_or(0, |(at, _)| *at);
        lines.iter().try_for_each(|(at, line)| writeln!(f, "{:>12} {line}", Seconds(at - first)))
    }
}

/// For each promise and way of breaking it, the shortest history, and how many there were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Violations(BTreeMap<(u8, String), (Violation, usize)>);

impl Violations {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, violation: Violation) {
        let name = (violation.promise, violation.what.clone());
        let (shortest, count) = self.0.entry(name).or_insert_with(|| (violation.clone(), 0));
        *count += 1;
        if violation.length() < shortest.length() {
            *shortest = violation;
        }
    }

    /// Which promises were broken, and how.
    #[allow(dead_code, reason = "for the oracle's own tests")]
    pub(crate) fn names(&self) -> Vec<(u8, &str)> {
        self.0.keys().map(|(promise, what)| (*promise, what.as_str())).collect()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the history breaks what SEMANTICS.md promises; times are seconds from the first event shown")?;
        for (violation, count) in self.0.values() {
            write!(f, "{violation}")?;
            if *count > 1 {
                writeln!(f, "{:>12} and {} longer ones", "", count - 1)?;
            }
        }
        Ok(())
    }
}

fn decided(decision: &Decision) -> String {
    let Decision { action, key, version, context, ciphertext, plaintext, outcome, .. } = decision;
    let parts = [
        key.clone(),
        version.as_ref().map(|version| format!("version {version}")),
        short("context", context.as_ref()),
        short("ciphertext", ciphertext.as_ref()),
        short("plaintext", plaintext.as_ref()),
    ];
    format!("KMS decides  {action}: {outcome}{}", joined(parts))
}

fn said(told: &Told) -> String {
    let Told { caller, action, sent_ns, key, context, ciphertext, plaintext, outcome, .. } = told;
    let parts = [
        key.clone(),
        short("context", context.as_ref()),
        short("ciphertext", ciphertext.as_ref()),
        short("plaintext", plaintext.as_ref()),
        Some(format!("sent {} before", Seconds(told.latest().saturating_sub(*sent_ns)))),
    ];
    let how = if told.released_ns.is_some() { "is released" } else { "is told" };
    format!("{caller} {how}  {action}: {outcome}{}", joined(parts))
}

fn listened(heard: &Heard) -> String {
    let Heard { share, action, sent_ns, received_ns, key, context, ciphertext, outcome } = heard;
    let parts = [
        share.as_ref().map(|share| format!("for {share}")),
        key.clone(),
        short("context", context.as_ref()),
        short("ciphertext", ciphertext.as_ref()),
        Some(format!("sent {} before", Seconds(received_ns.saturating_sub(*sent_ns)))),
    ];
    format!("proxy hears  {action}: {outcome}{}", joined(parts))
}

fn joined(parts: [Option<String>; 5]) -> String {
    parts.into_iter().flatten().map(|part| format!(", {part}")).collect()
}

fn short(name: &str, digest: Option<&String>) -> Option<String> {
    digest.map(|digest| format!("{name} {}", digest.get(..8).unwrap_or(digest)))
}

struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{:06}", self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1000))
    }
}
