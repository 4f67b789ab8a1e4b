//! What a CDN is told of purges: by a server that is as strict as CloudFront, and says no in its words.

mod paths;
mod signature;
mod tags;

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;

use mainstay::local::{Redis, RedisOptions, Scratch, wait_until};
use parking_lot::Mutex;
use serde_json::json;

use crate::instance::client::Connection;
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};
use crate::source::upstream::server::{Seen, Service, answer, say_nothing};
use crate::support::PATIENCE;

const ROUTES: &str = r#"
[[route]]
path = "/public/pages/{slug}"
handler = "probe"
params = [{ name = "slug", in = "path", type = "text" }]
  [route.cache]
  ttl = "1h"
  tags = ["pages:{slug}"]
"#;

const KEY_ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const SENT: &str = r#"mainstay_edge_paths_total{outcome="sent"}"#;
const FAILED: &str = r#"mainstay_edge_paths_total{outcome="failed"}"#;
const SUPPRESSED: &str = r#"mainstay_edge_paths_total{outcome="suppressed"}"#;

/// A plan that tells this CloudFront, soon.
fn plan(cloudfront: &Service, probe: &Probe) -> Plan {
    Plan::probed(ROUTES, probe)
        .set("ADMIN_TOKEN", "t")
        .set("edge.cloudfront_distribution_id", "E2QWRUHEXAMPLE")
        .set("edge.endpoint", &cloudfront.url())
        .set("edge.batch_interval", "20ms")
        .set("changes.heartbeat_interval", "50ms")
        .set("cache.max_silence", "200ms")
}

fn with_keys(plan: Plan) -> Plan {
    plan.set("AWS_ACCESS_KEY_ID", KEY_ID).set("AWS_SECRET_ACCESS_KEY", SECRET)
}

fn purge(instance: &Instance, tags: &[&str]) {
    let (headers, body) = ([("Authorization", "Bearer t")], json!({ "tags": tags }).to_string());
    let mut connection = Connection::open(instance.admin);
    let reply = connection.request_with_body("POST", "/admin/cache/purge", &headers, body.as_bytes());
    assert_eq!(reply.status, 200, "{reply:?}");
}

/// Answers as CloudFront does.
fn created(stream: &mut TcpStream) {
    answer(stream, "201 Created", &[("Location", "/x")], b"<Invalidation><Id>I1</Id></Invalidation>");
}

fn refuse(stream: &mut TcpStream, status: &str, code: &str) {
    let text = format!("<ErrorResponse><Error><Code>{code}</Code><Message>why</Message></Error></ErrorResponse>");
    answer(stream, status, &[("Content-Type", "text/xml")], text.as_bytes());
}

/// The paths that a call names, and its reference. The document is the one that the API describes, to the byte.
fn named(seen: &Seen) -> (Vec<String>, String) {
    let text = String::from_utf8(seen.body.clone()).unwrap();
    let between = |begin: &str, end: &str| text.split(begin).nth(1).unwrap().split(end).next().unwrap().to_owned();
    let items = between("<Items>", "</Items>");
    let paths: Vec<String> =
        items.split("<Path>").skip(1).map(|item| item.strip_suffix("</Path>").unwrap().to_owned()).collect();
    let reference = between("<CallerReference>", "</CallerReference>");
    let whole = format!(
        "<InvalidationBatch xmlns=\"http://cloudfront.amazonaws.com/doc/2020-05-31/\"><Paths><Quantity>{}</Quantity>\
         <Items>{items}</Items></Paths><CallerReference>{reference}</CallerReference></InvalidationBatch>",
        paths.len()
    );
    assert_eq!((text.as_str(), seen.header("content-type").as_deref()), (whole.as_str(), Some("text/xml")));
    assert_eq!(
        (seen.method.as_str(), seen.target.as_str()),
        ("POST", "/2020-05-31/distribution/E2QWRUHEXAMPLE/invalidation")
    );
    (paths, reference)
}

/// The clock that a fleet without a database goes by, which is another one after a loss; none until it has caught up with that.
fn generation(instance: &Instance) -> Option<String> {
    let reply = Connection::open(instance.admin).request("GET", "/admin/status", &[("Authorization", "Bearer t")]);
    let bus = &reply.json()["bus"];
    let told = bus["told"].as_str().filter(|_| bus["caught_up"] == true)?;
    Some(told.split(':').next()?.to_owned())
}

fn wait_metric(instance: &Instance, sample: &str, value: f64) {
    let came = wait_until(PATIENCE, || instance.metric(sample) >= value);
    assert!(came && instance.metric(sample) == value, "{sample} is {}, not {value}", instance.metric(sample));
}

