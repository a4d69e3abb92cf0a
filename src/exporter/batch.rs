//! Spans as OTLP writes them.

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;

use crate::trace::{Attribute, Context, Ended, Kind, Value};
use crate::wire::otlp;

/// Whose spans they are.
#[derive(Debug)]
pub(super) struct Source(otlp::Resource);

impl Source {
    /// This process: its service, its version, the machine's name, and an id that no other run has.
    pub(super) fn new(service_name: &str) -> Self {
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let run = Uuid::new_v4().hyphenated().to_string();
        let mut attributes = vec![
            text("service.name", service_name),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", &run),
        ];
        if !machine.trim().is_empty() {
            attributes.push(text("host.name", machine.trim()));
        }
        Self(otlp::Resource { attributes })
    }
}

/// The request that hands over `spans`.
pub(super) fn encoded(source: &Source, spans: &[Ended]) -> Bytes {
    let scope = otlp::InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let spans = spans.iter().map(span).collect();
    let scope_spans = vec![otlp::ScopeSpans { scope: Some(scope), spans, schema_url: SCHEMA.to_owned() }];
    let resource_spans = vec![otlp::ResourceSpans { resource: Some(source.0.clone()), scope_spans }];
    otlp::ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
}

fn span(span: &Ended) -> otlp::Span {
    let begun = u64::try_from(span.begun.as_nanosecond()).unwrap_or(0);
    let took = u64::try_from(span.took.as_nanos()).unwrap_or(u64::MAX);
    otlp::Span {
        trace_id: span.context.trace.to_vec(),
        span_id: span.context.span.to_vec(),
        trace_state: state(&span.context),
        parent_span_id: span.parent.map(Vec::from).unwrap_or_default(),
        name: span.name.to_owned(),
        kind: match span.kind {
            Kind::Client => otlp::CLIENT,
            Kind::Server => otlp::SERVER,
        },
        start_time_unix_nano: begun,
        end_time_unix_nano: begun.saturating_add(took),
        attributes: span.attributes.iter().map(attribute).collect(),
        links: span.links.iter().map(link).collect(),
        status: span.failed.then_some(otlp::Status { code: otlp::FAILED }),
        flags: flags(span.remote),
    }
}

fn link(to: &Context) -> otlp::Link {
    otlp::Link { trace_id: to.trace.to_vec(), span_id: to.span.to_vec(), trace_state: state(to), flags: flags(false) }
}

fn state(context: &Context) -> String {
    context.state.as_deref().unwrap_or_default().to_owned()
}

const fn flags(remote: bool) -> u32 {
    otlp::SAMPLED | otlp::REMOTE_KNOWN | if remote { otlp::REMOTE } else { 0 }
}

fn attribute(attribute: &Attribute) -> otlp::KeyValue {
    match attribute.value() {
        Value::Text(value) => text(attribute.name(), value),
        Value::Number(number) => pair(attribute.name(), otlp::Value::Number(number)),
    }
}

fn text(name: &str, value: &str) -> otlp::KeyValue {
    pair(name, otlp::Value::Text(value.to_owned()))
}

fn pair(name: &str, value: otlp::Value) -> otlp::KeyValue {
    otlp::KeyValue { key: name.to_owned(), value: Some(otlp::AnyValue { value: Some(value) }) }
}

/// The conventions that attributes are named by.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.41.0";
