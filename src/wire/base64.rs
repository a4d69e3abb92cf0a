//! Standard base64, padded, without line breaks, in its one canonical spelling.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::zeroize_bytes;

/// Decodes `text` into a buffer of exactly the right size; `None` where it is not canonical base64.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take(2).take_while(|&&byte| byte == b'=').count();
    let mut bytes = vec![0; text.len() / 4 * 3 - padding];
    let written = STANDARD.decode_slice(text, &mut bytes).ok();
    if written == Some(bytes.len()) {
        return Some(bytes);
    }
    zeroize_bytes(&mut bytes);
    None
}

/// The length of the base64 of `bytes`.
#[must_use]
pub const fn encoded_len(bytes: &[u8]) -> usize {
    bytes.len().div_ceil(3) * 4
}

/// Appends the base64 of `bytes`, encoding in place.
pub fn put(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + encoded_len(bytes), 0);
    STANDARD.encode_slice(bytes, &mut out[start..]).expect("room was made for the encoded length");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_comes_back_in_a_buffer_without_slack() {
        for length in 0..200_usize {
            let bytes = vec![0xA5; length];
            let mut text = Vec::new();
            put(&bytes, &mut text);
            assert_eq!(text.len(), encoded_len(&bytes));
            let decoded = decode(&text).unwrap();
            assert_eq!((decoded.capacity(), decoded), (length, bytes));
        }
    }

    #[test]
    fn only_the_canonical_spelling_is_accepted() {
        for text in ["QQ", "QQ=", "QR==", "QQ==\n", "Q Q=", "-_8=", "QQ==QQ==", "=", "====", "Q==="] {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
    }
}
