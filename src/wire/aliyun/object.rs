//! JSON objects, and nothing else that serde would take for one: it reads a struct out of an array too, its members by
//! their order alone. No answer of Alibaba Cloud is an array, and what is not in the schema must mean nothing.

use serde::Deserialize;

/// Reads the object that `text` is. `None` where it is no JSON, which is UTF-8 in the members that nobody asks for as
/// well; where it is anything but an object; and where it is not the object `T`.
#[must_use]
pub fn read<'t, T: Deserialize<'t>>(text: &'t [u8]) -> Option<T> {
    let text = str::from_utf8(text).ok()?;
    if text.trim_ascii_start().starts_with('{') { serde_json::from_str(text).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    struct Two<'t> {
        #[serde(borrow)]
        one: Cow<'t, str>,
        other: Option<u8>,
    }

    #[test]
    fn an_object_is_read_and_lets_members_be_that_are_not_known() {
        let two = Some(Two { one: "a".into(), other: None });
        assert_eq!(read(b" {\"one\":\"a\",\"more\":[{}]}\n"), two);
        assert_eq!(read(b"{\"one\":\"a\",\"other\":null}"), two);
    }

    #[test]
    fn a_list_of_the_members_a_member_twice_and_what_is_not_utf_8_anywhere_are_none() {
        let texts: [&[u8]; 5] = [
            b"[\"a\",7]",
            b" [\"a\",null]",
            b"{\"one\":\"a\",\"one\":\"b\"}",
            b"{\"one\":\"a\",\"more\":\"\xff\"}",
            b"{\"one\":\"a\"}{}",
        ];
        for text in texts {
            assert_eq!(read::<Two<'_>>(text), None, "{}", text.escape_ascii());
        }
    }
}
