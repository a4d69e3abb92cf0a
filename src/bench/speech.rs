//! Saying things in the language of a face, and understanding what comes back.

use std::borrow::Cow;
use std::sync::Arc;

use super::deks::Deks;
use super::face::Face;
use super::line::{Reply, Request};
use crate::secret::Secret;

mod aliyun;
mod kubernetes;

/// As whom to sign.
pub(super) struct Signer {
    pub(super) id: String,
    pub(super) secret: Secret,
    pub(super) token: Option<Secret>,
}

/// What all speakers to one target have in common.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) face: Face,
    /// `Host`.
    pub(super) host: String,
    /// The key that encrypts, for the Alibaba faces.
    pub(super) key: String,
    pub(super) signer: Option<Arc<Signer>>,
}

/// Writes requests, into a buffer of its own.
pub(super) enum Speech {
    Aliyun(Box<aliyun::Speaker>),
    Kubernetes(kubernetes::Speaker),
}

impl Speech {
    pub(super) fn new(terms: &Terms) -> Self {
        match terms.face.api() {
            None => Self::Aliyun(Box::new(aliyun::Speaker::new(terms))),
            Some(api) => Self::Kubernetes(kubernetes::Speaker::new(api)),
        }
    }

    /// Asks for one DEK.
    pub(super) fn decrypt<'s>(&'s mut self, deks: &'s Deks, index: u32) -> Request<'s> {
        match self {
            Self::Aliyun(speaker) => Request::Http1(speaker.decrypt(index, deks.wire(index))),
            Self::Kubernetes(speaker) => Request::Grpc(speaker.decrypt_path(), deks.wire(index)),
        }
    }

    /// Whether requests are signed, so that writing them beforehand saves something.
    pub(super) fn is_signed(&self) -> bool {
        matches!(self, Self::Aliyun(speaker) if speaker.is_signed())
    }

    /// Writes the request for one DEK ahead of time. Those that were written are taken in the same order.
    pub(super) fn write_ahead(&mut self, deks: &Deks, index: u32) {
        if let Self::Aliyun(speaker) = self {
            speaker.write_ahead(index, deks.wire(index));
        }
    }

    /// Hands in a DEK.
    pub(super) fn encrypt(&mut self, plain: &[u8]) -> Request<'_> {
        match self {
            Self::Aliyun(speaker) => Request::Http1(speaker.encrypt(plain)),
            Self::Kubernetes(speaker) => speaker.encrypt(plain),
        }
    }

    /// What kube-apiserver asks before all else; the Alibaba faces have nothing like it.
    pub(super) fn greet(&mut self) -> Option<Request<'_>> {
        match self {
            Self::Aliyun(_) => None,
            Self::Kubernetes(speaker) => Some(speaker.greet()),
        }
    }
}

/// What an answer to a Decrypt is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The plaintext that was put in.
    Right,
    /// Another one.
    Wrong,
    /// None; the class is the dialect's code, or what happened to the connection.
    Failed(Cow<'static, str>),
}

/// Holds an answer to a Decrypt against the plaintext.
pub(super) fn judge(reply: &Reply<'_>, plain: &[u8]) -> Verdict {
    match reply {
        Reply::Http(200, body) => aliyun::plaintext(body, plain),
        Reply::Http(status, body) => Verdict::Failed(aliyun::code(*status, body)),
        Reply::Message(message) => kubernetes::plaintext(message, plain),
        Reply::Grpc(code) => Verdict::Failed(kubernetes::code(*code).into()),
        Reply::Lost(why) => Verdict::Failed((*why).into()),
    }
}

/// Whether an answer is one at all, for what is not a Decrypt.
pub(super) fn refused(reply: &Reply<'_>) -> Option<Cow<'static, str>> {
    match reply {
        Reply::Http(200, _) | Reply::Message(_) => None,
        Reply::Http(status, body) => Some(aliyun::code(*status, body)),
        Reply::Grpc(code) => Some(kubernetes::code(*code).into()),
        Reply::Lost(why) => Some((*why).into()),
    }
}

/// What requests carry of the DEK that an answer to an Encrypt wrapped.
///
/// # Errors
/// The class of the failure.
pub(super) fn wrapped(face: Face, reply: &Reply<'_>) -> Result<Vec<u8>, Cow<'static, str>> {
    if let Some(class) = refused(reply) {
        return Err(class);
    }
    let wire = match (reply, face.api()) {
        (Reply::Http(_, body), _) => aliyun::wrapped(body),
        (Reply::Message(message), Some(api)) => kubernetes::wrapped(api, message),
        (Reply::Message(_) | Reply::Grpc(_) | Reply::Lost(_), _) => None,
    };
    wire.ok_or(Cow::Borrowed("no ciphertext"))
}

/// What requests would carry of a DEK whose ciphertext is `blob`, for a target that does not look at it.
pub(super) fn made_up(face: Face, blob: &[u8]) -> Vec<u8> {
    match face.api() {
        None => aliyun::wire(blob),
        Some(api) => kubernetes::made_up(api, blob),
    }
}
