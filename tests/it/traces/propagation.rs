//! What is believed of a trace that a caller names, and what others are told of it.

use super::receiver::Receiver;
use super::{CALLER, CALLERS_SPAN, CALLERS_TRACE, probed, traced};
use crate::instance::Plan;
use crate::instance::probe::Probe;
use crate::source::upstream::server::Service;

/// One route that passes everything on, and one whose answers are kept.
const UPSTREAM_ROUTES: &str = r#"
[[route]]
path = "/pass/{name}"
methods = ["GET", "POST"]
upstream = "old"
params = [{ name = "name", in = "path", type = "text" }]

[[route]]
path = "/keep/{name}"
upstream = "old"
params = [{ name = "name", in = "path", type = "text" }]
  [route.cache]
  ttl = "1h"
  tags = ["pages"]
"#;

fn upstream_plan(service: &Service, receiver: &Receiver) -> Plan {
    let routes = format!("[upstream.old]\nendpoints = [\"{}\"]\n{UPSTREAM_ROUTES}", service.url());
    traced(Plan::new(&routes), receiver, "0")
}

#[test]
fn hostile_headers_begin_a_new_trace() {
    let (probe, receiver) = (Probe::default(), Receiver::new());
    let instance = probed(&probe, &receiver, "1").start();
    let long = "0".repeat(2000);
    let cases: [&[(&str, &str)]; 6] = [
        &[("traceparent", "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01")],
        &[("traceparent", CALLER), ("traceparent", CALLER)],
        &[("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01")],
        &[("traceparent", &long)],
        &[("b3", "'; DROP TABLE spans; --")],
        &[("x-b3-traceid", CALLERS_TRACE), ("x-b3-spanid", "zzzzzzzzzzzzzzzz")],
    ];
    for (number, headers) in cases.iter().enumerate() {
        let id = format!("case-{number}");
        let headers: Vec<_> = headers.iter().copied().chain([("X-Request-Id", &*id)]).collect();
        assert_eq!(instance.get_with("/public/things/a", &headers).status, 200, "{headers:?}");
        let root = receiver.wait_for("its trace", |span| span.attribute("mainstay.request_id") == id);
        assert_eq!(root.parent, "", "{headers:?}");
        assert_ne!(root.trace, CALLERS_TRACE, "{headers:?}");
    }
    assert!(!receiver.has_bytes("DROP TABLE"));
}

#[test]
fn b3_is_understood_in_both_forms() {
    let (probe, receiver) = (Probe::default(), Receiver::new());
    let instance = probed(&probe, &receiver, "0").start();
    let single = [("b3", "1111111111111111aaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-1")];
    let multi = [("X-B3-TraceId", "cccccccccccccccc"), ("X-B3-SpanId", "dddddddddddddddd"), ("X-B3-Sampled", "1")];
    instance.get_with("/public/things/a", &single);
    instance.get_with("/public/things/a", &multi);
    for (trace, parent) in [
        ("1111111111111111aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"),
        ("0000000000000000cccccccccccccccc", "dddddddddddddddd"),
    ] {
        let root = receiver.wait_for("the trace", |span| span.trace == trace && span.kind == 2);
        assert_eq!(root.parent, parent);
    }
}

#[test]
fn an_upstream_is_told_of_the_try_that_asks_it() {
    let (service, receiver) = (Service::with(&[("Content-Type", "application/json")]), Receiver::new());
    let instance = upstream_plan(&service, &receiver).set("traces.b3", "single").start();
    let headers = [("traceparent", CALLER), ("tracestate", "vendor=opaque"), ("b3", "0")];
    assert_eq!(instance.get_with("/pass/a", &headers).status, 200);
    let trace = receiver.trace(|span| span.trace == CALLERS_TRACE);
    let (root, attempt) = (trace.only("GET /pass/{name}"), trace.only("upstream try"));
    assert_eq!((&root.parent, &attempt.parent), (&CALLERS_SPAN.to_owned(), &root.id));
    assert_eq!(attempt.attribute("http.response.status_code"), "200");
    assert_eq!(attempt.attribute("http.request.resend_count"), "0");
    let seen = service.last();
    assert_eq!(seen.header("traceparent").unwrap(), format!("00-{CALLERS_TRACE}-{}-01", attempt.id));
    assert_eq!(seen.header("b3").unwrap(), format!("{CALLERS_TRACE}-{}-1", attempt.id));
    assert_eq!(seen.header("tracestate").as_deref(), Some("vendor=opaque"));

    // A state without the trace that it belongs to goes nowhere.
    assert_eq!(instance.get_with("/pass/a", &[("traceparent", "x"), ("tracestate", "vendor=opaque")]).status, 200);
    let seen = service.last();
    assert_eq!(seen.header("tracestate"), None);
    assert!(seen.header("traceparent").unwrap().ends_with("-00"), "nobody has sampled it");
}

