//! Who answers on a listener of HTTP/1.1.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::{Body, Incoming};

use super::said::Said;
use crate::claim::Peer;
use crate::wire::brief;

/// Who answers on a listener of HTTP/1.1: any function from a request to an answer; and whoever also understands brief
/// requests, which go past hyper.
pub trait Service: Clone + Send + Sync + 'static {
    /// What remains of a brief request once it has been heard.
    type Heard: Send;
    /// The body of an answer by way of hyper.
    type Body: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    /// Answers a request that hyper has read.
    fn answer(
        &self,
        peer: Arc<Peer>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send + 'static;

    /// Takes in a brief request, which is wiped before anything is waited for. `None` where it is to go by way of hyper.
    fn hear(&self, peer: &Peer, request: &brief::Request<'_>) -> Option<Self::Heard>;

    /// Answers what was heard.
    fn answer_heard(&self, peer: &Peer, heard: Self::Heard) -> impl Future<Output = Said> + Send;
}

impl<S, F, B> Service for S
where
    S: Fn(Arc<Peer>, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    type Heard = Infallible;
    type Body = B;

    fn answer(
        &self,
        peer: Arc<Peer>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<B>> + Send + 'static {
        self(peer, request)
    }

    fn hear(&self, _: &Peer, _: &brief::Request<'_>) -> Option<Infallible> {
        None
    }

    async fn answer_heard(&self, _: &Peer, heard: Infallible) -> Said {
        match heard {}
    }
}
