//! The `:authority` of a request, made one that h2 takes.
//!
//! grpc-go sends the target's address as `:authority`, which for a unix socket is its path: `/run/x.sock`, later
//! `%2Frun%2Fx.sock`. h2 takes neither for an authority and resets the stream. Who asks is known from the socket, and
//! nothing depends on the name that a client gives it: where h2 would refuse one, another takes its place, with as many
//! characters and as many encoded octets. So no length in the block or around it changes, and both sides' HPACK tables
//! stay in step without a table here: an entry's size is that of its name and value (RFC 7541, section 4.1), and what is
//! later sent as a reference to the entry resolves to what was put in place.

use http::uri::Authority;

/// Mends every `:authority` in a header block that is written out and that h2 would refuse, in place; if what follows
/// is not HPACK, those before it. Left alone: a value over `VALUE_MAX` bytes, an empty one, and one whose name is taken from
/// the dynamic table, which no encoder does while the static table has it.
pub fn mend(block: &mut [u8]) {
    let mut at = 0;
    while let Some(value) = next(block, &mut at) {
        if let Some(Value { huffman, start }) = value {
            let octets = &mut block[start..at];
            if huffman { mend_huffman(octets) } else { mend_raw(octets) }
        }
    }
}

/// The value of an `:authority`, which ends where the next field begins.
struct Value {
    huffman: bool,
    start: usize,
}

/// Reads one representation (RFC 7541, section 6) and moves `at` behind it. `None` at the end, or where it is none.
fn next(block: &[u8], at: &mut usize) -> Option<Option<Value>> {
    let (prefix, literal) = match block.get(*at)? {
        0x80.. => (7, false),
        0x40.. => (6, true),
        0x20.. => (5, false),
        _ => (4, true),
    };
    let index = integer(block, at, prefix)?;
    if !literal {
        return Some(None);
    }
    let named = if index == 0 {
        let Value { huffman, start } = string(block, at)?;
        let name = &block[start..*at];
        if huffman { name == NAME_HUFFMAN } else { name == NAME }
    } else {
        index == NAME_INDEX
    };
    let value = string(block, at)?;
    Some(named.then_some(value))
}

/// An integer of at most five octets, as h2 takes them (RFC 7541, section 5.1).
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let mask = (1 << prefix) - 1;
    let mut value = usize::from(block.get(*at)? & mask);
    *at += 1;
    if value < usize::from(mask) {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let octet = block.get(*at)?;
        *at += 1;
        value += usize::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A string (RFC 7541, section 5.2), which ends at `at` then.
fn string(block: &[u8], at: &mut usize) -> Option<Value> {
    let huffman = block.get(*at)? & 0x80 != 0;
    let length = integer(block, at, 7)?;
    let start = *at;
    *at = start.checked_add(length).filter(|end| *end <= block.len())?;
    Some(Value { huffman, start })
}

fn mend_raw(octets: &mut [u8]) {
    if octets.len() <= VALUE_MAX && Authority::try_from(&*octets).is_err() {
        octets.fill(b'0');
    }
}

/// Writes as many `0` and `~` as there were characters. `0` has five bits, the fewest of all, and all of them 0; `~` has
/// eight more, all 1 but the last but one; and what pads the last octet is 1. So some number of `~` fits, unless the
/// value was of rarer characters still, of which no socket's path is made.
fn mend_huffman(octets: &mut [u8]) {
    let Some(value) = (octets.len() <= VALUE_MAX).then(|| decoded(octets)).flatten() else { return };
    let spare = octets.len() * 8 - value.len() * SHORT_BITS;
    let long = spare / (LONG_BITS - SHORT_BITS);
    if long > value.len() || Authority::try_from(&*value).is_ok() {
        return;
    }
    octets.fill(0xff);
    let mut clear = |bit: usize| octets[bit / 8] &= !(0x80 >> (bit % 8));
    let short = (value.len() - long) * SHORT_BITS;
    (0..short).for_each(&mut clear);
    (0..long).for_each(|nth| clear(short + nth * LONG_BITS + LONG_BITS - 2));
}

/// What Huffman's code of RFC 7541, appendix B, says; `None` where it is broken or padded wrongly. The code is
/// canonical: the codes of a length are consecutive, in the order of their octets, and follow those of the length before.
fn decoded(octets: &[u8]) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(octets.len() * 8 / SHORT_BITS);
    let (mut code, mut first, mut before, mut bits) = (0, 0, 0, 0);
    for bit in octets.iter().flat_map(|octet| (0..8).rev().map(move |place| usize::from(octet >> place & 1))) {
        (code, first, bits) = (code << 1 | bit, first << 1, bits + 1);
        let count = *COUNTS.get(bits)?;
        if code < first + count {
            value.push(IN_ORDER[before + code - first]);
            (code, first, before, bits) = (0, 0, 0, 0);
        } else {
            (first, before) = (first + count, before + count);
        }
    }
    let padding = bits < 8 && code + 1 == 1 << bits;
    padding.then_some(value)
}

