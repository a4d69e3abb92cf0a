//! The `EncryptionContext` parameter: a JSON object of strings, or one parameter for each pair.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::Serializer;

use crate::fault::{Fault, Kind};
use crate::kms::{Context, ContextForm};

/// Reads the JSON form. `text` is kept verbatim: dedicated KMS instances bind the text, not its meaning.
///
/// # Errors
/// [`Kind::InvalidParameter`] where it is longer than 8192 characters, is not an object of strings, or has a name
/// twice.
pub fn parse(text: &str) -> Result<Context, Fault> {
    if text.len() > CHARACTERS_MAX && text.chars().count() > CHARACTERS_MAX {
        return Err(invalid());
    }
    let Pairs(pairs) = serde_json::from_str(text).map_err(|_| invalid())?;
    Context::new(ContextForm::Json, text, pairs).ok_or_else(invalid)
}

/// Builds the flattened form from its pairs.
///
/// # Errors
/// As [`parse`]; the length is that of the JSON that the pairs make.
pub fn flattened(mut pairs: Vec<(Box<str>, Box<str>)>) -> Result<Context, Fault> {
    pairs.sort_unstable();
    let mut text = Vec::new();
    let written = serde_json::Serializer::new(&mut text).collect_map(pairs.iter().map(|(name, value)| (name, value)));
    written.expect("strings always have a JSON form");
    let text = String::from_utf8(text).expect("JSON is UTF-8");
    if text.chars().count() > CHARACTERS_MAX {
        return Err(invalid());
    }
    Context::new(ContextForm::Flattened, &text, pairs).ok_or_else(invalid)
}

fn invalid() -> Fault {
    Fault::caller(Kind::InvalidParameter("EncryptionContext".into()))
}

/// The pairs in the order they came, duplicates kept: a map type would lose them silently.
struct Pairs(Vec<(Box<str>, Box<str>)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

const CHARACTERS_MAX: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_stays_verbatim_and_the_pairs_are_sorted() {
        let text = r#"{ "b":"2", "a":"\u9ed8" }"#;
        let context = parse(text).unwrap();
        assert_eq!(context.text(), text);
        assert_eq!(context.pairs(), [("a".into(), "默".into()), ("b".into(), "2".into())]);
    }

    #[test]
    fn only_an_object_of_strings_without_doubles_is_a_context() {
        let texts = [
            "",
            "null",
            "[]",
            "\"a\"",
            "{",
            "{} {}",
            r#"{"a":1}"#,
            r#"{"a":null}"#,
            r#"{"a":["b"]}"#,
            r#"{"a":"1","a":"1"}"#,
            r#"{"a":"1","\u0061":"2"}"#,
            r#"{"a":"\ud800"}"#,
        ];
        for text in texts {
            assert_eq!(parse(text), Err(invalid()), "{text}");
        }
    }

    #[test]
    fn the_limit_counts_characters() {
        let sized = |filler: &str, count: usize| format!(r#"{{"a":"{}"}}"#, filler.repeat(count));
        assert!(parse(&sized("默", 8192 - 8)).is_ok());
        assert_eq!(parse(&sized("默", 8192 - 7)), Err(invalid()));
        assert_eq!(flattened(vec![("a".into(), "x".repeat(8192 - 7).into())]), Err(invalid()));
    }

    #[test]
    fn a_flattened_context_has_one_text_whatever_the_order() {
        let one = flattened(vec![("b".into(), "2".into()), ("a".into(), "\"".into())]).unwrap();
        let other = flattened(vec![("a".into(), "\"".into()), ("b".into(), "2".into())]).unwrap();
        assert_eq!(one, other);
        assert_eq!(one.text(), r#"{"a":"\"","b":"2"}"#);
    }
}
