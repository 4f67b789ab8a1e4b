//! A failover origin without a Redis, which pulls what regional origins have.

use mainstay::Answer;
use mainstay::local::{Proxy, ProxyMode, wait_until};
use serde_json::{Value, json};

use crate::coherence::fleet::{Claim, Fleet, Member, assert_only};
use crate::instance::probe::Probe;
use crate::instance::{Instance, Plan};
use crate::support::PATIENCE;

const ROUTES: &str = r#"
[[route]]
path = "/public/page"
handler = "probe"
params = [{ name = "q", in = "query", type = "text", default = "" }]
[route.cache]
ttl = "1h"
tags = ["pages", "pages:{q}"]
"#;

const TOKEN: &str = "correct-horse";

fn page(q: impl std::fmt::Display) -> String {
    format!("/public/page?q={q}")
}

/// An origin with a clock of its own.
fn regional(probe: &Probe) -> Plan {
    Plan::probed(ROUTES, probe).set("ADMIN_TOKEN", TOKEN)
}

/// A failover origin whose source must not be asked.
fn failover(peers: &[std::net::SocketAddr]) -> Plan {
    let peers: Vec<String> = peers.iter().map(|peer| format!("http://{peer}")).collect();
    Plan::probed(ROUTES, &Probe::answering(|_, _| panic!("a failover origin runs no source")))
        .set("MODE", "failover")
        .set("ADMIN_TOKEN", TOKEN)
        .set("failover.peers", &peers.join(","))
        .set("FAILOVER_PEER_TOKEN", TOKEN)
        .set("failover.pull_interval", "20ms")
}

/// A failover origin with the routes of a fleet, and nothing else of it.
fn alone(fleet: &Fleet) -> Plan {
    fleet
        .plan()
        .set("MODE", "failover")
        .set("DATABASE_URL", "")
        .set("DATABASE_READ_REPLICA_URL", "")
        .set("REDIS_URL", "")
        .set("FAILOVER_PEER_TOKEN", TOKEN)
        .set("failover.pull_interval", "20ms")
}

fn peer(failover: &Instance, place: usize) -> Value {
    failover.admin("GET", "/admin/status", "")["peers"][place].clone()
}

fn wait_peer(failover: &Instance, place: usize, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let came = wait_until(PATIENCE, || {
        last = peer(failover, place);
        holds(&last)
    });
    assert!(came, "waited in vain for {what}: {last}");
    last
}

fn wait_complete(failover: &Instance, place: usize) -> Value {
    wait_peer(failover, place, "all that the peer has", |peer| peer["state"] == "complete")
}

