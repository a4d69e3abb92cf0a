//! v1's ciphertexts: each has one meaning, a meaning has one form of each kind, and none of them chooses an alias.
#![no_main]

use kmsproxy::kms::{Ciphertext, KeyId};
use kmsproxy::wire::kubernetes::V1Ciphertext;
use kmsproxy::wire::kubernetes::ciphertext::{v1_decode, v1_encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (name, blob) = match v1_decode(input) {
        Ok(decoded) => decoded,
        Err(_) => return written(input),
    };
    let (form, id) = match &name {
        Some(name) => (V1Ciphertext::Kmsproxy, name.as_str()),
        None => (V1Ciphertext::AckKmsPlugin, ""),
    };
    assert!(name.as_ref().is_none_or(|name| name.is_id() && !name.as_str().is_empty()));
    assert_eq!(v1_encode(form, &KeyId::new(id), &blob).as_deref(), Ok(input));
    assert!(!blob.bytes().is_empty(), "an empty blob");
});

/// What is no ciphertext is taken for a key's name, length, name and blob, to be written.
fn written(input: &[u8]) {
    let Some((&length, rest)) = input.split_first() else { return };
    let (name, blob) = rest.split_at(usize::from(length).min(rest.len()));
    let Ok(name) = std::str::from_utf8(name) else { return };
    let (key, blob) = (KeyId::new(name), Ciphertext::new(blob.to_vec()));
    if blob.bytes().is_empty() {
        return;
    }
    if let Ok(stored) = v1_encode(V1Ciphertext::Kmsproxy, &key, &blob) {
        let (read, same) = v1_decode(&stored).expect("what is written is read");
        assert_eq!((read.as_ref().map(|read| read.as_str()), same), (Some(name), blob.clone()));
    }
    let stored = v1_encode(V1Ciphertext::AckKmsPlugin, &key, &blob).expect("any blob has a base64");
    assert_eq!(v1_decode(&stored), Ok((None, blob)));
}
