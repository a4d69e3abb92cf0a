//! The status page: one document without anything from elsewhere, that shows what `status` tells. Read-only.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use sha2::{Digest as _, Sha256};

use super::desk::Desk;
use super::refusal::Refusal;
use super::status::Depth;
use super::{json, refused};

/// What is shown for `request`, where it is for the page. Only to who is `near`: comes from this machine.
pub(super) fn shown<B>(
    request: &Request<B>,
    near: bool,
    desk: &Arc<Desk>,
) -> Option<BoxFuture<'static, Response<Full<Bytes>>>> {
    let path = request.uri().path();
    if request.method() != Method::GET || !matches!(path, "/" | "/live") {
        return None;
    }
    let here = near && request.headers().get(HOST).is_none_or(|host| host.to_str().is_ok_and(is_loopback));
    if !here {
        let error = "the status page is for this machine only";
        let remedy = "come over its loopback address, as through `ssh -L`";
        let response = guarded(refused(&Refusal::new(StatusCode::FORBIDDEN, error, remedy)));
        return Some(Box::pin(async move { response }));
    }
    if path == "/" {
        return Some(Box::pin(async { document() }));
    }
    let desk = Arc::clone(desk);
    Some(Box::pin(async move {
        let looking = tokio::task::spawn_blocking(move || json(&desk.status(Depth::Light))).await;
        guarded(looking.unwrap_or_default())
    }))
}

/// Whether a `Host` is one by which a browser of this machine would come here: another name that resolves to it is
/// somebody's trick.
fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|digit| digit.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

fn document() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(PAGE.text.as_bytes())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    guarded(response)
}

fn guarded(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, PAGE.policy.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

struct Page {
    text: String,
    policy: HeaderValue,
}

/// The document, with the hashes of its one style and its one script: nothing else runs there or is fetched, but `/live`.
static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let text = DOCUMENT.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT);
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    Page { text, policy: HeaderValue::from_str(&policy).expect("it is of letters that a header may have") }
});

fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

const DOCUMENT: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_of_this_machine_itself_is_one() {
        for host in ["localhost", "LOCALHOST:9643", "127.0.0.1", "127.0.0.1:9643", "[::1]:9643", "[::1]", "127.8.8.8:1"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["", "example.org", "127.0.0.1.example.org:9643", "10.0.0.1:9643", "localhost.example.org", "0.0.0.0"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn nothing_in_the_page_is_fetched_from_elsewhere_or_run_in_another_way() {
        for absent in ["http:", "https:", "//cdn", " style=", " onclick", "innerHTML", "eval(", "@import", "url("] {
            // The namespace of SVG is a name, and nobody goes there.
            let text = PAGE.text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains(absent), "{absent}");
        }
        assert_eq!(PAGE.text.matches("<script").count(), 1);
        assert_eq!(PAGE.text.matches("<style").count(), 1);
    }
}
