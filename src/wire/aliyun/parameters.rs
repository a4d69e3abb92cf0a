//! The parameters of one request, from query and form body together, as slices of the request.

use std::borrow::Cow;

use super::escape::{Text, check, is_escaped, unescape};
use crate::fault::{Fault, Kind};

/// One parameter. Its value is kept as it came; it is decoded when somebody asks.
pub(super) struct Parameter<'r> {
    name: Cow<'r, str>,
    raw: &'r str,
    /// Whether the value is what stands there: nothing in it is escaped.
    literal: bool,
    in_query: bool,
}

impl<'r> Parameter<'r> {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The value, borrowed where it needs no decoding.
    pub(super) fn value(&self) -> Cow<'r, str> {
        if self.literal {
            return Cow::Borrowed(self.raw);
        }
        unescape(self.raw).expect("values were checked when the parameters were parsed")
    }

    /// Name and value for the canonical form.
    pub(super) fn pair(&self) -> (&str, Text<'r>) {
        (&self.name, Text::Form(self.raw))
    }

    /// Whether it came in the query, which V3 signs by itself, and not in the body.
    pub(super) const fn in_query(&self) -> bool {
        self.in_query
    }
}

/// All parameters, sorted by name in byte order; no name occurs twice, every value can be decoded.
pub(super) struct Parameters<'r>(Vec<Parameter<'r>>);

impl<'r> Parameters<'r> {
    /// Splits `query` and `form`.
    ///
    /// # Errors
    /// [`Kind::Malformed`] for more than 64 parameters and for names that are empty or cannot be decoded;
    /// [`Kind::InvalidParameter`] for values that cannot be decoded and for a name that occurs twice.
    pub(super) fn parse(query: &'r str, form: &'r str) -> Result<Self, Fault> {
        let mut parameters = Vec::with_capacity(USUAL_COUNT);
        for (text, in_query) in [(query, true), (form, false)] {
            for piece in Pieces(Some(text)).filter(|piece| !piece.is_empty()) {
                if parameters.len() == PARAMETERS_MAX {
                    return Err(Fault::caller(Kind::Malformed("it has more than 64 parameters")));
                }
                parameters.push(parameter(piece, in_query)?);
            }
        }
        parameters.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        match parameters.windows(2).find(|two| two[0].name == two[1].name) {
            Some(twice) => Err(invalid(&twice[0].name)),
            None => Ok(Self(parameters)),
        }
    }

    /// The value of `name`.
    pub(super) fn get(&self, name: &str) -> Option<Cow<'r, str>> {
        self.position(name).map(|at| self.0[at].value())
    }

    /// Where `name` stands in [`Parameters::iter`]; below 64.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        // They are few, and hardly two names are equally long: nearly all that is compared is lengths.
        self.0.iter().position(|parameter| parameter.name() == name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Parameter<'r>> {
        self.0.iter()
    }
}

fn parameter(piece: &str, in_query: bool) -> Result<Parameter<'_>, Fault> {
    let (name, raw) = match memchr::memchr(b'=', piece.as_bytes()) {
        Some(at) => (&piece[..at], &piece[at + 1..]),
        None => (piece, ""),
    };
    let name = unescape(name).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Fault::caller(Kind::Malformed("a parameter has no proper name")))?;
    let literal = !is_escaped(raw);
    if literal || check(raw) { Ok(Parameter { name, raw, literal, in_query }) } else { Err(invalid(&name)) }
}

fn invalid(name: &str) -> Fault {
    Fault::caller(Kind::InvalidParameter(name.into()))
}

struct Pieces<'r>(Option<&'r str>);

impl<'r> Iterator for Pieces<'r> {
    type Item = &'r str;

    fn next(&mut self) -> Option<&'r str> {
        let text = self.0?;
        let end = memchr::memchr(b'&', text.as_bytes());
        self.0 = end.map(|at| &text[at + 1..]);
        Some(end.map_or(text, |at| &text[..at]))
    }
}

const PARAMETERS_MAX: usize = 64;
const USUAL_COUNT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(query: &str, form: &str) -> Kind {
        Parameters::parse(query, form).err().unwrap().kind().clone()
    }

    #[test]
    fn query_and_form_are_merged_and_sorted_by_decoded_name() {
        let parameters = Parameters::parse("b=2+%2B&&Z&%61=1&", "B=x%3Dy=").unwrap();
        let pairs: Vec<_> = parameters.iter().map(|one| (one.name(), one.value(), one.in_query())).collect();
        let expected = [("B", "x=y=", false), ("Z", "", true), ("a", "1", true), ("b", "2 +", true)]
            .map(|(n, v, q)| (n, v.into(), q));
        assert_eq!(pairs, expected);
    }

    #[test]
    fn a_doubled_name_is_refused_by_name_wherever_its_copies_stand() {
        for (query, form) in [("a=1&b=2&a=1", ""), ("a=1", "a=1"), ("a=1&%61=2", ""), ("", "b&c&a=&a")] {
            assert_eq!(kind(query, form), Kind::InvalidParameter("a".into()), "{query} {form}");
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        assert_eq!(kind("a=%ff", ""), Kind::InvalidParameter("a".into()));
        assert_eq!(kind("a=%2", ""), Kind::InvalidParameter("a".into()));
        assert_eq!(kind("%ff=a", ""), Kind::Malformed("a parameter has no proper name"));
        assert_eq!(kind("=a", ""), Kind::Malformed("a parameter has no proper name"));
    }

    #[test]
    fn the_sixty_fifth_parameter_is_one_too_many() {
        let many = |count| (0..count).map(|n| format!("p{n}=1&")).collect::<String>();
        assert_eq!(Parameters::parse(&many(40), &many(64)[many(40).len()..]).unwrap().iter().count(), 64);
        assert_eq!(kind(&many(65), ""), Kind::Malformed("it has more than 64 parameters"));
    }
}
