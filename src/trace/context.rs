//! Which trace a request belongs to, as the W3C's Trace Context has it: <https://www.w3.org/TR/trace-context-2/>.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

/// A span, as others refer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: [u8; 16],
    /// The span.
    pub span: [u8; 8],
    /// What the tracing systems on its way keep with it.
    pub state: Option<Arc<str>>,
}

/// The span of whoever asks, as a `traceparent` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace; not all zero.
    pub trace: [u8; 16],
    /// The span; not all zero.
    pub span: [u8; 8],
    /// Whether it is recorded there.
    pub sampled: bool,
}

impl Parent {
    /// The parent in the headers of a request, HTTP's or gRPC's. None where there is none, or several, or one that is not
    /// well formed.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        Self::parse(value.as_bytes())
    }

    /// `00-<trace>-<span>-<flags>`, in hexadecimal. Of a later version as much as this one knows.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (known, later) = text.split_at_checked(PARENT_BYTES)?;
        let [version, trace, span, flags] = [&known[..2], &known[3..35], &known[36..52], &known[53..]];
        let [version] = octets::<1>(version)?;
        let dashes = [known[2], known[35], known[52]] == *b"---";
        let whole = if version == 0 { later.is_empty() } else { later.first().is_none_or(|&next| next == b'-') };
        let (trace, span, [flags]) = (octets(trace)?, octets(span)?, octets(flags)?);
        let named = trace != [0; 16] && span != [0; 8];
        (version != u8::MAX && dashes && whole && named).then_some(Self { trace, span, sampled: flags & SAMPLED != 0 })
    }
}

/// The `tracestate` of a request, joined; none where there is none, or one that is not well formed or longer than
/// [`STATE_BYTES_MAX`]: a parent counts without it.
#[must_use]
pub fn state(headers: &HeaderMap) -> Option<String> {
    let mut joined = String::new();
    for value in headers.get_all(TRACESTATE) {
        let value = value.to_str().ok()?;
        if joined.len() + value.len() >= STATE_BYTES_MAX {
            return None;
        }
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(value);
    }
    let members = joined.split(',').map(str::trim).filter(|member| !member.is_empty());
    let mut keys: Vec<&str> = Vec::new();
    for member in members {
        let (key, value) = member.split_once('=')?;
        if !is_key(key) || !is_value(value) || keys.contains(&key) || keys.len() == STATE_MEMBERS_MAX {
            return None;
        }
        keys.push(key);
    }
    (!keys.is_empty()).then_some(joined)
}

fn is_key(key: &str) -> bool {
    let tail = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
    let head = key.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    head && key.len() <= STATE_PART_MAX && key.bytes().all(tail)
}

fn is_value(value: &str) -> bool {
    let good = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'=';
    !value.is_empty() && value.len() <= STATE_PART_MAX && value.bytes().all(good)
}

/// Lower-case digits alone, as the W3C wants it.
fn octets<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let mut octets = [0; N];
    for (octet, &[high, low]) in octets.iter_mut().zip(pairs) {
        *octet = digit(high)? << 4 | digit(low)?;
    }
    (pairs.len() == N).then_some(octets)
}

/// The header that names the parent.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header with what the tracing systems on the way keep.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The flag of a span that is recorded.
const SAMPLED: u8 = 1;
const PARENT_BYTES: usize = 55;
/// The W3C asks that so much be passed on; what is longer may be left out.
pub const STATE_BYTES_MAX: usize = 512;
const STATE_MEMBERS_MAX: usize = 32;
const STATE_PART_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn stated(values: &[&'static str]) -> Option<String> {
        state(&values.iter().map(|value| (TRACESTATE, HeaderValue::from_static(value))).collect())
    }

    #[test]
    fn a_parent_is_read_and_its_flag_counts_alone() {
        let parent = |flags| {
            let text = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
            Parent::parse(text.as_bytes()).unwrap()
        };
        let trace = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
        let expected = Parent { trace, span: 0xb7ad_6b71_6920_3331_u64.to_be_bytes(), sampled: true };
        assert_eq!((parent("01"), parent("ff")), (expected, expected));
        assert_eq!([parent("00"), parent("fe")], [Parent { sampled: false, ..expected }; 2]);
        let later = b"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-will-be-like";
        assert_eq!(Parent::parse(later), Some(expected));
    }

    #[test]
    fn what_is_not_well_formed_is_none() {
        for text in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
        ] {
            assert_eq!(Parent::parse(text.as_bytes()), None, "{text}");
        }
        let good = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let twice = HeaderMap::from_iter([(TRACEPARENT, good.clone()), (TRACEPARENT, good.clone())]);
        assert_eq!(Parent::read(&twice), None);
        assert!(Parent::read(&HeaderMap::from_iter([(TRACEPARENT, good)])).is_some());
    }

    #[test]
    fn a_state_is_kept_as_it_is_or_not_at_all() {
        assert_eq!(
            stated(&["rojo=00f067aa0ba902b7", "congo=t61rcWkgMzE"]).as_deref(),
            Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
        );
        assert_eq!(stated(&["a@b=1, 0x=2,"]).as_deref(), Some("a@b=1, 0x=2,"));
        for wrong in ["", ",", "A=1", "a", "a=", "a==b", "a=1,a=2", "_a=1", "a=\t"] {
            assert_eq!(stated(&[wrong]), None, "{wrong}");
        }
        let long: &'static str = Box::leak(format!("a={}", "b".repeat(STATE_PART_MAX + 1)).into_boxed_str());
        assert_eq!(stated(&[long]), None);
        let many = (0..=STATE_MEMBERS_MAX).map(|at| format!("k{at}=1")).collect::<Vec<_>>().join(",");
        assert_eq!(stated(&[Box::leak(many.into_boxed_str())]), None);
    }
}
