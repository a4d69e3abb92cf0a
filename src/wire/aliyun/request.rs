//! Requests: parsing one in three steps (its parts, who signed it, what it asks), and writing one.

use std::borrow::Cow;

use http::Method;

use super::authorization::{Signing, Unsigned};
use super::escape::{Layer, Length, Sink, escape};
use super::head::{Head, Known};
use super::parameters::Parameters;
use super::signature::FORM;
use super::{blob, call};
use crate::claim::Claim;
use crate::fault::{Fault, Kind};
use crate::kms::{Call, Context, ContextForm, DataKeySize, Extra};
use crate::secret::Secret;
use crate::wire::fields::Fields;

/// One request, split but not yet believed: authenticate its [`Request::claim`] before asking for its
/// [`Request::call`].
pub struct Request<'r> {
    method: &'r Method,
    head: Head<'r>,
    body: &'r [u8],
    parameters: Parameters<'r>,
    signing: Signing<'r>,
}

impl<'r> Request<'r> {
    /// Splits a request to path `/`, borrowing from all its parts. The parameters come from query and form body alike.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] for more than 32 KiB of query or 64 KiB of body; [`Kind::Malformed`],
    /// [`Kind::InvalidParameter`] and [`Kind::MissingParameter`] for what cannot be split, for a parameter that occurs
    /// twice and for a signature of a sort that we do not verify.
    pub fn parse(
        method: &'r Method,
        query: &'r str,
        headers: impl Into<Fields<'r>>,
        body: &'r [u8],
    ) -> Result<Self, Fault> {
        if query.len() > QUERY_BYTES_MAX || body.len() > BODY_BYTES_MAX {
            return Err(Fault::caller(Kind::TooLarge));
        }
        let head = Head::of(headers.into());
        let parameters = Parameters::parse(query, form(method, &head, body)?)?;
        let signing = Signing::find(&head, &parameters)?;
        Ok(Self { method, head, body, parameters, signing })
    }

    /// Who the request says it is from; [`Claim::Anonymous`] where it is not signed.
    ///
    /// # Errors
    /// [`Kind::StaleTimestamp`] for a time of signing that is no time; [`Kind::BadSignature`] where the V3 signature
    /// leaves out what it must cover or the body is not the one that was signed.
    pub fn claim(&self) -> Result<Claim<'_>, Fault> {
        let (method, head, body) = (self.method, &self.head, self.body);
        self.signing.claim(Unsigned { method, parameters: &self.parameters, head, body })
    }

    /// What the request asks.
    ///
    /// # Errors
    /// [`Kind::UnknownAction`] for actions that are not relayed; [`Kind::MissingParameter`] and
    /// [`Kind::InvalidParameter`] by the parameter's name.
    pub fn call(&self) -> Result<Call, Fault> {
        if self.said("Version", Known::Version)? != VERSION {
            return Err(Fault::caller(Kind::InvalidParameter("Version".into())));
        }
        call::decode(&self.said("Action", Known::Action)?, &self.parameters)
    }

    /// A V3 request says it in the signed header, a V1 request in the signed parameter, a request without a signature
    /// in either.
    fn said(&self, parameter: &str, header: Known) -> Result<Cow<'r, str>, Fault> {
        let in_header = || self.head.single(header).map(Cow::Borrowed);
        let said = match self.signing {
            Signing::V3(_) => in_header(),
            Signing::V1(_) => self.parameters.get(parameter),
            Signing::None => self.parameters.get(parameter).or_else(in_header),
        };
        said.ok_or_else(|| Fault::caller(Kind::MissingParameter(parameter.into())))
    }
}

fn form<'r>(method: &Method, head: &Head<'_>, body: &'r [u8]) -> Result<&'r str, Fault> {
    let malformed = |why| Fault::caller(Kind::Malformed(why));
    if body.is_empty() {
        return Ok("");
    }
    if method != Method::POST {
        return Err(malformed("only POST has a body"));
    }
    let is_form = |said: &str| {
        let essence = said.bytes().position(|byte| byte == b';').map_or(said, |end| &said[..end]);
        essence.trim_ascii().eq_ignore_ascii_case(FORM)
    };
    if !head.single(Known::ContentType).is_some_and(is_form) {
        return Err(malformed("its body is not application/x-www-form-urlencoded"));
    }
    std::str::from_utf8(body).map_err(|_| malformed("its body is not UTF-8"))
}

/// The business parameters of `call` as a form body; action and version travel in headers.
#[must_use]
pub fn encode(call: &Call) -> Secret {
    let mut length = Length::default();
    put_call(call, &mut Form::new(&mut length));
    let mut bytes = Vec::with_capacity(length.0);
    put_call(call, &mut Form::new(&mut bytes));
    Secret::new(bytes)
}

fn put_call<S: Sink>(call: &Call, form: &mut Form<'_, S>) {
    match call {
        Call::Decrypt(decrypt) => {
            form.blob("CiphertextBlob", decrypt.ciphertext.bytes());
            form.options(decrypt.context.as_ref(), decrypt.dry_run, &decrypt.extra);
        }
        Call::Encrypt(encrypt) => {
            form.text("KeyId", encrypt.key.as_str());
            form.blob("Plaintext", encrypt.plaintext.expose());
            form.options(encrypt.context.as_ref(), encrypt.dry_run, &encrypt.extra);
        }
        Call::GenerateDataKey(generate) => {
            form.text("KeyId", generate.key.as_str());
            form.size(generate.size);
            form.options(generate.context.as_ref(), generate.dry_run, &generate.extra);
        }
        Call::Read(read) => {
            if let Some(key) = &read.key {
                form.text("KeyId", key.as_str());
            }
            form.options(None, false, &read.extra);
        }
    }
}