/// The sum of a metric over all of its labels.
fn total(failover: &Instance, metric: &str) -> f64 {
    let text = crate::instance::client::Connection::open(failover.admin).request("GET", "/metrics", &[]).text();
    let samples = text.lines().filter(|line| line.starts_with(&format!("mainstay_{metric}{{")));
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[test]
fn what_a_region_had_is_served_when_all_of_it_is_gone() {
    let probe = Probe::answering(|call, number| {
        Answer::json(&json!({ "call": number, "q": call.params.text("q"), "text": "abc".repeat(2_000) }))
    });
    let origin = regional(&probe).start();
    let there = origin.get(&page(1));
    let failover = failover(&[origin.admin]).start();
    // The first request waits for the first page.
    let here = failover.get(&page(1));
    assert_eq!((here.status, &here.body, here.header("etag")), (200, &there.body, there.header("etag")), "{here:?}");
    assert!(here.cache().ends_with("; detail=failover"), "{here:?}");
    failover.wait_for("a verdict", "/health/edge", |reply| reply.status == 200);
    wait_complete(&failover, 0);
    assert_eq!(failover.get(&page(2)).problem(), "not_cached");
    // What is new comes with the next pull.
    origin.get(&page(2));
    failover.wait_for("what is new", &page(2), |reply| reply.status == 200);
    assert!(failover.metric(&format!("mainstay_peer_pull_age_seconds{{peer=\"{}\"}}", origin.admin)) < 30.0);
    assert_eq!(total(&failover, "peer_entries_total"), 2.0, "what is there is not sent again");
    let address = origin.admin.to_string();
    drop(origin);
    let peer = wait_peer(&failover, 0, "the end", |peer| peer["state"] == "failing");
    assert_eq!((&peer["peer"], &peer["entries"]), (&json!(address), &json!(2)));
    for (q, encoding) in [(1, "br"), (1, "gzip"), (2, "identity")] {
        let reply = failover.get_with(&page(q), &[("Accept-Encoding", encoding)]);
        assert_eq!((reply.status, reply.header("age")), (200, None), "{reply:?}");
    }
    assert_eq!(failover.get("/health/edge").status, 200);
    assert_eq!(probe.calls(), 2);
}

#[test]
fn the_peer_may_restart_and_what_it_made_since_comes() {
    let origin = regional(&Probe::default()).start();
    let way = Proxy::start(origin.admin).unwrap();
    origin.get(&page(1));
    let failover = failover(&[way.address()]).start();
    wait_complete(&failover, 0);
    drop(origin);
    let next = regional(&Probe::default()).start();
    next.get(&page(2));
    way.set_target(next.admin);
    way.cut();
    failover.wait_for("what the next one has", &page(2), |reply| reply.status == 200);
    assert_eq!(failover.get(&page(1)).status, 200, "what only the one before had stays");
    next.get(&page(3));
    failover.wait_for("what is new there", &page(3), |reply| reply.status == 200);
}

#[test]
fn of_a_page_that_breaks_off_nothing_is_kept_and_what_came_before_is_not_sent_again() {
    const COUNT: u32 = 30;
    let noise = || (0..75_000).map(|_| fastrand::alphanumeric()).collect::<String>();
    let probe = Probe::answering(move |_, _| Answer::json(&json!({ "noise": noise() })));
    let origin = regional(&probe).start();
    (0..COUNT).for_each(|q| drop(origin.get(&page(q))));
    let way = Proxy::start(origin.admin).unwrap();
    way.set_throttle(Some(200_000));
    let failover = failover(&[way.address()]).set("failover.pull_bytes_max", "1").start();
    let failures = || total(&failover, "peer_failures_total");
    while failures() < 2.0 {
        assert!(wait_until(PATIENCE, || way.connections() > 0), "it does not come");
        way.reset();
    }
    assert_eq!(total(&failover, "peer_entries_total"), 0.0);
    assert_eq!(failover.metric("mainstay_cache_entries"), 0.0);
    way.set_throttle(None);
    wait_complete(&failover, 0);
    let entries = total(&failover, "peer_entries_total");
    assert_eq!(entries, f64::from(COUNT), "each came once");
    (0..COUNT).for_each(|q| assert_eq!(failover.get(&page(q)).status, 200));
}

#[test]
fn a_peer_that_refuses_the_token_is_left_alone_and_others_are_pulled() {
    let (closed, open) =
        (regional(&Probe::default()).set("ADMIN_TOKEN", "another").start(), regional(&Probe::default()).start());
    let failover = failover(&[closed.admin, open.admin]).start();
    let refused = wait_peer(&failover, 0, "the refusal", |peer| peer["state"] == "failing");
    let why = refused["failure"].as_str().unwrap();
    assert!(why.contains("failover.peer_token") && why.contains("401") && !why.contains(TOKEN), "{why}");
    for q in 0..10 {
        open.get(&page(q));
        failover.wait_for("the next pull", &page(q), |reply| reply.status == 200);
    }
    assert_eq!(total(&failover, "peer_failures_total"), 1.0);
}

#[test]
fn a_hard_purge_reaches_it_with_the_next_pull() {
    const ONE: &str = "/public/items/1";
    const TWO: &str = "/public/items/2";
    let fleet = Fleet::new("peers_hard");
    let origin = fleet.start();
    for target in [ONE, TWO] {
        origin.wait_for("a hit", target, |reply| reply.is_hit() && reply.ttl() > 0);
    }
    let plan = || {
        let plan = alone(&fleet).set("failover.peers", &format!("http://{}", origin.admin));
        plan.set("cache.past_hard_purge_max_silence", "refuse")
    };
    let failover = plan().start();
    for target in [ONE, TWO] {
        failover.wait_for("what was pulled", target, |reply| reply.status == 200);
    }
    let purge = |tag: &str| {
        origin.admin("POST", "/admin/cache/purge", &json!({ "tags": [tag], "mode": "hard" }).to_string());
    };
    purge("items:1");
    failover.wait_for("the purge", ONE, |reply| reply.status == 503);
    assert_eq!(failover.get(TWO).status, 200, "nothing else falls");
    origin.wait_for("a new hit", ONE, |reply| reply.is_hit() && reply.ttl() > 0);
    failover.wait_for("what was made since", ONE, |reply| reply.status == 200);
    // Nor does one that comes later serve what was purged before it came.
    purge("items:2");
    let late = plan().start();
    wait_complete(&late, 0);
    assert_eq!((late.get(ONE).status, late.get(TWO).status), (200, 503));
}

#[test]
fn of_two_peers_the_one_with_the_newer_answer_wins() {
    const ONE: &str = "/public/items/1";
    let fleet = Fleet::new("peers_two");
    let [old, new] = [(); 2].map(|()| fleet.plan().set("REDIS_URL", "").start());
    [&old, &new].iter().for_each(|origin| origin.wait_hearing("feed"));
    assert_eq!(assert_only(&old, ONE, 0).value(), 0);
    fleet.sql("UPDATE items SET value = 1 WHERE id = 1");
    new.wait_told(&fleet);
    assert_eq!(assert_only(&new, ONE, 1).value(), 1);
    for peers in [[&old, &new], [&new, &old]] {
        let peers = peers.map(|origin| format!("http://{}", origin.admin)).join(",");
        let failover = alone(&fleet).set("failover.peers", &peers).start();
        (0..2).for_each(|place| drop(wait_complete(&failover, place)));
        assert_eq!((0..2).map(|place| peer(&failover, place)["entries"].as_u64().unwrap()).sum::<u64>(), 2);
        assert_eq!(failover.get(ONE).value(), 1);
    }
}

#[test]
fn no_more_is_pulled_than_there_is_room_for_and_the_hottest_come() {
    let noise = || (0..20_000).map(|_| fastrand::alphanumeric()).collect::<String>();
    let probe = Probe::answering(move |_, _| Answer::json(&json!({ "noise": noise() })));
    let origin = regional(&probe).start();
    (0..20).for_each(|q| drop(origin.get(&page(q))));
    for _ in 0..40 {
        (10..13).for_each(|q| drop(origin.get(&page(q))));
    }
    let failover = failover(&[origin.admin]).set("cache.memory_bytes_max", "200000").start();
    wait_complete(&failover, 0);
    let entries = total(&failover, "peer_entries_total");
    assert!((3.0..10.0).contains(&entries), "{entries}");
    assert!(failover.metric("mainstay_cache_bytes") <= 200_000.0);
    (10..13).for_each(|q| assert_eq!(failover.get(&page(q)).status, 200, "{q}"));
}

#[test]
fn routes_that_are_not_here_take_no_room() {
    let origin = regional(&Probe::default()).start();
    origin.get(&page(1));
    let other = ROUTES.replace("ttl = \"1h\"", "ttl = \"2h\"");
    let failover = Plan::probed(&other, &Probe::default())
        .set("MODE", "failover")
        .set("ADMIN_TOKEN", TOKEN)
        .set("failover.peers", &format!("http://{}", origin.admin))
        .set("FAILOVER_PEER_TOKEN", TOKEN)
        .start();
    let peer = wait_complete(&failover, 0);
    assert_eq!(peer["entries"], 0);
    assert_eq!(failover.metric("mainstay_cache_entries"), 0.0);
}

/// Nobody waits for long for a peer of which nothing comes, and it is pulled once it answers.
#[test]
fn a_peer_that_hangs_holds_up_nobody() {
    let origin = regional(&Probe::default()).start();
    origin.get(&page(1));
    let way = Proxy::start(origin.admin).unwrap();
    way.set_mode(ProxyMode::BlackHole);
    let failover = failover(&[way.address()]).set("failover.peer_timeout", "300ms").start();
    assert_eq!(failover.get(&page(1)).problem(), "not_cached");
    let peer = wait_peer(&failover, 0, "the failure", |peer| peer["state"] == "failing");
    assert!(peer["failure"].as_str().unwrap().contains("failover.peer_timeout"), "{peer}");
    way.set_mode(ProxyMode::Pass);
    failover.wait_for("what was pulled", &page(1), |reply| reply.status == 200);
}

#[test]
fn settings_that_cannot_be_pulled_with_are_refused() {
    let refused = |plan: Plan| plan.try_start().map(drop).unwrap_err();
    let here = [([127, 0, 0, 1], 9).into()];
    for (key, value) in [
        ("FAILOVER_PEER_TOKEN", ""),
        ("failover.peers", "10.0.0.1:9090"),
        ("failover.peers", "http://me:secret@10.0.0.1:9090"),
        ("failover.pull_bytes_max", "0"),
        ("failover.pull_interval", "0s"),
        ("failover.peer_timeout", "0s"),
    ] {
        let sentence = refused(failover(&here).set(key, value));
        let named = if key.starts_with('F') { "failover.peer_token" } else { key };
        assert!(sentence.starts_with(named) && !sentence.contains("secret"), "{sentence}");
    }
    // A file that origins of both kinds share does no harm to the others.
    drop(failover(&here).set("MODE", "regional").start());
}
