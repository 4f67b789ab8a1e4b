//! `on_change = "refresh"`: the hottest answers are rendered again without a request.

use mainstay::local::wait_until;

use super::fleet::{Fleet, Member};
use crate::instance::Instance;
use crate::support::PATIENCE;

const ROUTES: &str = r#"
[[route]]
path = "/public/items/{id}"
result = "row"
sql = "SELECT value FROM items WHERE id = $1"
params = [{ name = "id", in = "path", type = "integer" }]
[route.cache]
ttl = "1h"
tags = ["items:{id}"]
watch = [{ table = "items", tag = "items:{id}" }]
on_change = "refresh"
"#;

/// As many as one change renders again, at most.
const REFRESHES_MAX: usize = 32;
/// Hits after which the store has counted an answer twice.
const HITS: usize = 40;

fn fills(instance: &Instance) -> f64 {
    instance.metric("mainstay_fills_total{outcome=\"ok\",route=\"/public/items/{id}\"}")
}

#[test]
fn the_hottest_answers_are_rendered_again_before_anybody_asks() {
    let fleet = Fleet::new("refresh");
    fleet.sql("INSERT INTO items SELECT id, 'ann', 0 FROM generate_series(11, 60) AS id");
    // One worker, whose notes count hits in one way.
    let instance = fleet.plan_with(ROUTES).set("REDIS_URL", "").set("server.workers", "1").start();
    instance.wait_hearing("feed");
    let hot = 1..=REFRESHES_MAX;
    let (lukewarm, cold) = (REFRESHES_MAX + 1..=50, 51..=60);
    let mut connection = instance.connect();
    let mut get = |id: usize| connection.request("GET", &format!("/public/items/{id}"), &[]);
    (1..=60).for_each(|id| assert!(!get(id).is_hit(), "{id}"));
    hot.clone().for_each(|id| (0..HITS).for_each(|_| assert!(get(id).is_hit())));
    lukewarm.clone().for_each(|id| assert!(get(id).is_hit()));
    assert_eq!(fills(&instance), 60.0);

    fleet.sql("UPDATE items SET value = 1");
    assert!(wait_until(PATIENCE, || fills(&instance) == 60.0 + 32.0), "{} fills", fills(&instance));
    instance.wait_told(&fleet);
    for id in hot {
        let reply = get(id);
        assert!(reply.is_hit() && reply.ttl() > 0 && reply.json()["value"] == 1, "{id}: {reply:?}");
    }
    for id in lukewarm.chain(cold) {
        let reply = get(id);
        assert!(!reply.is_hit() && reply.json()["value"] == 1, "{id}: {reply:?}");
    }
    assert_eq!(fills(&instance), 120.0);
}

/// What nobody asks for any more is not rendered for ever.
#[test]
fn an_answer_that_nobody_asks_for_is_forgotten() {
    let fleet = Fleet::new("refresh-forgotten");
    let instance = fleet.plan_with(ROUTES).set("REDIS_URL", "").set("server.workers", "1").start();
    instance.wait_hearing("feed");
    instance.get("/public/items/1");
    assert!(instance.get("/public/items/1").is_hit());
    // Each time half of its hits are forgotten: 32 are gone after six times.
    for (value, count) in [(1, 2.0), (2, 3.0), (3, 4.0), (4, 5.0), (5, 6.0), (6, 7.0)] {
        fleet.set(1, value);
        assert!(wait_until(PATIENCE, || fills(&instance) == count), "{} fills", fills(&instance));
    }
    fleet.set(1, 7);
    instance.wait_told(&fleet);
    assert_eq!(instance.get("/public/items/1").json()["value"], 7);
    assert_eq!(fills(&instance), 8.0, "the last one was asked for");
}
