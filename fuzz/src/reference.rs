//! Naive references: slow, short, and written from the specifications alone.

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// RFC 4648, section 4, without line breaks; the spare bits are zero.
pub fn base64(text: &[u8]) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let data = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(text);
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0, 0_u32);
    for byte in data {
        held = held << 6 | u32::try_from(ALPHABET.iter().position(|known| known == byte)?).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    (text.len() % 4 == 0 && held == 0 && data.len() % 4 != 1 && text.len() - data.len() == (4 - data.len() % 4) % 4)
        .then_some(bytes)
}

/// RFC 3986, section 2.3: everything but the unreserved characters, in upper case.
pub fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, &byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(byte.into());
        } else {
            let digit = |value: u8| char::from(b"0123456789ABCDEF"[usize::from(value)]);
            text.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
        text
    })
}

/// What a form's text means; none where an escape is broken or it is no UTF-8.
pub fn unescaped(raw: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = raw.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(*rest.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Pairs joined as a query, each escaped once, sorted by name.
pub fn query(pairs: &[(String, String)]) -> String {
    let mut sorted = pairs.to_vec();
    sorted.sort();
    let each = sorted.iter().map(|(name, value)| format!("{}={}", escaped(name.as_bytes()), escaped(value.as_bytes())));
    each.collect::<Vec<_>>().join("&")
}

/// Signature V1, `StringToSign`.
pub fn v1_string_to_sign(method: &str, pairs: &[(String, String)]) -> String {
    format!("{method}&{}&{}", escaped(b"/"), escaped(query(pairs).as_bytes()))
}

/// Signature V1 in base64.
pub fn v1(string_to_sign: &str, secret: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(format!("{secret}&").as_bytes()).expect("HMAC takes any key");
    mac.update(string_to_sign.as_bytes());
    let mut text = Vec::new();
    kmsproxy::wire::base64::put(&mac.finalize().into_bytes(), &mut text);
    String::from_utf8(text).expect("base64 is ASCII")
}

/// Signature V3 in hexadecimal, over a canonical request.
pub fn v3(canonical: &str, secret: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes any key");
    mac.update(format!("ACS3-HMAC-SHA256\n{}", hex(&Sha256::digest(canonical.as_bytes()))).as_bytes());
    hex(&mac.finalize().into_bytes())
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from_digit(digit.into(), 16).unwrap_or('?'))
        .collect()
}

/// A `traceparent` by the W3C's Trace Context, level 2: trace, span, and whether it is sampled.
pub fn traceparent(text: &[u8]) -> Option<(u128, u64, bool)> {
    // What follows the flags in a later version may be anything.
    let text = String::from_utf8_lossy(text);
    let fields: Vec<&str> = text.split('-').collect();
    let [version, trace, span, flags, later @ ..] = &fields[..] else { return None };
    let digits = |text: &str, count| text.len() == count && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    if !digits(version, 2) || !digits(trace, 32) || !digits(span, 16) || !digits(flags, 2) {
        return None;
    }
    if *version == "ff" || (*version == "00" && !later.is_empty()) {
        return None;
    }
    let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
    let sampled = u8::from_str_radix(flags, 16).ok()? % 2 == 1;
    (trace != 0 && span != 0).then_some((trace, span, sampled))
}
