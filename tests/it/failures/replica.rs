//! The replica fails: the primary answers in its place.

use mainstay::local::ProxyMode;

use super::*;

/// The replica fails in one way, and is well again.
fn fails(name: &str, how: How) {
    let site = Site::new(name);
    site.while_reading(|| {
        site.replica.fail(how);
        site.wait_from("primary");
        site.is_up("replica-1", false);
        assert_eq!(site.wait_reason("replica_down").json()["replication_lag_secs"], serde_json::Value::Null);
        assert!(site.wait_metric("mainstay_degraded", 1.0));
        assert_eq!(at_once(|| site.instance.get(BRIEF)).status, 200);
        assert_eq!(site.instance.get(NEW).cache(), "fwd=miss; stored; detail=primary");
        assert_eq!(at_once(|| site.order()).status, 200);
        site.replica.mend();
        site.wait_well();
        site.is_up("replica-1", true);
        assert!(site.wait_metric("mainstay_degraded", 0.0));
    });
}

#[test]
fn one_that_is_cut_off_is_missed_by_nobody() {
    fails("replica-cut", How::Cut);
}

#[test]
fn one_that_resets_is_missed_by_nobody() {
    fails("replica-reset", How::Reset);
}

#[test]
fn one_that_is_black_holed_stalls_nobody() {
    fails("replica-black-hole", How::BlackHole);
}

#[test]
fn one_that_is_slow_stalls_nobody() {
    fails("replica-slow", How::Delayed);
}

#[test]
fn one_that_is_throttled_stalls_nobody() {
    fails("replica-throttled", How::Throttled);
}

/// What it streams does not arrive: it is well, and shows the past.
#[test]
fn one_that_lags_is_not_read() {
    let fleet = Fleet::with("replica-lags", Cluster::private("replica-lags"));
    let site = Site::on(fleet, |plan| plan.set("replication.lag_max", "1s").set("health.lag_max", "1s"));
    site.while_reading(|| {
        site.fleet.stream.set_mode(ProxyMode::BlackHole);
        site.fleet.set(1, 1);
        // A change that was told is in every answer from then on, however far the replica is.
        site.instance.wait_for("the change", KEPT, |reply| reply.claims_fresh() && reply.value() == 1);
        let lag = "mainstay_replication_lag_seconds{node=\"replica-1\"}";
        assert!(wait_until(PATIENCE, || site.instance.metric(lag) > 1.0));
        site.wait_reason("replication_lag");
        assert_eq!(site.wait_from("primary").value(), 1);
        assert_eq!(site.order().status, 200);
        site.fleet.stream.set_mode(ProxyMode::Pass);
        site.wait_well();
    });
    assert_eq!(site.instance.get(BRIEF).value(), 1);
}
