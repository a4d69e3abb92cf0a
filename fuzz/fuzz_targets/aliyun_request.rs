//! Requests: query, form and headers become a call or a refusal, and the call written as a form is that call again.
#![no_main]

use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use kmsproxy::claim::{Claim, SigningKey};
use kmsproxy::fault::Origin;
use kmsproxy::kms::Call;
use kmsproxy::secret::Secret;
use kmsproxy::wire::aliyun::request::{BODY_BYTES_MAX, Request, VERSION, encode};
use kmsproxy_fuzz::Parts;
use libfuzzer_sys::fuzz_target;

static ANOTHER: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::new(&Secret::copied(b"a secret that made no seed")).expect("there is room for one"));

fuzz_target!(|input: &[u8]| {
    let mut parts = Parts::of(input);
    let method = if parts.text() == "G" { Method::GET } else { Method::POST };
    let (query, headers) = (parts.text(), headers(parts.text()));
    let body = parts.bytes();
    let request = match Request::parse(&method, query, &headers, body) {
        Ok(request) => request,
        Err(fault) => return assert_eq!(fault.origin(), Origin::Caller),
    };
    match request.claim() {
        Ok(Claim::Signed(signed)) => {
            assert!(!signed.proof.verify(&ANOTHER));
            let _ = (signed.proof.string_to_sign(), signed.proof.tag());
        }
        Ok(Claim::Anonymous) => {}
        Err(fault) => assert_eq!(fault.origin(), Origin::Caller),
    }
    match request.call() {
        Ok(call) => comes_back(&call),
        Err(fault) => assert_eq!(fault.origin(), Origin::Caller),
    }
});

fn headers(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in text.lines().take(32).filter_map(|line| line.split_once(": ")) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    headers
}

fn comes_back(call: &Call) {
    let form = encode(call);
    if form.len() > BODY_BYTES_MAX {
        return;
    }
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/x-www-form-urlencoded"));
    headers.insert("x-acs-action", HeaderValue::from_static(call.action().name()));
    headers.insert("x-acs-version", HeaderValue::from_static(VERSION));
    let again = Request::parse(&Method::POST, "", &headers, form.expose()).and_then(|request| request.call());
    assert_eq!(again.as_ref(), Ok(call), "{}", String::from_utf8_lossy(form.expose()));
}
