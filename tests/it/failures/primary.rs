//! The primary fails: replicas go on, and who must not read what is old is refused.

use super::*;

fn is_refused(reply: &Reply) {
    assert_eq!((reply.status, reply.problem()), (503, "strong_unavailable".to_owned()), "{reply:?}");
    assert_eq!(reply.header("x-route-primary"), Some("true"));
}

/// The primary fails in one way, and is well again.
fn fails(name: &str, how: How) {
    let site = Site::new(name);
    let strong = || site.instance.get_with(KEPT, &[("X-Consistency", "strong")]);
    site.while_reading(|| {
        site.primary.fail(how);
        // Nobody waits longer than a request may last, the first ones included.
        is_refused(&in_time(|| site.order()));
        is_refused(&in_time(strong));
        site.is_up("primary", false);
        site.wait_reason("primary_down");
        is_refused(&at_once(|| site.order()));
        is_refused(&at_once(strong));
        is_refused(&at_once(|| site.instance.get(ACCOUNT)));
        assert_eq!(at_once(|| site.wait_from("replica")).status, 200);
        // Nobody tells of changes: what is kept goes on, and says of itself that it may be old.
        assert!(site.wait_metric("mainstay_bus_silent", 1.0));
        let marked = site.instance.wait_for("a marked answer", KEPT, |reply| !reply.claims_fresh());
        assert_eq!((marked.status, marked.cache()), (200, "hit; ttl=-1; detail=L1"));
        site.primary.mend();
        site.wait_well();
        site.is_up("primary", true);
        assert!(site.wait_metric("mainstay_bus_silent", 0.0));
        assert_eq!(site.instance.get(ACCOUNT).status, 200);
    });
}

#[test]
fn one_that_is_cut_off_stops_writers_alone() {
    fails("primary-cut", How::Cut);
}

#[test]
fn one_that_is_black_holed_stops_writers_alone_and_at_once() {
    fails("primary-black-hole", How::BlackHole);
}

#[test]
fn one_that_is_slow_stops_writers_alone() {
    fails("primary-slow", How::Delayed);
}
