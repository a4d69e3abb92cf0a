//! What is told of single requests: spans, as OpenTelemetry has them, in the trace that whoever asks has begun.
//!
//! A face asks its [`Tracer`] once for each request whether there is to be a [`Span`]. Where there is none, because tracing is
//! off or the request is not sampled, what follows is the check of an `Option` here and there. Where there is one, it goes
//! along with the caller, and whoever learns something notes it: words of a closed list ([`Attribute`]), so that what can
//! leave the node in a span is read in one place. A span that has ended lies in a bounded list until it is sent.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use jiff::Timestamp;
use uuid::Uuid;

use crate::clock::{Clock, Moment};

mod attribute;
mod context;
mod ended;

pub use attribute::{Attribute, Value};
pub use context::{Context, Parent, STATE_BYTES_MAX, TRACEPARENT, TRACESTATE, state};
pub use ended::{BATCH, Ended, Kind, Spans};

/// What begins spans for a face, or for all of them. Cheap to clone; off, it is nothing.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Sampler>>);

/// Which requests have a span.
#[derive(Debug)]
struct Sampler {
    spans: Arc<Spans>,
    clock: Arc<dyn Clock>,
    /// Of 2⁵⁶ traces that begin here, how many are sampled.
    sampled: u64,
}

impl Tracer {
    /// Begins no span, ever.
    #[must_use]
    pub const fn off() -> Self {
        Self(None)
    }

    /// Begins a span for each request whose parent is sampled, and for the `share` (0 to 1) of those that have no parent; what
    /// has ended goes into `spans`.
    #[must_use]
    pub fn new(spans: Arc<Spans>, clock: Arc<dyn Clock>, share: f64) -> Self {
        // A share of 1 is 2⁵⁶, which no draw reaches.
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
        let sampled = (share.clamp(0.0, 1.0) * (DRAWS as f64)) as u64;
        Self(Some(Arc::new(Sampler { spans, clock, sampled })))
    }

    /// Whether no request has a span.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.0.is_none()
    }

    /// The span of a request with these headers, if it is to have one: its parent decides, or, where it brings none, a draw. A
    /// parent that is not well formed is none.
    #[inline]
    #[must_use]
    pub fn begin(&self, headers: &HeaderMap) -> Option<Span> {
        self.0.as_deref()?.begin(headers)
    }
}

impl Sampler {
    #[cold]
    fn begin(&self, headers: &HeaderMap) -> Option<Span> {
        let (context, parent) = match Parent::read(headers) {
            Some(parent) if !parent.sampled => return None,
            Some(parent) => {
                let state = state(headers).map(Arc::from);
                (Context { trace: parent.trace, span: draw(), state }, Some(parent.span))
            }
            None => (self.root()?, None),
        };
        let (spans, clock) = (Arc::clone(&self.spans), Arc::clone(&self.clock));
        Some(Span::open(spans, clock, Origin { context, parent, remote: parent.is_some(), kind: Kind::Server }))
    }

    fn root(&self) -> Option<Context> {
        if self.sampled == 0 {
            return None;
        }
        // Its last seven bytes are random as a whole, which is what the W3C asks of an id that is drawn by.
        let trace = Uuid::new_v4().into_bytes();
        let drawn = u64::from_be_bytes(*trace.last_chunk().expect("a UUID has 16 bytes")) % DRAWS;
        (drawn < self.sampled).then(|| Context { trace, span: draw(), state: None })
    }
}

/// A span that has begun. All clones are that one span; it ends once. One that nobody ends, because its request was given up
/// on, ends as `abandoned` with the last clone.
#[derive(Clone)]
pub struct Span(Arc<Open>);

struct Open {
    spans: Arc<Spans>,
    clock: Arc<dyn Clock>,
    origin: Origin,
    begun: (Moment, Timestamp),
    /// None once it has ended.
    said: Mutex<Option<Said>>,
    /// The last call that was made for it; kept beyond its end, since a flight outlives who launched it.
    called: Mutex<Option<Context>>,
}

struct Origin {
    context: Context,
    parent: Option<[u8; 8]>,
    /// Whether the parent is another process's.
    remote: bool,
    kind: Kind,
}

#[derive(Default)]
struct Said {
    name: Option<&'static str>,
    attributes: Vec<Attribute>,
    links: Vec<Context>,
}

impl Span {
    fn open(spans: Arc<Spans>, clock: Arc<dyn Clock>, origin: Origin) -> Self {
        let begun = (clock.now(), clock.wall());
        let said = Mutex::new(Some(Said::default()));
        Self(Arc::new(Open { spans, clock, origin, begun, said, called: Mutex::default() }))
    }

    /// Calls it by what was asked for; until then it is [`UNNAMED`].
    pub fn name(&self, name: &'static str) {
        self.0.say(|said| said.name = Some(name));
    }

    /// Notes something; in the place of what was noted before of the same kind. Nothing, once it has ended.
    pub fn note(&self, attribute: Attribute) {
        self.0.say(|said| said.note(attribute));
    }

    /// Notes that what was asked for is answered by `flight`, which has another parent. A few; more are passed over.
    pub fn link(&self, flight: &Context) {
        self.0.say(|said| {
            if said.links.len() < LINKS_MAX {
                said.links.push(flight.clone());
            }
        });
    }

    /// The span of a call to a KMS that is made for this one.
    #[must_use]
    pub fn call(&self, name: &'static str) -> Self {
        let own = &self.0.origin.context;
        let context = Context { trace: own.trace, span: draw(), state: own.state.clone() };
        *self.0.called() = Some(context.clone());
        let origin = Origin { context, parent: Some(own.span), remote: false, kind: Kind::Client };
        let call = Self::open(Arc::clone(&self.0.spans), Arc::clone(&self.0.clock), origin);
        call.name(name);
        call
    }

