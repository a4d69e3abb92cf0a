//! The log as it is written: what it continues, how it follows a rotation, and what happens when it cannot be written.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{LazyLock, Mutex, PoisonError};

use jiff::Timestamp;

use super::verify::{Kind, Report, Verdict, Verifier};
use super::*;

mod format;
mod sinks;

use crate::claim::ListenerName;
use crate::clock::{Manual, System};
use crate::kms::{Action, Ciphertext, KeyId, KeyName, KeyVersion, RequestId};

/// What a record tells of, kept.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) caller: String,
    pub(super) listener: ListenerName,
    pub(super) action: Action,
    pub(super) named: Option<KeyName>,
    pub(super) key: Option<KeyId>,
    pub(super) version: Option<KeyVersion>,
    pub(super) ciphertext: Option<Ciphertext>,
    pub(super) outcome: Outcome,
    pub(super) request_id: Option<RequestId>,
    pub(super) kms_request_id: Option<RequestId>,
}

impl Told {
    pub(super) fn record(&self) -> Record<'_> {
        Record {
            caller: &self.caller,
            listener: &self.listener,
            action: self.action,
            named: self.named.as_ref(),
            key: self.key.as_ref(),
            version: self.version.as_ref(),
            ciphertext: self.ciphertext.as_ref(),
            outcome: self.outcome,
            request_id: self.request_id.as_ref(),
            kms_request_id: self.kms_request_id.as_ref(),
        }
    }
}

static HIT: LazyLock<Told> = LazyLock::new(|| Told {
    caller: "plugin".to_owned(),
    listener: ListenerName::new("ack"),
    action: Action::Decrypt,
    named: None,
    key: Some(KeyId::new("key-1")),
    version: Some(KeyVersion::new("v1")),
    ciphertext: Some(Ciphertext::new(b"canary-ciphertext".to_vec())),
    outcome: Outcome::Hit,
    request_id: Some(RequestId::new("OURS")),
    kms_request_id: Some(RequestId::new("THEIRS")),
});

fn hit() -> Record<'static> {
    HIT.record()
}

fn refusal(caller: &'static str, reason: &'static str) -> Record<'static> {
    Record { caller, outcome: Outcome::Refused(reason), ..hit() }
}

fn terms(destination: Destination, required: bool) -> Terms {
    Terms { destination, required, queue: 100, secret: None }
}

fn at(path: &Path) -> Arc<Audit> {
    // The writer of one that was dropped lets go of the file when it has written what there was.
    for _ in 0..400 {
        let opened = Audit::open(terms(Destination::File(path.to_owned()), true), Arc::new(System), Meters::none());
        match opened {
            Err(busy) if busy.kind() == io::ErrorKind::ResourceBusy => thread::sleep(Duration::from_millis(5)),
            opened => return opened.unwrap(),
        }
    }
    panic!("the file stays locked")
}

fn verified(paths: &[&Path]) -> Report {
    let mut verifier = Verifier::new(vec![Keys::of(None).unwrap()], Vec::new());
    for path in paths {
        verifier.read(&path.display().to_string(), &fs::read(path).unwrap()[..]).unwrap();
    }
    verifier.finish()
}

fn kinds(report: &Report) -> Vec<Kind> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("waited in vain: {what}");
}

/// A sink that does as it is told.
#[derive(Clone, Default)]
struct Planted(Arc<Mutex<Plan>>);

#[derive(Default)]
struct Plan {
    written: Vec<u8>,
    fails: Option<io::ErrorKind>,
    /// Fails where it is offered so many bytes or more, and no more than so many times.
    chokes: Option<(usize, u32)>,
    panics: bool,
    /// Takes no more than so many bytes at once.
    mouthful: Option<usize>,
    /// Every second time it is not ready.
    stutters: bool,
    offered: usize,
    /// How often it was to outlive the machine's power.
    syncs: usize,
}

impl Planted {
    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        String::from_utf8(self.plan().written.clone()).unwrap()
    }

    fn verified(&self) -> Report {
        let mut verifier = Verifier::new(vec![Keys::of(None).unwrap()], Vec::new());
        verifier.read("log", self.text().as_bytes()).unwrap();
        verifier.finish()
    }

    fn audit(&self, required: bool, clock: &Arc<Manual>) -> Arc<Audit> {
        let terms = terms(Destination::Stdout, required);
        Audit::into_sink(Box::new(self.clone()), &terms, Arc::<Manual>::clone(clock)).unwrap()
    }
}

impl Sink for Planted {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut plan = self.plan();
        assert!(!plan.panics, "planted");
        if let Some(kind) = plan.fails {
            return Err(kind.into());
        }
        if let Some((_, left)) = plan.chokes.as_mut().filter(|(bytes, left)| lines.len() >= *bytes && *left > 0) {
            *left -= 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        plan.offered += 1;
        if plan.stutters && plan.offered.is_multiple_of(2) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = plan.mouthful.unwrap_or(lines.len()).min(lines.len());
        plan.written.extend_from_slice(&lines[..taken]);
        Ok(taken)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.plan().syncs += 1;
        Ok(())
    }
}

fn clock() -> Arc<Manual> {
    Arc::new(Manual::at("2026-01-02T03:04:05.678901Z".parse::<Timestamp>().unwrap()))
}

