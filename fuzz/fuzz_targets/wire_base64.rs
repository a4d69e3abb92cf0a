//! base64: what is written is read back, and only the one spelling of RFC 4648 is read.
#![no_main]

use kmsproxy::wire::base64;
use kmsproxy_fuzz::reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    assert_eq!(base64::decode(input), reference::base64(input));
    let mut text = Vec::new();
    base64::put(input, &mut text);
    assert_eq!(text.len(), base64::encoded_len(input));
    assert_eq!(base64::decode(&text).as_deref(), Some(input));
});
