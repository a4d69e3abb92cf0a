//! Signatures V1 and V3: what a naive signer signs is verified however it is spelled, ordered and split between query
//! and form; and once a name, a value, the method, a header, the body or the secret is another, it is not. An input says
//! which of them: a lie for each execution, since each costs as much as the truth.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use kmsproxy::claim::{Claim, SigningKey};
use kmsproxy::secret::Secret;
use kmsproxy::wire::aliyun::request::Request;
use kmsproxy::wire::aliyun::signature;
use kmsproxy_fuzz::{Choices, Parts, reference};
use libfuzzer_sys::fuzz_target;

type Pairs = Vec<(String, String)>;

fuzz_target!(|input: &[u8]| {
    let (&mode, rest) = input.split_first().unwrap_or((&0, &[]));
    let mut parts = Parts::of(rest);
    let (choices, secret) = (parts.bytes(), parts.text());
    let mut choices = Choices::of(choices);
    let mut pairs: Pairs = Vec::new();
    for (name, value) in parts.pairs().into_iter().take(8) {
        if !name.is_empty() && !reserved(name) && !pairs.iter().any(|(taken, _)| taken == name) {
            pairs.push((name.to_owned(), value.to_owned()));
        }
    }
    if mode & 1 == 0 { v1(pairs, secret, mode >> 1, &mut choices) } else { v3(pairs, secret, mode >> 1, &mut choices) }
});

fn v1(mut pairs: Pairs, secret: &str, lie: u8, choices: &mut Choices<'_>) {
    let common = [
        ("AccessKeyId", "LTAI"),
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureVersion", "1.0"),
        ("Timestamp", "2026-01-02T03:04:05Z"),
    ];
    pairs.extend(common.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let method = if choices.one_of(2) == 0 { Method::GET } else { Method::POST };
    let text = reference::v1_string_to_sign(method.as_str(), &pairs);
    let signature = reference::v1(&text, secret);
    let borrowed: Vec<_> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
    let key = Secret::copied(secret.as_bytes());
    assert_eq!(signature::v1(method.as_str(), &borrowed, &key), signature);

    pairs.push(("Signature".to_owned(), signature));
    let checked = |method: &Method, pairs: &Pairs, secret: &Secret, choices: &mut Choices<'_>| {
        let (query, form) = spelled(pairs, method == Method::POST, choices);
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static(FORM));
        verified(method, &query, &headers, &form, secret)
    };
    let (sound, shown) = checked(&method, &pairs, &key, choices);
    assert!(sound, "{text}");
    let confidential = pairs.iter().any(|(name, _)| CONFIDENTIAL.contains(&&**name));
    assert_eq!(shown, (!confidential).then_some(text));
    match lie % 3 {
        0 => {
            altered(&mut pairs, choices);
            assert!(!checked(&method, &pairs, &key, choices).0, "altered: {pairs:?}");
        }
        1 => {
            let other = if method == Method::GET { Method::POST } else { Method::GET };
            assert!(!checked(&other, &pairs, &key, choices).0, "the method is signed");
        }
        _ => assert!(!checked(&method, &pairs, &another(secret), choices).0, "another secret"),
    }
}

