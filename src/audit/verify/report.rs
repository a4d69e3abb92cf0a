//! What was found in an audit log.

use std::fmt;

use serde::Serialize;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What follows from it.
    pub verdict: Verdict,
    /// Records that hold.
    pub records: u64,
    /// The number of the first of them.
    pub first: Option<u64>,
    /// The last of them in its place, as `SEQ:HASH`: an anchor for the next time.
    pub last: Option<String>,
    /// When that was written.
    pub last_time: Option<String>,
    /// In the order of reading; the first thousand.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more_findings: usize,
    #[serde(skip)]
    pub(super) found: Vec<(Place, Option<u64>, Kind)>,
}

/// Whether the log can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every record is there, and the log was ended in an orderly way.
    Whole,
    /// Nothing speaks of tampering, and yet records may be missing: the end is open, or was; or some were lost.
    Incomplete,
    /// Somebody, or a broken disk, changed it.
    Broken,
}

/// Something wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In which file.
    pub file: String,
    /// In which line of it, from 1.
    pub line: u64,
    /// At which record, where one can be named.
    pub seq: Option<u64>,
    /// What.
    #[serde(flatten)]
    pub kind: Kind,
    /// In words.
    pub text: String,
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Kind {
    /// The record does not have the hash that it claims.
    Altered,
    /// The first file does not begin with the record that begins a file.
    BeginningMissing,
    /// After something unreadable another chain begins.
    BegunAnew,
    /// The last record is cut off.
    CutOff,
    /// The file was rotated, and the next one is not among those given.
    GoesOnElsewhere,
    /// The daemon itself says that records were lost.
    Gap {
        /// How many.
        dropped: u64,
    },
    /// Nothing says that this is the end: it is still being written, the daemon was killed, or somebody cut it off.
    OpenEnd,
    /// An anchor from before the first record.
    OlderAnchor,
    /// These records are not there.
    Removed {
        /// From this number on.
        from: u64,
        /// To this one.
        to: u64,
    },
    /// The record stands after one that it comes before.
    Reordered,
    /// The record was there already.
    Repeated,
    /// The record is not the successor of the one before it, though its number is.
    Replaced,
    /// The record of an anchor's number is not the anchor's.
    Rewritten,
    /// Another chain begins, which nothing ties to the one before.
    Seam,
    /// The log ends before an anchor.
    Truncated {
        /// The number of the anchor.
        anchor: u64,
    },
    /// The writer before this one was killed: what it had accepted last may be missing.
    UncleanEnd,
    /// The line is no record.
    Unreadable,
}

/// Where something was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) index: usize,
    pub(super) file: String,
    pub(super) line: u64,
}

impl Report {
    pub(super) const fn new() -> Self {
        Self {
            verdict: Verdict::Whole,
            records: 0,
            first: None,
            last: None,
            last_time: None,
            findings: Vec::new(),
            more_findings: 0,
            found: Vec::new(),
        }
    }

    pub(super) fn concluded(mut self) -> Self {
        let mut found = std::mem::take(&mut self.found);
        // Stable: what is told of one line stays in the order in which it was found.
        found.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        self.verdict = found.iter().map(|(.., kind)| kind.verdict()).max().unwrap_or(Verdict::Whole);
        self.more_findings = found.len().saturating_sub(FINDINGS_MAX);
        let told = found.into_iter().take(FINDINGS_MAX);
        self.findings = told
            .map(|(place, seq, kind)| Finding { file: place.file, line: place.line, seq, kind, text: kind.to_string() })
            .collect();
        self
    }
}

impl Kind {
    /// What it makes of the whole log.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::CutOff
            | Self::Gap { .. }
            | Self::GoesOnElsewhere
            | Self::OlderAnchor
            | Self::OpenEnd
            | Self::Seam
            | Self::UncleanEnd => Verdict::Incomplete,
            Self::Altered
            | Self::BeginningMissing
            | Self::BegunAnew
            | Self::Removed { .. }
            | Self::Reordered
            | Self::Repeated
            | Self::Replaced
            | Self::Rewritten
            | Self::Truncated { .. }
            | Self::Unreadable => Verdict::Broken,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Altered => "altered: the record does not have the hash that it claims",
            Self::BeginningMissing => "the beginning was removed: a log begins with an `opened` record",
            Self::BegunAnew => "a new chain begins here, because what stood before could not be read",
            Self::CutOff => "the last record is cut off: a crash, a full disk, or a truncation",
            Self::Gap { dropped } => return write!(f, "{dropped} records were lost here, says the daemon itself"),
            Self::GoesOnElsewhere => "the file was rotated here, and its successor was not given",
            Self::OpenEnd => "the end is open: still being written, or the daemon was killed, or records were cut off",
            Self::OlderAnchor => "the anchor is older than the files that were given",
            Self::Removed { from, to } if from == to => return write!(f, "removed: record {from} is not there"),
            Self::Removed { from, to } => return write!(f, "removed: records {from} to {to} are not there"),
            Self::Reordered => "reordered: the record stands after a later one",
            Self::Repeated => "repeated: a record of this number was there already",
            Self::Replaced => "altered: this record does not follow from the one before; one of the two is another",
            Self::Rewritten => "rewritten: the record of the anchor's number is not the one that the anchor names",
            Self::Seam => "a new chain begins here; nothing ties it to what was before",
            Self::Truncated { anchor } => return write!(f, "truncated: the log ends before the anchor {anchor}"),
            Self::UncleanEnd => "the daemon before was killed: what it recorded last may be missing",
            Self::Unreadable => "altered: the line is no record",
        })
    }
}

const FINDINGS_MAX: usize = 1000;
