//! Percent-encoding: the streaming respeller and the reference agree on what a form's text means and how it is spelled.
#![no_main]

use kmsproxy::wire::aliyun::escape::{Layer, Text, check, unescape};
use kmsproxy_fuzz::reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(raw) = std::str::from_utf8(input) else { return };
    let meaning = reference::unescaped(raw);
    assert_eq!(unescape(raw).as_deref(), meaning.as_deref());
    assert_eq!(check(raw), meaning.is_some());
    spelled_the_same(Text::Plain(raw), raw);
    if let Some(meaning) = meaning {
        spelled_the_same(Text::Form(raw), &meaning);
        spelled_the_same(Text::Plain(&meaning), &meaning);
        assert_eq!(unescape(&reference::escaped(meaning.as_bytes())).as_deref(), Some(&*meaning));
    }
});

fn spelled_the_same(text: Text<'_>, meaning: &str) {
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    text.put(Layer::Once, &mut once);
    text.put(Layer::Twice, &mut twice);
    let expected = reference::escaped(meaning.as_bytes());
    assert_eq!(String::from_utf8_lossy(&once), expected);
    assert_eq!(String::from_utf8_lossy(&twice), reference::escaped(expected.as_bytes()));
}
