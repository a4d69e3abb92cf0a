//! An answer of HTTP/1.1.

mod date;

use http::StatusCode;
use jiff::Timestamp;

use self::date::date;
use crate::kms::RequestId;
use crate::secret::Secret;
use crate::wire::brief;
use crate::wire::fields::is_value;

/// An answer, in the parts of which HTTP is made.
#[derive(Debug)]
pub struct Said {
    /// 200, or what went wrong.
    pub status: StatusCode,
    /// The media type of the body.
    pub content_type: &'static str,
    /// The request's id, and the field in which the dialect tells it. Left out where it has characters that no field may have.
    pub request_id: (&'static str, RequestId),
    /// The body.
    pub body: Secret,
    /// When it was made.
    pub at: Timestamp,
    /// Whether the connection is of no more use.
    pub closes: bool,
    /// As the extension [`super::Confidential`] of other answers.
    pub confidential: bool,
}

impl Said {
    /// Its bytes, head and body. The allocator wipes them.
    #[must_use]
    pub fn bytes(&self, closes: bool) -> Vec<u8> {
        let ((field, id), date) = (&self.request_id, date(self.at));
        let id = id.text();
        let all = [("content-type", self.content_type.as_bytes()), ("date", date.bytes()), (*field, id.as_bytes())];
        let told = if is_value(id.as_bytes()) { &all[..] } else { &all[..2] };
        let mut bytes = Vec::with_capacity(HEAD_BYTES + id.len() + self.body.len());
        brief::put_head(self.status, told, self.body.len(), closes, &mut bytes);
        bytes.extend_from_slice(self.body.expose());
        bytes
    }
}

/// Of an answer's head, but for the request's id. Nothing is lost where it is longer, but time.
const HEAD_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_told_where_a_field_can_have_it_as_by_way_of_hyper() {
        for id in ["475f1620-b9d3-4d35-b5c6-3fbdd941423d", "r 1", "r\t1", "r\r\n1", "r\u{7f}", "é", "\0"] {
            let request_id = ("x-acs-request-id", RequestId::new(id));
            let (status, body, at) = (StatusCode::OK, Secret::copied(b"{}"), Timestamp::UNIX_EPOCH);
            let (content_type, closes, confidential) = ("application/json", false, false);
            let said = Said { status, content_type, request_id, body, at, closes, confidential };
            let bytes = String::from_utf8(said.bytes(false)).unwrap();
            let told = bytes.contains(&format!("\r\nx-acs-request-id: {id}\r\n"));
            // What hyper's way asks of an id before it makes a field of it.
            let possible = http::HeaderValue::from_str(id).is_ok();
            assert_eq!((told, bytes.contains("x-acs-request-id")), (possible, possible), "{id:?}");
        }
    }
}
