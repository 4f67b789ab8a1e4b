//! Errors of sources, as clients see them.

use std::time::{Duration, Instant};

use mainstay::error::Code;
use mainstay::{Answer, Error};

use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};

const ROUTES: &str = r#"
[[route]]
path = "/public/it"
handler = "probe"

[[route]]
path = "/it"
methods = ["GET", "POST"]
handler = "probe"
"#;

#[test]
fn a_panic_is_a_500_and_the_server_lives() {
    let probe = Probe::answering(|_, _| panic!("secret words"));
    let instance = Instance::probed(ROUTES, &probe);
    for _ in 0..20 {
        for target in ["/public/it", "/it"] {
            let reply = instance.get(target);
            assert_eq!((reply.status, reply.problem()), (500, "internal".to_owned()), "{target}");
            assert!(!reply.text().contains("secret"), "{reply:?}");
            assert_eq!(reply.header("cache-control"), Some("no-store"));
        }
    }
    probe.answer(|_, _| Ok(Answer::json_bytes("1")));
    assert_eq!(instance.get("/public/it").text(), "1");
}

#[test]
fn a_middleware_that_panics_is_a_500() {
    let routes = "[[route]]\npath = \"/it\"\nhandler = \"probe\"\nmiddlewares = [\"broken\"]\n";
    let plan = Plan::probed(routes, &Probe::default());
    let instance = plan.parts(|parts| parts.middlewares.add("broken", |_, _| panic!("as told"))).start();
    for _ in 0..3 {
        assert_eq!(instance.get("/it").problem(), "internal");
    }
}

#[test]
fn a_handler_that_never_ends_is_a_503_within_the_deadline() {
    let probe = Probe::default();
    probe.close();
    let instance = Plan::probed(ROUTES, &probe).set("limits.request_timeout", "400ms").start();
    for target in ["/public/it", "/it"] {
        let begin = Instant::now();
        let reply = instance.get(target);
        assert_eq!((reply.status, reply.problem()), (503, "source_timeout".to_owned()), "{target}");
        assert!(begin.elapsed() >= Duration::from_millis(400), "{target}: {:?}", begin.elapsed());
    }
    probe.open();
    assert_eq!(instance.get("/public/it").status, 200, "its fill has been given up");
}

/// Every code has its status, and only what may be tried again says when.
#[test]
fn codes_of_handlers_come_through() {
    let codes = [
        (Code::NotFound, 404),
        (Code::ParamInvalid, 400),
        (Code::RowNotUnique, 500),
        (Code::DatabaseUnavailable, 503),
        (Code::Overloaded, 503),
        (Code::Internal, 500),
    ];
    let probe = Probe::default();
    let instance = Instance::probed(ROUTES, &probe);
    for (code, status) in codes {
        probe.answer(move |_, _| Err(Error::new(code, "because \"so\" \u{1}")));
        let reply = instance.get("/it");
        assert_eq!((reply.status, reply.problem().as_str()), (status, code.as_str()));
        assert_eq!(reply.json()["detail"], "because \"so\" \u{1}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
}

/// A handler's own status must reach the client on routes with a cache as on those without.
#[test]
fn a_handlers_own_status_is_kept_and_its_answer_is_not() {
    for status in [201, 203, 302, 400, 404, 410, 500, 503] {
        let probe = Probe::answering(move |_, _| Ok(Answer { status, ..Answer::json_bytes("{\"own\":true}") }));
        let instance = Instance::probed(ROUTES, &probe);
        for target in ["/it", "/public/it"] {
            for headers in [&[][..], &[("If-None-Match", "*")]] {
                let reply = instance.get_with(target, headers);
                assert_eq!((reply.status, reply.text().as_str()), (status, "{\"own\":true}"), "{target}");
                assert_eq!(reply.header("cache-control"), Some("no-store"), "{status} {target}");
                assert!(!reply.is_hit());
            }
        }
        assert_eq!(probe.calls(), 4, "{status} is not kept");
    }
}

#[test]
fn an_answer_beyond_the_bound_is_an_error() {
    let probe = Probe::answering(|_, _| Ok(Answer::json_bytes(vec![b'1'; 1_001])));
    let instance = Plan::probed(ROUTES, &probe).set("limits.response_bytes_max", "1000").start();
    assert_eq!(instance.get("/public/it").problem(), "response_too_large");
    probe.answer(|_, _| Ok(Answer::json_bytes(vec![b'1'; 1_000])));
    assert_eq!(instance.get("/public/it").body.len(), 1_000);
}
