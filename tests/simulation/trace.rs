//! A history without what is random in it by nature: ids, ciphertexts and key material, which are other bytes each time;
//! and the order within one instant.

use std::collections::HashMap;

use super::oracle::history::History;

/// One line for each event, in order; bytes and ids are numbered as they come.
pub(crate) fn of(history: &History) -> Vec<String> {
    let mut lines: Vec<(u64, u8, String, [Option<&str>; 4])> = Vec::new();
    // The ids of keys are drawn, and sorted before they are used: which was made first is chance.
    for it in history.decisions.iter().filter(|it| it.action != "CreateKey") {
        let names = [it.key.as_deref(), it.ciphertext.as_deref(), it.plaintext.as_deref(), it.context.as_deref()];
        lines.push((it.at_ns, 0, format!("decides {} {}", it.action, it.outcome), names));
    }
    for it in &history.heard {
        let names = [it.key.as_deref(), it.ciphertext.as_deref(), None, it.context.as_deref()];
        let what = format!("hears {:?} {} {} of {}", it.share, it.action, it.outcome, it.sent_ns);
        lines.push((it.received_ns, 1, what, names));
    }
    for it in &history.told {
        let names = [it.key.as_deref(), it.ciphertext.as_deref(), it.plaintext.as_deref(), it.context.as_deref()];
        let what = format!("{} {:?} {} {} of {}", it.caller, it.released_ns, it.action, it.outcome, it.sent_ns);
        lines.push((it.received_ns, 2, what, names));
    }
    // A host that ends gives up its tasks in any order, all in one instant.
    lines.sort_by(|one, other| (one.0, one.1, &one.2).cmp(&(other.0, other.1, &other.2)));
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut number = |name: Option<&str>| {
        let next = numbers.len();
        name.map_or_else(|| "-".to_owned(), |name| numbers.entry(name.to_owned()).or_insert(next).to_string())
    };
    let numbered = lines
        .into_iter()
        .map(|(at, whose, what, names)| (at, whose, format!("{at} {what} {}", names.map(&mut number).join(" "))));
    let mut numbered: Vec<_> = numbered.collect();
    numbered.sort();
    numbered.into_iter().map(|(_, _, line)| line).collect()
}
