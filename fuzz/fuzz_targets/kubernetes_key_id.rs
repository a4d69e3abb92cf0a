//! `key_id` of v2: the same for the same key, version and suffix and for no others; and read back only out of the
//! annotations that were made with it.
#![no_main]

use kmsproxy::kms::{KeyId, KeyName, KeyVersion};
use kmsproxy::wire::kubernetes::key_id::{PublicKeyId, annotations, read};
use kmsproxy_fuzz::Parts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (&mode, rest) = input.split_first().unwrap_or((&0, &[]));
    let mut parts = Parts::of(rest);
    let one = [parts.text(), parts.text(), parts.text()];
    let other = if mode & 1 == 0 { [parts.text(), parts.text(), parts.text()] } else { moved(one, mode) };
    let other = other.map(str::to_owned);
    let other: [&str; 3] = [&other[0], &other[1], &other[2]];
    let (id, other_id) = (made(one), made(other));
    assert_eq!(id == other_id, one == other, "{one:?} {other:?}");
    let [key, version, suffix] = one;
    let (key_id, version_id) = (KeyId::new(key), KeyVersion::new(version));
    let mut beside = annotations(&key_id, &version_id, suffix);
    let is_id = !key.is_empty() && KeyName::new(key).is_id();
    assert_eq!(read(id.as_str(), &beside).ok(), is_id.then_some((key_id, version_id)));
    if one != other {
        assert!(read(other_id.as_str(), &beside).is_err(), "the key_id of another");
    }
    let name = beside.keys().nth(usize::from(mode >> 1) % beside.len()).expect("there are some").clone();
    let value = beside.get_mut(&name).expect("it is there");
    value.push(b'x');
    assert!(read(id.as_str(), &beside).is_err(), "{name} was altered");
    beside.remove(&name);
    assert!(read(id.as_str(), &beside).is_err(), "{name} is lost");
});

fn made([key, version, suffix]: [&str; 3]) -> PublicKeyId {
    PublicKeyId::of(&KeyId::new(key), &KeyVersion::new(version), suffix)
}

/// The same text with its parts cut elsewhere, where they can be.
fn moved<'t>([key, version, suffix]: [&'t str; 3], mode: u8) -> [&'t str; 3] {
    match mode >> 1 & 3 {
        0 => [key, suffix, version],
        1 => [version, key, suffix],
        2 if suffix.is_empty() => [key, "", version],
        _ => [key, version, suffix],
    }
}
