//! The frames of an HTTP/2 client, looked through as they come in.

use super::authority::mend;

/// Where in the client's frames (RFC 9113, section 4.1) the next byte is.
#[derive(Debug)]
pub struct Frames {
    at: At,
    /// A header block goes on in the next frame.
    continued: bool,
}

#[derive(Debug)]
enum At {
    /// In a frame's head, of which so much is known.
    Head([u8; HEAD], usize),
    /// At the beginning of the payload of a HEADERS frame that holds a whole header block.
    Headers { length: usize, flags: u8 },
    /// In what h2 may have as it is, for so many bytes more.
    Other(usize),
}

impl Frames {
    /// Before the client's preface.
    #[must_use]
    pub const fn expecting_preface() -> Self {
        Self { at: At::Other(PREFACE), continued: false }
    }

    /// Whether the next byte is not a frame's first that may be anything.
    #[must_use]
    pub const fn midway(&self) -> bool {
        self.continued || !matches!(self.at, At::Head(_, 0))
    }

    /// Looks through bytes and mends what is to be mended in them. Returns how many may go on: the rest is to be given
    /// again, with more behind it.
    pub fn pass(&mut self, bytes: &mut [u8]) -> usize {
        let mut passed = 0;
        loop {
            let rest = &mut bytes[passed..];
            if rest.is_empty() {
                return passed;
            }
            passed += match &mut self.at {
                At::Other(left) => {
                    let count = rest.len().min(*left);
                    *left -= count;
                    if *left == 0 {
                        self.at = At::START;
                    }
                    count
                }
                At::Head(head, known) => {
                    let count = rest.len().min(HEAD - *known);
                    head[*known..][..count].copy_from_slice(&rest[..count]);
                    *known += count;
                    if *known == HEAD {
                        let head = *head;
                        self.begin(head);
                    }
                    count
                }
                At::Headers { length, flags } => {
                    let Some(payload) = rest.get_mut(..*length) else { return passed };
                    if let Some(block) = block(payload, *flags) {
                        mend(block);
                    }
                    let count = *length;
                    self.at = At::START;
                    count
                }
            };
        }
    }

    fn begin(&mut self, head: [u8; HEAD]) {
        let [high, middle, low, kind, flags, ..] = head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let ends = flags & END_HEADERS != 0;
        self.continued = match kind {
            HEADERS | CONTINUATION => !ends,
            _ => self.continued,
        };
        self.at = match (kind, length) {
            (_, 0) => At::START,
            (HEADERS, ..=LENGTH_MAX) if ends => At::Headers { length, flags },
            _ => At::Other(length),
        };
    }
}

impl At {
    const START: Self = Self::Head([0; HEAD], 0);
}

/// The header block in the payload of a HEADERS frame (RFC 9113, section 6.2).
fn block(payload: &mut [u8], flags: u8) -> Option<&mut [u8]> {
    let padded = flags & PADDED != 0;
    let padding = if padded { usize::from(*payload.first()?) } else { 0 };
    let start = usize::from(padded) + if flags & PRIORITY == 0 { 0 } else { PRIORITY_LENGTH };
    let end = payload.len().checked_sub(padding)?;
    payload.get_mut(start..end)
}

/// Bytes of the client's preface.
const PREFACE: usize = 24;
/// Bytes of a frame's head.
const HEAD: usize = 9;
/// Bytes of a payload that may be kept. h2 refuses longer frames by their head.
const LENGTH_MAX: usize = super::FRAME_BYTES_MAX;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_LENGTH: usize = 5;