/// What is kept for all must not depend on what one of them says: of the caller's words only the id goes along, which is digits.
#[test]
fn a_fill_tells_its_upstream_nothing_of_the_callers_state() {
    let (service, receiver) = (Service::with(&[("Content-Type", "application/json")]), Receiver::new());
    let instance = upstream_plan(&service, &receiver).set("traces.b3", "multi").start();
    let headers = [("traceparent", CALLER), ("tracestate", "vendor=opaque")];
    let reply = instance.get_with("/keep/a", &headers);
    assert_eq!((reply.status, reply.cache()), (200, "fwd=miss; stored; detail=upstream"));
    let trace = receiver.trace(|span| span.trace == CALLERS_TRACE);
    let attempt = trace.only("upstream try");
    assert_eq!(trace.parent_of("upstream try"), "fill");
    let seen = service.last();
    assert_eq!(seen.header("traceparent").unwrap(), format!("00-{CALLERS_TRACE}-{}-01", attempt.id));
    assert_eq!(seen.header("x-b3-traceid").as_deref(), Some(CALLERS_TRACE));
    assert_eq!(seen.header("x-b3-spanid"), Some(attempt.id.clone()));
    assert_eq!(seen.header("tracestate"), None);
    assert_eq!(instance.get("/keep/a").header("traceparent"), None, "no kept answer says whose it was");
}

#[test]
fn without_an_endpoint_a_callers_trace_passes_through_unchanged() {
    let service = Service::with(&[("Content-Type", "application/json")]);
    let routes = format!("[upstream.old]\nendpoints = [\"{}\"]\n{UPSTREAM_ROUTES}", service.url());
    let instance = Plan::new(&routes).start();
    assert_eq!(instance.get_with("/pass/a", &[("traceparent", CALLER), ("b3", "0")]).status, 200);
    let seen = service.last();
    assert_eq!((seen.header("traceparent").as_deref(), seen.header("b3").as_deref()), (Some(CALLER), Some("0")));
}

#[test]
fn each_retry_is_a_span_of_its_own() {
    let receiver = Receiver::new();
    let service = Service::status("503 Service Unavailable");
    let well = Service::with(&[("Content-Type", "application/json")]);
    let routes = format!("[upstream.old]\nendpoints = [\"{}\", \"{}\"]\n{UPSTREAM_ROUTES}", service.url(), well.url());
    let instance = traced(Plan::new(&routes), &receiver, "1").start();
    let found = mainstay::local::wait_until(crate::support::PATIENCE, || {
        assert_eq!(instance.get("/pass/a").status, 200);
        receiver.spans().iter().any(|span| span.attribute("http.request.resend_count") == "1")
    });
    assert!(found, "{:#?}", receiver.spans());
    let again = receiver.wait_for("a second try", |span| span.attribute("http.request.resend_count") == "1");
    let trace = receiver.trace(|span| span.trace == again.trace);
    let first = trace.0.iter().find(|span| span.attribute("http.request.resend_count") == "0").unwrap();
    assert_eq!((first.error.as_deref(), first.attribute("http.response.status_code")), (Some("status"), "503"));
    assert_eq!((&first.parent, again.error), (&again.parent, None));
}

#[test]
fn a_request_to_the_primarys_region_goes_on_in_its_trace() {
    const ROUTE: &str = "[[route]]\npath = \"/account/things\"\nmethods = [\"GET\", \"POST\"]\nhandler = \"probe\"\n";
    let (probe, receiver) = (Probe::default(), Receiver::new());
    let there = traced(Plan::probed(ROUTE, &probe), &receiver, "0").set("REGION", "there-1").start();
    let primary = format!("http://{}", there.public);
    let here = traced(Plan::probed(ROUTE, &Probe::default()), &receiver, "0").set("PRIMARY_ORIGIN", &primary).start();
    let reply = here.connect().request_with_body("POST", "/account/things", &[("traceparent", CALLER)], b"{}");
    assert_eq!((reply.status, reply.said("x-region")), (200, "there-1"), "{reply:?}");
    receiver.wait_for("what was done there", |span| span.trace == CALLERS_TRACE && span.name == "handler");
    let attempt = receiver.wait_for("the crossing", |span| span.name == "upstream try");
    let roots: Vec<_> = receiver.spans().into_iter().filter(|span| span.kind == 2).collect();
    assert_eq!(roots.len(), 2, "{roots:#?}");
    let there = roots.iter().find(|root| root.parent == attempt.id).expect("the root there");
    let here = roots.iter().find(|root| root.parent == CALLERS_SPAN).expect("the root here");
    assert_eq!((&there.trace, &here.trace, &attempt.parent), (&here.trace, &attempt.trace, &here.id));
}
