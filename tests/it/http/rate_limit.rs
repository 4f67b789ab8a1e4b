//! How often clients may ask, and who counts as one.

use crate::instance::client::{Reply, head};
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};

const ROUTES: &str = r#"
[[route]]
path = "/things"
methods = ["GET", "POST"]
handler = "probe"
rate_limit = "2/h"

[[route]]
path = "/public/echo"
handler = "probe"
rate_limit = "2/h"
params = [{ name = "q", in = "query", type = "text", optional = true }]

[[route]]
path = "/shared"
handler = "probe"
rate_limit = { per_client = "2/h", total = "3/h" }

[[route]]
path = "/free"
handler = "probe"
"#;

const SECRET: &str = "from-the-cdn";

/// Behind a CDN that sends its secret.
fn behind_cdn(probe: &Probe) -> Instance {
    Plan::probed(ROUTES, probe).set("ORIGIN_SECRET", SECRET).start()
}

fn get_as(instance: &Instance, viewer: &str, target: &str) -> Reply {
    instance.get_with(target, &[("X-Origin-Verify", SECRET), ("CloudFront-Viewer-Address", viewer)])
}

#[test]
fn beyond_its_rate_a_client_is_told_when_to_come_back() {
    let probe = Probe::default();
    let instance = Instance::probed(ROUTES, &probe);
    for (left, window) in [(1, 1800), (0, 3600)] {
        let reply = instance.get("/things");
        assert_eq!((reply.status, reply.said("ratelimit-policy")), (200, "\"route\";q=2;w=3600"));
        assert_eq!(reply.said("ratelimit"), format!("\"route\";r={left};t={window}"));
    }
    for method in ["GET", "HEAD", "POST"] {
        let reply = instance.request(method, "/things", &[]);
        let retry_secs: u32 = reply.said("retry-after").parse().unwrap();
        assert!(reply.status == 429 && (1_700..=1_800).contains(&retry_secs), "{reply:?}");
        assert_eq!(reply.said("ratelimit-policy"), "\"route\";q=2;w=3600");
        assert_eq!(reply.said("ratelimit"), format!("\"route\";r=0;t={retry_secs}"));
        assert_eq!(reply.said("cache-control"), "no-store");
    }
    let reply = instance.get("/things");
    assert_eq!(reply.problem(), "rate_limited");
    assert_eq!(probe.calls(), 2);
    assert_eq!(instance.metric("mainstay_rate_limited_total{route=\"/things\"}"), 4.0);
    assert_eq!(instance.get("/free").header("ratelimit"), None, "a route without a rate tells of none");
}

/// Hits cost nothing, so they are not counted; and what caches share tells nobody of another's rate.
#[test]
fn hits_are_not_counted_and_shared_answers_do_not_tell() {
    let instance = Instance::probed(ROUTES, &Probe::default());
    for _ in 0..20 {
        let reply = instance.get("/public/echo?q=1");
        assert_eq!((reply.status, reply.header("ratelimit"), reply.header("ratelimit-policy")), (200, None, None));
    }
    assert_eq!(instance.get("/public/echo?q=2").status, 200);
    let reply = instance.get("/public/echo?q=3");
    assert_eq!((reply.status, reply.problem(), reply.said("cache-control")), (429, "rate_limited".into(), "no-store"));
    assert!(reply.header("ratelimit").is_some());
    assert!(instance.get("/public/echo?q=1").is_hit());
    // What is refused before its source would be asked is not counted either.
    let other = Instance::probed(ROUTES, &Probe::default());
    for target in ["/public/echo?x=1", "/nowhere", "/public/echo?q=1&q=2"] {
        assert!(matches!(other.get(target).status, 400 | 404));
    }
    assert_eq!(other.request("OPTIONS", "/public/echo", &[]).status, 204);
    assert_eq!([other.get("/public/echo?q=1").status, other.get("/public/echo?q=2").status], [200, 200]);
}

#[test]
fn the_secret_decides_whose_word_counts_for_an_address() {
    let instance = behind_cdn(&Probe::default());
    for viewer in ["198.51.100.1:1000", "198.51.100.2:1000"] {
        let statuses = [1, 2, 3].map(|_| get_as(&instance, viewer, "/things").status);
        assert_eq!(statuses, [200, 200, 429], "{viewer}");
    }
    assert_eq!(get_as(&instance, "198.51.100.1:2000", "/things").status, 429, "another port is no other client");
    let forged = [("X-Origin-Verify", "guessed"), ("CloudFront-Viewer-Address", "198.51.100.3:1")];
    assert_eq!(instance.get_with("/things", &forged).status, 403);
    // Without a secret anyone could send that header, so that the connection alone tells who asks.
    let open = Instance::probed(ROUTES, &Probe::default());
    let statuses = [1, 2, 3].map(|number| {
        let viewer = format!("198.51.100.{number}:1000");
        let headers =
            [("CloudFront-Viewer-Address", &*viewer), ("X-Forwarded-For", &*viewer), ("X-Origin-Verify", "any")];
        open.get_with("/things", &headers).status
    });
    assert_eq!(statuses, [200, 200, 429]);
}