fn v3(mut pairs: Pairs, secret: &str, lie: u8, choices: &mut Choices<'_>) {
    let (query, _) = spelled(&pairs, false, choices);
    let body = pairs.first().map_or("", |(_, value)| value).replace(['%', '+', '&', '='], "_");
    // The body is a parameter's name as well: it must not occur twice, nor make this a claim of V1 too.
    let free = !reserved(&body) && !pairs.iter().any(|(name, _)| *name == body);
    let body = if free { body.into_bytes() } else { Vec::new() };
    let mut headers = HeaderMap::new();
    let hash = reference::hex(&<sha2::Sha256 as sha2::Digest>::digest(&body));
    let extra = ["x-acs-signature-nonce", "x-a", "zeta"];
    let fixed = [
        ("content-type", FORM),
        ("host", "kms.example:8443"),
        ("x-acs-action", "Decrypt"),
        ("x-acs-content-sha256", &*hash),
        ("x-acs-date", "2026-01-02T03:04:05Z"),
        ("x-acs-version", "2016-01-20"),
    ];
    let values = pairs.iter().map(|(name, _)| &**name).chain(["n", " two  words ", "\tx"]);
    for (name, value) in fixed.into_iter().chain(extra.into_iter().zip(values)) {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    let signed = names.join(";");
    let lines: String = names
        .iter()
        .map(|name| format!("{name}:{}\n", String::from_utf8_lossy(headers[*name].as_bytes()).trim_matches(SPACES)))
        .collect();
    let canonical = |pairs: &Pairs| format!("POST\n/\n{}\n{lines}\n{signed}\n{hash}", reference::query(pairs));
    let line = format!(
        "ACS3-HMAC-SHA256 Credential=LTAI,SignedHeaders={signed},Signature={}",
        reference::v3(&canonical(&pairs), secret)
    );
    let mut with = headers.clone();
    with.insert("authorization", HeaderValue::from_str(&line).expect("it is printable"));
    let key = Secret::copied(secret.as_bytes());
    assert!(verified(&Method::POST, &query, &with, &body, &key).0, "{}", canonical(&pairs));
    match lie % 4 {
        0 => {
            altered(&mut pairs, choices);
            let (query, _) = spelled(&pairs, false, choices);
            assert!(!verified(&Method::POST, &query, &with, &body, &key).0, "altered: {pairs:?}");
        }
        1 => {
            let name = &names[choices.one_of(names.len())];
            let (mut other, known) = (with.clone(), HeaderName::from_bytes(name.as_bytes()).expect("it is one"));
            other.insert(known, HeaderValue::from_static("other"));
            assert!(other == with || !verified(&Method::POST, &query, &other, &body, &key).0, "{name} is signed");
        }
        2 => {
            let longer = [&body[..], b"x=1"].concat();
            assert!(!verified(&Method::POST, &query, &with, &longer, &key).0, "the body is signed");
        }
        _ => assert!(!verified(&Method::POST, &query, &with, &body, &another(secret)).0, "another secret"),
    }
}

fn another(secret: &str) -> Secret {
    Secret::copied(format!("{secret}x").as_bytes())
}

fn verified(method: &Method, query: &str, headers: &HeaderMap, body: &[u8], secret: &Secret) -> (bool, Option<String>) {
    let parsed = Request::parse(method, query, headers, body);
    parsed.map_or((false, None), |request| match request.claim() {
        Ok(Claim::Signed(signed)) => {
            let key = SigningKey::new(secret).expect("there is room for one");
            (signed.proof.verify(&key), signed.proof.string_to_sign())
        }
        Ok(Claim::Anonymous) | Err(_) => (false, None),
    })
}

/// Another meaning: a name or a value gets a character more or, where it has one, loses its last.
fn altered(pairs: &mut Pairs, choices: &mut Choices<'_>) {
    let Some(at) = pairs.len().checked_sub(1).map(|last| choices.one_of(last + 1)) else {
        return pairs.push(("more".to_owned(), String::new()));
    };
    let (name, value) = &mut pairs[at];
    match choices.one_of(3) {
        0 => value.push('x'),
        1 if value.pop().is_some() => {}
        _ => name.push('x'),
    }
}

/// The pairs in some order, each part in some spelling, in the query or, where that may be, in a form.
fn spelled(pairs: &Pairs, in_form: bool, choices: &mut Choices<'_>) -> (String, Vec<u8>) {
    let (mut query, mut form) = (String::new(), String::new());
    let mut left: Vec<_> = pairs.iter().collect();
    while !left.is_empty() {
        let (name, value) = left.swap_remove(choices.one_of(left.len()));
        let place = if in_form && choices.one_of(2) == 1 { &mut form } else { &mut query };
        *place += &format!("{}={}&", spelling(name, choices), spelling(value, choices));
    }
    (query, form.into_bytes())
}

fn spelling(text: &str, choices: &mut Choices<'_>) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let must = matches!(c, '%' | '+' | '&' | '=');
        match (c, choices.one_of(4)) {
            (' ', 1 | 2) => out.push('+'),
            (_, 0) | (_, 1) if !must => out.push(c),
            (_, case) => {
                let digit = |value: u8| {
                    char::from(if case == 2 { b"0123456789abcdef" } else { b"0123456789ABCDEF" }[usize::from(value)])
                };
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
                }
            }
        }
    }
    out
}

fn reserved(name: &str) -> bool {
    RESERVED.iter().any(|reserved| name.starts_with(reserved))
}

const FORM: &str = "application/x-www-form-urlencoded";
/// What begins the name of a parameter that means something to a signature.
const RESERVED: [&str; 4] = ["Signature", "AccessKeyId", "Timestamp", "BearerToken"];
const CONFIDENTIAL: [&str; 5] = ["BearerToken", "CiphertextBlob", "Plaintext", "STSToken", "SecurityToken"];
const SPACES: [char; 5] = [' ', '\t', '\n', '\r', '\x0c'];
