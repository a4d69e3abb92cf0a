//! The cache's key: two questions have one fingerprint if, and only if, nothing tells them apart.
#![no_main]

use std::sync::LazyLock;

use kmsproxy::auth::CallerName;
use kmsproxy::cache::{Cache, Config, Fingerprint};
use kmsproxy::kms::{Ciphertext, Context, ContextForm, Decrypt, Extra, KeyName};
use kmsproxy_fuzz::Parts;
use libfuzzer_sys::fuzz_target;

static CACHE: LazyLock<Cache> = LazyLock::new(|| {
    let shares = ["a", "b", "ab"].map(CallerName::new);
    Cache::new(&Config::default(), &shares).expect("the system has randomness")
});

/// Everything that an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Question<'q> {
    upstream: &'q str,
    share: &'q str,
    ciphertext: &'q [u8],
    key: Option<&'q str>,
    context: Option<Spelled<'q>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Spelled<'q> {
    text: &'q str,
    pairs: Vec<(&'q str, &'q str)>,
}

fuzz_target!(|input: &[u8]| {
    let Some(([kinds, how, at], rest)) = input.split_first_chunk() else { return };
    let mut parts = Parts::of(rest);
    let one = question(*kinds, &mut parts);
    let other = if *how & 1 == 0 { question(kinds >> 4, &mut parts) } else { shifted(&one, *how >> 1, (*at).into()) };
    let (Some(first), Some(second)) = (fingerprint(&one), fingerprint(&other)) else { return };
    assert_eq!(first == second, one == other, "{one:?} {other:?}");
    assert!(fingerprint(&one) == Some(first), "the same each time");
});

fn question<'q>(kinds: u8, parts: &mut Parts<'q>) -> Question<'q> {
    let (upstream, share, ciphertext) = (parts.text(), parts.text(), parts.bytes());
    let key = (kinds & 1 != 0).then(|| parts.text());
    let context = (kinds & 2 != 0).then(|| {
        let text = parts.text();
        let mut pairs: Vec<_> = (0..kinds >> 2 & 3).map(|_| (parts.text(), parts.text())).collect();
        pairs.sort_unstable();
        Spelled { text, pairs }
    });
    Question { upstream, share, ciphertext, key, context }
}

/// The same octets, cut elsewhere: what only a length before each part tells from the first.
fn shifted<'q>(one: &Question<'q>, how: u8, at: usize) -> Question<'q> {
    let mut other = one.clone();
    match how % 8 {
        0 => (other.upstream, other.share) = (one.share, one.upstream),
        1 => other.ciphertext = &one.ciphertext[..at.min(one.ciphertext.len())],
        2 => other.key = if one.key.is_some() { None } else { Some("") },
        3 => other.context = if one.context.is_some() { None } else { Some(Spelled { text: "", pairs: Vec::new() }) },
        4 if one.share.is_empty() => {
            let cut = (0..=at.min(one.upstream.len())).rev().find(|cut| one.upstream.is_char_boundary(*cut));
            (other.upstream, other.share) = one.upstream.split_at(cut.unwrap_or(0));
        }
        5 if one.share.is_empty() => {
            (other.share, other.ciphertext) =
                (kmsproxy_fuzz::text(one.ciphertext), &one.ciphertext[kmsproxy_fuzz::text(one.ciphertext).len()..]);
        }
        6 => {
            let key = one.key.filter(|_| one.context.is_none());
            if let Some(key) = key {
                (other.key, other.context) = (None, Some(Spelled { text: key, pairs: Vec::new() }));
            }
        }
        _ => {
            if let Some((name, value)) = other.context.as_mut().and_then(|context| context.pairs.first_mut()) {
                std::mem::swap(name, value);
            }
            if let Some(context) = &mut other.context {
                context.pairs.sort_unstable();
            }
        }
    }
    other
}

fn fingerprint(question: &Question<'_>) -> Option<Fingerprint> {
    let context = match &question.context {
        None => None,
        Some(Spelled { text, pairs }) => {
            let pairs = pairs.iter().map(|&(name, value)| (name.into(), value.into())).collect();
            Some(Context::new(ContextForm::Json, text, pairs)?)
        }
    };
    let call = Decrypt {
        ciphertext: Ciphertext::new(question.ciphertext.to_vec()),
        key: question.key.map(KeyName::new),
        context,
        dry_run: false,
        extra: Extra::default(),
    };
    Some(CACHE.fingerprint(question.upstream, &CallerName::new(question.share), &call))
}
