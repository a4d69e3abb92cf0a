//! The parameters of one request, from query and form body together, as slices of the request.

use std::borrow::Cow;

use super::escape::{Spelling, Text};
use crate::fault::{Fault, Kind};

/// One parameter. Its value is kept as it came; it is decoded when somebody asks.
pub(super) struct Parameter<'r> {
    /// The first eight bytes of the name, by which most names are told apart and sorted without a look at the rest.
    order: u64,
    name: Cow<'r, str>,
    raw: &'r str,
    /// Of the value.
    spelling: Spelling,
    in_query: bool,
}

impl<'r> Parameter<'r> {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn is(&self, order: u64, name: &str) -> bool {
        self.order == order && self.name == name
    }

    /// The value, borrowed where it needs no decoding.
    pub(super) fn value(&self) -> Cow<'r, str> {
        self.spelling.read(self.raw).expect("values were checked when the parameters were parsed")
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
            for piece in Pieces(Some(text)).filter(|piece| !piece.text.is_empty()) {
                if parameters.len() == PARAMETERS_MAX {
                    return Err(Fault::caller(Kind::Malformed("it has more than 64 parameters")));
                }
                parameters.push(piece.parameter(in_query)?);
            }
        }
        parameters.sort_unstable_by(|one, other| one.order.cmp(&other.order).then_with(|| one.name.cmp(&other.name)));
        match parameters.windows(2).find(|two| two[0].is(two[1].order, &two[1].name)) {
            Some(twice) => Err(invalid(&twice[0].name)),
            None => Ok(Self(parameters)),
        }
    }

    /// The value of `name`.
    pub(super) fn get(&self, name: &str) -> Option<Cow<'r, str>> {
        self.position(name).map(|at| self.value(at))
    }

    /// The value of the one that stands at `at`.
    pub(super) fn value(&self, at: usize) -> Cow<'r, str> {
        self.0[at].value()
    }

    /// Where `name` stands in [`Parameters::iter`]; below 64.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        let order = order(name);
        self.0.iter().position(|parameter| parameter.is(order, name))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Parameter<'r>> {
        self.0.iter()
    }
}

fn invalid(name: &str) -> Fault {
    Fault::caller(Kind::InvalidParameter(name.into()))
}

/// The first eight bytes of `name`, to be compared as the bytes are.
fn order(name: &str) -> u64 {
    let mut first = [0; 8];
    let length = name.len().min(first.len());
    first[..length].copy_from_slice(&name.as_bytes()[..length]);
    u64::from_be_bytes(first)
}

/// What stands before an `&`, and what was seen of it on the way there.
struct Piece<'r> {
    text: &'r str,
    /// Where the name ends.
    equals: Option<usize>,
    name: Spelling,
    value: Spelling,
}

impl<'r> Piece<'r> {
    fn parameter(self, in_query: bool) -> Result<Parameter<'r>, Fault> {
        let (name, raw) = match self.equals {
            Some(at) => (&self.text[..at], &self.text[at + 1..]),
            None => (self.text, ""),
        };
        let name = self.name.read(name).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Fault::caller(Kind::Malformed("a parameter has no proper name")))?;
        if !self.value.holds(raw) {
            return Err(invalid(&name));
        }
        Ok(Parameter { order: order(&name), name, raw, spelling: self.value, in_query })
    }
}

struct Pieces<'r>(Option<&'r str>);

impl<'r> Iterator for Pieces<'r> {
    type Item = Piece<'r>;

    fn next(&mut self) -> Option<Piece<'r>> {
        let text = self.0.take()?;
        let bytes = text.as_bytes();
        let mut piece = Piece { text, equals: None, name: Spelling::Literal, value: Spelling::Literal };
        // Names are short, values may be long: so these are looked at byte by byte, and those are searched.
        let of_name = bytes.iter().enumerate().filter(|(_, byte)| matches!(byte, b'&' | b'=' | b'%' | b'+'));
        for (at, byte) in of_name {
            match byte {
                b'&' => return Some(self.cut(piece, at)),
                b'=' => {
                    piece.equals = Some(at);
                    break;
                }
                _ => piece.name = Spelling::first_of(&bytes[at..]).max(piece.name),
            }
        }
        let from = piece.equals.map_or(text.len(), |at| at + 1);
        for at in memchr::memchr3_iter(b'&', b'%', b'+', &bytes[from..]).map(|at| from + at) {
            if bytes[at] == b'&' {
                return Some(self.cut(piece, at));
            }
            piece.value = Spelling::first_of(&bytes[at..]).max(piece.value);
        }
        Some(piece)
    }
}

impl<'r> Pieces<'r> {
    fn cut(&mut self, piece: Piece<'r>, at: usize) -> Piece<'r> {
        self.0 = Some(&piece.text[at + 1..]);
        Piece { text: &piece.text[..at], ..piece }
    }
}

const PARAMETERS_MAX: usize = 64;
const USUAL_COUNT: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::aliyun::escape::unescape;

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

    /// The same, one step after the other.
    fn plainly(text: &str) -> Result<Vec<(String, String)>, Kind> {
        let mut pairs = Vec::new();
        for piece in text.split('&').filter(|piece| !piece.is_empty()) {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            let name = unescape(name).filter(|name| !name.is_empty());
            let name = name.ok_or(Kind::Malformed("a parameter has no proper name"))?.into_owned();
            let value = unescape(value).ok_or_else(|| Kind::InvalidParameter(name.as_str().into()))?;
            pairs.push((name, value.into_owned()));
        }
        pairs.sort_unstable();
        let twice = pairs.windows(2).find(|two| two[0].0 == two[1].0);
        twice.map_or(Ok(()), |twice| Err(Kind::InvalidParameter(twice[0].0.as_str().into())))?;
        Ok(pairs)
    }

    const TEXT: &str =
        "(([ab\0+]|%[0-6][0-9]|Signature|%[a-f]f){0,2}=?([ab=+]|%[0-6][0-9]|%[c-f]f|%4|%c3%a9){0,4}&?){0,4}";

    proptest! {
        #[test]
        fn what_is_read_in_one_go_is_what_is_read_step_by_step(text in TEXT) {
            let read = Parameters::parse(&text, "").map_err(|fault| fault.kind().clone());
            let read = read.map(|all| all.iter().map(|one| (one.name().to_owned(), one.value().into_owned())).collect());
            prop_assert_eq!(read, plainly(&text));
        }
    }
}
