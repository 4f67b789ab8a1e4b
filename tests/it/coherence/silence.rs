//! Instances that nobody tells anything: because there is no change feed yet, or because it is out of reach.

use std::time::{Duration, Instant};

use mainstay::local::{Proxy, ProxyMode, wait_until};

use super::fleet::{Claim, Fleet, Member, ROUTES, assert_only};
use crate::instance::{Instance, Plan};
use crate::support::PATIENCE;

/// A fleet without Redis, whose instances reach both servers through proxies.
struct Cut {
    fleet: Fleet,
    primary: Proxy,
    replica: Proxy,
}

impl Cut {
    fn new(name: &str) -> Self {
        let fleet = Fleet::new(name);
        let proxy = |port: u16| Proxy::start(([127, 0, 0, 1], port).into()).unwrap();
        let (primary, replica) = (proxy(fleet.primary.server.port()), proxy(fleet.replica.server.port()));
        Self { fleet, primary, replica }
    }

    fn plan(&self) -> Plan {
        let url = |proxy: &Proxy| format!("postgres://postgres@127.0.0.1:{}/{}", proxy.port(), self.fleet.database);
        let plan = self.fleet.plan().set("REDIS_URL", "").set("cache.max_silence", "1s");
        plan.set("DATABASE_URL", &url(&self.primary)).set("DATABASE_READ_REPLICA_URL", &url(&self.replica))
    }
}

fn cut(proxy: &Proxy) {
    proxy.set_mode(ProxyMode::Refuse);
    proxy.cut();
}

fn fills(instance: &Instance) -> f64 {
    instance.metric("mainstay_fills_total{outcome=\"ok\",route=\"/public/items/{id}\"}")
}

/// While the primary is out of reach answers are marked stale, revalidated behind, and never refused.
#[test]
fn who_hears_nothing_marks_what_it_serves_as_stale_and_comes_back_by_itself() {
    let cut_fleet = Cut::new("silence");
    let instance = cut_fleet.plan().start();
    instance.wait_hearing("feed");
    instance.get("/public/items/1");
    assert_only(&instance, "/public/items/1", 0);

    cut(&cut_fleet.primary);
    let is_silent = || instance.metric("mainstay_bus_silent") == 1.0;
    assert!(wait_until(PATIENCE, is_silent), "it does not notice");
    // The replica still shows what changes, and so what is filled from it does.
    cut_fleet.fleet.set(1, 1);
    let (began, fills_before, mut marked) = (Instant::now(), fills(&instance), 0);
    while began.elapsed() < Duration::from_secs(3) {
        let reply = instance.get("/public/items/1");
        assert!(reply.status == 200 && reply.is_hit(), "{reply:?}");
        marked += usize::from(reply.ttl() < 0);
    }
    let runs = fills(&instance) - fills_before;
    assert!(marked > 0, "nothing is marked as stale");
    assert!((1.0..=began.elapsed().as_secs_f64().ceil() + 1.0).contains(&runs), "{runs} fills");
    instance.wait_for("the new value", "/public/items/1", |reply| reply.value() == 1);

    cut(&cut_fleet.replica);
    instance.wait_for("a mark", "/public/items/1", |reply| {
        assert!(reply.status == 200 && reply.is_hit(), "{reply:?}");
        reply.ttl() < 0
    });
    for proxy in [&cut_fleet.primary, &cut_fleet.replica] {
        proxy.set_mode(ProxyMode::Pass);
    }
    assert!(wait_until(PATIENCE, || !is_silent()), "it does not come back");
    cut_fleet.fleet.set(1, 2);
    instance.wait_told(&cut_fleet.fleet);
    assert_only(&instance, "/public/items/1", 2);
}

/// Where a purge for good may have been missed, and the setting says so, nothing old is served at all.
#[test]
fn past_the_limit_of_purges_for_good_nothing_old_is_served_where_that_is_set() {
    for setting in ["refuse", "serve"] {
        let cut_fleet = Cut::new(&format!("silence-{setting}"));
        let plan = cut_fleet.plan().set("cache.hard_purge_max_silence", "2s");
        let instance = plan.set("cache.past_hard_purge_max_silence", setting).start();
        instance.wait_hearing("feed");
        assert_only(&instance, "/public/items/1", 0);
        cut(&cut_fleet.primary);
        cut(&cut_fleet.replica);
        let began = Instant::now();
        match setting {
            "refuse" => drop(instance.wait_for("a refusal", "/public/items/1", |reply| reply.status == 503)),
            _ => {
                while began.elapsed() < Duration::from_secs(4) {
                    let reply = instance.get("/public/items/1");
                    assert!(reply.status == 200 && reply.is_hit(), "{reply:?}");
                }
            }
        }
        for proxy in [&cut_fleet.primary, &cut_fleet.replica] {
            proxy.set_mode(ProxyMode::Pass);
        }
        instance.wait_for("an answer", "/public/items/1", |reply| reply.status == 200 && reply.claims_fresh());
    }
}

/// Without a change feed an instance has a clock of its own, and goes over to the feed when there is one.
#[test]
fn a_database_that_is_migrated_while_it_serves_is_followed_from_then_on() {
    let mut fleet = Fleet::new("unmigrated");
    fleet.database = fleet.database();
    fleet.sql(
        "CREATE TABLE items (id integer PRIMARY KEY, owner text NOT NULL, value bigint NOT NULL); \
               INSERT INTO items VALUES (1, 'ann', 0), (2, 'ann', 0)",
    );
    fleet.catch_up();
    let instance = fleet
        .plan()
        .set("REDIS_URL", "")
        .set("cache.max_silence", "300ms")
        .set("changes.heartbeat_interval", "100ms")
        .start();
    instance.wait_healthy();
    // Before it has looked whether there is a feed, it claims nothing for long.
    let has_clock = || instance.admin("GET", "/admin/status", "")["bus"]["told"].is_string();
    assert!(wait_until(PATIENCE, has_clock), "it has no clock");
    let first = assert_only(&instance, "/public/items/1", 0);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        let reply = instance.get("/public/items/1");
        assert!(reply.is_hit() && reply.ttl() > 0, "nobody is silent where nobody is to speak: {reply:?}");
    }
    assert_eq!(instance.metric("mainstay_bus_silent"), 0.0);
    fleet.set(1, 1);
    fleet.catch_up();
    assert_eq!(instance.get("/public/items/1").body, first.body, "nobody tells it");
    let purged = instance.admin("POST", "/admin/cache/purge", r#"{"tags":["items:1"]}"#);
    assert_eq!(purged["instances"], serde_json::json!({ "known": 1, "confirmed": 1 }));
    assert_only(&instance, "/public/items/1", 1);

    instance.get("/public/items/2");
    fleet.sql("UPDATE items SET value = 2");
    fleet.migrate(ROUTES);
    instance.wait_hearing("feed");
    // What was filled by its own clock is not claimed by the database's.
    assert_only(&instance, "/public/items/2", 2);
    fleet.set(1, 3);
    instance.wait_told(&fleet);
    assert_only(&instance, "/public/items/1", 3);
}