/// A form under way.
struct Form<'s, S> {
    sink: &'s mut S,
    begun: bool,
}

impl<'s, S: Sink> Form<'s, S> {
    const fn new(sink: &'s mut S) -> Self {
        Self { sink, begun: false }
    }

    fn name(&mut self, prefix: &str, name: &str) {
        if self.begun {
            self.sink.put(b"&");
        }
        self.begun = true;
        self.sink.put(prefix.as_bytes());
        escape(name.as_bytes(), Layer::Once, self.sink);
        self.sink.put(b"=");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name("", name);
        escape(value.as_bytes(), Layer::Once, self.sink);
    }

    fn blob(&mut self, name: &str, bytes: &[u8]) {
        self.name("", name);
        blob::put_escaped(bytes, self.sink);
    }

    fn size(&mut self, size: DataKeySize) {
        match size {
            DataKeySize::Default => {}
            DataKeySize::Aes128 => self.text("KeySpec", "AES_128"),
            DataKeySize::Aes256 => self.text("KeySpec", "AES_256"),
            DataKeySize::Bytes(count) => self.text("NumberOfBytes", &count.to_string()),
        }
    }

    fn options(&mut self, context: Option<&Context>, dry_run: bool, extra: &Extra) {
        if let Some(context) = context {
            self.context(context);
        }
        if dry_run {
            self.text("DryRun", "true");
        }
        for (name, value) in &extra.0 {
            self.text(name, value);
        }
    }

    fn context(&mut self, context: &Context) {
        match context.form() {
            ContextForm::Json => self.text("EncryptionContext", context.text()),
            ContextForm::Flattened => {
                for (name, value) in context.pairs() {
                    self.name(call::FLATTENED, name);
                    escape(value.as_bytes(), Layer::Once, self.sink);
                }
            }
        }
    }
}

/// The version of the API, and the only one.
pub const VERSION: &str = "2016-01-20";
/// The longest query: 6 KiB of plaintext and 8 KiB of context, each encoded twice, fit.
pub const QUERY_BYTES_MAX: usize = 32 << 10;
/// The longest body.
pub const BODY_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::kms::Action;

    fn call(method: &Method, query: &str, headers: &[(&'static str, &'static str)], body: &[u8]) -> Result<Call, Kind> {
        let headers = headers.iter().map(|&(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        let headers: HeaderMap = headers.collect();
        let called = Request::parse(method, query, &headers, body).and_then(|request| request.call());
        called.map_err(|fault| fault.kind().clone())
    }

    const LIST: &str = "Action=ListKeys&Version=2016-01-20";

    #[test]
    fn without_a_signature_the_action_may_stand_in_either_place() {
        let list = Call::Read(crate::kms::Read { action: Action::ListKeys, key: None, extra: Extra::default() });
        let headers = [("x-acs-action", "ListKeys"), ("x-acs-version", VERSION)];
        assert_eq!(call(&Method::GET, LIST, &[], b""), call(&Method::POST, "", &headers, b""));
        assert_eq!(call(&Method::GET, LIST, &[], b""), Ok(list));
    }

    #[test]
    fn another_version_or_none_is_refused() {
        let other = call(&Method::GET, "Action=ListKeys&Version=2016-01-21", &[], b"");
        assert_eq!(other, Err(Kind::InvalidParameter("Version".into())));
        assert_eq!(call(&Method::GET, "Action=ListKeys", &[], b""), Err(Kind::MissingParameter("Version".into())));
        assert_eq!(call(&Method::GET, "Version=2016-01-20", &[], b""), Err(Kind::MissingParameter("Action".into())));
    }

    #[test]
    fn a_body_is_a_form_of_a_post_or_nothing() {
        let form = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
        assert!(call(&Method::POST, "", &form, LIST.as_bytes()).is_ok());
        let refused = |method, headers: &[_], body: &[u8]| match call(&method, LIST, headers, body) {
            Err(Kind::Malformed(why)) => why,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(Method::GET, &form, b"a=1"), "only POST has a body");
        assert_eq!(refused(Method::POST, &form, b"a=\xff"), "its body is not UTF-8");
        let json = [("content-type", "application/json")];
        assert_eq!(refused(Method::POST, &json, b"{}"), "its body is not application/x-www-form-urlencoded");
        assert_eq!(refused(Method::POST, &[], b"a=1"), "its body is not application/x-www-form-urlencoded");
    }

    #[test]
    fn query_and_body_have_their_limits() {
        let form = [("content-type", FORM)];
        let padded = |bytes: usize| format!("{LIST}&x={}", "y".repeat(bytes - LIST.len() - 3));
        assert!(call(&Method::GET, &padded(QUERY_BYTES_MAX), &[], b"").is_ok());
        assert_eq!(call(&Method::GET, &padded(QUERY_BYTES_MAX + 1), &[], b""), Err(Kind::TooLarge));
        assert!(call(&Method::POST, "", &form, padded(BODY_BYTES_MAX).as_bytes()).is_ok());
        assert_eq!(call(&Method::POST, "", &form, padded(BODY_BYTES_MAX + 1).as_bytes()), Err(Kind::TooLarge));
    }

    #[test]
    fn a_form_is_sized_before_it_is_filled() {
        let extra = Extra(vec![("New".to_owned(), "a b".to_owned())]);
        let plaintext = Secret::copied(&[0xFB; 100]);
        let key = crate::kms::KeyName::new("alias/k");
        let call = Call::Encrypt(crate::kms::Encrypt { key, plaintext, context: None, dry_run: true, extra });
        let form = encode(&call);
        let text = std::str::from_utf8(form.expose()).unwrap();
        assert!(text.starts_with("KeyId=alias%2Fk&Plaintext=%2B%2Fv7") && text.ends_with("&DryRun=true&New=a%20b"));
    }
}
