//! Records that wait to be written.

use std::mem;

use super::record::Words;
use super::stamp::Clocks;
use crate::clock::Moment;

/// Records in the order in which they were accepted, their words one behind the other: whoever adds one copies bytes, and
/// whoever has written them frees nothing that another thread has made.
#[derive(Debug, Default)]
pub(super) struct Batch {
    accepted: Vec<Accepted>,
    members: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Accepted {
    at: Moment,
    event: &'static str,
    /// Where its members end; they begin where those of the one before do.
    end: usize,
}

impl Batch {
    pub(super) fn add(&mut self, at: Moment, words: &Words) {
        self.members.extend_from_slice(&words.members);
        self.accepted.push(Accepted { at, event: words.event, end: self.members.len() });
    }

    pub(super) const fn len(&self) -> usize {
        self.accepted.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.accepted.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.accepted.iter().scan(0, |start, &Accepted { at, event, end }| {
            let members = &self.members[mem::replace(start, end)..end];
            Some(Entry { at, event, members })
        })
    }

    pub(super) fn clear(&mut self) {
        self.accepted.clear();
        self.members.clear();
        // What one storm took is not kept for ever.
        self.accepted.shrink_to(RECORDS_KEPT);
        self.members.shrink_to(MEMBERS_BYTES_KEPT);
    }
}

/// A record in its words, and when it was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'w> {
    at: Moment,
    event: &'static str,
    members: &'w [u8],
}

impl<'w> Entry<'w> {
    /// A record that was accepted `at`.
    #[must_use]
    pub fn new(at: Moment, words: &'w Words) -> Self {
        Self { at, event: words.event, members: &words.members }
    }

    /// Appends its members to a line that has `seq` and `prev` already.
    pub fn write(&self, clocks: &mut Clocks, line: &mut Vec<u8>) {
        line.extend_from_slice(br#","event":""#);
        line.extend_from_slice(self.event.as_bytes());
        line.push(b'"');
        clocks.stamp(self.at, line);
        line.extend_from_slice(self.members);
    }
}

const RECORDS_KEPT: usize = 1024;
const MEMBERS_BYTES_KEPT: usize = 512 * 1024;
