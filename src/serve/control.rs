//! A small JSON API over HTTP/1.1 that steers the embedded KMS. It is not Alibaba's: disable a key, make the KMS slow,
//! count its calls.
//!
//! Whoever reaches it may do all of it, so it belongs on a unix socket and nowhere else. It never shows key material.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::upstream::local::{Behaviour, ChangeError, Local, NewKey, NotFound};

/// Answers one request; for `hyper::service::service_fn`. Changes of keys wait for the disk, on a thread that may.
///
/// # Errors
/// None: every failure is a response, with `{"error": "what, and what to do"}`.
pub async fn respond<B>(local: Arc<Local>, request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: Body + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let asked = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Asked::new(&head, body.to_bytes()),
        Err(error) => return Ok(unread(&*error).response()),
    };
    let answered = tokio::task::spawn_blocking(move || asked.and_then(|asked| asked.obey(&local))).await;
    let answered = answered.unwrap_or_else(|_| Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "a defect here")));
    Ok(answered.map_or_else(Refusal::response, |value| json_response(StatusCode::OK, &value)))
}

/// One line of the API.
struct Route {
    method: Method,
    /// `{key}` stands for a key's id, ARN or alias, slashes and all.
    path: &'static str,
    handler: Handler,
}

type Handler = fn(&Local, &Asked) -> Result<Value, Refusal>;

const ROUTES: &[Route] = &[
    Route { method: Method::GET, path: "/keys", handler: list_keys },
    Route { method: Method::POST, path: "/keys", handler: create_key },
    Route { method: Method::POST, path: "/keys/{key}/disable", handler: disable },
    Route { method: Method::POST, path: "/keys/{key}/enable", handler: enable },
    Route { method: Method::POST, path: "/keys/{key}/rotate", handler: rotate },
    Route { method: Method::POST, path: "/keys/{key}/schedule-deletion", handler: schedule_deletion },
    Route { method: Method::POST, path: "/keys/{key}/cancel-deletion", handler: cancel_deletion },
    Route { method: Method::GET, path: "/behaviour", handler: behaviour },
    Route { method: Method::PUT, path: "/behaviour", handler: behave },
    Route { method: Method::GET, path: "/calls", handler: calls },
    Route { method: Method::POST, path: "/calls/reset", handler: reset_calls },
    Route { method: Method::GET, path: "/decisions", handler: decisions },
];

impl Route {
    /// What stands for `{key}` in `path`, empty where the route has no key; `None` where it is another path.
    fn key<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self.path.split_once("{key}") {
            Some((before, after)) => path.strip_prefix(before)?.strip_suffix(after).filter(|key| !key.is_empty()),
            None => (path == self.path).then_some(""),
        }
    }
}

/// A request whose path and method are known.
struct Asked {
    handler: Handler,
    key: String,
    query: String,
    body: Bytes,
}

impl Asked {
    fn new(head: &http::request::Parts, body: Bytes) -> Result<Self, Refusal> {
        let path = head.uri.path();
        let here: Vec<_> = ROUTES.iter().filter_map(|route| Some((route, route.key(path)?))).collect();
        let Some((route, key)) = here.iter().find(|(route, _)| route.method == head.method) else {
            return Err(if here.is_empty() { Refusal::no_such_path() } else { Refusal::wrong_method(&here) });
        };
        // The only characters of a key's name that a client may think it must escape.
        let key = key.replace("%2F", "/").replace("%2f", "/").replace("%3A", ":").replace("%3a", ":");
        let query = head.uri.query().unwrap_or_default().to_owned();
        Ok(Self { handler: route.handler, key, query, body })
    }

    fn obey(&self, local: &Local) -> Result<Value, Refusal> {
        (self.handler)(local, self)
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Refusal::new(StatusCode::BAD_REQUEST, &format!("the body is not the JSON that belongs here: {error}"))
        })
    }
}

fn list_keys(local: &Local, _: &Asked) -> Result<Value, Refusal> {
    Ok(json!({ "keys": local.list() }))
}

fn create_key(local: &Local, asked: &Asked) -> Result<Value, Refusal> {
    let wanted = if asked.body.is_empty() { NewKey::default() } else { asked.read()? };
    let key = local.create_key(&wanted)?;
    show(local, key.as_str())
}

fn disable(local: &Local, asked: &Asked) -> Result<Value, Refusal> {
    show(local, local.disable(&asked.key)?.as_str())
}

fn enable(local: &Local, asked: &Asked) -> Result<Value, Refusal> {
    show(local, local.enable(&asked.key)?.as_str())
}

