//! Cached absences.

use mainstay::error::Code;
use mainstay::{Answer, Error};

use crate::instance::client::Reply;
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};

const ROUTES: &str = r#"
[[route]]
path = "/public/it"
handler = "probe"
"#;

fn absent() -> Probe {
    Probe::answering(|_, _| Err(Error::new(Code::NotFound, "not there")))
}

#[test]
fn an_absence_is_kept_for_its_short_time() {
    let probe = absent();
    let instance = Instance::probed(ROUTES, &probe);
    let first = instance.get_with("/public/it", &[("X-Request-Id", "first")]);
    assert_eq!(
        (first.status, first.problem(), first.cache()),
        (404, "not_found".to_owned(), "fwd=miss; stored; detail=handler")
    );
    let second = instance.get_with("/public/it", &[("X-Request-Id", "second"), ("If-None-Match", "*")]);
    assert_eq!((second.status, second.problem()), (404, "not_found".to_owned()), "the id in it is this request's own");
    assert!(second.is_hit() && second.ttl() <= 10, "{second:?}");
    for reply in [&first, &second] {
        assert_eq!(reply.json()["detail"], "not there", "the handler's own sentence");
        assert_eq!(reply.header("cache-control"), Some("public, max-age=10"));
        assert_eq!(reply.header("etag"), None);
    }
    assert_eq!(instance.request("HEAD", "/public/it", &[]).status, 404);
    assert_eq!(probe.calls(), 1);
}

#[test]
fn what_appears_is_found_after_that_time() {
    let probe = absent();
    let instance = Plan::probed(ROUTES, &probe).set("cache.not_found_ttl", "50ms").start();
    assert_eq!(instance.get("/public/it").status, 404);
    probe.answer(|_, _| Ok(Answer::json_bytes("1")));
    instance.wait_for("the new one", "/public/it", |reply| reply.status == 200);
    assert!(instance.get("/public/it").is_hit());
}

#[test]
fn absences_are_not_kept_where_their_time_is_zero() {
    let probe = absent();
    let instance = Plan::probed(ROUTES, &probe).set("cache.not_found_ttl", "0s").start();
    for calls in 1..=3 {
        let reply = instance.get("/public/it");
        assert_eq!((reply.status, reply.header("cache-control"), probe.calls()), (404, Some("no-store"), calls));
        assert_eq!(reply.cache(), "fwd=miss; detail=handler");
    }
}

/// An absence is an answer, not a failure: it takes the place of what was there before.
#[test]
fn an_absence_replaces_an_older_answer() {
    let routes = ROUTES.to_owned() + "[route.cache]\nttl = \"20ms\"\nstale_if_error = \"1d\"\n";
    let probe = Probe::default();
    let instance = Instance::probed(&routes, &probe);
    assert_eq!(instance.get("/public/it").status, 200);
    probe.answer(|_, _| Err(Error::new(Code::NotFound, "gone")));
    let gone = instance.wait_for("the absence", "/public/it", |reply| reply.status == 404);
    assert!(gone.cache().starts_with("fwd=stale; stored"), "{gone:?}");
    assert_eq!(instance.get("/public/it").status, 404);
    assert!(Reply::is_hit(&instance.get("/public/it")));
}
