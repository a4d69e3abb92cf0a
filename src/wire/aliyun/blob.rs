//! Binary values in a query or a form: base64, percent-encoded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::zeroize_bytes;

use super::escape::{Layer, Sink, escape};

/// Puts the percent-encoded base64 of `bytes`, without a copy of the whole anywhere.
pub(super) fn put_escaped(bytes: &[u8], sink: &mut impl Sink) {
    let mut text = [0; CHUNK_BYTES / 3 * 4];
    for chunk in bytes.chunks(CHUNK_BYTES) {
        let length = STANDARD.encode_slice(chunk, &mut text).expect("a chunk fits its text");
        escape(&text[..length], Layer::Once, sink);
    }
    zeroize_bytes(&mut text);
}

/// Bytes encoded at a time; a multiple of three, so that the pieces join to one base64 text.
const CHUNK_BYTES: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::base64;

    #[test]
    fn the_escaped_form_of_a_long_blob_is_that_of_its_base64() {
        let bytes = [0xFB; 301];
        let (mut whole, mut expected, mut escaped) = (Vec::new(), Vec::new(), Vec::new());
        base64::put(&bytes, &mut whole);
        escape(&whole, Layer::Once, &mut expected);
        put_escaped(&bytes, &mut escaped);
        assert_eq!(escaped, expected);
    }
}
