//! Calls that no request waits for: to peers, to the edge, to an issuer of tokens.

use crate::admin::order;
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};
use crate::source::upstream::server::Service;

use super::receiver::{Got, Receiver};
use super::traced;

const ROUTES: &str = r#"
[[route]]
path = "/public/pages/{slug}"
handler = "probe"
params = [{ name = "slug", in = "path", type = "text" }]
  [route.cache]
  ttl = "1h"
  tags = ["pages:{slug}"]
"#;

/// Where nobody listens.
const NOWHERE: &str = "http://127.0.0.1:1";

fn instance_of(receiver: &Receiver, ratio: &str, settings: &[(&str, &str)]) -> Plan {
    let plan = traced(Plan::probed(ROUTES, &Probe::default()), receiver, ratio);
    settings.iter().fold(plan, |plan, (key, value)| plan.set(key, value))
}

/// Waits for the span of a call, which is all of its trace.
fn call(receiver: &Receiver, name: &str) -> Got {
    let trace = receiver.trace(|span| span.name == name);
    let call = trace.only(name).clone();
    assert_eq!((trace.0.len(), call.parent.as_str(), call.kind), (1, "", 3), "{trace:#?}");
    call
}

fn edge(endpoint: &str) -> [(&'static str, &str); 8] {
    [
        // The one that orders come with.
        ("ADMIN_TOKEN", "correct-horse"),
        ("edge.cloudfront_distribution_id", "E2QWRUHEXAMPLE"),
        ("edge.endpoint", endpoint),
        ("edge.batch_interval", "20ms"),
        ("changes.heartbeat_interval", "50ms"),
        ("cache.max_silence", "200ms"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2-the-secret"),
    ]
}

/// An instance that has to tell the edge of a path.
fn purging(plan: Plan) -> Instance {
    let instance = plan.start();
    order(&instance, "/admin/cache/purge", "{\"tags\":[\"pages:secretive\"]}");
    instance
}

#[test]
fn a_call_that_fails_is_kept_although_nothing_is_sampled() {
    let receiver = Receiver::new();
    let keys = format!("{NOWHERE}/keys");
    let issuer = [("auth.jwks_url", keys.as_str()), ("auth.issuer", "https://issuer.example"), ("auth.audience", "a")];
    let settings: Vec<_> = edge(NOWHERE).into_iter().chain(issuer).collect();
    let regional = purging(instance_of(&receiver, "0", &settings));
    let told = call(&receiver, "edge call");
    assert_eq!((told.error.as_deref(), told.attribute("mainstay.paths")), (Some("refused_for_now"), "1"));
    assert_eq!(told.attribute("http.request.resend_count"), "0");
    receiver.wait_for("the second try", |span| {
        span.name == "edge call" && span.attribute("http.request.resend_count") == "1"
    });
    assert_eq!(call(&receiver, "key set").error.as_deref(), Some("unreachable"));
    drop(regional);
    let peers = [("MODE", "failover"), ("failover.peers", NOWHERE), ("FAILOVER_PEER_TOKEN", "t")];
    let _failover = instance_of(&receiver, "0", &peers).start();
    let page = call(&receiver, "peer page");
    assert_eq!((page.error.as_deref(), page.attribute("mainstay.peer")), (Some("unreachable"), "127.0.0.1:1"));
    // No path is in it: there are values in those.
    assert!(!receiver.has_bytes("secretive") && !receiver.has_bytes("hunter2"));
}

#[test]
fn a_call_that_goes_well_is_kept_where_it_is_sampled() {
    let (receiver, cloudfront) = (Receiver::new(), Service::status("201 Created"));
    let _instance = purging(instance_of(&receiver, "1", &edge(&cloudfront.url())));
    assert_eq!(call(&receiver, "edge call").error, None);
    assert_eq!(cloudfront.last().header("traceparent"), None, "it is nobody of ours");
}

/// The peer samples nothing by itself, and has kept its part of a page's trace all the same.
#[test]
fn a_page_of_a_peer_is_one_trace_on_both_sides() {
    let receiver = Receiver::new();
    let token = "correct-horse";
    let regional = instance_of(&receiver, "0", &[("ADMIN_TOKEN", token)]).start();
    let peer = format!("http://{}", regional.admin);
    let peers = [("MODE", "failover"), ("failover.peers", peer.as_str()), ("FAILOVER_PEER_TOKEN", token)];
    let _failover = instance_of(&receiver, "1", &peers).start();
    let made = receiver.wait_for("the peer's part", |span| span.name == "GET /admin/snapshot");
    assert_eq!((made.kind, &made.error), (2, &None), "{made:?}");
    let page = receiver.wait_for("the call", |span| span.id == made.parent);
    assert_eq!((page.name.as_str(), page.kind, page.trace), ("peer page", 3, made.trace));
}
