//! The code of a gRPC answer, out of its header blocks.
//!
//! HPACK counts entries of the dynamic table from the newest, and a server never refers to one that has been evicted; so
//! a decoder that only looks for one field needs neither sizes nor evictions, nor what the others say.

use std::collections::VecDeque;

/// What one connection's header blocks have put into the dynamic table: whether an entry's name is `grpc-status`, and
/// its value.
#[derive(Default)]
pub(super) struct Fields(VecDeque<(bool, Option<u8>)>);

impl Fields {
    /// Reads a block. `Ok(None)` where it has no `grpc-status`.
    ///
    /// # Errors
    /// Where it is no header block.
    pub(super) fn read(&mut self, mut block: &[u8]) -> Result<Option<u8>, ()> {
        let mut found = None;
        while let Some(&first) = block.first() {
            let (is_status, value) = if first & 0x80 != 0 {
                self.entry(integer(&mut block, 7)?)
            } else if first & 0xE0 == 0x20 {
                integer(&mut block, 5)?;
                continue;
            } else {
                let kept = first & 0xC0 == 0x40;
                let index = integer(&mut block, if kept { 6 } else { 4 })?;
                let named = if index == 0 { is_grpc_status(string(&mut block)?) } else { self.entry(index).0 };
                let value = number(string(&mut block)?);
                if kept {
                    self.0.push_front((named, value));
                    self.0.truncate(ENTRIES_MAX);
                }
                (named, value)
            };
            if is_status {
                found = Some(value.ok_or(())?);
            }
        }
        Ok(found)
    }

    fn entry(&self, index: usize) -> (bool, Option<u8>) {
        let place = index.checked_sub(STATIC + 1);
        place.and_then(|place| self.0.get(place)).copied().unwrap_or((false, None))
    }
}

type Text<'a> = (bool, &'a [u8]);

fn is_grpc_status((huffman, bytes): Text<'_>) -> bool {
    if huffman { bytes == HUFFMAN_NAME } else { bytes == b"grpc-status" }
}

/// A number of one or two digits.
fn number((huffman, bytes): Text<'_>) -> Option<u8> {
    if !huffman {
        return std::str::from_utf8(bytes).ok()?.parse().ok();
    }
    if bytes.is_empty() || bytes.len() > 2 {
        return None;
    }
    let (mut bits, mut left) = (0_u16, bytes.len() * 8);
    bytes.iter().for_each(|&byte| bits = bits << 8 | u16::from(byte));
    let mut number = 0_u8;
    while left >= 5 {
        let five = bits >> (left - 5) & 0x1F;
        let (digit, width) = match five {
            0..=2 => (five, 5),
            0b01100..=0b01111 if left >= 6 => ((bits >> (left - 6) & 0x3F) - 0b01_1001 + 3, 6),
            // Padding, which is ones, or no digit.
            _ => break,
        };
        number = number.checked_mul(10)?.checked_add(u8::try_from(digit).ok().filter(|digit| *digit <= 9)?)?;
        left -= width;
    }
    let padding = (1 << left) - 1;
    (left < 8 && bits & padding == padding).then_some(number)
}

fn string<'a>(block: &mut &'a [u8]) -> Result<Text<'a>, ()> {
    let huffman = block.first().ok_or(())? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(())?;
    *block = rest;
    Ok((huffman, text))
}

fn integer(block: &mut &[u8], prefix: u8) -> Result<usize, ()> {
    let (&first, mut rest) = block.split_first().ok_or(())?;
    let mask = u8::MAX >> (8 - prefix);
    let mut value = usize::from(first & mask);
    if value == usize::from(mask) {
        let mut shift = 0;
        loop {
            let (&byte, after) = rest.split_first().ok_or(())?;
            rest = after;
            value += usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 21 {
                return Err(());
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// RFC 7541, appendix A: the static table has 61 entries.
const STATIC: usize = 61;
/// A table of 4,096 bytes holds no more, at 32 bytes of overhead each.
const ENTRIES_MAX: usize = 128;
/// `grpc-status` by appendix B.
const HUFFMAN_NAME: &[u8] = &[0x9A, 0xCA, 0xC8, 0xB2, 0x12, 0x34, 0xDA, 0x8F];

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(form: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
        [&[form, length(name)], name, &[length(value)], value].concat()
    }

    #[test]
    fn a_code_is_read_from_a_literal_and_from_the_table_whatever_came_between() {
        let mut fields = Fields::default();
        assert_eq!(fields.read(&literal(0x40, b"grpc-status", b"9")), Ok(Some(9)));
        assert_eq!(fields.read(&literal(0x40, b"grpc-message", b"x")), Ok(None));
        // The entry before the newest; then its name alone, with another value.
        assert_eq!(fields.read(&[0x80 | 63]), Ok(Some(9)));
        assert_eq!(fields.read(&[0x7F, 0, 2, b'1', b'4']), Ok(Some(14)));
        assert_eq!(fields.read(&[0x88]), Ok(None));
        assert_eq!(fields.read(&[0x40, 9]), Err(()));
    }

    #[test]
    fn huffman_digits_are_read() {
        let cases: [(&[u8], Option<u8>); 5] = [
            (&[0b0000_0111], Some(0)),
            (&[0b0111_1111], Some(9)),
            (&[0b0000_1011, 0b0101_1111], Some(14)),
            (&[0b1111_1111], None),
            (&[0b0000_0000], None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(number((true, bytes)), expected, "{bytes:?}");
        }
        let mut field = vec![0x40, 0x88];
        field.extend_from_slice(HUFFMAN_NAME);
        field.extend_from_slice(&[0x81, 0b0111_1111]);
        assert_eq!(Fields::default().read(&field), Ok(Some(9)));
    }
}
