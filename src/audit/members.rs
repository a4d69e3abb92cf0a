//! The members of a line, each after a comma.

use serde::Serialize;

use super::stamp::Clocks;
use crate::clock::Moment;
use crate::kms::{RequestId, RequestIdText};

/// A line that members are appended to. Not by `serde`, which is slow where members are flattened into others: there is a line
/// for each hit.
pub(super) struct Members<'l>(&'l mut Vec<u8>);

impl<'l> Members<'l> {
    /// Begins with what all records have: what kind it is, and when it was accepted.
    pub(super) fn begin(line: &'l mut Vec<u8>, event: &'static str, at: Moment, clocks: &mut Clocks) -> Self {
        line.reserve(LINE_BYTES);
        let mut members = Self(line);
        members.plain(r#","event":""#, event.as_bytes());
        clocks.stamp(at, members.0);
        members
    }

    /// Adds a member whose value may be anything; `name` with all that stands before the value.
    pub(super) fn value(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) {
        self.0.extend_from_slice(name.as_bytes());
        // Neither writing to memory nor the JSON form of texts and numbers can fail.
        let _ = serde_json::to_writer(&mut *self.0, value);
    }

    /// Adds a member that is a text, in UTF-8; `name` up to the quote that opens it.
    pub(super) fn text(&mut self, name: &'static str, text: &[u8]) {
        // Looked at without a branch for each byte; nearly all are plain.
        let is_plain = |byte: u8| (byte >= b' ') & (byte != b'"') & (byte != b'\\');
        if text.iter().fold(true, |plain, byte| plain & is_plain(*byte)) {
            self.plain(name, text);
        } else {
            self.value(name.trim_end_matches('"'), &String::from_utf8_lossy(text));
        }
    }

    pub(super) fn id(&mut self, name: &'static str, id: &RequestId) {
        match id.text() {
            RequestIdText::Other(text) => self.text(name, cut(text)),
            RequestIdText::Uuid(text) => self.plain(name, &text),
        }
    }

    /// Adds a member that is a text without anything that JSON escapes; `name` up to the quote that opens it.
    pub(super) fn plain(&mut self, name: &'static str, text: &[u8]) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(text);
        self.0.push(b'"');
    }
}

/// What a caller or a KMS names is bounded only by what a request may hold.
pub(super) fn cut(text: &str) -> &[u8] {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text.as_bytes()[..end]
}

/// Room for nearly any line, made once.
const LINE_BYTES: usize = 1024;
const TEXT_BYTES_MAX: usize = 256;
