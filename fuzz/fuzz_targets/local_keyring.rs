//! The saved keyring of the embedded KMS: what is read is sound and is written as it was read.
#![no_main]

use kmsproxy::upstream::local::saved::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&mode, input)) = input.split_first() else { return };
    // The length and the material of a readable part are given to it, or it has its own.
    let Some(end) = (mode != 0).then_some(input.len()) else { return read(input) };
    let length = (end as u64).to_be_bytes();
    read(&[&length[..], input, &vec![0xA5; usize::from(mode - 1) * 32][..]].concat());
});

fn read(bytes: &[u8]) {
    let Some(keyring) = decode(bytes) else { return };
    let written = encode(&keyring);
    let again = decode(written.expose()).expect("what is written is read");
    assert_eq!(encode(&again), written);
    // Nothing that was there is lost: material is what counts.
    let material =
        |bytes: &[u8]| bytes.len() - 8 - u64::from_be_bytes(*bytes.first_chunk().expect("a length")) as usize;
    assert_eq!(material(written.expose()), material(bytes), "material was dropped");
}