#[test]
fn an_ipv6_network_is_one_client() {
    let instance = behind_cdn(&Probe::default());
    let viewers =
        ["2001:db8:1:2::1:443", "2001:db8:1:2:3:4:5:6:443", "2001:db8:1:2:ffff::1:443", "2001:db8:1:3::1:443"];
    let statuses = viewers.map(|viewer| get_as(&instance, viewer, "/things").status);
    assert_eq!(statuses, [200, 200, 429, 200]);
}

/// A CDN that does not name the viewer is one client: better that than a way around the rate.
#[test]
fn a_cdn_that_names_nobody_is_one_client_and_another_header_may_be_set() {
    let instance = behind_cdn(&Probe::default());
    let statuses = ["", "unknown", "-"].map(|viewer| get_as(&instance, viewer, "/things").status);
    assert_eq!(statuses, [200, 200, 429]);
    let plan = Plan::probed(ROUTES, &Probe::default()).set("ORIGIN_SECRET", SECRET);
    let instance = plan.set("rate_limit.client_header", "X-Forwarded-For").start();
    let get =
        |chain: &str| instance.get_with("/things", &[("X-Origin-Verify", SECRET), ("X-Forwarded-For", chain)]).status;
    let statuses = ["1.1.1.1, 198.51.100.1", "2.2.2.2, 198.51.100.1", "3.3.3.3, 198.51.100.1", "198.51.100.2"].map(get);
    assert_eq!(statuses, [200, 200, 429, 200], "what the client wrote in front changes nothing");
    // A proxy may add a line of its own after what the client has sent.
    let lines = |claimed: &str| {
        let lines = [("X-Origin-Verify", SECRET), ("X-Forwarded-For", claimed), ("X-Forwarded-For", "192.0.2.77")];
        instance.get_with("/things", &lines).status
    };
    assert_eq!([lines("192.0.2.1"), lines("192.0.2.2"), lines("192.0.2.3")], [200, 200, 429]);
}

#[test]
fn a_route_may_have_a_rate_for_all_together() {
    let instance = behind_cdn(&Probe::default());
    let get = |number: u8| get_as(&instance, &format!("198.51.100.{number}:1"), "/shared");
    let first = get(1);
    assert_eq!(first.said("ratelimit-policy"), "\"route\";q=2;w=3600, \"total\";q=3;w=3600");
    assert_eq!(
        (get(1).status, get(1).status),
        (200, 429),
        "the third is over its own rate, and uses up nothing of the rest"
    );
    assert_eq!((get(2).status, get(2).status, get(3).status), (200, 429, 429));
}

#[test]
fn a_client_has_a_rate_on_all_routes_together() {
    let plan = Plan::probed(ROUTES, &Probe::default()).set("rate_limit.per_client", "3/h");
    let instance = plan.start();
    assert_eq!(instance.get("/free").said("ratelimit-policy"), "\"client\";q=3;w=3600");
    assert_eq!(instance.get("/things").said("ratelimit-policy"), "\"route\";q=2;w=3600, \"client\";q=3;w=3600");
    assert_eq!((instance.get("/free").status, instance.get("/free").status), (200, 429));
    assert_eq!(instance.get("/things").status, 429);
    assert_eq!(instance.get("/health/live").status, 200, "who looks after the instance is not counted");
}

/// A flood of uploads is refused by its heads: nothing is read, and nothing of it taken for a request.
#[test]
fn who_is_refused_is_not_listened_to() {
    let instance = Instance::probed(ROUTES, &Probe::default());
    (0..2).for_each(|_| assert_eq!(instance.get("/things").status, 200));
    let mut connection = instance.connect();
    connection.send(head("POST", "/things", &[("Content-Length", "1000")]));
    let reply = connection.reply("POST");
    assert_eq!((reply.status, reply.said("connection")), (429, "close"));
    assert_eq!(connection.rest(), b"");
}

#[test]
fn rates_are_checked_at_the_start() {
    let refused = |routes: &str, key: &str, value: &str| {
        let plan = Plan::probed(routes, &Probe::default());
        let plan = if key.is_empty() { plan } else { plan.set(key, value) };
        plan.try_start().err().unwrap_or_else(|| panic!("{key} = {value} was taken: {routes}"))
    };
    let route = |rate: &str| format!("[[route]]\npath = \"/a\"\nhandler = \"probe\"\nrate_limit = {rate}\n");
    for rate in ["\"fast\"", "10", "\"0/s\"", "{ per_day = \"1/s\" }", "{ total = \"10/w\" }"] {
        let said = refused(&route(rate), "", "");
        assert!(said.contains("routes.toml:") && said.contains("rate"), "{rate}: {said}");
    }
    for (key, value) in [
        ("rate_limit.per_client", "fast"),
        ("rate_limit.clients_max", "0"),
        ("rate_limit.client_header", "no header"),
        ("overload.concurrency_min", "0"),
        ("overload.concurrency_max", "1"),
        ("overload.slowdown_max", "0.5"),
        ("overload.waiters_max", "0"),
    ] {
        let said = refused(&route("\"1/s\""), key, value);
        assert!(said.contains(key), "{key}: {said}");
    }
}