#[test]
fn a_record_says_who_did_what_when_with_which_key_and_by_which_call_of_the_kms() {
    let (sink, clock) = (Planted::default(), clock());
    let audit = sink.audit(true, &clock);
    let _ = audit.accept(hit).unwrap();
    let _ = audit.accept(|| refusal("plugin", "key_disabled")).unwrap();
    audit.close();
    let text = sink.text();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["opened", "answer", "refusal", "closed"]);
    let mut answer = lines[1].clone();
    let digest = answer["ciphertext_digest"].take();
    assert_eq!(digest.as_str().unwrap().len(), 64);
    assert_eq!(digest, lines[2]["ciphertext_digest"], "equal ciphertexts are seen to be equal");
    assert_eq!(answer["prev"].take(), lines[0]["hash"]);
    assert_eq!(answer["hash"].take(), lines[2]["prev"]);
    let expected = serde_json::json!({
        "seq": 2, "prev": null, "event": "answer", "time": "2026-01-02T03:04:05.678901Z", "boot_us": 3_600_000_000_u64,
        "caller": "plugin", "listener": "ack", "action": "Decrypt", "outcome": "hit", "key": "key-1",
        "key_version": "v1", "ciphertext_digest": null, "request_id": "OURS", "kms_request_id": "THEIRS", "hash": null,
    });
    assert_eq!(answer, expected);
    assert_eq!((&lines[2]["outcome"], &lines[2]["reason"]), (&"refused".into(), &"key_disabled".into()));
    assert!(!text.contains("canary"));
}

#[test]
fn a_digest_can_be_made_again_by_whoever_has_the_secret_and_by_nobody_else() {
    let digest = |secret: Option<&[u8]>| {
        let secret = secret.map(Secret::copied);
        Keys::of(secret.as_ref()).unwrap().digest(b"a ciphertext")
    };
    assert_eq!(digest(Some(b"one")), digest(Some(b"one")));
    assert_ne!(digest(Some(b"one")), digest(Some(b"two")));
    assert_ne!(digest(None), digest(None), "another key with each start");
}

#[test]
fn a_log_goes_on_after_a_restart_and_says_how_it_had_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    at(&path).close();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    at(&path).close();
    let report = verified(&[&path]);
    assert_eq!((report.verdict, report.records), (Verdict::Whole, 4));

    // Killed: the last record is gone.
    let text = fs::read_to_string(&path).unwrap();
    let cut = text.trim_end().rfind('\n').unwrap() + 1;
    for (end, expected) in [(cut, vec![Kind::UncleanEnd]), (cut + 30, vec![Kind::UncleanEnd]), (text.len() - 1, vec![])]
    {
        fs::write(&path, &text[..end]).unwrap();
        at(&path).close();
        let report = verified(&[&path]);
        assert_eq!(kinds(&report), expected, "{:?}", fs::read_to_string(&path));
    }

    fs::write(&path, "hello\n").unwrap();
    at(&path).close();
    assert_eq!(kinds(&verified(&[&path])), [Kind::Unreadable]);
}

#[test]
fn a_second_daemon_on_the_same_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let first = at(&path);
    let second = Audit::open(terms(Destination::File(path), true), Arc::new(System), Meters::none());
    assert_eq!(second.map(|_| ()).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    first.close();
}

#[test]
fn a_file_that_is_moved_away_or_emptied_is_followed_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let [path, first, copy] = ["audit.jsonl", "audit.jsonl.2", "audit.jsonl.1"].map(|name| folder.path().join(name));
    let audit = at(&path);
    let lines = |path: &Path| fs::read_to_string(path).map_or(0, |text| text.lines().count());
    let _ = audit.accept(hit).unwrap();
    until("the first record", || lines(&path) == 2);
    fs::rename(&path, &first).unwrap();
    until("a new file, without any record", || lines(&path) == 1);
    assert_eq!(lines(&first), 3);
    let _ = audit.accept(hit).unwrap();
    until("the second record", || lines(&path) == 2);

    // As logrotate does with `create`: another file is there at once.
    let third = folder.path().join("audit.jsonl.3");
    fs::rename(&path, &third).unwrap();
    fs::write(&path, "").unwrap();
    until("a beginning in the new file", || lines(&path) == 1);

    // As logrotate does with `copytruncate`.
    fs::copy(&path, &copy).unwrap();
    fs::write(&path, "").unwrap();
    until("a new beginning", || lines(&path) == 1);
    let _ = audit.accept(hit).unwrap();
    audit.close();
    let report = verified(&[&first, &third, &copy, &path]);
    assert_eq!((report.verdict, report.records, kinds(&report)), (Verdict::Whole, 10, vec![]));
}

#[test]
fn what_was_written_is_synced_a_second_later_and_once() {
    let (sink, clock) = (Planted::default(), clock());
    let audit = sink.audit(true, &clock);
    for count in 1..=3 {
        let _ = audit.accept(hit).unwrap();
        until("the record", || sink.text().lines().count() == 1 + count);
    }
    assert_eq!(sink.plan().syncs, 0, "not for each batch");
    clock.advance(Duration::from_secs(1));
    until("synced", || sink.plan().syncs == 1);
    clock.advance(Duration::from_secs(1));
    audit.close();
    // Nothing was written since: that was the end.
    assert_eq!(sink.plan().syncs, 2);
}

#[test]
fn refusals_in_a_loop_are_counted_and_leave_room_for_others() {
    let (sink, clock) = (Planted::default(), clock());
    let audit = sink.audit(true, &clock);
    for _ in 0..1000 {
        audit.note(&refusal("flood", "forbidden"));
    }
    audit.note(&refusal("another", "forbidden"));
    let _ = audit.accept(hit).unwrap();
    audit.close();
    let text = sink.text();
    let count = |what: &str| text.matches(what).count();
    assert_eq!(count("\"caller\":\"flood\",\"listener\""), refusals::RECORDED_MAX as usize);
    assert_eq!((count("\"another\""), count("\"answer\"")), (1, 1));
    assert_eq!(count("\"event\":\"suppressed\""), 1);
    assert!(text.contains("\"caller\":\"flood\",\"refusals\":980"), "{text}");
}
