//! The way to the collector: it is slow, or away, and nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainstay::local::{Proxy, ProxyMode};

use super::receiver::Receiver;
use super::{CALLER, ROUTES, probed};
use crate::instance::Plan;
use crate::instance::probe::Probe;
use crate::source::upstream::server::{Service, answer};
use crate::support::PATIENCE;

const SAMPLED: [(&str, &str); 1] = [("traceparent", CALLER)];

#[test]
fn a_collector_that_was_away_gets_what_waited_for_it() {
    let (probe, receiver) = (Probe::default(), Receiver::new());
    let proxy = Proxy::start(receiver.service.address()).unwrap();
    let endpoint = format!("http://{}", proxy.address());
    let plan = || probed(&probe, &receiver, "1").set("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    let instance = plan().start();
    instance.get_with("/public/things/a", &[("X-Request-Id", "before")]);
    receiver.wait_for("the first", |span| span.attribute("mainstay.request_id") == "before");
    proxy.set_mode(ProxyMode::Refuse);
    proxy.reset();
    instance.get_with("/public/things/b", &[("X-Request-Id", "meanwhile")]);
    let failing = plan().set("traces.attempts_max", "1").start();
    assert_eq!(failing.get("/public/things/a").status, 200);
    let dropped = || failing.metric("mainstay_traces_dropped_total{reason=\"unreachable\"}");
    assert!(mainstay::local::wait_until(PATIENCE, || dropped() >= 1.0), "who gives up counts what is lost");
    proxy.set_mode(ProxyMode::Pass);
    receiver.wait_for("what waited", |span| span.attribute("mainstay.request_id") == "meanwhile");
    assert!(mainstay::local::wait_until(PATIENCE, || instance.metric("mainstay_traces_exported_total") == 2.0));
    assert!(instance.metric("mainstay_traces_dropped_total{reason=\"unreachable\"}") == 0.0);
}

#[test]
fn a_collector_that_hangs_holds_nothing_up_and_what_waits_is_bounded() {
    let is_over = Arc::new(AtomicBool::new(false));
    let hang = Arc::clone(&is_over);
    let collector = Service::new(move |_, stream| {
        assert!(mainstay::local::wait_until(PATIENCE, || hang.load(Ordering::SeqCst)));
        answer(stream, "200 OK", &[], b"");
    });
    let probe = Probe::default();
    let instance = Plan::probed(ROUTES, &probe)
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .set("traces.export_interval", "10ms")
        .set("traces.timeout", "1h")
        .set("traces.traces_per_second_max", "100000")
        .set("traces.queue_spans_max", "40")
        .start();
    let mut connection = instance.connect();
    assert_eq!(connection.request("GET", "/public/things/a", &SAMPLED).status, 200);
    collector.wait_calls(1);
    let dropped = || instance.metric("mainstay_traces_dropped_total{reason=\"queue_full\"}");
    let mut hits = 0;
    while dropped() < 100.0 {
        for _ in 0..50 {
            hits += 1;
            assert!(connection.request("GET", "/public/things/a", &SAMPLED).is_hit());
        }
        assert!(hits < 10_000, "nothing is dropped");
    }
    // A hit has two spans: twenty of them wait, and all others were dropped.
    assert!(mainstay::local::wait_until(PATIENCE, || dropped() == f64::from(hits) - 20.0), "{hits} {}", dropped());
    assert_eq!(collector.calls(), 1, "one post at a time");
    is_over.store(true, Ordering::SeqCst);
    assert!(mainstay::local::wait_until(PATIENCE, || instance.metric("mainstay_traces_exported_total") == 21.0));
}

#[test]
fn full_batches_go_out_one_after_another_without_a_pause() {
    let (probe, receiver) = (Probe::default(), Receiver::new());
    let instance =
        probed(&probe, &receiver, "1").set("traces.export_interval", "1h").set("traces.queue_spans_max", "40").start();
    let exported = || instance.metric("mainstay_traces_exported_total");
    let mut connection = instance.connect();
    // Many times what the queue holds.
    let is_enough = mainstay::local::wait_until(PATIENCE, || {
        (0..10).for_each(|_| assert_eq!(connection.request("GET", "/public/things/a", &[]).status, 200));
        exported() >= 100.0
    });
    assert!(is_enough, "{}", exported());
}

#[test]
fn what_a_collector_refuses_is_not_sent_again() {
    let collector = Service::status("401 Unauthorized");
    let probe = Probe::default();
    let instance = Plan::probed(ROUTES, &probe)
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .set("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20token,x-tenant=7")
        .set("traces.export_interval", "10ms")
        .start();
    assert_eq!(instance.get_with("/public/things/a", &SAMPLED).status, 200);
    let dropped = || instance.metric("mainstay_traces_dropped_total{reason=\"refused\"}");
    assert!(mainstay::local::wait_until(PATIENCE, || dropped() == 1.0));
    assert_eq!(collector.calls(), 1);
    let seen = collector.last();
    assert_eq!(seen.header("authorization").as_deref(), Some("Bearer token"));
    assert_eq!(seen.header("x-tenant").as_deref(), Some("7"));
}

#[test]
fn what_is_left_goes_out_at_the_end() {
    let (probe, receiver) = (Probe::default(), Receiver::new());
    let instance = probed(&probe, &receiver, "1").set("traces.export_interval", "1h").start();
    assert_eq!(instance.get("/public/things/a").status, 200);
    assert!(receiver.spans().is_empty());
    drop(instance);
    receiver.wait_for("the last trace", |span| span.name == "fill");
}

#[test]
fn impossible_settings_do_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("traces.endpoint", "collector:4317", "traces.endpoint"),
        ("traces.sample_ratio", "1.5", "traces.sample_ratio"),
        ("traces.slow", "0s", "traces.slow"),
        ("traces.headers", "hunter2", "traces.headers"),
        ("traces.queue_spans_max", "0", "traces.queue_spans_max"),
        ("traces.service_name", "", "traces.service_name"),
    ];
    for (key, value, named) in cases {
        let plan = Plan::new(ROUTES).set("traces.endpoint", "http://127.0.0.1:1").set(key, value);
        let error = plan.settings(dir.path()).unwrap_err();
        assert!(error.starts_with(named) && !error.contains("hunter2"), "{error}");
    }
    assert!(
        Plan::new(ROUTES).settings(dir.path()).unwrap().traces.endpoint.is_empty(),
        "and by itself nothing is traced"
    );
    assert_eq!(Duration::from_secs(1), Plan::new(ROUTES).settings(dir.path()).unwrap().traces.slow.0);
}
