//! The screen under h2: however the bytes come in, what goes on is what a naive reader of whole frames would let go on.
#![no_main]

use kmsproxy::wire::http2::FRAME_BYTES_MAX;
use kmsproxy::wire::http2::authority::mend;
use kmsproxy::wire::http2::frames::Frames;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&cuts, rest)) = input.split_first() else { return };
    let (cuts, frames) = rest.split_at(usize::from(cuts & 7).min(rest.len()));
    let bytes = [&[0; PREFACE], frames].concat();
    let (mut screen, mut held, mut out, mut start) = (Frames::expecting_preface(), Vec::new(), Vec::new(), 0);
    for end in cuts.iter().map(|cut| start_of(*cut, bytes.len())).chain([bytes.len()]) {
        if end > start {
            held.extend_from_slice(&bytes[start..end]);
            let free = screen.pass(&mut held);
            out.extend(held.drain(..free));
            start = end;
        }
    }
    let (expected, kept) = mended(&bytes);
    assert_eq!(out, expected[..expected.len() - kept]);
    assert_eq!(held, expected[expected.len() - kept..], "what is kept is not touched");
    assert!(kept == 0 || screen.midway());
});

fn start_of(cut: u8, length: usize) -> usize {
    usize::from(cut) * length / 255
}

/// The bytes with every whole header block mended, and how many of the last are of a HEADERS frame that is not whole.
fn mended(bytes: &[u8]) -> (Vec<u8>, usize) {
    let (mut bytes, mut at) = (bytes.to_vec(), PREFACE);
    while let Some(&[high, middle, low, kind, flags, ..]) = bytes[at..].first_chunk::<HEAD>() {
        let length = usize::from(high) * 65_536 + usize::from(middle) * 256 + usize::from(low);
        at += HEAD;
        let block = kind == 1 && flags & 4 != 0 && (1..=FRAME_BYTES_MAX).contains(&length);
        let Some(payload) = bytes.get_mut(at..at + length) else {
            let kept = if block { bytes.len() - at } else { 0 };
            return (bytes, kept);
        };
        if block {
            let (padded, weighed) = (flags & 8 != 0, flags & 0x20 != 0);
            let padding = if padded { usize::from(payload[0]) } else { 0 };
            let from = usize::from(padded) + if weighed { 5 } else { 0 };
            if from + padding <= length {
                mend(&mut payload[from..length - padding]);
            }
        }
        at += length;
    }
    (bytes, 0)
}

const PREFACE: usize = 24;
const HEAD: usize = 9;
