//! `grpc-timeout`, the caller's deadline. Source: "gRPC over HTTP2", `Timeout`.

use std::time::Duration;

/// Reads one to eight digits and a unit (`H M S m u n`); `None` for anything else, which is to be refused. Zero is taken,
/// although the grammar says "positive": grpc-go sends `0n` once its time is over.
#[must_use]
pub fn parse(value: &str) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0_u64, |count, digit| count * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

const DIGITS_MAX: usize = 8;
