//! Purges for good, also those from before a failover origin came, when nobody is left to ask.

use mainstay::local::wait_until;
use serde_json::json;

use crate::coherence::fleet::{Fleet, Member};
use crate::instance::{Instance, Plan};
use crate::support::PATIENCE;

const ONE: &str = "/public/items/1";
const TWO: &str = "/public/items/2";

fn failover(fleet: &Fleet) -> Plan {
    fleet
        .plan()
        .set("MODE", "failover")
        .set("DATABASE_URL", "")
        .set("DATABASE_READ_REPLICA_URL", "")
        .set("cache.past_hard_purge_max_silence", "refuse")
}

fn hard(instance: &Instance, tag: &str) {
    let report = instance.admin("POST", "/admin/cache/purge", &json!({ "tags": [tag], "mode": "hard" }).to_string());
    assert_eq!(report["mode"], "hard", "{report}");
}

/// A region that has filled both rows, each for an hour.
fn region(fleet: &Fleet) -> Instance {
    // On a busy machine it must not take a pause for silence: a renewal that ends after a purge is newer than that, and may be served.
    let origin = fleet.plan().set("changes.heartbeat_interval", "100ms").set("cache.max_silence", "60s").start();
    origin.wait_hearing("stream");
    for target in [ONE, TWO] {
        origin.wait_for("a hit", target, |reply| reply.is_hit() && reply.ttl() > 0);
    }
    assert!(wait_until(PATIENCE, || fleet.shared_entries() == 2));
    origin
}

/// What is kept in Redis for those who come later.
fn kept(fleet: &Fleet) -> String {
    let read = "for _, key in ipairs(redis.call('KEYS', '*:bus:hard')) do return redis.call('GET', key) end return ''";
    fleet.redis.command(&["EVAL", read, "0"]).unwrap()
}

fn lose_kept(fleet: &Fleet) {
    let remove = "for _, key in ipairs(redis.call('KEYS', '*:bus:hard')) do redis.call('DEL', key) end return ''";
    fleet.redis.command(&["EVAL", remove, "0"]).unwrap();
}

/// Ends an origin and waits until all that it has sent to Redis is done: it may be keeping a list as it leaves.
fn end(origin: Instance, fleet: &Fleet) {
    super::end(origin, &fleet.redis);
    let clients = || fleet.redis.command(&["CLIENT", "LIST"]).unwrap().lines().count();
    assert!(wait_until(PATIENCE, || clients() == 1), "it stays connected");
}

/// Waits until a list is kept that ends later than the one there is.
fn wait_kept_anew(fleet: &Fleet) {
    let before = kept(fleet);
    lose_kept(fleet);
    assert!(wait_until(PATIENCE, || ![String::new(), before.clone()].contains(&kept(fleet))), "no list is kept");
}

#[test]
fn what_was_purged_before_it_came_is_not_served_though_nobody_is_left_to_ask() {
    let fleet = Fleet::new("failover_hard");
    let origin = region(&fleet);
    let list = kept(&fleet);
    hard(&origin, "items:1");
    assert!(wait_until(PATIENCE, || kept(&fleet) != list), "the purge is not kept");
    // Where the list is lost it is written anew; the stream forgets the purge.
    wait_kept_anew(&fleet);
    let stream = fleet.stream();
    end(origin, &fleet);
    fleet.redis.command(&["XTRIM", &stream, "MAXLEN", "1"]).unwrap();
    let failover = failover(&fleet).start();
    let reply = failover.get(ONE);
    assert_eq!((reply.status, reply.problem()), (503, "not_cached".to_owned()), "{reply:?}");
    let reply = failover.get(TWO);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.cache().ends_with("detail=failover"), "{reply:?}");
}

#[test]
fn what_is_purged_while_it_runs_is_served_no_more_and_what_changes_is_marked() {
    let fleet = Fleet::new("failover_heard");
    let origin = region(&fleet);
    let failover = failover(&fleet).start();
    for target in [ONE, TWO] {
        failover.wait_for("a fresh answer", target, |reply| reply.status == 200 && reply.ttl() > 0);
    }
    let before = failover.changes("stream");
    hard(&origin, "items:1");
    failover.wait_change("stream", before);
    assert_eq!(failover.get(ONE).status, 503);
    let before = failover.changes("stream");
    fleet.set(2, 5);
    failover.wait_change("stream", before);
    let reply = failover.get(TWO);
    assert_eq!((reply.status, reply.ttl() <= 0), (200, true), "{reply:?}");
    // What the region fills after that is served.
    for target in [ONE, TWO] {
        origin.wait_for("a new fill", target, |reply| reply.is_hit() && reply.ttl() > 0);
        failover.wait_for("the new fill", target, |reply| reply.status == 200 && reply.ttl() > 0);
    }
    assert_eq!(failover.get(TWO).json()["value"], 5);
}

/// Nothing is known of what the stream has lost: the setting decides, and what is known holds in either case.
#[test]
fn where_purges_cannot_be_known_the_setting_decides() {
    let fleet = Fleet::new("failover_unknown");
    let origin = region(&fleet);
    let wait_told = |changes: f64| assert!(wait_until(PATIENCE, || origin.changes("stream") == changes));
    fleet.set(3, 1);
    wait_told(1.0);
    hard(&origin, "items:1");
    wait_told(2.0);
    end(origin, &fleet);
    // All before the purge is gone from the stream, and the list with it.
    let (stream, find) = (
        fleet.stream(),
        r#"for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
        if entry[2][2]:find('"h":') then return entry[1] end
    end"#,
    );
    let purge = fleet.redis.command(&["EVAL", find, "1", &stream]).unwrap();
    fleet
        .redis
        .command(&["EVAL", "return tostring(redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1]))", "1", &stream, &purge])
        .unwrap();
    lose_kept(&fleet);
    let refuses = failover(&fleet).start();
    assert_eq!(refuses.get(TWO).status, 503);
    // Where it has not heard all of the stream a moment after its start, it looks for the list for so long.
    let serves = failover(&fleet).set("cache.past_hard_purge_max_silence", "serve").set("cache.max_silence", "200ms");
    let serves = serves.set("changes.heartbeat_interval", "50ms").start();
    serves.wait_for("what is kept", TWO, |reply| reply.status == 200);
    assert_eq!(serves.get(ONE).status, 503, "the stream still has this purge");
    let health = serves.get("/health/edge").json();
    assert!(health["reasons"].as_array().unwrap().contains(&json!("hard_purges_unknown")), "{health}");
}

/// An operator may still make one forget; that reaches nobody else.
#[test]
fn a_purge_on_it_holds_there_alone() {
    let fleet = Fleet::new("failover_own");
    drop(region(&fleet));
    let (one, other) = (failover(&fleet).start(), failover(&fleet).start());
    assert_eq!((one.get(ONE).status, other.get(ONE).status), (200, 200));
    hard(&one, "items:1");
    assert_eq!((one.get(ONE).status, other.get(ONE).status), (503, 200));
}
