//! `traceparent` and `tracestate`: one parent, well formed, or none; a state as it came, within its bounds, or none.
#![no_main]

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderValue};
use kmsproxy::trace::{Parent, STATE_BYTES_MAX, TRACEPARENT, TRACESTATE, state};
use kmsproxy_fuzz::{Parts, reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut parts = Parts::of(input);
    let parent = parts.bytes();
    parented(parent);
    let values: Vec<_> =
        std::iter::from_fn(|| parts.optional()).filter_map(|it| HeaderValue::from_str(it).ok()).collect();
    let headers: HeaderMap = values.iter().map(|value| (TRACESTATE, value.clone())).collect();
    if let Some(state) = state(&headers) {
        stated(&values, &state);
    }
});

fn parented(text: &[u8]) {
    let found = Parent::parse(text);
    let seen = found.map(|parent| (u128::from_be_bytes(parent.trace), u64::from_be_bytes(parent.span), parent.sampled));
    assert_eq!(seen, reference::traceparent(text));
    let Ok(value) = HeaderValue::from_bytes(text) else { return };
    let mut headers = HeaderMap::from_iter([(TRACEPARENT, value.clone())]);
    assert_eq!(Parent::read(&headers), found);
    headers.append(TRACEPARENT, value);
    assert_eq!(Parent::read(&headers), None);
    if let Some((trace, span, sampled)) = seen {
        let again = format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(sampled));
        assert_eq!(Parent::parse(again.as_bytes()), found);
    }
}

fn stated(values: &[HeaderValue], state: &str) {
    let texts: Vec<_> = values.iter().map(|value| value.to_str().expect("it was taken")).collect();
    assert!(texts.join(",").ends_with(state), "nothing is made up");
    // A tab may stand around a comma, as a space may.
    assert!(state.len() <= STATE_BYTES_MAX && !state.chars().any(|c| c.is_control() && c != '\t'));
    let members = state.split(',').map(str::trim).filter(|member| !member.is_empty());
    let keys: Vec<_> = members.map(|member| member.split_once('=').expect("a key and a value").0).collect();
    assert!((1..=32).contains(&keys.len()));
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "no key twice");
    assert!(keys.iter().all(|key| !key.is_empty() && !key.contains(|c: char| c.is_ascii_uppercase() || c == ' ')));
}