    /// The last call that was made for it, if any was.
    #[must_use]
    pub fn called(&self) -> Option<Context> {
        self.0.called().clone()
    }

    /// Ends it; whether it `failed`, as OpenTelemetry understands that, is for whoever knows the dialect.
    pub fn end(&self, failed: bool) {
        self.0.end(failed);
    }
}

impl Open {
    fn say(&self, say: impl FnOnce(&mut Said)) {
        if let Some(said) = self.lock().as_mut() {
            say(said);
        }
    }

    fn end(&self, failed: bool) {
        let Some(said) = self.lock().take() else { return };
        let Origin { context, parent, remote, kind } = &self.origin;
        self.spans.put(Ended {
            context: context.clone(),
            parent: *parent,
            remote: *remote,
            kind: *kind,
            name: said.name.unwrap_or(UNNAMED),
            begun: self.begun.1,
            took: self.clock.now().since(self.begun.0),
            attributes: said.attributes,
            links: said.links,
            failed,
        });
    }

    fn lock(&self) -> MutexGuard<'_, Option<Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn called(&self) -> MutexGuard<'_, Option<Context>> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.say(|said| said.note(Attribute::Outcome("abandoned")));
        self.end(false);
    }
}

impl Said {
    fn note(&mut self, attribute: Attribute) {
        let same = |other: &Attribute| std::mem::discriminant(other) == std::mem::discriminant(&attribute);
        match self.attributes.iter().position(same) {
            Some(at) => self.attributes[at] = attribute,
            None => self.attributes.push(attribute),
        }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Span")
    }
}

impl PartialEq for Span {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Span {}

/// An id of a span: never zero, since a UUID has a bit that is always set.
fn draw() -> [u8; 8] {
    *Uuid::new_v4().into_bytes().last_chunk().expect("a UUID has 16 bytes")
}

/// What a span is called of which it was never known what was asked for.
pub const UNNAMED: &str = "_OTHER";
const DRAWS: u64 = 1 << 56;
const LINKS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;
    use crate::clock::Manual;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn tracer(share: f64) -> (Tracer, Arc<Spans>, Arc<Manual>) {
        let spans = Spans::new(8, metrics::Counter::noop());
        let clock = Arc::new(Manual::at(Timestamp::UNIX_EPOCH));
        (Tracer::new(Arc::clone(&spans), Arc::clone(&clock) as Arc<dyn Clock>, share), spans, clock)
    }

    fn headers(parent: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(parent))])
    }

    #[test]
    fn a_parent_decides_whatever_the_share() {
        for share in [0.0, 1.0] {
            let (tracer, spans, _) = tracer(share);
            tracer.begin(&headers(PARENT)).unwrap().end(false);
            let ended = spans.take(8);
            assert_eq!(ended.len(), 1);
            assert_eq!(ended[0].context.trace, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
            assert_eq!(ended[0].parent, Some(0xb7ad_6b71_6920_3331_u64.to_be_bytes()));
            assert_eq!((ended[0].kind, ended[0].remote), (Kind::Server, true));
            let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
            assert_eq!(tracer.begin(&headers(unsampled)), None);
        }
    }

    #[test]
    fn without_a_parent_the_share_decides() {
        let begun = |share| {
            let (tracer, ..) = tracer(share);
            (0..4000).filter(|_| tracer.begin(&HeaderMap::new()).is_some()).count()
        };
        assert_eq!((begun(0.0), begun(1.0)), (0, 4000));
        // Farther off than this once in some 10¹⁰ runs.
        assert!((1600..2400).contains(&begun(0.5)), "half of them");
        assert_eq!(Tracer::off().begin(&headers(PARENT)), None);
    }

    #[test]
    fn a_call_is_a_child_and_is_remembered_and_time_passes_by_the_boot_clock() {
        let (tracer, spans, clock) = tracer(1.0);
        let span = tracer.begin(&HeaderMap::new()).unwrap();
        let call = span.call("Decrypt");
        clock.advance(Duration::from_millis(3));
        clock.step_wall(Timestamp::MAX);
        call.end(true);
        span.end(false);
        span.end(true);
        let [call, server] = spans.take(8).try_into().unwrap();
        assert_eq!(
            (call.name, call.kind, call.failed, call.took),
            ("Decrypt", Kind::Client, true, Duration::from_millis(3))
        );
        assert_eq!((call.context.trace, call.parent), (server.context.trace, Some(server.context.span)));
        assert_eq!((server.name, server.failed, server.begun), (UNNAMED, false, Timestamp::UNIX_EPOCH));
        assert_eq!(span.called(), Some(call.context));
    }

    #[test]
    fn what_is_noted_twice_is_what_was_noted_last_and_after_the_end_nothing_is() {
        let (tracer, spans, _) = tracer(1.0);
        let span = tracer.begin(&HeaderMap::new()).unwrap();
        span.note(Attribute::Outcome("hit"));
        span.note(Attribute::HttpStatus(200));
        span.note(Attribute::Outcome("refused"));
        span.end(false);
        span.note(Attribute::Outcome("miss"));
        assert_eq!(spans.take(8)[0].attributes, [Attribute::Outcome("refused"), Attribute::HttpStatus(200)]);
    }

    #[test]
    fn a_request_that_is_given_up_on_ends_as_abandoned() {
        let (tracer, spans, _) = tracer(1.0);
        drop(tracer.begin(&HeaderMap::new()));
        assert_eq!(spans.take(8)[0].attributes, [Attribute::Outcome("abandoned")]);
    }
}