fn rotate(local: &Local, asked: &Asked) -> Result<Value, Refusal> {
    local.rotate(&asked.key)?;
    show(local, &asked.key)
}

fn schedule_deletion(local: &Local, asked: &Asked) -> Result<Value, Refusal> {
    let days = asked.query.strip_prefix("days=").and_then(|days| days.parse().ok());
    let Some(days) = days else {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "say after how many days: schedule-deletion?days=7"));
    };
    show(local, local.schedule_deletion(&asked.key, days)?.as_str())
}

fn cancel_deletion(local: &Local, asked: &Asked) -> Result<Value, Refusal> {
    show(local, local.cancel_deletion(&asked.key)?.as_str())
}

fn behaviour(local: &Local, _: &Asked) -> Result<Value, Refusal> {
    Ok(json!(local.behaviour()))
}

fn behave(local: &Local, asked: &Asked) -> Result<Value, Refusal> {
    local.behave(asked.read::<Behaviour>()?);
    behaviour(local, asked)
}

fn calls(local: &Local, _: &Asked) -> Result<Value, Refusal> {
    Ok(json!(local.calls()))
}

fn reset_calls(local: &Local, asked: &Asked) -> Result<Value, Refusal> {
    local.reset_calls();
    calls(local, asked)
}

fn decisions(local: &Local, _: &Asked) -> Result<Value, Refusal> {
    Ok(json!({ "decisions": local.decisions() }))
}

fn show(local: &Local, key: &str) -> Result<Value, Refusal> {
    Ok(json!(local.listed(key)?))
}

/// Why a request was not obeyed.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    error: String,
    allow: Option<HeaderValue>,
}

impl Refusal {
    fn new(status: StatusCode, error: &str) -> Self {
        Self { status, error: error.to_owned(), allow: None }
    }

    fn no_such_path() -> Self {
        let mut paths: Vec<_> = ROUTES.iter().map(|route| route.path).collect();
        paths.dedup();
        Self::new(StatusCode::NOT_FOUND, &format!("no such path: there are {}", paths.join(", ")))
    }

    fn wrong_method(here: &[(&Route, &str)]) -> Self {
        let methods: Vec<_> = here.iter().map(|(route, _)| route.method.as_str()).collect();
        let methods = methods.join(", ");
        let error = format!("this path takes {methods}");
        let allow = Some(HeaderValue::try_from(methods).expect("method names are header text"));
        Self { status: StatusCode::METHOD_NOT_ALLOWED, error, allow }
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut response = json_response(self.status, &json!({ "error": self.error }));
        response.headers_mut().extend(self.allow.map(|allow| (ALLOW, allow)));
        response
    }
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        let status = match &error {
            ChangeError::NotFound(_) => StatusCode::NOT_FOUND,
            ChangeError::StateModifiedFailed(_) | ChangeError::AliasTaken | ChangeError::LimitExceeded(..) => {
                StatusCode::CONFLICT
            }
            ChangeError::BadAlias | ChangeError::BadWindow => StatusCode::BAD_REQUEST,
            ChangeError::Save(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, &error.to_string())
    }
}

impl From<NotFound> for Refusal {
    fn from(missing: NotFound) -> Self {
        ChangeError::from(missing).into()
    }
}

fn unread(error: &(dyn std::error::Error + 'static)) -> Refusal {
    if error.is::<LengthLimitError>() {
        let error = format!("the body is over {BODY_BYTES_MAX} bytes: nothing here needs so much");
        return Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, &error);
    }
    Refusal::new(StatusCode::BAD_REQUEST, "the body ended early: send it again")
}

