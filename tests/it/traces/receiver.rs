//! An OTLP receiver, which reads what comes with OpenTelemetry's own types.

use std::collections::HashMap;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use parking_lot::Mutex;
use prost::Message;

use crate::source::upstream::server::{Seen, Service, answer};
use crate::support::PATIENCE;

/// A span as it was received.
#[derive(Clone, Debug)]
pub struct Got {
    pub trace: String,
    pub id: String,
    /// Empty where there is none.
    pub parent: String,
    pub name: String,
    pub kind: i32,
    pub attributes: HashMap<String, String>,
    /// Trace and span.
    pub links: Vec<(String, String)>,
    /// The message of a status that says error.
    pub error: Option<String>,
    pub start: u64,
    pub end: u64,
}

impl Got {
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

#[derive(Default)]
struct State {
    spans: Vec<Got>,
    resource: HashMap<String, String>,
    bytes: Vec<u8>,
}

/// The receiver.
pub struct Receiver {
    pub service: Service,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    pub fn new() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        let service = Service::new(move |seen, stream| {
            shared.lock().take(seen);
            answer(stream, "200 OK", &[("Content-Type", "application/x-protobuf")], b"");
        });
        Self { service, state }
    }

    pub fn url(&self) -> String {
        self.service.url()
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Got> {
        self.state.lock().spans.clone()
    }

    /// Whether these bytes stand anywhere in what was exported.
    pub fn has_bytes(&self, needle: &str) -> bool {
        self.state.lock().bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    }

    pub fn resource(&self) -> HashMap<String, String> {
        self.state.lock().resource.clone()
    }

    /// Waits until there is a span like this, and returns the first.
    #[track_caller]
    pub fn wait_for(&self, what: &str, holds: impl Fn(&Got) -> bool) -> Got {
        let mut found = None;
        let came = mainstay::local::wait_until(PATIENCE, || {
            found = self.spans().into_iter().find(|span| holds(span));
            found.is_some()
        });
        assert!(came, "waited in vain for {what}: {:#?}", self.spans());
        found.unwrap()
    }

    /// The spans of one trace, once its first one is there: it is exported as a whole.
    #[track_caller]
    pub fn trace(&self, holds: impl Fn(&Got) -> bool) -> Trace {
        let one = self.wait_for("a trace", holds);
        Trace(self.spans().into_iter().filter(|span| span.trace == one.trace).collect())
    }
}

/// The spans of one trace.
#[derive(Debug)]
pub struct Trace(pub Vec<Got>);

impl Trace {
    /// The only span of a name.
    #[track_caller]
    pub fn only(&self, name: &str) -> &Got {
        let mut found = self.0.iter().filter(|span| span.name == name);
        match (found.next(), found.next()) {
            (Some(one), None) => one,
            (one, _) => panic!("not one {name:?} ({}): {self:#?}", one.is_some()),
        }
    }

    /// The name of a span's parent; empty where that is not among them.
    pub fn parent_of(&self, name: &str) -> &str {
        let parent = &self.only(name).parent;
        self.0.iter().find(|span| span.id == *parent).map_or("", |span| &span.name)
    }
}

impl State {
    fn take(&mut self, seen: &Seen) {
        assert_eq!((&*seen.method, &*seen.target), ("POST", "/v1/traces"));
        assert_eq!(seen.header("content-type").as_deref(), Some("application/x-protobuf"));
        self.bytes.extend_from_slice(&seen.body);
        let request = ExportTraceServiceRequest::decode(&*seen.body).unwrap();
        for resource in request.resource_spans {
            self.resource = pairs(resource.resource.unwrap().attributes);
            for scope in resource.scope_spans {
                assert_eq!(scope.scope.unwrap().name, "mainstay");
                self.spans.extend(scope.spans.into_iter().map(|span| {
                    assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
                    assert!(matches!(span.parent_span_id.len(), 0 | 8));
                    let status = span.status.unwrap_or_default();
                    Got {
                        trace: hex(&span.trace_id),
                        id: hex(&span.span_id),
                        parent: hex(&span.parent_span_id),
                        name: span.name,
                        kind: span.kind,
                        attributes: pairs(span.attributes),
                        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
                        error: (status.code == 2).then_some(status.message),
                        start: span.start_time_unix_nano,
                        end: span.end_time_unix_nano,
                    }
                }));
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pairs(attributes: Vec<KeyValue>) -> HashMap<String, String> {
    let text = |value: Option<AnyValue>| match value.unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        Value::BoolValue(flag) => flag.to_string(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}