#[test]
fn a_purge_is_told_in_a_signed_call_and_each_path_once() {
    let (cloudfront, probe) = (Service::new(|_, stream| created(stream)), Probe::default());
    let instance = with_keys(plan(&cloudfront, &probe)).set("edge.batch_interval", "300ms").start();
    purge(&instance, &["pages:fees", "pages:terms"]);
    purge(&instance, &["pages:terms", "nobody-carries-this"]);
    wait_metric(&instance, SENT, 2.0);
    let seen = cloudfront.seen();
    let calls: Vec<Vec<String>> = seen.iter().map(|seen| named(seen).0).collect();
    let mut told = calls.concat();
    told.sort();
    assert_eq!(told, ["/public/pages/fees", "/public/pages/terms"], "{calls:?}");
    for call in &seen {
        signature::check(call, KEY_ID, SECRET, "us-east-1").unwrap();
        assert!(signature::check(call, KEY_ID, "another secret", "us-east-1").is_err(), "the check can fail");
        let mut changed = call.clone();
        changed.body[0] ^= 1;
        assert!(signature::check(&changed, KEY_ID, SECRET, "us-east-1").is_err(), "the body is signed");
    }
}

#[test]
fn what_is_refused_for_now_or_not_answered_is_repeated_under_the_same_name() {
    let (cloudfront, probe) = (Service::new(|_, stream| created(stream)), Probe::default());
    let turn = Arc::new(Mutex::new(0));
    cloudfront.script(move |_, stream| {
        let mut turn = turn.lock();
        *turn += 1;
        match *turn {
            1 => refuse(stream, "400 Bad Request", "TooManyInvalidationsInProgress"),
            2 => {
                drop(turn);
                say_nothing(stream);
            }
            _ => created(stream),
        }
    });
    let instance = with_keys(plan(&cloudfront, &probe)).set("edge.timeout", "200ms").start();
    purge(&instance, &["pages:fees"]);
    wait_metric(&instance, SENT, 1.0);
    let calls: Vec<_> = cloudfront.seen().iter().map(named).collect();
    assert_eq!(calls.len(), 3, "{calls:?}");
    assert!(calls.iter().all(|call| *call == calls[0]), "CloudFront does a batch once, by its reference: {calls:?}");
    assert_eq!(instance.metric(r#"mainstay_edge_calls_total{outcome="retried"}"#), 2.0);
}

#[test]
fn what_is_refused_for_good_is_said_once_and_given_up() {
    let cloudfront = Service::new(|_, stream| refuse(stream, "403 Forbidden", "AccessDenied"));
    let instance = with_keys(plan(&cloudfront, &Probe::default())).start();
    purge(&instance, &["pages:fees"]);
    wait_metric(&instance, FAILED, 1.0);
    assert_eq!(cloudfront.calls(), 1);
    purge(&instance, &["pages:terms"]);
    wait_metric(&instance, FAILED, 2.0);
    assert_eq!(cloudfront.calls(), 2, "what comes next is tried again");
}

#[test]
fn beyond_the_budget_nothing_is_told_unless_that_is_wanted() {
    for (over_budget, metric) in [("stop", SUPPRESSED), ("warn", SENT)] {
        let (cloudfront, probe) = (Service::new(|_, stream| created(stream)), Probe::default());
        let plan = with_keys(plan(&cloudfront, &probe)).set("edge.paths_per_month_max", "1");
        let instance = plan.set("edge.over_budget", over_budget).start();
        purge(&instance, &["pages:fees"]);
        wait_metric(&instance, SENT, 1.0);
        purge(&instance, &["pages:terms"]);
        wait_metric(&instance, metric, if over_budget == "stop" { 1.0 } else { 2.0 });
        assert_eq!(cloudfront.calls(), if over_budget == "stop" { 1 } else { 2 }, "{over_budget}");
    }
}

/// One of the fleet tells, and not before the others have heard: whom the edge asks next has the new answer.
#[test]
fn one_instance_of_a_fleet_tells_and_the_inner_tiers_were_told_before() {
    let scratch = Scratch::new("edge-fleet").unwrap();
    let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap().expect("redis-server is installed");
    let (cloudfront, probe) = (Service::new(|_, stream| created(stream)), Probe::default());
    let start = || {
        with_keys(plan(&cloudfront, &probe)).set("REDIS_URL", &redis.url()).set("edge.paths_per_month_max", "2").start()
    };
    let fleet = [start(), start()];
    let is_led = || fleet.iter().any(|instance| instance.metric("mainstay_bus_leading") == 1.0);
    assert!(wait_until(PATIENCE, is_led), "nobody leads");
    let path = "/public/pages/fees";
    let before = fleet.iter().map(|instance| instance.get(path).json()["call"].as_u64().unwrap()).max().unwrap();

    // The edge asks every instance at the moment at which it is told.
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (origins, answers) = (fleet.each_ref().map(|instance| instance.public), Arc::clone(&asked));
    cloudfront.script(move |_, stream| {
        for origin in origins {
            let reply = Connection::open(origin).request("GET", path, &[]);
            answers.lock().push(reply.json()["call"].as_u64().unwrap());
        }
        created(stream);
    });
    purge(&fleet[0], &["pages:fees"]);
    let sent = || fleet.iter().map(|instance| instance.metric(SENT)).sum::<f64>();
    assert!(wait_until(PATIENCE, || sent() == 1.0), "{}", sent());
    assert!(asked.lock().iter().all(|call| *call > before), "{before}: {:?}", asked.lock());

    // The other one, which has heard of it too, does not tell it later; and the budget is the fleet's.
    purge(&fleet[1], &["pages:terms"]);
    assert!(wait_until(PATIENCE, || sent() == 2.0), "{}", sent());
    assert_eq!(
        cloudfront.seen().iter().map(|seen| named(seen).0).collect::<Vec<_>>().concat(),
        [path, "/public/pages/terms"]
    );
    purge(&fleet[0], &["pages:fees"]);
    let suppressed = || fleet.iter().map(|instance| instance.metric(SUPPRESSED)).sum::<f64>();
    assert!(wait_until(PATIENCE, || suppressed() == 1.0), "{}", suppressed());
    assert_eq!(cloudfront.calls(), 2);
}

/// What was told while nobody heard is not known, so that all that the edge has may be stale: once, however often that happens in a row.
#[test]
fn after_a_loss_the_whole_edge_is_told_and_not_again_for_a_while() {
    let scratch = Scratch::new("edge-loss").unwrap();
    let redis = Redis::start(&RedisOptions::new(scratch.join("redis"))).unwrap().expect("redis-server is installed");
    let (cloudfront, probe) = (Service::new(|_, stream| created(stream)), Probe::default());
    let instance = with_keys(plan(&cloudfront, &probe)).set("REDIS_URL", &redis.url()).start();
    let lose = || {
        assert!(wait_until(PATIENCE, || generation(&instance).is_some()), "it hears nothing");
        let before = generation(&instance);
        redis.command(&["FLUSHALL"]).unwrap();
        let is_noticed = || generation(&instance).is_some_and(|now| Some(now) != before);
        assert!(wait_until(PATIENCE, is_noticed), "the loss is not noticed");
    };
    lose();
    wait_metric(&instance, SENT, 1.0);
    lose();
    // What is purged by name is told as ever.
    purge(&instance, &["pages:fees"]);
    wait_metric(&instance, SENT, 2.0);
    let told: Vec<_> = cloudfront.seen().iter().map(|seen| named(seen).0).collect();
    assert_eq!(told, [["/*"], ["/public/pages/fees"]]);
}

#[test]
fn a_task_s_role_is_asked_for_keys_and_its_token_goes_along() {
    let (cloudfront, probe) = (Service::new(|_, stream| created(stream)), Probe::default());
    let handed = json!({ "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET, "Token": "a token", "Expiration": "2126-01-01T00:00:00Z" });
    let container = Service::new(move |_, stream| answer(stream, "200 OK", &[], handed.to_string().as_bytes()));
    let url = format!("{}/v2/credentials/1", container.url());
    let instance = plan(&cloudfront, &probe).set("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url).start();
    for (tag, sent) in [("pages:fees", 1.0), ("pages:terms", 2.0)] {
        purge(&instance, &[tag]);
        wait_metric(&instance, SENT, sent);
    }
    for call in cloudfront.seen() {
        signature::check(&call, KEY_ID, SECRET, "us-east-1").unwrap();
        assert_eq!(call.header("x-amz-security-token").as_deref(), Some("a token"));
    }
    assert_eq!(
        (container.calls(), container.last().target.as_str()),
        (1, "/v2/credentials/1"),
        "keys are kept while they are good"
    );
}

#[test]
fn a_container_without_keys_is_asked_again() {
    let (cloudfront, probe) = (Service::new(|_, stream| created(stream)), Probe::default());
    let turn = Mutex::new(0);
    let container = Service::new(move |_, stream| {
        let mut turn = turn.lock();
        *turn += 1;
        let handed = json!({ "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET }).to_string();
        match *turn {
            1 => _ = stream.write_all(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"),
            _ => answer(stream, "200 OK", &[], handed.as_bytes()),
        }
    });
    let instance = plan(&cloudfront, &probe).set("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container.url()).start();
    purge(&instance, &["pages:fees"]);
    wait_metric(&instance, SENT, 1.0);
    assert_eq!((container.calls(), cloudfront.calls()), (2, 1));
}

#[test]
fn an_outlet_that_cannot_tell_stops_the_start() {
    let set = |key: &str, value: &str| {
        let plan = Plan::new("").set("edge.cloudfront_distribution_id", "E2QWRUHEXAMPLE");
        with_keys(plan).set(key, value).try_start().err().unwrap_or_default()
    };
    for (key, value, named) in [
        ("edge.cloudfront_distribution_id", "E2/../E3", "edge.cloudfront_distribution_id: "),
        ("edge.endpoint", "cloudfront", "edge.endpoint: "),
        ("edge.attempts_max", "0", "edge.attempts_max: "),
        ("edge.batch_interval", "0s", "edge.batch_interval: "),
        ("edge.over_budget", "pay", "edge.over_budget: "),
        ("AWS_SECRET_ACCESS_KEY", "", "edge.access_key_id and edge.secret_access_key: "),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "v2", "edge.container_credentials_path: "),
    ] {
        let error = set(key, value);
        assert!(error.starts_with(named), "{key}: {error}");
    }
    let bare = Plan::new("").set("edge.cloudfront_distribution_id", "E2QWRUHEXAMPLE").try_start().err().unwrap();
    assert!(bare.contains("AWS_ACCESS_KEY_ID"), "{bare}");
}