fn json_response(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut body = value.to_string();
    body.push('\n');
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

const BODY_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::clock::Manual;

    fn kms() -> Arc<Local> {
        let local = Local::in_memory(Arc::new(Manual::at(Timestamp::UNIX_EPOCH)));
        local.ensure_default_key().unwrap();
        local
    }

    async fn send(local: &Arc<Local>, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path).body(Full::<Bytes>::from(body.to_owned())).unwrap();
        let Ok(response) = respond(Arc::clone(local), request).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_key_is_made_and_led_through_its_states_by_alias_or_id() {
        let local = kms();
        let wanted = r#"{"alias":"alias/a/b","protection_level":"HSM"}"#;
        let (status, made) = send(&local, Method::POST, "/keys", wanted).await;
        assert_eq!((status, &made["protection_level"]), (StatusCode::OK, &json!("HSM")));
        let id = made["key_id"].as_str().unwrap().to_owned();
        let steps = [
            ("/keys/alias/a/b/disable".to_owned(), "Disabled"),
            ("/keys/alias%2Fa%2Fb/enable".to_owned(), "Enabled"),
            (format!("/keys/{id}/rotate"), "Enabled"),
            (
                format!("/keys/acs:kms:cn-hangzhou:1000000000000001:key/{id}/schedule-deletion?days=7"),
                "PendingDeletion",
            ),
            (format!("/keys/{id}/cancel-deletion"), "Enabled"),
        ];
        for (path, state) in steps {
            let (status, key) = send(&local, Method::POST, &path, "").await;
            assert_eq!((status, &key["state"]), (StatusCode::OK, &json!(state)), "{path}: {key}");
        }
        let (_, listed) = send(&local, Method::GET, "/keys", "").await;
        let mine = listed["keys"].as_array().unwrap().iter().find(|key| key["key_id"] == id.as_str()).unwrap();
        assert_eq!(mine["versions"].as_array().unwrap().len(), 2);
        assert_eq!(listed["keys"].as_array().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn behaviour_is_replaced_whole_and_read_back() {
        let local = kms();
        let body = r#"{"latency":"20ms","error_rate":0.1,"quota":100,"stall":false}"#;
        let expected = json!({"latency":"20ms","jitter":"0s","error_rate":0.1,"quota":100,"stall":false});
        assert_eq!(send(&local, Method::PUT, "/behaviour", body).await, (StatusCode::OK, expected.clone()));
        for wrong in [r#"{"stal":true}"#, r#"{"error_rate":2}"#, r#"{"latency":"soon"}"#, r#"{"quota":-1}"#, ""] {
            let (status, answer) = send(&local, Method::PUT, "/behaviour", wrong).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}: {answer}");
        }
        assert_eq!(send(&local, Method::GET, "/behaviour", "").await.1, expected);
    }

    #[tokio::test]
    async fn calls_and_decisions_are_read_and_calls_are_reset() {
        let local = kms();
        let none = json!({"remote_calls":0,"under_way":0,"outcomes":{}});
        assert_eq!(send(&local, Method::GET, "/calls", "").await, (StatusCode::OK, none.clone()));
        assert_eq!(send(&local, Method::POST, "/calls/reset", "").await, (StatusCode::OK, none));
        let id = local.list()[0].key_id.clone();
        let made = json!({"decisions":[{"at_ns":3_600_000_000_000_u64,"action":"CreateKey","key":id,"outcome":"ok"}]});
        assert_eq!(send(&local, Method::GET, "/decisions", "").await, (StatusCode::OK, made));
    }

    #[tokio::test]
    async fn each_refusal_has_its_status_and_says_what_to_do() {
        let local = kms();
        let dev = "/keys/alias/kmsproxy-dev";
        let long = " ".repeat(BODY_BYTES_MAX + 1);
        let unknown = r#"{"material":"mine"}"#;
        let taken = r#"{"alias":"alias/kmsproxy-dev"}"#;
        let cases = [
            (Method::GET, "/nothing", "", StatusCode::NOT_FOUND),
            (Method::POST, "/keys//disable", "", StatusCode::NOT_FOUND),
            (Method::POST, "/keys/key-none/disable", "", StatusCode::NOT_FOUND),
            (Method::DELETE, "/keys", "", StatusCode::METHOD_NOT_ALLOWED),
            (Method::POST, "/keys", unknown, StatusCode::BAD_REQUEST),
            (Method::POST, "/keys", taken, StatusCode::CONFLICT),
            (Method::POST, "/keys", &long, StatusCode::PAYLOAD_TOO_LARGE),
            (Method::POST, &format!("{dev}/cancel-deletion"), "", StatusCode::CONFLICT),
            (Method::POST, &format!("{dev}/schedule-deletion"), "", StatusCode::BAD_REQUEST),
            (Method::POST, &format!("{dev}/schedule-deletion?days=6"), "", StatusCode::BAD_REQUEST),
        ];
        let before = local.list();
        for (method, path, body, expected) in cases {
            let (status, answer) = send(&local, method, path, body).await;
            assert_eq!(status, expected, "{path}: {answer}");
            assert!(answer["error"].as_str().is_some_and(|error| error.len() > 20), "{path}: {answer}");
        }
        assert_eq!(local.list(), before);
    }

    #[tokio::test]
    async fn a_wrong_method_is_told_the_right_ones() {
        let request =
            Request::builder().method(Method::PATCH).uri("/behaviour").body(Full::<Bytes>::default()).unwrap();
        let Ok(response) = respond(kms(), request).await;
        assert_eq!(response.headers()[ALLOW], "GET, PUT");
    }
}
