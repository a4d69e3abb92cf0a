//! The oracle: whether what clients were told agrees with what the KMS decided, and with the promises of SEMANTICS.md.
//!
//! A test writes down what its clients were told, on the clock by which the KMS writes down what it decides, and hands
//! both here. What is found wrong was wrong: every rule goes by the latest instant at which a question may have left and
//! the earliest at which an answer may have. What a history cannot show is not found: a plaintext that was sent within
//! its lease and received after it looks like one that was released too late, unless the test says how long it may have
//! been under way, or stands at the proxy itself.
//!
//! Pure: nothing here reads a clock or a file, but [`history::decisions`].

pub(crate) mod history;

mod closing;
mod consent;
mod flight;
mod index;
mod passing;
mod permission;
mod violation;

use closing::Closings;
use history::History;
use index::Index;
pub(crate) use violation::Violations;

/// What was looked at, so that a test can tell that it was not nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) decisions: usize,
    pub(crate) heard: usize,
    pub(crate) plaintexts: usize,
    pub(crate) told: usize,
}

/// Holds `history` against promises 1 to 8 and 11.
///
/// # Errors
/// For each promise that was broken, the shortest part of the history that shows it.
pub(crate) fn check(history: &History) -> Result<Tally, Violations> {
    let index = Index::of(history);
    let closings = Closings::of(&index);
    let mut found = Violations::default();
    for told in &history.told {
        if told.is_decrypted() {
            consent::check(&index, told, &mut found);
            closings.check(&index, told, &mut found);
        }
        if told.made() {
            passing::check(&index, told, &mut found);
        }
        permission::check(&index, told, &mut found);
    }
    passing::check_once(&index, &mut found);
    closing::check_trials(&index, &mut found);
    flight::check(&index, &mut found);
    if !found.is_empty() {
        return Err(found);
    }
    Ok(Tally {
        decisions: history.decisions.len(),
        heard: history.heard.len(),
        plaintexts: history.told.iter().filter(|told| told.plaintext.is_some()).count(),
        told: history.told.len(),
    })
}

#[allow(dead_code, reason = "the oracle's own tests judge it instead")]
/// Fails the test that made `history` where a promise was broken.
pub(crate) fn hold(history: &History) -> Tally {
    check(history).unwrap_or_else(|violations| panic!("{violations}"))
}
