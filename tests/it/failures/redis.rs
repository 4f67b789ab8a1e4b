//! Redis fails: nobody waits for it, and each instance does by itself what the fleet did together.

use super::*;

const BREAKER: &str = "mainstay_node_breaker_state{node=\"redis\"}";
const UNAVAILABLE: &str = "mainstay_cache_lookups_total{layer=\"L2\",result=\"unavailable\"}";
/// The breaker is open.
const OPEN: f64 = 2.0;

/// Redis fails in one way, and is well again. Changes are told all the while.
fn fails(name: &str, fail: impl FnOnce(&Site), reason: &str, mend: impl FnOnce(&Site)) {
    let site = Site::new(name);
    let failures = format!("mainstay_redis_failures_total{{reason=\"{reason}\"}}");
    let change = |value: i64| {
        site.fleet.set(1, value);
        site.instance.wait_for("the change", KEPT, |reply| reply.claims_fresh() && reply.value() == value);
    };
    site.while_reading(|| {
        fail(&site);
        assert!(wait_until(PATIENCE, || site.instance.metric(BREAKER) == OPEN), "it goes on asking");
        assert!(site.instance.metric(&failures) > 0.0, "{reason}");
        assert!(site.wait_metric("mainstay_degraded_reason{reason=\"shared_cache_down\"}", 1.0));
        assert!(site.wait_metric("mainstay_degraded", 1.0));
        let before = site.instance.metric(UNAVAILABLE);
        assert_eq!(at_once(|| site.wait_from("replica")).status, 200);
        assert!(site.instance.metric(UNAVAILABLE) > before);
        assert_eq!(site.instance.get(NEW).cache(), "fwd=miss; stored; detail=replica");
        assert_eq!(at_once(|| site.order()).status, 200);
        change(1);
        // A machine that is too busy to sample the databases in time is out of rotation for that, and comes back while Redis is away.
        site.instance.wait_for("a region in rotation", "/health/edge", |reply| reply.status == 200);
        mend(&site);
        site.wait_well();
        change(2);
    });
}

#[test]
fn one_that_is_down_is_missed_by_nobody() {
    fails("redis-cut", |site| site.redis.fail(How::Cut), "connection", |site| site.redis.mend());
}

#[test]
fn one_that_resets_is_missed_by_nobody() {
    fails("redis-reset", |site| site.redis.fail(How::Reset), "connection", |site| site.redis.mend());
}

#[test]
fn one_that_hangs_is_left_alone() {
    let hang = |site: &Site| site.fleet.redis.server.suspend().unwrap();
    fails("redis-hung", hang, "timeout", |site| site.fleet.redis.server.resume().unwrap());
}

#[test]
fn one_that_is_throttled_is_left_alone() {
    fails("redis-throttled", |site| site.redis.fail(How::Throttled), "timeout", |site| site.redis.mend());
}

/// Its password was changed, and the instance does not know it.
#[test]
fn one_that_asks_for_another_password_is_left_alone() {
    let lock = |site: &Site| {
        site.fleet.redis.command(&["CONFIG", "SET", "requirepass", "correct-horse"]).unwrap();
        site.redis.0.cut();
    };
    let unlock = |site: &Site| {
        let url = format!("redis://:correct-horse@127.0.0.1:{}", site.fleet.redis.server.port());
        let mut connection = ::redis::Client::open(url).unwrap().get_connection().unwrap();
        ::redis::cmd("CONFIG").arg(&["SET", "requirepass", ""]).exec(&mut connection).unwrap();
    };
    fails("redis-password", lock, "unauthorized", unlock);
}
