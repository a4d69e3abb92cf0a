//! What is searched for: every secret in every spelling in which a copy of it could lie about.

use std::collections::HashMap;

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};

/// A secret that passes through the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Planted {
    /// By which way it goes in and out.
    pub(crate) way: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// Finds planted secrets in bytes. Halves are searched for, so that a copy that was overwritten in part is found too.
pub(crate) struct Needles {
    planted: Vec<Planted>,
    spelled: Vec<Spelled>,
    /// Needles by their first eight bytes.
    beginnings: HashMap<[u8; 8], Vec<u32>>,
    /// Whether any needle begins with these three bytes: sorts out all but a thousandth of what there is.
    first: Vec<u64>,
}

struct Spelled {
    planted: u32,
    form: &'static str,
    bytes: Vec<u8>,
}

/// One needle in one place.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    pub(crate) at: usize,
    /// Which secret, by its number.
    pub(crate) planted: u32,
    pub(crate) form: &'static str,
}

impl Needles {
    pub(crate) fn new(planted: Vec<Planted>) -> Self {
        let mut needles =
            Self { planted: Vec::new(), spelled: Vec::new(), beginnings: HashMap::new(), first: vec![0; 1 << 18] };
        for secret in planted {
            needles.add(secret);
        }
        needles
    }

    fn add(&mut self, secret: Planted) {
        let number = u32::try_from(self.planted.len()).unwrap();
        for (form, bytes) in spellings(&secret.bytes) {
            let index = u32::try_from(self.spelled.len()).unwrap();
            self.beginnings.entry(beginning(&bytes)).or_default().push(index);
            let (word, bit) = first(&bytes);
            self.first[word] |= bit;
            self.spelled.push(Spelled { planted: number, form, bytes });
        }
        self.planted.push(secret);
    }

    pub(crate) fn planted(&self, number: u32) -> &Planted {
        &self.planted[usize::try_from(number).unwrap()]
    }

    /// The last secret that was planted by this way, or the one so many before it.
    pub(crate) fn last(&self, way: &str, before: usize) -> &Planted {
        self.planted.iter().rev().filter(|planted| planted.way == way).nth(before).unwrap()
    }

    pub(crate) fn len(&self) -> usize {
        self.planted.len()
    }

    /// Every needle in `hay`. One that begins within the last 256 bytes may be missed: let pieces overlap by those.
    pub(crate) fn find(&self, hay: &[u8]) -> Vec<Hit> {
        let mut hits = Vec::new();
        for (page, bytes) in hay.chunks(PAGE).enumerate() {
            // Most of what is mapped was never written to.
            if bytes == &ZEROES[..bytes.len()] {
                continue;
            }
            let end = hay.len().min(page * PAGE + bytes.len() + 7);
            for (offset, window) in hay[page * PAGE..end].windows(8).enumerate() {
                let (word, bit) = first(window);
                if self.first[word] & bit != 0 {
                    self.look(hay, page * PAGE + offset, &mut hits);
                }
            }
        }
        hits
    }

    fn look(&self, hay: &[u8], at: usize, hits: &mut Vec<Hit>) {
        for &index in self.beginnings.get(&beginning(&hay[at..])).into_iter().flatten() {
            let Spelled { planted, form, bytes } = &self.spelled[usize::try_from(index).unwrap()];
            if hay[at..].starts_with(bytes) {
                hits.push(Hit { at, planted: *planted, form });
            }
        }
    }
}

fn beginning(bytes: &[u8]) -> [u8; 8] {
    bytes[..8].try_into().unwrap()
}

/// Which bit of which word stands for the first three bytes.
fn first(bytes: &[u8]) -> (usize, u64) {
    let index = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
    (index >> 6, 1 << (index & 63))
}

/// Both halves of each spelling, without those characters of base64 that depend on what stands beside.
fn spellings(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut all = vec![("raw", secret.to_vec())];
    let digits = |upper| secret.iter().flat_map(|byte| hex(*byte, upper)).collect::<Vec<_>>();
    all.extend([("hex", digits(false)), ("HEX", digits(true))]);
    for (name, alphabet) in [("base64", &STANDARD), ("base64url", &URL_SAFE)] {
        for shift in 0..3 {
            let text = core(secret, shift, alphabet);
            let escaped = escaped(&text);
            if escaped != text {
                all.push(("base64, escaped", escaped));
            }
            all.push((name, text));
        }
    }
    let mut halves: Vec<_> = all.into_iter().flat_map(|(form, bytes)| halved(form, &bytes)).collect();
    halves.sort_unstable_by(|one, other| one.1.cmp(&other.1));
    halves.dedup_by(|one, other| one.1 == other.1);
    halves
}

fn halved(form: &'static str, bytes: &[u8]) -> [(&'static str, Vec<u8>); 2] {
    let (front, back) = bytes.split_at(bytes.len() / 2);
    [(form, front.to_vec()), (form, back.to_vec())]
}

fn core(secret: &[u8], shift: usize, alphabet: &Alphabet) -> Vec<u8> {
    let shifted = [&b"xx"[..shift], secret].concat();
    let text = GeneralPurpose::new(alphabet, NO_PAD).encode(&shifted).into_bytes();
    let end = if shifted.len().is_multiple_of(3) { text.len() } else { text.len() - 1 };
    text[[0, 2, 3][shift]..end].to_vec()
}

fn escaped(text: &[u8]) -> Vec<u8> {
    let escape =
        |byte: &u8| if byte.is_ascii_alphanumeric() { vec![*byte] } else { format!("%{byte:02X}").into_bytes() };
    text.iter().flat_map(escape).collect()
}

fn hex(byte: u8, upper: bool) -> [u8; 2] {
    let digits = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
    [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]
}

/// Longer than any needle: what pieces of memory must overlap by.
pub(crate) const OVERLAP: usize = 256;
const PAGE: usize = 4096;
static ZEROES: [u8; PAGE] = [0; PAGE];

#[test]
fn a_secret_is_found_in_every_spelling_and_by_either_half() {
    let secret: Vec<u8> = (0..32).map(|n| 0xA5_u8.wrapping_mul(n) ^ 0x3C).collect();
    let needles = Needles::new(vec![Planted { way: "test", bytes: secret.clone() }]);
    let base64 =
        |prefix: &[u8]| GeneralPurpose::new(&STANDARD, NO_PAD).encode([prefix, &secret, b"!"].concat()).into_bytes();
    let hexadecimal = |upper| secret.iter().flat_map(|byte| hex(*byte, upper)).collect::<Vec<_>>();
    let spelled = [
        ("raw", secret.clone()),
        ("base64", base64(b"")),
        ("base64", base64(b"a")),
        ("base64", base64(b"ab")),
        ("base64, escaped", escaped(&base64(b""))),
        ("hex", hexadecimal(false)),
        ("HEX", hexadecimal(true)),
    ];
    // Either half, and where neither has a character that is escaped, by that name.
    let found = |hay: &[u8]| {
        let mut places: Vec<_> = needles.find(hay).iter().map(|hit| hit.at).collect();
        places.dedup();
        places.len()
    };
    for (form, text) in spelled {
        assert!(found(&[&[7; 5000][..], &text, &[9; 5000]].concat()) >= 2, "{form}");
        // As glibc leaves it, which writes over the first sixteen bytes of what is freed.
        assert!(found(&[&[7; 4090][..], &text[16..], &[9; 5000]].concat()) >= 1, "{form}");
    }
    assert_eq!(needles.find(&[0xA5; 10_000]).len(), 0);
}
