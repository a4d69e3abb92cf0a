//! What is taken for a brief request is to hyper's server the very same one request, to the last byte; and what that finds to be
//! one, and as plain as a brief one is, is taken for one.
#![no_main]

use kmsproxy::wire::brief;
use kmsproxy_fuzz::server::{self, Heard};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let brief = brief::read(input, |it| {
        let fields = it.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect();
        Heard::new(it.method.as_str(), "/", it.query, fields, it.body)
    });
    match brief {
        // Another is heard behind it: it ended where it ends, and the connection stays.
        Some(brief) => assert_eq!(server::hear(&[input, NEXT].concat()), Some(vec![brief, next()])),
        None => {
            let heard = server::hear(input).unwrap_or_default();
            assert!(!matches!(&heard[..], [one] if is_plain(one, input)), "{heard:?}");
        }
    }
});

const NEXT: &[u8] = b"GET /next HTTP/1.1\r\n\r\n";

fn next() -> Heard {
    Heard::new("GET", "/next", "", vec![], b"")
}

/// Whether one request, alone on its connection, is as plain as a brief one is. Of some that are, it does not know it.
fn is_plain(one: &Heard, input: &[u8]) -> bool {
    let values =
        |name: &str| one.fields.iter().filter(|(said, _)| said == name).map(|(_, value)| value).collect::<Vec<_>>();
    let never = ["expect", "upgrade", "transfer-encoding"].iter().all(|name| values(name).is_empty());
    let kept = values("connection").iter().all(|value| value.to_ascii_lowercase() == b"keep-alive");
    let short = values("content-length").iter().all(|value| value.len() <= 6);
    let known = ["GET", "POST"].contains(&&*one.method) && one.path == "/";
    let query = one.query.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/?".contains(&byte));
    known && query && never && kept && short && one.fields.len() <= 32 && !hides(one, input)
}

/// Whether there may be what hyper does not tell: another version than 1.1, a fragment, a second length like the first, an empty
/// line behind the end.
fn hides(one: &Heard, input: &[u8]) -> bool {
    let lower = input.to_ascii_lowercase();
    let count = |text: &[u8]| lower.windows(text.len()).filter(|window| window == &text).count();
    count(b"http/1.0") > 0
        || input.contains(&b'#')
        || count(b"content-length") > 1
        || behind_head(input) != one.body.len()
}

/// How much is behind the head: behind the first empty line that is not before all others.
fn behind_head(input: &[u8]) -> usize {
    let mut end = input.iter().take_while(|byte| b"\r\n".contains(byte)).count();
    for line in input[end..].split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        if line == b"\n" || line == b"\r\n" {
            break;
        }
    }
    input.len() - end
}
