//! Primary and replica fail: what is kept is all there is.

use super::*;

/// Both fail in one way, and are well again.
fn fail(name: &str, how: How) {
    let site = Site::new(name);
    let count = |sample: &str| site.instance.metric(sample);
    let stale = "mainstay_cache_lookups_total{layer=\"L1\",result=\"stale\"}";
    let before = count(stale);
    site.while_reading(|| {
        [&site.primary, &site.replica].iter().for_each(|part| part.fail(how));
        site.is_up("primary", false);
        site.is_up("replica-1", false);
        let kept = |reply: &Reply| reply.cache().ends_with("; fwd-status=503; detail=L1");
        site.instance.wait_for("a stale answer", BRIEF, kept);
        // The failure is remembered: nobody waits for it again.
        assert!(kept(&at_once(|| site.instance.get(BRIEF))));
        assert!(count(stale) > before);
        assert!(at_once(|| site.instance.get(KEPT)).is_hit());
        let new = at_once(|| site.instance.get(NEW));
        assert_eq!((new.status, new.problem()), (503, "database_unavailable".to_owned()));
        assert_eq!((site.order().problem(), site.order().status), ("strong_unavailable".to_owned(), 503));
        let failed = "mainstay_fills_total{outcome=\"database_unavailable\",route=\"/public/kept/{id}\"}";
        assert!(count(failed) > 0.0);
        let edge = site.wait_reason("primary_down");
        assert!(edge.json()["reasons"].as_array().unwrap().iter().any(|reason| reason == "replica_down"));
        [&site.primary, &site.replica].iter().for_each(|part| part.mend());
        site.wait_well();
        assert_eq!(site.instance.get(NEW).status, 200);
    });
}

#[test]
fn both_cut_off_leave_what_is_kept() {
    fail("both-cut", How::Cut);
}

#[test]
fn both_black_holed_leave_what_is_kept_and_nobody_waits_twice() {
    fail("both-black-hole", How::BlackHole);
}

/// An instance that starts in the middle of it has what its fleet has, once it has given up to learn what was purged for good.
/// It has never seen its routes' columns, and does not make one request wait for another's look at them.
#[test]
fn who_starts_without_a_database_serves_what_the_fleet_has() {
    let site = Site::new("both-late");
    let targets: Vec<String> = (1..=10).map(|id| format!("/public/brief/{id}")).collect();
    together(&targets, |target| site.instance.get(target));
    assert!(wait_until(PATIENCE, || site.fleet.shared_entries() > targets.len()), "it is not in Redis");
    [&site.primary, &site.replica].iter().for_each(|part| part.fail(How::BlackHole));
    site.is_up("primary", false);
    site.is_up("replica-1", false);
    let late = Site::plan(&site.fleet, &site.primary, &site.replica, &site.redis);
    let late = late.set("database.connect_timeout", "2s").start();
    let kept = late.wait_for("what is kept", KEPT, |reply| reply.status == 200);
    assert!(kept.is_hit() && !kept.claims_fresh(), "{kept:?}");
    for reply in together(&targets, |target| late.get(target)) {
        assert_eq!((reply.status, reply.cache().ends_with("; fwd-status=503; detail=L2")), (200, true), "{reply:?}");
    }
    assert_eq!(in_time(|| late.get(NEW)).problem(), "database_unavailable");
    [&site.primary, &site.replica].iter().for_each(|part| part.mend());
    late.wait_for("a fresh answer", KEPT, |reply| reply.status == 200 && reply.claims_fresh());
}
