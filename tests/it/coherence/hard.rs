//! Purges for good.

use mainstay::error::Code;
use mainstay::local::wait_until;
use mainstay::{Answer, Error};
use serde_json::json;

use super::fleet::{Fleet, Member, ROUTES};
use crate::instance::probe::Probe;
use crate::support::PATIENCE;

const SECRET: &str = "/public/secret";
const ROUTE: &str = "
[[route]]
path = \"/public/secret\"
handler = \"probe\"
[route.cache]
ttl = \"1h\"
stale_while_revalidate = \"1h\"
stale_if_error = \"1d\"
tags = [\"secret\"]
";

/// Not by those who were there, nor by one that was cut off when it was told, nor by one that comes later and finds it in Redis;
/// also while the source fails, when anything else would do.
#[test]
fn what_was_purged_for_good_is_served_by_nobody_again() {
    let fleet = Fleet::new("hard");
    let probe = Probe::default();
    let routes = format!("{ROUTES}{ROUTE}");
    let plan = |plan: crate::instance::Plan| {
        let probe = probe.clone();
        plan.handler("probe", move |call| probe.clone().run(call))
    };
    let there = [(); 2].map(|()| plan(fleet.plan_with(&routes)).start());
    let away = plan(fleet.listener_with("hard_away", &routes)).start();
    for instance in there.iter().chain([&away]) {
        instance.wait_hearing("stream");
        instance.wait_for("a hit", SECRET, |reply| reply.is_hit() && reply.ttl() > 0);
    }
    assert!(wait_until(PATIENCE, || fleet.shared_entries() == 1));
    fleet.deafen("hard_away");
    probe.answer(|_, _| Err(Error::new(Code::DatabaseUnavailable, "as told")));
    let report =
        there[0].admin("POST", "/admin/cache/purge", &json!({ "tags": ["secret"], "mode": "hard" }).to_string());
    assert_eq!(report["mode"], "hard", "{report}");
    for instance in &there {
        instance.wait_for("the purge", SECRET, |reply| reply.status == 503);
    }
    // The stream forgets it. The database does not.
    fleet.sql("GRANT USAGE ON SCHEMA mainstay TO hard_away; GRANT SELECT ON mainstay.hard_purges TO hard_away");
    fleet.redis.command(&["XTRIM", &fleet.stream(), "MAXLEN", "0"]).unwrap();
    let joined = plan(fleet.plan_with(&routes)).start();
    joined.wait_reaching();
    fleet.hear_again("hard_away");
    let heard = away.heartbeats("stream");
    assert!(wait_until(PATIENCE, || away.heartbeats("stream") > heard));
    for instance in there.iter().chain([&away, &joined]) {
        for _ in 0..20 {
            let reply = instance.get(SECRET);
            assert_eq!((reply.status, reply.problem()), (503, "database_unavailable".to_owned()));
        }
    }
    probe.answer(|_, _| Answer::json(&json!({ "new": true })));
    for instance in there.iter().chain([&away, &joined]) {
        let reply = instance.wait_for("a new answer", SECRET, |reply| reply.status == 200);
        assert_eq!(reply.json()["new"], true);
    }
}
