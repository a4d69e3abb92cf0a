//! Whether an audit log is whole, and where it is not.
//!
//! A chain without a secret shows what somebody did who could not, or did not, hash everything after it anew. Whoever can
//! rewrite all that follows leaves no trace in it: against that there are a secret, and anchors that were told elsewhere.

use std::io::{self, BufRead, Read};

use super::chain::{Hash, Head, Keys};
use super::line::{Line, What};
use super::record::{After, Why};

mod report;

use report::Place;
pub use report::{Finding, Kind, Report, Verdict};

/// Reads one log, which may lie in several files, from its beginning to its end.
#[derive(Debug)]
pub struct Verifier {
    keys: Vec<Keys>,
    anchors: Vec<(Head, bool)>,
    place: Place,
    /// The first record of the chain.
    start: Option<Head>,
    /// The last record that holds and is in its place.
    last: Option<Last>,
    /// Lines since then that are no records, or do not hold: each may have been one.
    unread: Vec<Unread>,
    /// Numbers that have not been seen, and where they should have been.
    missing: Vec<(Place, u64, u64)>,
    report: Report,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    head: Head,
    closed: Option<Why>,
}

#[derive(Debug)]
struct Unread {
    place: Place,
    /// It is no record at all.
    garbage: bool,
    line_feed: bool,
    seq: Option<u64>,
}

/// The lines are hashed under a secret, and none was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its chain is keyed by a secret, without which it cannot be verified")]
pub struct SecretNeeded;

impl Verifier {
    /// A verifier that takes lines hashed by any of `keys`, and looks for `anchors`.
    #[must_use]
    pub fn new(keys: Vec<Keys>, anchors: Vec<Head>) -> Self {
        Self {
            keys,
            anchors: anchors.into_iter().map(|anchor| (anchor, false)).collect(),
            place: Place::default(),
            start: None,
            last: None,
            unread: Vec::new(),
            missing: Vec::new(),
            report: Report::new(),
        }
    }

