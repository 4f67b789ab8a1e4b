//! Which traces are kept.

use mainstay::{Answer, Code, Error};

use super::receiver::Receiver;
use super::{CALLER, CALLERS_SPAN, probed};
use crate::instance::probe::Probe;
use crate::support::PATIENCE;

#[test]
fn errors_are_kept_although_nothing_is_sampled() {
    let receiver = Receiver::new();
    let probe = Probe::answering(|call, _| match call.params.text("q") {
        Some("fail") => Err(Error::new(Code::SourceTimeout, "gone")),
        Some("missing") => Err(Error::new(Code::NotFound, "there is no such thing")),
        _ => Answer::json(&1),
    });
    let instance = probed(&probe, &receiver, "0").start();
    let not_sampled = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")];
    assert_eq!(instance.get("/public/things/a?q=fast").status, 200);
    assert_eq!(instance.get("/public/things/a?q=missing").status, 404);
    assert_eq!(instance.get_with("/public/things/a?q=fail", &not_sampled).status, 503);
    let trace = receiver.trace(|span| span.name == "fill");
    assert_eq!(trace.only("fill").error.as_deref(), Some("source_timeout"));
    assert_eq!(trace.only("GET /public/things/{name}").parent, CALLERS_SPAN);
    assert_eq!(receiver.spans().len(), trace.0.len(), "neither the good one nor the 404");
}

#[test]
fn what_takes_long_is_kept_although_nothing_is_sampled() {
    let (probe, receiver) = (Probe::default(), Receiver::new());
    probe.close();
    let instance = probed(&probe, &receiver, "0").set("traces.slow", "300ms").start();
    let mut connection = instance.connect();
    connection.send(crate::instance::client::head("GET", "/public/things/a", &[]));
    probe.wait_calls(1);
    std::thread::sleep(std::time::Duration::from_millis(300));
    probe.open();
    assert_eq!(connection.reply("GET").status, 200);
    let slow = receiver.wait_for("the slow one", |span| span.name == "fill");
    assert!(slow.error.is_none() && slow.end - slow.start >= 300_000_000);
}

/// What was answered out of the cache, since its source failed, is an error to whoever looks after it.
#[test]
fn a_failed_renewal_behind_a_hit_is_kept() {
    let receiver = Receiver::new();
    let probe = Probe::answering(|_, number| match number {
        1 => Answer::json(&1),
        _ => Err(Error::new(Code::DatabaseUnavailable, "gone")),
    });
    let routes = "[[route]]\npath = \"/public/brief\"\nhandler = \"probe\"\n[route.cache]\nttl = \"1ms\"\nstale_while_revalidate = \"1h\"\n";
    let plan = crate::instance::Plan::probed(routes, &probe);
    let instance = super::traced(plan, &receiver, "0").start();
    assert_eq!(instance.get("/public/brief").status, 200);
    let stale = instance.wait_for("a stale hit", "/public/brief", |reply| reply.cache().starts_with("hit; ttl=-"));
    assert_eq!(stale.status, 200);
    let fill = receiver.wait_for("the renewal", |span| span.name == "fill");
    assert_eq!((fill.parent.as_str(), fill.error.as_deref()), ("", Some("database_unavailable")));
    assert_eq!(fill.attribute("mainstay.priority"), "revalidate");
}

#[test]
fn a_flood_of_sampled_requests_is_kept_only_as_far_as_may_be() {
    let (probe, receiver) = (Probe::default(), Receiver::new());
    let instance = probed(&probe, &receiver, "0").set("traces.traces_per_second_max", "1").start();
    let mut connection = instance.connect();
    let dropped = || instance.metric("mainstay_traces_dropped_total{reason=\"rate\"}");
    let mut asked = 0;
    while dropped() < 100.0 {
        for _ in 0..50 {
            asked += 1;
            assert_eq!(connection.request("GET", "/public/things/a", &[("traceparent", CALLER)]).status, 200);
        }
    }
    let exported = || instance.metric("mainstay_traces_exported_total");
    assert!(mainstay::local::wait_until(PATIENCE, || exported() + dropped() >= f64::from(asked)));
    let spans = receiver.spans();
    assert!(f64::from(asked) - dropped() >= 1.0 && !spans.is_empty(), "the first of a second is");
    // Errors have a share of their own.
    probe.answer(|_, _| Err(Error::new(Code::DatabaseUnavailable, "gone")));
    assert_eq!(connection.request("GET", "/public/things/b", &[]).status, 503);
    receiver.wait_for("the failure", |span| span.error.is_some());
}
