//! gRPC's texts: `grpc-timeout`, `grpc-message`, and the paths of methods.
#![no_main]

use std::time::Duration;

use kmsproxy::wire::kubernetes::refusal::grpc_message;
use kmsproxy::wire::kubernetes::{Method, timeout};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    assert_eq!(timeout::parse(&text), expected(&text));
    let header = grpc_message(&text);
    let bytes = header.as_bytes();
    assert!(bytes.len() <= 1024 && bytes.iter().all(|byte| matches!(byte, b' '..=b'~')));
    let decoded = decoded(bytes);
    assert!(text.starts_with(&decoded));
    let cut = text[decoded.len()..].chars().next();
    assert!(cut.is_none_or(|next| bytes.len() + 3 * next.len_utf8() > 1024), "cut without need");
    assert!(Method::of(&text).is_none_or(|method| method.path() == text));
});

fn expected(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = &text[..text.len() - unit.len_utf8()];
    let nanoseconds = [
        ('H', 3_600_000_000_000),
        ('M', 60_000_000_000),
        ('S', 1_000_000_000),
        ('m', 1_000_000),
        ('u', 1000),
        ('n', 1),
    ];
    let (_, each) = nanoseconds.iter().find(|(known, _)| *known == unit)?;
    let good = (1..=8).contains(&digits.len()) && digits.chars().all(|digit| digit.is_ascii_digit());
    let count: u128 = if good { digits.parse().ok()? } else { return None };
    Some(Duration::from_nanos_u128(count * each))
}

/// Percent-decoding as gRPC has it; every escape of ours is whole.
fn decoded(bytes: &[u8]) -> String {
    let (mut out, mut rest) = (Vec::new(), bytes);
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(&after[..2]).expect("two digits");
            out.push(u8::from_str_radix(digits, 16).expect("two digits"));
            rest = &after[2..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    String::from_utf8(out).expect("whole characters")
}
