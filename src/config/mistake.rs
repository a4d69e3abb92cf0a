//! What is wrong with a configuration: all of it at once.

use std::fmt;

use crate::config::key::{Key, Origin, Place};

/// One mistake and how to mend it. Never contains a secret, nor the text of a value that could be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  remedy: {}", self.place, self.problem, self.remedy)
    }
}

/// Every mistake of one configuration, at least one, in the order of reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub(super) Vec<Mistake>);

impl Mistakes {
    /// The mistakes.
    #[must_use]
    pub fn list(&self) -> &[Mistake] {
        &self.0
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Collects mistakes and knows where each was made.
#[derive(Debug)]
pub(super) struct Findings {
    origin: Origin,
    found: Vec<(Key, Mistake)>,
}

impl Findings {
    pub(super) const fn new(origin: Origin) -> Self {
        Self { origin, found: Vec::new() }
    }

    pub(super) const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Notes that `key` was set somewhere else than in the file.
    pub(super) fn change(&mut self, key: Key, place: Place) {
        self.origin.change(key, place);
    }

    /// Notes that `key` is wrong. The text says what the key is for itself: its path is put in front.
    pub(super) fn add(&mut self, key: &Key, problem: impl fmt::Display, remedy: impl Into<String>) {
        let problem = format!("{key}: {problem}");
        self.found.push((key.clone(), Mistake { place: self.origin.place(key), problem, remedy: remedy.into() }));
    }

    /// Notes a mistake that belongs to no setting.
    pub(super) fn add_at(&mut self, place: Place, problem: impl Into<String>, remedy: impl Into<String>) {
        self.found.push((Key::default(), Mistake { place, problem: problem.into(), remedy: remedy.into() }));
    }

    /// Whether something within `key` was found wrong already, so that what follows from it need not be told.
    pub(super) fn within(&self, key: &Key) -> bool {
        self.found.iter().any(|(found, _)| found.within(key))
    }

    pub(super) const fn count(&self) -> usize {
        self.found.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Everything found, in the order of reading.
    pub(super) fn mistakes(self) -> Mistakes {
        Mistakes(self.found.into_iter().map(|(_, mistake)| mistake).collect())
    }
}