/// How many octets have a code of so many bits.
const COUNTS: [usize; BITS_MAX + 1] = {
    let mut counts = [0; BITS_MAX + 1];
    let mut octet = 0;
    while octet < LENGTHS.len() {
        counts[LENGTHS[octet] as usize] += 1;
        octet += 1;
    }
    counts
};

/// The octets in the order of their codes.
const IN_ORDER: [u8; 256] = {
    let (mut order, mut place, mut bits) = ([0; 256], 0, 1);
    while bits <= BITS_MAX {
        let mut octet = 0;
        while octet < LENGTHS.len() {
            if LENGTHS[octet] as usize == bits {
                order[place] = octet as u8;
                place += 1;
            }
            octet += 1;
        }
        bits += 1;
    }
    order
};

/// Bits of each octet's code: RFC 7541, appendix B.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28,
    28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6,
    12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15,
    5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20,
    22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22,
    23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26,
    27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// `:authority` in the static table.
const NAME_INDEX: usize = 1;
const NAME: &[u8; 10] = b":authority";
/// The same in Huffman's code.
const NAME_HUFFMAN: [u8; 8] = [0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
/// Octets of a value that is looked at. A socket's path has at most 107, three times as many where it is escaped.
const VALUE_MAX: usize = 4096;
const BITS_MAX: usize = 30;
/// Bits of `0`.
const SHORT_BITS: usize = 5;
/// Bits of `~`.
const LONG_BITS: usize = 13;

/// The opposite of [`decoded`].
#[cfg(test)]
pub(crate) fn huffman(text: &[u8]) -> Vec<u8> {
    let code = |octet: u8| {
        let (mut code, mut last) = (0_u64, 0);
        for &next in &IN_ORDER {
            let bits = LENGTHS[usize::from(next)];
            code <<= bits - last;
            if next == octet {
                return (code, bits);
            }
            (code, last) = (code + 1, bits);
        }
        unreachable!("every octet has a code")
    };
    let mut bits: Vec<bool> = text
        .iter()
        .flat_map(|octet| {
            let (code, bits) = code(*octet);
            (0..bits).rev().map(move |place| code >> place & 1 == 1)
        })
        .collect();
    bits.resize(bits.len().next_multiple_of(8), true);
    bits.chunks(8).map(|octet| octet.iter().fold(0, |octet, bit| octet << 1 | u8::from(*bit))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::blocks::string;
    use super::*;

    /// An `:authority` written with its static name, and what becomes of its value.
    fn mended(value: &[u8], raw: bool) -> Vec<u8> {
        let mut block = vec![0x41];
        string(value, raw, &mut block);
        let length = block.len();
        mend(&mut block);
        let mut at = 1;
        let Value { huffman, start } = string_at(&block, &mut at);
        assert_eq!((huffman, at), (!raw, length));
        if raw { block[start..].to_vec() } else { decoded(&block[start..]).unwrap() }
    }

    fn string_at(block: &[u8], at: &mut usize) -> Value {
        super::string(block, at).unwrap()
    }

    #[test]
    fn the_code_is_that_of_the_rfc() {
        // RFC 7541, sections C.4.1 and C.6.1.
        let coded = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(huffman(b"www.example.com"), coded);
        assert_eq!(decoded(&coded).unwrap(), b"www.example.com");
        assert_eq!(decoded(&[0xae, 0xc3, 0x77, 0x1a, 0x4b]).unwrap(), b"private");
        assert_eq!(huffman(NAME), NAME_HUFFMAN);
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&huffman(&every)).unwrap(), every);
    }

    #[test]
    fn padding_of_an_octet_or_of_zeros_and_the_end_of_the_string_are_no_text() {
        assert_eq!(decoded(&[]), Some(Vec::new()));
        assert_eq!(decoded(&[0x07]), Some(b"0".to_vec()));
        for broken in [&[0x00][..], &[0x06], &[0x07, 0xff], &[0xff; 4]] {
            assert_eq!(decoded(broken), None, "{broken:x?}");
        }
    }

    #[test]
    fn a_refused_authority_of_any_length_gets_one_of_the_same_length_that_a_uri_can_have() {
        for length in (1..600).chain((600..VALUE_MAX).step_by(31)).chain([VALUE_MAX]) {
            let path: Vec<u8> = b"/var/run/kms_provider/Key-1.sock@~%2F".iter().copied().cycle().take(length).collect();
            for raw in [true, false] {
                let mended = mended(&path, raw);
                assert_eq!(mended.len(), length);
                let authority = Authority::try_from(&mended[..]).unwrap();
                http::Uri::builder().scheme("http").path_and_query("/").authority(authority).build().unwrap();
            }
        }
    }

    #[test]
    fn an_authority_that_h2_takes_an_empty_one_and_one_of_control_characters_stay() {
        for value in [&b"localhost"[..], b"@kms", b"[::1]:1", b"", b"kms.example:443"] {
            assert_eq!((mended(value, true), mended(value, false)), (value.to_vec(), value.to_vec()));
        }
        assert_eq!(mended(b"\x01\x02", false), b"\x01\x02");
        let long = vec![b'/'; VALUE_MAX + 1];
        assert_eq!(mended(&long, true), long);
    }

    #[test]
    fn every_literal_form_is_mended_and_nothing_else() {
        for form in [0x40, 0x00, 0x10] {
            for raw in [true, false] {
                let fields = |value: &[u8]| {
                    let mut block = vec![0x82, 0x3f, 0xe1, 0x1f, form | 1];
                    string(value, raw, &mut block);
                    block.push(form);
                    string(NAME, raw, &mut block);
                    string(value, raw, &mut block);
                    block.push(form | 4);
                    string(b"/x.sock", raw, &mut block);
                    block
                };
                let mut block = fields(b"/x.sock");
                mend(&mut block);
                let other = mended(b"/x.sock", raw);
                assert_eq!(block, fields(&other));
            }
        }
    }

    proptest! {
        #[test]
        fn what_holds_no_authority_stays_as_it_is(block in vec(any::<u8>(), 0..200)) {
            let block: Vec<u8> =
                block.into_iter().filter(|octet| ![0x41, 0x01, 0x11, b':', NAME_HUFFMAN[0]].contains(octet)).collect();
            let mut mended = block.clone();
            mend(&mut mended);
            prop_assert_eq!(mended, block);
        }

        #[test]
        fn what_is_mended_needs_no_mending(
            before in vec(any::<u8>(), 0..8),
            value in vec(any::<u8>(), 0..60),
            after in vec(any::<u8>(), 0..60),
        ) {
            let mut once = [&before[..], &[0x41, u8::try_from(value.len()).unwrap() | 0x80], &value, &after].concat();
            mend(&mut once);
            let mut twice = once.clone();
            mend(&mut twice);
            prop_assert_eq!(twice, once);
        }
    }
}
