//! Promise 11: what is made is made by the KMS, for this call alone.

use std::collections::HashMap;

use super::history::{DECRYPT, Told};
use super::index::Index;
use super::violation::{Violation, Violations};

pub(super) fn check<'h>(index: &Index<'h>, told: &'h Told, found: &mut Violations) {
    let made = told.ciphertext.as_deref().and_then(|ciphertext| index.made.get(ciphertext)).copied();
    let what = match made {
        None => "something that the KMS has not made",
        Some(made) if !(told.sent_ns..=told.latest()).contains(&made.at_ns) => "something made before it was asked for",
        Some(made) if made.action != told.action || made.plaintext != told.plaintext => "something else than was made",
        Some(_) => return,
    };
    found.push(Violation::new(11, what).decided(made).told([told]));
}

/// Nobody is given what was made for another.
pub(super) fn check_once(index: &Index<'_>, found: &mut Violations) {
    let mut given: HashMap<_, &Told> = HashMap::new();
    for told in index.history.told.iter().filter(|told| told.action != DECRYPT && told.made()) {
        // The same answer is seen once at the proxy, and once by the client.
        let seen = (told.ciphertext.as_deref(), told.released_ns.is_some());
        if let Some(before) = given.insert(seen, told) {
            found.push(Violation::new(11, "something that was made once and given twice").told([before, told]));
        }
    }
}
