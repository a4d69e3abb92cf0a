//! Encryption contexts: an object of strings and nothing else, kept as it was spelled, with one canonical form.
#![no_main]

use std::collections::BTreeMap;

use kmsproxy::kms::{Context, ContextForm};
use kmsproxy::wire::aliyun::context::{flattened, parse};
use kmsproxy_fuzz::Parts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (&mode, rest) = input.split_first().unwrap_or((&0, &[]));
    if mode & 1 == 0 { json(rest) } else { pairs(rest) }
});

fn json(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let object: Option<BTreeMap<String, String>> = serde_json::from_str(text).ok();
    match (parse(text), object) {
        (Ok(context), Some(object)) => {
            assert_eq!((context.form(), context.text()), (ContextForm::Json, text));
            assert_eq!(pairs_of(&context), object.into_iter().collect::<Vec<_>>());
        }
        (Err(_), Some(object)) => assert!(text.len() > 8192 || colons(text) > object.len(), "refused: {text}"),
        (Ok(_), None) => panic!("no object of strings: {text}"),
        (Err(_), None) => {}
    }
}

fn pairs(input: &[u8]) {
    let pairs = Parts::of(input).pairs();
    let boxed = |pairs: &[(&str, &str)]| -> Vec<(Box<str>, Box<str>)> {
        pairs.iter().map(|&(name, value)| (name.into(), value.into())).collect()
    };
    let distinct: BTreeMap<_, _> = pairs.iter().copied().collect();
    let context = flattened(boxed(&pairs));
    let reversed: Vec<_> = pairs.iter().rev().copied().collect();
    assert_eq!(context, flattened(boxed(&reversed)), "the order does not matter");
    let Ok(context) = context else {
        assert!(distinct.len() < pairs.len() || input.len() > 1000, "refused: {pairs:?}");
        return;
    };
    assert_eq!(distinct.len(), pairs.len(), "a name twice: {pairs:?}");
    let again = parse(context.text()).expect("its text is a context");
    assert_eq!(pairs_of(&context), pairs_of(&again));
    let expected: Vec<_> = distinct.iter().map(|(&name, &value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!((context.form(), pairs_of(&context)), (ContextForm::Flattened, expected));
}

fn pairs_of(context: &Context) -> Vec<(String, String)> {
    context.pairs().iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// How many members an object of strings has, doubles and all.
fn colons(text: &str) -> usize {
    let (mut count, mut within, mut escaped) = (0, false, false);
    for byte in text.bytes() {
        match (within, escaped, byte) {
            (true, true, _) => escaped = false,
            (true, false, b'\\') => escaped = true,
            (_, false, b'"') => within = !within,
            (false, _, b':') => count += 1,
            _ => {}
        }
    }
    count
}
