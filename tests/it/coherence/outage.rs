//! What goes on while Redis, the leader or the primary is gone, and how it comes back.

use std::time::Instant;

use mainstay::local::{Proxy, ProxyMode, wait_until};

use super::fleet::{Claim, Fleet, Member, TAKEOVER_TIME, assert_only};
use crate::instance::asking::while_asking;
use crate::instance::client::Reply;
use crate::instance::{Instance, Plan};
use crate::support::PATIENCE;

const ITEM: &str = "/public/items/1";
/// Filled once, and never changed.
const WITNESS: &str = "/public/items/2";

/// Readers of [`ITEM`], whose value only grows, on each of these instances for as long as `work` takes. None of them may meet
/// an error, or see a value go back. Returns how many answers they had.
fn under_traffic(instances: &[&Instance], work: impl FnOnce()) -> usize {
    let client = |number: usize| {
        let (instance, mut newest) = (instances[number], 0);
        move || {
            let reply = instance.get(ITEM);
            assert!(reply.value() >= newest, "it was {newest} before: {reply:?}");
            newest = reply.value();
        }
    };
    while_asking(instances.len(), client, work)
}

/// Waits until an instance answers with this value, and claims it to be current.
fn wait_value(instance: &Instance, value: i64) {
    instance.wait_for("the new value", ITEM, |reply| reply.claims_fresh() && reply.value() == value);
}

/// A plan that gives Redis up as soon as a user's would.
fn impatient(plan: Plan) -> Plan {
    plan.set("redis.timeout", "100ms").set("redis.connect_timeout", "200ms")
}

#[test]
fn redis_may_die_hang_and_come_back_empty_under_traffic() {
    let fleet = Fleet::new("outage");
    let instances = [impatient(fleet.plan()).start(), impatient(fleet.plan()).start()];
    let all = instances.each_ref();
    for instance in all {
        instance.wait_hearing("stream");
        assert_only(instance, WITNESS, 0);
        assert_only(instance, ITEM, 0);
    }
    let gaps = all.map(Member::gaps);
    let mut value = 0;
    let mut change = |how: &str| {
        value += 1;
        let before = all.map(|instance| instance.changes("stream"));
        fleet.set(1, value);
        for (instance, before) in all.into_iter().zip(before) {
            wait_value(instance, value);
            if how == "stream" {
                instance.wait_change("stream", before);
            }
        }
    };
    let answers = under_traffic(&all, || {
        change("stream");
        fleet.redis.server.kill9();
        change("feed");
        change("feed");
        fleet.redis.server.start().unwrap();
        wait_stream(&all);
        change("stream");
        fleet.redis.server.suspend().unwrap();
        change("feed");
        fleet.redis.server.resume().unwrap();
        wait_stream(&all);
        change("stream");
    });
    assert!(answers > 100, "{answers}");
    assert_eq!(all.map(Member::gaps), gaps, "nothing was missed");
    for instance in all {
        let reply = instance.get(WITNESS);
        assert!(reply.is_hit() && reply.said("age") != "0", "what did not change was not purged: {reply:?}");
    }
}

/// Waits until instances hear the stream again.
fn wait_stream(instances: &[&Instance]) {
    let before: Vec<_> = instances.iter().map(|instance| instance.heartbeats("stream")).collect();
    for (instance, before) in instances.iter().zip(before) {
        assert!(wait_until(PATIENCE, || instance.heartbeats("stream") > before), "the stream is silent");
    }
}

#[test]
fn without_redis_each_instance_follows_the_feed() {
    let fleet = Fleet::new("no-redis");
    let instances = [(); 2].map(|()| fleet.plan().set("REDIS_URL", "").start());
    for instance in &instances {
        instance.wait_hearing("feed");
        assert_only(instance, ITEM, 0);
        assert_only(instance, WITNESS, 0);
    }
    for value in 1..4 {
        let before = instances.each_ref().map(|instance| instance.changes("feed"));
        fleet.set(1, value);
        for (instance, before) in instances.iter().zip(before) {
            instance.wait_change("feed", before);
            assert_only(instance, ITEM, value);
            assert!(instance.get(WITNESS).is_hit());
        }
    }
}

