//! Credentials: what STS, the metadata service, a credentials URI and profile files hand out is whole or nothing, and
//! why it is nothing can be logged.
#![no_main]

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, StatusCode};
use kmsproxy::clock::{Clock, System};
use kmsproxy::secret::Secret;
use kmsproxy::upstream::credentials::profile::{Form, Profile};
use kmsproxy::upstream::credentials::{Config, Credentials, Lack, Ways, ecs, sts, uri};
use kmsproxy::upstream::transport::{Received, Trust};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static PROFILES: LazyLock<[Profile; 2]> = LazyLock::new(|| {
    let clock: Arc<dyn Clock> = Arc::new(System);
    let ways = Ways::new(&Trust::nobody(), false, &clock);
    let home = |name: &str| (name == "HOME").then(|| "/nowhere".to_owned());
    [Form::Json, Form::Ini].map(|form| Profile::of_form(form, &Config::default(), &home, &ways).expect("HOME is set"))
});

fuzz_target!(|input: &[u8]| {
    let Some(([mode, status], body)) = input.split_first_chunk() else { return };
    let status = [200, 200, 200, 400, 403, 500, 302, 204][usize::from(*status & 7)];
    let received = || Received {
        status: StatusCode::from_u16(status).expect("each is one"),
        headers: HeaderMap::new(),
        body: Secret::copied(body),
    };
    match mode % 5 {
        0 => {
            whole(sts::granted(&received(), "acs:ram::1:role/r"), (status == 200).then_some(body), Some("Credentials"))
        }
        1 => whole(ecs::granted(&received(), "role"), Some(body), None),
        2 => whole(uri::granted(&received()), (status == 200).then_some(body), None),
        form => profile(&PROFILES[usize::from(form - 3)], body),
    }
});

/// Credentials say what the document at `member` of `body` says; there are none where there is no body to say it.
fn whole(got: Result<Credentials, Lack>, body: Option<&[u8]>, member: Option<&str>) {
    let got = match got {
        Ok(got) => got,
        Err(lack) => return printable(&lack),
    };
    let document: Value = match serde_json::from_slice(body.expect("a status of 200")) {
        Ok(document) => document,
        // Of a member that says nothing of credentials, and that is skipped unread.
        Err(error) if error.to_string().starts_with("number out of range") => return,
        Err(error) => panic!("{error}"),
    };
    let document = member.map_or(&document, |member| &document[member]);
    let text = |name: &str| document[name].as_str().map(str::as_bytes);
    assert!(!got.id.is_empty() && !got.secret.is_empty());
    assert_eq!((Some(got.id.as_bytes()), Some(got.secret.expose())), (text("AccessKeyId"), text("AccessKeySecret")));
    let token = text("SecurityToken").filter(|token| !token.is_empty());
    assert_eq!(got.token.as_ref().map(Secret::expose), token);
    assert!(got.token.is_none() || got.expires.is_some(), "a session without an end");
    assert_eq!(got.expires.is_some(), !document["Expiration"].is_null());
}

fn profile(profile: &Profile, body: &[u8]) {
    let Ok(text) = std::str::from_utf8(body) else { return };
    let source = match profile.source_in(text) {
        Ok(source) => source,
        Err(lack) => return printable(&lack),
    };
    // An access key of its own is at hand; all other sources would ask the network, and are not polled.
    let debug = format!("{source:?}");
    if debug.starts_with("AccessKey") {
        let mut fetching = pin!(source.fetch());
        let Poll::Ready(fetched) = fetching.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("an access key is at hand")
        };
        let fetched = fetched.expect("it needs nothing more");
        assert!(!fetched.id.is_empty() && !fetched.secret.is_empty() && fetched.expires.is_none());
        assert!(text.contains(&fetched.id) || text.contains('\\') || text.contains('"'));
    }
}

/// What goes into a log is one line, and shorter than what it came from plus our own words.
fn printable(lack: &Lack) {
    let text = lack.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
}
