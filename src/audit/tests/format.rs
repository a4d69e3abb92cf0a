//! The form of a line, beside the same made by serde from what the words of the format say.

use std::time::Duration;

use jiff::Timestamp;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::Serialize;

use super::super::record::Event;
use super::super::stamp::micros;
use super::*;

/// A line up to its hash.
#[derive(Serialize)]
struct Line<'l> {
    seq: u64,
    prev: String,
    #[serde(flatten)]
    event: Reference<'l>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Reference<'l> {
    Answer(Call<'l>),
    Refusal(Call<'l>),
    Opened {
        #[serde(flatten)]
        stamp: Stamp,
        format: u32,
        version: &'l str,
        run: &'l str,
        keyed: bool,
        after: After,
    },
    Closed {
        #[serde(flatten)]
        stamp: Stamp,
        why: Why,
    },
    Checkpoint {
        #[serde(flatten)]
        stamp: Stamp,
    },
    Gap {
        #[serde(flatten)]
        stamp: Stamp,
        dropped: u64,
    },
    Suppressed {
        #[serde(flatten)]
        stamp: Stamp,
        caller: &'l str,
        refusals: u64,
    },
}

#[derive(Clone, Serialize)]
struct Stamp {
    time: String,
    boot_us: u64,
}

#[derive(Serialize)]
struct Call<'l> {
    #[serde(flatten)]
    stamp: Stamp,
    caller: &'l str,
    listener: &'l str,
    action: &'l str,
    outcome: &'l str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'l str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_named: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kms_request_id: Option<String>,
}

/// What `told` is written as, after `head`.
fn reference(told: &Told, keys: &Keys, head: Head, stamp: Stamp) -> String {
    let call = Call {
        stamp,
        caller: &told.caller,
        listener: told.listener.as_str(),
        action: told.action.name(),
        outcome: told.outcome.word(),
        reason: if let Outcome::Refused(reason) = told.outcome { Some(reason) } else { None },
        key: told.key.as_ref().map(|key| cut(key.as_str())),
        key_version: told.version.as_ref().map(|version| cut(version.as_str())),
        key_named: told.named.as_ref().map(|name| cut(name.as_str())),
        ciphertext_digest: told.ciphertext.as_ref().map(|blob| keys.digest(blob.bytes()).to_string()),
        request_id: told.request_id.as_ref().map(|id| cut(&id.text())),
        kms_request_id: told.kms_request_id.as_ref().map(|id| cut(&id.text())),
    };
    let refused = matches!(told.outcome, Outcome::Refused(_));
    line(head, if refused { Reference::Refusal(call) } else { Reference::Answer(call) }, keys)
}

fn line(head: Head, event: Reference<'_>, keys: &Keys) -> String {
    let mut line = serde_json::to_string(&Line { seq: head.seq + 1, prev: head.hash.to_string(), event }).unwrap();
    line.pop();
    let hash = keys.hash(line.as_bytes());
    format!("{line},\"hash\":\"{hash}\"}}\n")
}

/// The first characters that take no more than 256 bytes.
fn cut(text: &str) -> String {
    let mut bytes = 0;
    let fits = |char: &char| {
        bytes += char.len_utf8();
        bytes <= 256
    };
    text.chars().take_while(fits).collect()
}

/// What `append` makes of what `members` appends.
fn written(keys: &Keys, head: Head, members: impl FnOnce(&Keys, &mut Vec<u8>)) -> String {
    let mut lines = Vec::new();
    Chain::new(keys.clone(), head).append(&mut lines, members);
    String::from_utf8(lines).unwrap()
}

/// Quotes, control characters, characters of two to four bytes, long ones.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9/:-]{0,40}", ".{0,20}", "[\"\\\\/\u{0}-\u{1f}\u{7f}é水🔑\u{2028}]{0,12}", "[a\"水🔑]{80,300}"]
}

fn id() -> impl Strategy<Value = RequestId> {
    let uuid = any::<u128>().prop_map(|bits| uuid::Uuid::from_u128(bits).to_string());
    prop_oneof![text(), uuid.clone(), uuid.prop_map(|uuid| uuid.to_uppercase())].prop_map(|id| RequestId::new(&id))
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop::sample::select(vec![
        Outcome::Coalesced,
        Outcome::Encrypted,
        Outcome::Generated,
        Outcome::Hit,
        Outcome::Miss,
        Outcome::Passed,
        Outcome::Refused("key_disabled"),
    ])
}

