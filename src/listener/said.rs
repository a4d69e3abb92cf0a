//! An answer of HTTP/1.1.

mod date;

use http::StatusCode;
use jiff::Timestamp;

use self::date::date;
use crate::kms::RequestId;
use crate::secret::Secret;
use crate::wire::brief;

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
        let id = id.visible();
        let all =
            [("content-type", self.content_type.as_bytes()), ("date", date.bytes()), (*field, id.unwrap_or_default())];
        let told = if id.is_some() { &all[..] } else { &all[..2] };
        let mut bytes = Vec::with_capacity(HEAD_BYTES + id.map_or(0, <[u8]>::len) + self.body.len());
        brief::put_head(self.status, told, self.body.len(), closes, &mut bytes);
        bytes.extend_from_slice(self.body.expose());
        bytes
    }
}

/// Of an answer's head, but for the request's id. Nothing is lost where it is longer, but time.
const HEAD_BYTES: usize = 256;