/// Who followed the feed by himself a moment ago is no reader that a purge waits for.
#[test]
fn a_purge_is_confirmed_by_all_right_after_an_outage() {
    let fleet = Fleet::new("confirmed");
    let instances = [impatient(fleet.plan()).start(), impatient(fleet.plan()).start()];
    let all = instances.each_ref();
    all.iter().for_each(|instance| instance.wait_hearing("stream"));
    let purge = || {
        let report = instances[0].admin("POST", "/admin/cache/purge", r#"{"tags":["items:1"]}"#);
        assert_eq!(report["instances"], serde_json::json!({ "known": 2, "confirmed": 2 }), "{report}");
        assert_eq!(report["regions"], serde_json::json!({ "reached": ["test-1"], "unreached": [] }), "{report}");
    };
    purge();
    fleet.redis.server.kill9();
    for instance in all {
        let before = instance.heartbeats("feed");
        assert!(wait_until(PATIENCE, || instance.heartbeats("feed") > before));
    }
    fleet.redis.server.start().unwrap();
    wait_stream(&all);
    fleet.wait_sql("a single reader", "SELECT count(*) = 1 FROM mainstay.cursors");
    purge();
}

/// Redis is configured, and not there when an instance starts.
#[test]
fn an_instance_that_starts_without_its_redis_follows_the_feed() {
    let fleet = Fleet::new("late-redis");
    fleet.redis.server.kill9();
    let instance = impatient(fleet.plan()).start();
    instance.wait_hearing("feed");
    assert_only(&instance, ITEM, 0);
    let before = instance.changes("feed");
    fleet.set(1, 1);
    instance.wait_change("feed", before);
    assert_only(&instance, ITEM, 1);
    fleet.redis.server.start().unwrap();
    instance.wait_hearing("stream");
    let before = instance.changes("stream");
    fleet.set(1, 2);
    instance.wait_change("stream", before);
    assert_only(&instance, ITEM, 2);
}

/// The leader hangs, as a process that was stopped does: its lease stays until it ends by itself. It comes back and believes
/// that it leads.
#[test]
fn another_leads_when_the_leader_hangs_and_no_change_is_lost() {
    let fleet = Fleet::new("leader");
    let front = |port: u16| Proxy::start(([127, 0, 0, 1], port).into()).unwrap();
    let fronts = [front(fleet.redis.server.port()), front(fleet.primary.server.port())];
    let leader = fleet
        .plan()
        .set("REDIS_URL", &format!("redis://{}", fronts[0].address()))
        .set("DATABASE_URL", &format!("postgres://postgres@{}/{}", fronts[1].address(), fleet.database))
        .start();
    leader.wait_hearing("stream");
    assert!(wait_until(PATIENCE, || leader.leads()));
    let others: [_; 2] = fleet.start_all();
    for instance in &others {
        assert_only(instance, ITEM, 0);
        assert_only(instance, WITNESS, 0);
    }
    let (before, gaps) = (others.each_ref().map(|it| it.changes("stream")), others.each_ref().map(Member::gaps));
    let hung_at = Instant::now();
    fronts.iter().for_each(|front| front.set_mode(ProxyMode::BlackHole));
    fleet.set(1, 1);
    assert!(wait_until(PATIENCE, || others.iter().any(Member::leads)));
    let taken_over = hung_at.elapsed();
    assert!(taken_over < TAKEOVER_TIME, "{taken_over:?}");
    for (instance, before) in others.iter().zip(before) {
        instance.wait_change("stream", before);
        assert_only(instance, ITEM, 1);
    }
    fronts.iter().for_each(|front| front.set_mode(ProxyMode::Pass));
    assert!(wait_until(PATIENCE, || !leader.leads()), "it goes on leading");
    wait_value(&leader, 1);
    let all = [&leader, &others[0], &others[1]];
    let before = all.map(|instance| instance.changes("stream"));
    fleet.set(1, 2);
    for (instance, before) in all.into_iter().zip(before) {
        instance.wait_change("stream", before);
        assert_only(instance, ITEM, 2);
    }
    assert_eq!(others.each_ref().map(Member::gaps), gaps, "nothing was missed");
    assert!(others.iter().all(|instance| instance.get(WITNESS).is_hit()));
    assert_eq!(all.into_iter().filter(|instance| instance.leads()).count(), 1);
}

/// Nobody tells of changes, since the primary is out of reach, and the replica has gone with it: all goes on being answered, and
/// says of itself that it may be old.
#[test]
fn in_silence_answers_are_marked_and_come_back_by_themselves() {
    let fleet = Fleet::private("silence");
    let front =
        |server: &mainstay::local::Postgres| Proxy::start(([127, 0, 0, 1], server.server.port()).into()).unwrap();
    let fronts = [front(&fleet.primary), front(&fleet.replica)];
    let [primary, replica] =
        fronts.each_ref().map(|front| format!("postgres://postgres@{}/{}", front.address(), fleet.database));
    let plan = || {
        let plan = fleet.plan().set("DATABASE_URL", &primary).set("DATABASE_READ_REPLICA_URL", &replica);
        plan.set("cache.max_silence", "1s").set("limits.request_timeout", "2s").set("database.statement_timeout", "2s")
    };
    let instances = [plan().start(), plan().start()];
    for instance in &instances {
        instance.wait_hearing("stream");
        assert_only(instance, ITEM, 0);
    }
    for front in &fronts {
        front.set_mode(ProxyMode::Refuse);
        front.cut();
    }
    for instance in &instances {
        assert!(wait_until(PATIENCE, || instance.metric("mainstay_bus_silent") == 1.0));
        let marked = instance.wait_for("a marked answer", ITEM, |reply| !reply.claims_fresh());
        assert_eq!(marked.value(), 0);
        for _ in 0..50 {
            let reply = instance.get(ITEM);
            assert!(!reply.claims_fresh() && reply.value() == 0, "{reply:?}");
        }
    }
    // What is committed meanwhile is told as soon as anybody can.
    fleet.set(1, 1);
    fleet.catch_up();
    for front in &fronts {
        front.set_mode(ProxyMode::Pass);
    }
    for instance in &instances {
        wait_value(instance, 1);
        assert!(wait_until(PATIENCE, || instance.metric("mainstay_bus_silent") == 0.0));
        instance.wait_for("a fresh hit", ITEM, |reply: &Reply| reply.is_hit() && reply.ttl() > 0 && reply.value() == 1);
    }
}