    /// Reads the next file of the log.
    ///
    /// # Errors
    /// What reading it says; [`SecretNeeded`] within, where a secret is needed.
    pub fn read(&mut self, name: &str, mut file: impl BufRead) -> io::Result<()> {
        self.place = Place { index: self.place.index + 1, file: name.to_owned(), line: 0 };
        let mut line = Vec::new();
        loop {
            line.clear();
            file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                return Ok(());
            }
            self.place.line += 1;
            let line_feed = line.pop_if(|byte| *byte == b'\n').is_some();
            self.line(&line, line_feed).map_err(io::Error::other)?;
        }
    }

    /// The end of the last file.
    #[must_use]
    pub fn finish(mut self) -> Report {
        self.end();
        for (place, from, to) in std::mem::take(&mut self.missing) {
            self.report.found.push((place, None, Kind::Removed { from, to }));
        }
        self.weigh_anchors();
        self.report.last = self.last.map(|last| last.head.to_string());
        self.report.concluded()
    }

    fn line(&mut self, bytes: &[u8], line_feed: bool) -> Result<(), SecretNeeded> {
        let line = Line::parse(bytes);
        if let Some(What::Opened { keyed: true, .. }) = line.as_ref().map(|line| line.event)
            && !self.keys.iter().any(Keys::keyed)
        {
            return Err(SecretNeeded);
        }
        match line {
            Some(line) if line.holds(&self.keys) => self.record(&line, line_feed),
            other => {
                let seq = other.as_ref().map(|line| line.head.seq);
                let place = self.place.clone();
                self.unread.push(Unread { place, garbage: other.is_none(), line_feed, seq });
            }
        }
        Ok(())
    }

    fn record(&mut self, line: &Line<'_>, line_feed: bool) {
        let seq = line.head.seq;
        let unread = self.told_unread(line);
        self.report.records += 1;
        self.report.first.get_or_insert(seq);
        for (anchor, met) in &mut self.anchors {
            *met |= *anchor == line.head;
        }
        self.start.get_or_insert(line.head);
        let in_place = match self.last {
            None => {
                self.first(line, unread);
                true
            }
            Some(last) => self.next(line, last.head, unread),
        };
        if in_place {
            let closed = match line.event {
                What::Closed(why) => Some(why),
                What::Call | What::Checkpoint | What::Gap(_) | What::Opened { .. } => None,
            };
            self.last = Some(Last { head: line.head, closed });
            self.report.last_time = Some(line.time.clone());
        }
        if let What::Gap(dropped) = line.event {
            self.found(Some(seq), Kind::Gap { dropped });
        }
        if !line_feed {
            self.found(Some(seq), Kind::CutOff);
        }
    }

    /// Tells of the lines before `line` that were no records; how many records they may have been.
    fn told_unread(&mut self, line: &Line<'_>) -> u64 {
        let unread = std::mem::take(&mut self.unread);
        let torn = matches!(line.event, What::Opened { after: After::Torn, .. });
        let follows = self.last.is_some_and(|last| last.head.seq + 1 == line.head.seq && last.head.hash == line.prev);
        // A record that was cut off by a crash: the next writer says so, and its number was never used.
        if let [Unread { garbage: true, .. }] = &unread[..]
            && torn
            && follows
        {
            return 0;
        }
        let count = unread.len() as u64;
        self.tell(unread);
        count
    }

    fn tell(&mut self, unread: Vec<Unread>) {
        for Unread { place, garbage, seq, .. } in unread {
            let kind = if garbage { Kind::Unreadable } else { Kind::Altered };
            self.report.found.push((place, seq, kind));
        }
    }

    /// The first record of all. Later files may begin in the middle of a chain; so may the first, but with a header.
    fn first(&mut self, line: &Line<'_>, unread: u64) {
        let seq = line.head.seq;
        let opened = matches!(line.event, What::Opened { .. });
        if unread == 0 && (!opened || (seq == 1) != (line.prev == Hash::NONE)) {
            self.found(Some(seq), Kind::BeginningMissing);
        }
        if let What::Opened { after: After::Unreadable, .. } = line.event
            && unread == 0
        {
            self.found(Some(seq), Kind::BegunAnew);
        }
    }

    /// A record after `last`; whether it is in its place.
    fn next(&mut self, line: &Line<'_>, last: Head, unread: u64) -> bool {
        let seq = line.head.seq;
        if let What::Opened { after, .. } = line.event
            && (seq, line.prev) == (1, Hash::NONE)
            && self.start != Some(line.head)
        {
            self.start = Some(line.head);
            self.found(Some(seq), if after == After::Nothing { Kind::Seam } else { Kind::BegunAnew });
            return true;
        }
        let Some(ahead) = seq.checked_sub(last.seq + 1) else {
            let kind = if self.take_missing(seq) { Kind::Reordered } else { Kind::Repeated };
            self.found(Some(seq), kind);
            return false;
        };
        if ahead > unread {
            self.missing.push((self.place.clone(), last.seq + 1, seq - 1));
        } else if unread == 0 && line.prev != last.hash {
            self.found(Some(seq), Kind::Replaced);
        }
        if let What::Opened { after: After::Break | After::Torn, .. } = line.event {
            self.found(Some(seq), Kind::UncleanEnd);
        }
        true
    }

    /// Takes `seq` out of what is missing, if it was.
    fn take_missing(&mut self, seq: u64) -> bool {
        let Some(index) = self.missing.iter().position(|(_, from, to)| (*from..=*to).contains(&seq)) else {
            return false;
        };
        let (place, from, to) = self.missing.swap_remove(index);
        let rest = [(from, seq.wrapping_sub(1)), (seq.wrapping_add(1), to)];
        let rest = rest.into_iter().filter(|(from, to)| from <= to && (*from, *to) != (seq, seq));
        self.missing.extend(rest.map(|(from, to)| (place.clone(), from, to)));
        true
    }

    fn end(&mut self) {
        let mut unread = std::mem::take(&mut self.unread);
        // Only what has no line feed may be half a record.
        let cut = unread.pop_if(|line| line.garbage && !line.line_feed);
        self.tell(unread);
        if let Some(cut) = cut {
            self.report.found.push((cut.place, None, Kind::CutOff));
        }
        let seq = self.last.map(|last| last.head.seq);
        match self.last.and_then(|last| last.closed) {
            Some(Why::Stop) => {}
            Some(Why::Rotation) => self.found(seq, Kind::GoesOnElsewhere),
            None => self.found(seq, Kind::OpenEnd),
        }
    }

    fn weigh_anchors(&mut self) {
        let first = self.report.first.unwrap_or(u64::MAX);
        let last = self.last.map_or(0, |last| last.head.seq);
        for (anchor, met) in std::mem::take(&mut self.anchors) {
            match anchor.seq {
                _ if met => {}
                seq if seq > last => self.found(Some(last), Kind::Truncated { anchor: seq }),
                seq if seq < first => self.found(Some(seq), Kind::OlderAnchor),
                seq => self.found(Some(seq), Kind::Rewritten),
            }
        }
    }

    fn found(&mut self, seq: Option<u64>, kind: Kind) {
        self.report.found.push((self.place.clone(), seq, kind));
    }
}

