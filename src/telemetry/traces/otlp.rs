//! OTLP's messages, as far as they are sent: numbers and types are those of `opentelemetry/proto/trace/v1/trace.proto`, and the
//! tests read what comes out with OpenTelemetry's own types.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use prost::Message;

use super::queue::Trace;
use super::span::{Ended, SpanKind, Value};

/// `SPAN_KIND_…`
const KIND_INTERNAL: i32 = 1;
const KIND_SERVER: i32 = 2;
const KIND_CLIENT: i32 = 3;
/// `STATUS_CODE_ERROR`
const STATUS_ERROR: i32 = 2;

#[derive(Clone, PartialEq, Message)]
struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<ResourceMessage>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceMessage {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<LinkMessage>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct LinkMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "any::Value", tags = "1, 2, 3")]
    value: Option<any::Value>,
}

mod any {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Value {
        #[prost(string, tag = "1")]
        Text(String),
        #[prost(bool, tag = "2")]
        Flag(bool),
        #[prost(int64, tag = "3")]
        Number(i64),
    }
}

/// What a collector says of an export.
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// An export of traces.
pub(super) fn encode(resource: &[(&'static str, String)], traces: &[Trace]) -> Vec<u8> {
    let spans = traces.iter().flat_map(|trace| trace.spans.iter().map(|span| message(trace, span)));
    let scope = Scope { name: "mainstay".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let attributes = resource.iter().map(|(key, text)| key_value(key, &Value::Text(text.clone()))).collect();
    let request = ExportRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(ResourceMessage { attributes }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans: spans.collect() }],
        }],
    };
    request.encode_to_vec()
}

/// Why a collector has not taken all of an export that it has answered with success, where it says so.
pub(super) fn rejection(answer: &[u8]) -> Option<(i64, String)> {
    let partial = ExportResponse::decode(answer).ok()?.partial_success?;
    (partial.rejected_spans > 0).then_some((partial.rejected_spans, partial.error_message))
}

fn message(trace: &Trace, span: &Ended) -> SpanMessage {
    let start = unix_nanos(trace.read_at, span.began);
    let mut attributes: Vec<KeyValue> = span.attributes.iter().map(|(key, value)| key_value(key, value)).collect();
    // It ended last, of all that were not left out.
    if trace.left_out > 0 && trace.spans.last().is_some_and(|last| last.id == span.id) {
        attributes.push(key_value("mainstay.spans_left_out", &Value::Number(trace.left_out.into())));
    }
    SpanMessage {
        trace_id: trace.id.to_be_bytes().to_vec(),
        span_id: span.id.to_be_bytes().to_vec(),
        parent_span_id: if span.parent == 0 { Vec::new() } else { span.parent.to_be_bytes().to_vec() },
        name: span.name.to_string(),
        kind: match span.kind {
            SpanKind::Internal => KIND_INTERNAL,
            SpanKind::Server => KIND_SERVER,
            SpanKind::Client => KIND_CLIENT,
        },
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(u64::try_from(span.took.as_nanos()).unwrap_or(u64::MAX)),
        attributes,
        links: span.link.iter().map(|(trace, span)| link(*trace, *span)).collect(),
        status: span.error.map(|reason| Status { message: reason.to_owned(), code: STATUS_ERROR }),
    }
}

fn link(trace: u128, span: u64) -> LinkMessage {
    LinkMessage { trace_id: trace.to_be_bytes().to_vec(), span_id: span.to_be_bytes().to_vec() }
}

fn key_value(key: &str, value: &Value) -> KeyValue {
    let value = match value {
        Value::Word(text) => any::Value::Text((*text).to_owned()),
        Value::Name(text) => any::Value::Text((**text).to_owned()),
        Value::Text(text) => any::Value::Text(text.clone()),
        Value::Number(number) => any::Value::Number(*number),
        Value::Flag(flag) => any::Value::Flag(*flag),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn unix_nanos((instant, time): (Instant, SystemTime), at: Instant) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = since.saturating_sub(instant.saturating_duration_since(at));
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}
