//! The `Date` of answers.

use std::cell::RefCell;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

/// A `Date`, as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date {
    second: i64,
    text: [u8; DATE_BYTES],
}

impl Date {
    pub(super) const fn bytes(&self) -> &[u8] {
        &self.text
    }

    /// As RFC 9110, section 5.6.7, has it.
    fn of(at: Timestamp) -> Self {
        let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap_or_default();
        let text = text.as_bytes().try_into().unwrap_or([b' '; DATE_BYTES]);
        Self { second: at.as_second(), text }
    }
}

/// The date of `at`. Thousands of answers have the same.
pub(super) fn date(at: Timestamp) -> Date {
    thread_local! {
        static LAST: RefCell<Option<Date>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| match last {
        Some(date) if date.second == at.as_second() => *date,
        _ => *last.insert(Date::of(at)),
    })
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
const DATE_BYTES: usize = 29;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_of_its_second() {
        let of = |second| date(Timestamp::new(second, 999_999_999).unwrap());
        assert_eq!(of(784_111_777).bytes(), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(of(784_111_778).bytes(), b"Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(of(784_111_777).bytes(), b"Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