const LINE_BYTES_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::chain::Chain;
    use super::*;
    use crate::secret::Secret;

    /// A chain of `opened`, `calls` answers and `closed`, one line each, without line feeds.
    fn log(keys: &Keys, calls: usize) -> Vec<Vec<u8>> {
        written(&mut Chain::new(keys.clone(), Head::NONE), After::Nothing, calls, Why::Stop)
    }

    fn written(chain: &mut Chain, after: After, calls: usize, why: Why) -> Vec<Vec<u8>> {
        let time = "2026-01-02T03:04:05.000000Z";
        let mut events = vec![json!({ "event": "opened", "time": time, "keyed": chain.is_keyed(), "after": after })];
        events.extend((0..calls).map(|n| json!({ "event": "answer", "time": time, "caller": format!("caller {n}") })));
        events.push(json!({ "event": "closed", "time": time, "why": why }));
        let line = |event| {
            let mut line = Vec::new();
            chain.append(&mut line, |_, line| members(event, line));
            line.pop();
            line
        };
        events.iter().map(line).collect()
    }

    /// The members of `event`, each after a comma.
    fn members(event: &serde_json::Value, line: &mut Vec<u8>) {
        let event = event.to_string();
        line.push(b',');
        line.extend_from_slice(&event.as_bytes()[1..event.len() - 1]);
    }

    fn plain() -> Keys {
        Keys::of(None).unwrap()
    }

    fn keyed(secret: &str) -> Keys {
        Keys::of(Some(&Secret::copied(secret.as_bytes()))).unwrap()
    }

    fn text(lines: &[Vec<u8>]) -> Vec<u8> {
        lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect()
    }

    fn verified(files: &[Vec<u8>], keys: Vec<Keys>, anchors: Vec<Head>) -> Report {
        let mut verifier = Verifier::new(keys, anchors);
        for (index, file) in files.iter().enumerate() {
            verifier.read(&index.to_string(), &file[..]).unwrap();
        }
        verifier.finish()
    }

    /// Line, record and kind of everything that is found.
    fn found(lines: &[Vec<u8>]) -> Vec<(u64, Option<u64>, Kind)> {
        of(verified(&[text(lines)], vec![plain()], Vec::new()))
    }

    fn of(report: Report) -> Vec<(u64, Option<u64>, Kind)> {
        report.findings.into_iter().map(|finding| (finding.line, finding.seq, finding.kind)).collect()
    }

    fn head(line: &[u8]) -> Head {
        Line::parse(line).unwrap().head
    }

    #[test]
    fn an_untouched_log_is_whole() {
        let lines = log(&plain(), 3);
        let report = verified(&[text(&lines)], vec![plain()], vec![head(&lines[2])]);
        assert_eq!((report.verdict, report.records, report.first), (Verdict::Whole, 5, Some(1)));
        assert_eq!(report.last, Some(head(&lines[4]).to_string()));
        assert_eq!(report.findings, []);
    }

    #[test]
    fn what_was_done_to_a_record_is_told_with_its_line_and_its_number() {
        let whole = log(&plain(), 5);
        let mut altered = whole.clone();
        altered[3] = String::from_utf8(altered[3].clone()).unwrap().replace("caller 2", "caller 9").into_bytes();
        assert_eq!(found(&altered), [(4, Some(4), Kind::Altered)]);

        let mut removed = whole.clone();
        removed.drain(2..4);
        assert_eq!(found(&removed), [(3, None, Kind::Removed { from: 3, to: 4 })]);

        let mut reordered = whole.clone();
        reordered.swap(2, 3);
        assert_eq!(found(&reordered), [(4, Some(3), Kind::Reordered)]);

        let mut repeated = whole.clone();
        repeated.insert(4, whole[2].clone());
        assert_eq!(found(&repeated), [(5, Some(3), Kind::Repeated)]);

        let mut beheaded = whole.clone();
        beheaded.remove(0);
        assert_eq!(found(&beheaded), [(1, Some(2), Kind::BeginningMissing)]);

        let mut inserted = whole.clone();
        inserted.insert(2, b"hello".to_vec());
        assert_eq!(found(&inserted), [(3, None, Kind::Unreadable)]);

        let mut replaced = whole.clone();
        let mut forged = Vec::new();
        Chain::new(plain(), head(&whole[2]))
            .append(&mut forged, |_, line| members(&json!({ "event": "answer", "time": "never" }), line));
        forged.pop();
        replaced[3] = forged;
        assert_eq!(found(&replaced), [(5, Some(5), Kind::Replaced)], "its own hash was made anew");
    }

    #[test]
    fn a_cut_tail_is_no_proof_of_tampering_until_an_anchor_says_so() {
        let whole = log(&plain(), 5);
        assert_eq!(found(&whole[..4]), [(4, Some(4), Kind::OpenEnd)]);
        let cut = text(&whole[..4]);
        let torn = of(verified(&[cut[..cut.len() - 9].to_vec()], vec![plain()], Vec::new()));
        assert_eq!(torn, [(4, None, Kind::CutOff), (4, Some(3), Kind::OpenEnd)]);

        let anchored = verified(&[cut], vec![plain()], vec![head(&whole[4])]);
        assert_eq!(anchored.verdict, Verdict::Broken);
        assert_eq!(of(anchored)[1], (4, Some(4), Kind::Truncated { anchor: 5 }));

        let other = log(&plain(), 6);
        let rewritten = verified(&[text(&other)], vec![plain()], vec![Head { seq: 5, hash: Hash::NONE }]);
        assert_eq!(of(rewritten), [(8, Some(5), Kind::Rewritten)]);
    }

    #[test]
    fn a_chain_goes_on_from_file_to_file_and_a_missing_one_is_seen() {
        let mut chain = Chain::new(plain(), Head::NONE);
        let first = text(&written(&mut chain, After::Nothing, 2, Why::Rotation));
        let second = text(&written(&mut chain, After::Rotation, 2, Why::Rotation));
        let third = text(&written(&mut chain, After::Rotation, 2, Why::Stop));
        let all = |files: &[&Vec<u8>]| {
            let files: Vec<_> = files.iter().map(|&file| file.clone()).collect();
            of(verified(&files, vec![plain()], Vec::new()))
        };
        assert_eq!(all(&[&first, &second, &third]), []);
        assert_eq!(all(&[&second, &third]), [], "the oldest may be gone");
        assert_eq!(all(&[&first, &third]), [(1, None, Kind::Removed { from: 5, to: 8 })]);
        assert_eq!(all(&[&first, &second]), [(4, Some(8), Kind::GoesOnElsewhere)]);
        assert_eq!(all(&[&third, &text(&log(&plain(), 1))]), [(1, Some(1), Kind::Seam)]);
        let out_of_order = [(1, Some(1), Kind::Seam), (4, Some(4), Kind::GoesOnElsewhere)];
        assert_eq!(all(&[&second, &first]), out_of_order, "as if the files between were not there");
    }

    #[test]
    fn a_killed_writer_is_told_as_such() {
        let mut chain = Chain::new(plain(), Head::NONE);
        let mut lines = written(&mut chain, After::Nothing, 2, Why::Stop);
        lines.pop();
        let mut chain = Chain::new(plain(), head(lines.last().unwrap()));
        for (after, fragment) in [(After::Break, None), (After::Torn, Some(b"{\"seq\":4,\"pr".to_vec()))] {
            let rest = written(&mut chain, after, 1, Why::Stop);
            lines.extend(fragment);
            let at = lines.len() as u64 + 1;
            let seq = head(&rest[0]).seq;
            lines.extend(rest);
            let all = found(&lines);
            assert_eq!(all.last(), Some(&(at, Some(seq), Kind::UncleanEnd)), "{after:?}");
            assert!(all.iter().all(|(.., kind)| *kind == Kind::UncleanEnd), "{all:?}");
            lines.pop();
            chain = Chain::new(plain(), head(lines.last().unwrap()));
        }
    }

    #[test]
    fn a_keyed_chain_cannot_be_forged_without_its_secret() {
        let (ours, theirs) = (keyed("a secret of thirty-two bytes...."), keyed("another secret of 32 bytes......"));
        let lines = text(&log(&ours, 3));
        assert_eq!(verified(std::slice::from_ref(&lines), vec![ours.clone()], Vec::new()).verdict, Verdict::Whole);
        for forger in [theirs.clone(), plain()] {
            let forged = text(&log(&forger, 3));
            let report = verified(&[forged], vec![ours.clone()], Vec::new());
            assert_eq!((report.verdict, report.records), (Verdict::Broken, 0));
        }
        let refused = Verifier::new(vec![plain()], Vec::new()).read("log", &lines[..]).unwrap_err();
        assert!(refused.get_ref().unwrap().is::<SecretNeeded>());
        // After a change of the secret, both are given.
        let both = [lines, text(&log(&theirs, 1))];
        assert_eq!(of(verified(&both, vec![theirs, ours], Vec::new())), [(1, Some(1), Kind::Seam)]);
    }

    proptest! {
        #[test]
        fn any_mutation_of_one_byte_is_found(calls in 0..6_usize, at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let mut bytes = text(&log(&plain(), calls));
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let verdict = verified(std::slice::from_ref(&bytes), vec![plain()], Vec::new()).verdict;
            // Without its line feed the last line may as well have been cut off.
            let least = if at == bytes.len() - 1 { Verdict::Incomplete } else { Verdict::Broken };
            prop_assert!(verdict >= least, "byte {}: {:?}", at, verdict);
        }

        #[test]
        fn any_line_that_is_deleted_moved_or_doubled_is_found(
            calls in 0..6_usize,
            from in any::<prop::sample::Index>(),
            to in any::<prop::sample::Index>(),
        ) {
            let lines = log(&plain(), calls);
            let (from, to) = (from.index(lines.len()), to.index(lines.len()));
            let mut deleted = lines.clone();
            let line = deleted.remove(from);
            prop_assert_ne!(verified(&[text(&deleted)], vec![plain()], Vec::new()).verdict, Verdict::Whole);
            if from != lines.len() - 1 {
                prop_assert_eq!(verified(&[text(&deleted)], vec![plain()], Vec::new()).verdict, Verdict::Broken);
            }
            let mut moved = deleted;
            moved.insert(to, line.clone());
            if from != to {
                prop_assert_eq!(verified(&[text(&moved)], vec![plain()], Vec::new()).verdict, Verdict::Broken);
            }
            let mut doubled = lines;
            doubled.insert(to, line);
            prop_assert_eq!(verified(&[text(&doubled)], vec![plain()], Vec::new()).verdict, Verdict::Broken);
        }

        #[test]
        fn any_truncation_is_found(calls in 0..6_usize, at in any::<prop::sample::Index>()) {
            let bytes = text(&log(&plain(), calls));
            let cut = bytes[..at.index(bytes.len())].to_vec();
            prop_assert_ne!(verified(&[cut], vec![plain()], Vec::new()).verdict, Verdict::Whole);
        }
    }
}
