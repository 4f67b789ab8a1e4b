//! A replica is promoted without the last commits of its primary, which lives on and takes writes.

use mainstay::local::{Proxy, ProxyMode, wait_until};

use super::fleet::{Claim, Fleet, Member, assert_only};
use crate::support::PATIENCE;

const ITEM: &str = "/public/items/1";
const OTHER: &str = "/public/items/2";
const NEVER_ASKED: &str = "/public/items/9";

#[test]
fn what_a_promotion_lost_is_current_to_nobody_and_the_old_primary_counts_no_more() {
    let fleet = Fleet::private("promotion");
    let front = Proxy::start(([127, 0, 0, 1], fleet.primary.server.port()).into()).unwrap();
    let url = format!("postgres://postgres@{}/{}", front.address(), fleet.database);
    let plan = || fleet.plan().set("DATABASE_URL", &url);
    let moved = [plan().start(), plan().start()];
    moved.iter().for_each(|instance| instance.wait_hearing("stream"));
    // Its URL is that of the old primary, whatever becomes of it.
    let stayed = fleet.start();
    let all = [&moved[0], &moved[1], &stayed];
    for instance in all {
        assert_only(instance, ITEM, 0);
        assert_only(instance, OTHER, 0);
    }

    // The tail: committed, told and served, and never streamed.
    fleet.stream.set_mode(ProxyMode::Refuse);
    fleet.stream.cut();
    let before = all.map(|instance| instance.changes("stream"));
    fleet.set(1, 1);
    for (instance, before) in all.into_iter().zip(before) {
        instance.wait_change("stream", before);
        assert_only(instance, ITEM, 1);
    }
    fleet.replica.promote().unwrap();
    front.set_target(([127, 0, 0, 1], fleet.replica.server.port()).into());
    front.cut();
    let on_new = |sql: &str| fleet.replica.psql(&fleet.database, sql).unwrap();

    for instance in all {
        instance.wait_timeline(2);
    }
    for instance in &moved {
        // The timeline is known before its primary is: until then there is nobody to read from.
        let strong = || instance.get_with(ITEM, &[("X-Consistency", "strong")]);
        assert!(wait_until(PATIENCE, || strong().status == 200), "no new primary: {:?}", strong());
        assert_only(instance, ITEM, 0);
    }
    // The old primary goes on as if nothing had happened.
    fleet.set(1, 5);
    fleet.set(9, 5);
    let refused = stayed.get(NEVER_ASKED);
    assert_eq!((refused.status, refused.problem()), (503, "database_unavailable".to_owned()), "it fills nothing");
    let strong = stayed.get_with(ITEM, &[("X-Consistency", "strong")]);
    assert_eq!((strong.status, strong.problem()), (503, "strong_unavailable".to_owned()));
    let joined = plan().start();
    joined.wait_reaching();
    for instance in [&moved[0], &moved[1], &joined] {
        assert_only(instance, ITEM, 0);
        assert_only(instance, NEVER_ASKED, 0);
    }
    // It has what the others fill.
    let shared = stayed.wait_for("what the others share", NEVER_ASKED, |reply| reply.status == 200);
    assert_eq!(shared.value(), 0);
    let reply = stayed.get(ITEM);
    assert!(!reply.claims_fresh() || reply.value() == 0, "{reply:?}");

    // Changes of the new one are told, and those of the old one are not.
    let changed: Vec<_> = all.into_iter().chain([&joined]).map(|instance| instance.changes("stream")).collect();
    on_new("UPDATE items SET value = 7 WHERE id = 1");
    for (instance, before) in all.into_iter().chain([&joined]).zip(changed) {
        instance.wait_change("stream", before);
    }
    for instance in [&moved[0], &moved[1], &joined] {
        assert_only(instance, ITEM, 7);
        assert_only(instance, OTHER, 0);
    }
    let reply = stayed.wait_for("the new value", ITEM, |reply| reply.claims_fresh());
    assert_eq!(reply.value(), 7, "{PATIENCE:?}");
}