prop_compose! {
    fn told()(
        (caller, listener) in (text(), text()),
        action in prop::sample::select(Action::ALL.to_vec()),
        (named, key, version) in (option::of(text()), option::of(text()), option::of(text())),
        ciphertext in option::of(prop_oneof![vec(any::<u8>(), 0..200), vec(any::<u8>(), 510..515)]),
        outcome in outcome(),
        (request_id, kms_request_id) in (option::of(id()), option::of(id())),
    ) -> Told {
        Told {
            caller,
            listener: ListenerName::new(&listener),
            action,
            named: named.map(|name| KeyName::new(&name)),
            key: key.map(|key| KeyId::new(&key)),
            version: version.map(|version| KeyVersion::new(&version)),
            ciphertext: ciphertext.map(Ciphertext::new),
            outcome,
            request_id,
            kms_request_id,
        }
    }
}

fn keys(keyed: bool) -> Keys {
    Keys::of(keyed.then(|| Secret::copied(b"a secret")).as_ref()).unwrap()
}

proptest! {
    #[test]
    fn a_line_is_byte_for_byte_what_serde_makes_of_the_format(told in told(), seq in any::<u32>(), keyed in any::<bool>()) {
        let (keys, clock) = (keys(keyed), clock());
        let head = Head { seq: seq.into(), hash: keys.hash(&seq.to_le_bytes()) };
        let stamp = Stamp { time: "2026-01-02T03:04:05.678901Z".to_owned(), boot_us: 3_600_000_000 };
        // What stands before and behind it makes no difference.
        let (mut batch, mut clocks) = (Batch::default(), Clocks::read(&*clock));
        for record in [hit(), told.record(), hit()] {
            batch.add(clock.now(), &record, Batch::digest(&record, &keys));
        }
        batch.take().unwrap();
        let entry = batch.take().unwrap();
        let line = written(&keys, head, |keys, line| entry.write(keys, &mut clocks, line));
        prop_assert_eq!(line, reference(&told, &keys, head, stamp));
        prop_assert_eq!(batch.len(), 1);
    }

    #[test]
    fn a_time_is_the_text_that_jiff_has_for_it(
        wall in Timestamp::MIN.as_nanosecond()..=Timestamp::MAX.as_nanosecond(),
        near in prop::sample::select(vec![None, Some(0), Some(1_767_323_045_000_000_000)]),
        off in -3_000_000_000_i128..3_000_000_000,
        (before, between) in (0..4_000_000_000_u64, 0..2_000_000_000_u64),
    ) {
        // All that there is, and what lies about 1970 and about a full second.
        let wall = Timestamp::from_nanosecond(near.map_or(wall, |near: i128| near + off)).unwrap();
        let clock = Manual::at(wall);
        let then = clock.now();
        clock.advance(Duration::from_nanos(before));
        let later = clock.now();
        clock.advance(Duration::from_nanos(between));
        let mut clocks = Clocks::read(&clock);
        for at in [clock.now(), later, then, later] {
            let mut stamped = Vec::new();
            clocks.stamp(at, &mut stamped);
            let time = clock.wall().saturating_sub(clock.now().since(at)).unwrap();
            let expected = format!(r#","time":"{time:.6}","boot_us":{}"#, micros(at));
            prop_assert_eq!(String::from_utf8(stamped).unwrap(), expected);
        }
    }
}

#[test]
fn what_the_log_says_of_itself_is_byte_for_byte_what_serde_makes_of_the_format() {
    let (keys, clock) = (keys(false), clock());
    let stamp = Stamp { time: "2026-01-02T03:04:05.678901Z".to_owned(), boot_us: 3_600_000_000 };
    let (caller, version) = ("a \"caller\"\n", env!("CARGO_PKG_VERSION"));
    let opened = |after| {
        let opened = Event::Opened { run: "a-run", keyed: true, after };
        (opened, Reference::Opened { stamp: stamp.clone(), format: 1, version, run: "a-run", keyed: true, after })
    };
    let closed = |why| (Event::Closed { why }, Reference::Closed { stamp: stamp.clone(), why });
    let events = [
        opened(After::Nothing),
        opened(After::Break),
        opened(After::Rotation),
        closed(Why::Rotation),
        closed(Why::Stop),
        (Event::Checkpoint, Reference::Checkpoint { stamp: stamp.clone() }),
        (Event::Gap { dropped: 7 }, Reference::Gap { stamp: stamp.clone(), dropped: 7 }),
        (
            Event::Suppressed { caller, refusals: u64::MAX },
            Reference::Suppressed { stamp: stamp.clone(), caller, refusals: u64::MAX },
        ),
    ];
    for (event, expected) in events {
        let mut clocks = Clocks::read(&*clock);
        let written = written(&keys, Head::NONE, |_, line| event.write(clock.now(), &mut clocks, line));
        assert_eq!(written, line(Head::NONE, expected, &keys));
    }
}
