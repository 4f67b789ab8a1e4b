//! Two versions of the program on one Redis, as in every deploy: neither serves what only the other understands, and neither is
//! stopped by it.

use mainstay::Answer;
use mainstay::local::wait_until;
use serde_json::json;

use super::fleet::{Fleet, Member, ROUTES, assert_only};
use crate::instance::Instance;
use crate::instance::probe::Probe;
use crate::support::PATIENCE;

const ITEM: &str = "/public/items/1";
const HANDLED: &str = r#"
[[route]]
path = "/public/handled"
handler = "probe"
[route.cache]
ttl = "1h"
watch = ["items"]
"#;

/// An instance of a version, whose handler says which one.
fn version(fleet: &Fleet, name: &'static str, routes: &str) -> Instance {
    let probe = Probe::answering(move |_, _| Answer::json(&json!({ "version": name })));
    let plan = fleet.plan_with(&format!("{routes}{HANDLED}"));
    let plan = plan.handler("probe", move |call| probe.clone().run(call));
    let instance = plan.parts(|parts| parts.version = Some(name.to_owned())).start();
    instance.wait_hearing("stream");
    instance
}

fn assert_version(instance: &Instance, name: &str) {
    for _ in 0..2 {
        assert_eq!(instance.get("/public/handled").json()["version"], name);
    }
}

#[test]
fn versions_side_by_side_share_what_means_the_same_and_nothing_else() {
    let fleet = Fleet::new("versions");
    let old = version(&fleet, "1", ROUTES);
    let new = version(&fleet, "2", ROUTES);
    assert_version(&old, "1");
    assert_version(&new, "2");
    assert_only(&old, ITEM, 0);
    let shared = new.get(ITEM);
    assert!(shared.header("cache-status").unwrap().contains("detail=L2"), "{shared:?}");

    // The route itself has changed: what the other one stores has another meaning.
    let changed = version(&fleet, "3", &ROUTES.replace("SELECT value FROM", "SELECT value + 100 AS value FROM"));
    assert_only(&changed, ITEM, 100);
    assert_only(&old, ITEM, 0);

    let before = [&old, &new, &changed].map(|instance| instance.changes("stream"));
    fleet.set(1, 7);
    for (instance, before) in [&old, &new, &changed].into_iter().zip(before) {
        instance.wait_change("stream", before);
    }
    assert_only(&old, ITEM, 7);
    assert_only(&new, ITEM, 7);
    assert_only(&changed, ITEM, 107);
    assert_version(&old, "1");
    assert_version(&new, "2");
}

#[test]
fn a_value_in_another_form_is_a_miss_and_a_message_in_another_form_hides_no_change() {
    let fleet = Fleet::new("forms");
    let old = version(&fleet, "1", ROUTES);
    assert_only(&old, ITEM, 0);
    // The byte that says which form it is, in all values.
    let other = "local count = 0 for _, key in ipairs(redis.call('KEYS', '*')) do \
                 if key:find(':{', 1, true) and not key:find(':lease:', 1, true) then \
                 redis.call('SETRANGE', key, 3, '0') count = count + 1 end end return count";
    let changed: usize = fleet.redis.command(&["EVAL", other, "0"]).unwrap().parse().unwrap();
    assert!(changed > 0, "there is something in Redis");
    let new = version(&fleet, "2", ROUTES);
    let missed = new.get(ITEM);
    assert!(missed.header("cache-status").unwrap().contains("fwd=miss"), "{missed:?}");
    assert_only(&new, ITEM, 0);

    // A message with a field that nobody here knows, just after the last one.
    let stream = fleet.stream();
    let add = "local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1] \
               local timeline, lsn = last:match('(%d+)-(%d+)') \
               return redis.call('XADD', KEYS[1], timeline .. '-' .. string.format('%d', lsn + 1), 'm', '{\"p\":\"x\",\"t\":\"x\",\"new\":1}')";
    fleet.redis.command(&["EVAL", add, "1", &stream]).unwrap();
    for value in 1..4 {
        fleet.set(1, value);
        for instance in [&old, &new] {
            let has_it = || instance.get(ITEM).json()["value"] == value;
            assert!(wait_until(PATIENCE, has_it), "{:?}", instance.get(ITEM));
            assert_only(instance, ITEM, value);
        }
    }
}
