//! The face is reached in two ways, past hyper and by it; whoever asks cannot tell which it was.

use jiff::Timestamp;
use kmsproxy::fault::{Fault, Kind};
use kmsproxy::kms::{Answer, Ciphertext, Decrypted, Encrypted, KeyId, KeyVersion, Reply, RequestId};
use kmsproxy::secret::Secret;
use kmsproxy::wire::aliyun::signature::{AccessKey, V3, v3_headers};

use super::stage::{ACCESS_KEY, Recorder, SECRET, Stage};
use super::{form, said};

/// One request, and what becomes of it.
struct Case {
    what: &'static str,
    action: &'static str,
    form: &'static str,
    /// What is different from a request as it should be: in the place of one text in its head, another.
    change: Option<(&'static str, &'static str)>,
    /// What whoever is behind the face says, if it is asked.
    answer: Option<fn() -> Result<Answer, Fault>>,
    status: u16,
    /// Whether the connection ends, since what was refused may not have been read.
    ends: bool,
}

#[test]
fn by_either_way_the_same_is_answered_heard_and_kept_open() {
    let stage = Stage::new(Recorder::default());
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for (at, case) in cases().iter().enumerate() {
        let by = |way: &str, more: &str| {
            let request = signed(case, &format!("{way}-{at}")).replacen("\r\n\r\n", &format!("\r\n{more}\r\n"), 1);
            let (head, body, ends) = stage.say(request.as_bytes(), case.answer.map(|answer| answer()));
            let heard: Vec<_> = stage.heard().iter().map(form).collect();
            (told(&head, &body), ends, heard)
        };
        let before = stage.brief();
        let short = by("short", "");
        assert_eq!(stage.brief(), before + 1, "{}: not brief", case.what);
        // Whoever wants another protocol goes by way of hyper; we have none other.
        let long = by("long", "upgrade: none\r\n");
        assert_eq!(stage.brief(), before + 1, "{}: brief", case.what);
        assert_eq!(short, long, "{}", case.what);
        let ((status, ..), ends, heard) = long;
        let asked = usize::from(case.answer.is_some());
        found.push((case.what, status, ends, heard.len()));
        expected.push((case.what, case.status, case.ends, asked));
    }
    assert_eq!(found, expected);
}

fn cases() -> Vec<Case> {
    let decrypt = Case {
        what: "a Decrypt",
        action: "Decrypt",
        form: "CiphertextBlob=QUI%3D",
        change: None,
        answer: Some(decrypted),
        status: 200,
        ends: false,
    };
    let encrypt = Case { what: "an Encrypt", action: "Encrypt", form: "KeyId=k&Plaintext=QUI%3D", ..decrypt };
    let wrong = |what, status, before, after| Case {
        what,
        status,
        change: Some((before, after)),
        answer: None,
        ends: false,
        ..decrypt
    };
    let foreign = |what, before, after| Case { ends: true, ..wrong(what, 403, before, after) };
    vec![
        Case { answer: Some(encrypted), ..encrypt },
        Case { what: "a failure", answer: Some(failed), status: 409, ..decrypt },
        Case { what: "what the KMS said", answer: Some(disabled), status: 409, ..decrypt },
        Case { what: "no such action", action: "Decipher", answer: None, status: 404, ..decrypt },
        Case { what: "no blob", form: "Blob=QUI%3D", answer: None, status: 400, ..decrypt },
        wrong("no signature", 400, "authorization", "x-authorization"),
        wrong("no date", 400, "x-acs-date", "x-date"),
        wrong("two actions", 400, "x-acs-action: Decrypt", "x-acs-action: Decrypt\r\nX-Acs-Action: Decrypt"),
        wrong("another action", 400, "x-acs-action: Decrypt", "x-acs-action: Encrypt"),
        foreign("a browser's page", "host:", "Origin: http://evil\r\nhost:"),
        foreign("a gateway", "host:", "X-Forwarded-For: 10.0.0.1\r\nhost:"),
        foreign("another name", "host: localhost", "host: evil"),
        foreign("two names", "host: localhost", "host: localhost\r\nHOST: localhost"),
        Case { status: 400, ..foreign("a body that is encoded", "host:", "Content-Encoding: gzip\r\nhost:") },
        decrypt,
    ]
}

/// The request as it goes over the wire.
fn signed(case: &Case, nonce: &str) -> String {
    let secret = Secret::copied(SECRET.as_bytes());
    let key = AccessKey { id: ACCESS_KEY, secret: &secret, token: None };
    let (version, body) = ("2016-01-20", case.form.as_bytes());
    let headers =
        v3_headers(&V3 { host: "localhost", action: case.action, version, key, at: Timestamp::now(), nonce, body });
    let lines = headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
    let head = lines.collect::<String>();
    let head = case.change.map_or(head.clone(), |(before, after)| {
        assert!(head.contains(before), "{head}");
        head.replacen(before, after, 1)
    });
    format!("POST / HTTP/1.1\r\n{head}content-length: {}\r\n\r\n{}", case.form.len(), case.form)
}

/// An answer's status, fields and body, without what is another each time.
fn told(head: &str, body: &str) -> (u16, Vec<String>, String) {
    let id = head.lines().find_map(|line| line.strip_prefix("x-acs-request-id: ")).expect("an id");
    let known = |line: &str| if line.starts_with("date: ") { "date".to_owned() } else { line.replace(id, "ID") };
    let mut fields: Vec<_> = head.lines().map(known).collect();
    fields.sort();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, fields, body.replace(id, "ID"))
}

fn decrypted() -> Result<Answer, Fault> {
    let (key, version) = (KeyId::new("k"), KeyVersion::new("v"));
    let reply = Reply::Decrypted(Decrypted { plaintext: Secret::copied(b"dek"), key, version });
    Ok(Answer { reply, request_id: RequestId::new("R-1") })
}

fn encrypted() -> Result<Answer, Fault> {
    let (key, version) = (KeyId::new("k"), KeyVersion::new("v"));
    let reply = Reply::Encrypted(Encrypted { ciphertext: Ciphertext::new(b"blob".to_vec()), key, version });
    Ok(Answer { reply, request_id: RequestId::new("R-1") })
}

fn failed() -> Result<Answer, Fault> {
    Err(Fault::kms(Kind::KmsFailure))
}

fn disabled() -> Result<Answer, Fault> {
    Err(Fault::said(Kind::KeyDisabled, said(409, "Rejected.Disabled", "The key is disabled.")))
}
