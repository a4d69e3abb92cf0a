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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_is_read() {
        let cases = [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("2999m", Duration::from_millis(2999)),
            ("2998765u", Duration::from_micros(2_998_765)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("0n", Duration::ZERO),
            ("00000001S", Duration::from_secs(1)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ];
        for (value, expected) in cases {
            assert_eq!(parse(value), Some(expected), "{value}");
        }
    }

    #[test]
    fn anything_else_is_none() {
        for value in ["", "S", "3", "3s", "3 S", " 3S", "3S ", "-3S", "+3S", "3.0S", "123456789S", "3ms", "٣S", "3é"]
        {
            assert_eq!(parse(value), None, "{value}");
        }
    }
}
