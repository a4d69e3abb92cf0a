//! Frames and header blocks as clients write them, for tests: every form that RFC 7541 has, by an encoder of its own.

use std::collections::VecDeque;

use super::authority::huffman;

/// Which of the forms to take: a stream of choices, from proptest.
pub(crate) struct Choices<'a>(pub(crate) &'a [u8], pub(crate) usize);

impl Choices<'_> {
    pub(crate) fn next(&mut self, of: u8) -> u8 {
        let choice = self.0.get(self.1 % self.0.len().max(1)).map_or(0, |choice| choice % of);
        self.1 += 1;
        choice
    }
}

/// A client's side of HPACK.
#[derive(Default)]
pub(crate) struct Encoder {
    table: VecDeque<(String, String)>,
}

impl Encoder {
    /// Writes fields; each in a form by choice.
    pub(crate) fn block(&mut self, fields: &[(&str, &str)], choices: &mut Choices<'_>) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in fields {
            self.field(name, value, choices, &mut block);
        }
        block
    }

    fn field(&mut self, name: &str, value: &str, choices: &mut Choices<'_>, block: &mut Vec<u8>) {
        let known = self.table.iter().position(|entry| entry.0 == name && entry.1 == value);
        if let Some(place) = known.filter(|_| choices.next(3) > 0) {
            return integer(0x80, 7, STATIC + 1 + place, block);
        }
        let indexing = choices.next(3);
        let (pattern, prefix) = [(0x40, 6), (0, 4), (0x10, 4)][usize::from(indexing)];
        let named = self.table.iter().position(|entry| entry.0 == name).filter(|_| name != ":authority");
        let index = match (choices.next(3), named, NAMES.iter().find(|entry| entry.0 == name)) {
            (1, Some(place), _) => Some(STATIC + 1 + place),
            (0, _, Some((_, index))) => Some(*index),
            _ => None,
        };
        integer(pattern, prefix, index.unwrap_or(0), block);
        if index.is_none() {
            string(name.as_bytes(), choices.next(2) == 0, block);
        }
        string(value.as_bytes(), choices.next(2) == 0, block);
        if indexing == 0 {
            self.table.push_front((name.to_owned(), value.to_owned()));
            while self.table.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() > 4096 {
                self.table.pop_back();
            }
        }
    }
}

pub(crate) fn string(text: &[u8], raw: bool, block: &mut Vec<u8>) {
    let coded = if raw { text.to_vec() } else { huffman(text) };
    integer(if raw { 0 } else { 0x80 }, 7, coded.len(), block);
    block.extend(coded);
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn integer(pattern: u8, prefix: u32, value: usize, block: &mut Vec<u8>) {
    let mask = (1_usize << prefix) - 1;
    if value < mask {
        return block.push(pattern | u8::try_from(value).unwrap());
    }
    block.push(pattern | u8::try_from(mask).unwrap());
    let mut rest = value - mask;
    while rest >= 0x80 {
        block.push(0x80 | u8::try_from(rest & 0x7f).unwrap());
        rest >>= 7;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// Entries of the static table.
const STATIC: usize = 61;
const NAMES: [(&str, usize); 6] =
    [(":authority", 1), (":method", 2), (":path", 4), (":scheme", 6), ("content-type", 31), ("user-agent", 58)];
