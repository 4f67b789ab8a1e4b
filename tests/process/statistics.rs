//! Statistics by day, as a reader of them sees it: counted by the real binary, cached, and complete when it has ended.

use serde_json::Value;

use rustix::process::Signal;

use crate::money::Site;
use crate::support::{Cluster, Origin, Reply, repository, request};

/// What was counted of a route on all days: requests, errors, hits.
fn of_route(days: &Value, route: &str) -> [i64; 3] {
    let rows = days["days"].as_array().unwrap().iter().flat_map(|day| day["routes"].as_array().unwrap());
    let rows: Vec<&Value> = rows.filter(|row| row["route"] == route).collect();
    ["requests", "errors", "hits"].map(|name| rows.iter().map(|row| row[name].as_i64().unwrap()).sum())
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    assert!(mainstay::local::wait_until(std::time::Duration::from_secs(60), &mut holds), "waited in vain for {what}");
}

#[test]
fn what_is_asked_and_what_is_paid_is_shown_by_day() {
    let cluster = Cluster::shared();
    let site = Site::migrated(&cluster.primary, cluster.database(""));
    let made = site.run(&["keys", "create", "--name", "reports", "--scope", "stats", "--json"]);
    let made: Value = serde_json::from_str(&made.stdout).unwrap();
    let bearer = format!("Bearer {}", made["api_key"].as_str().unwrap());
    let (ada, bob) = (site.customer("Ada"), site.customer("Bob"));
    site.fund(&ada, "USD", 10_000);
    let env = [("DATABASE_URL", site.serving.as_str()), ("MAINSTAY__STATISTICS__INTERVAL", "1s")];
    let mut origin = Origin::start(&repository("config"), &env);
    origin.get_until("/health/edge", |reply| reply.status == 200);
    let stats = |headers: &[(&str, &str)]| -> Reply {
        request("GET", &format!("{}/api/v1/stats/daily", origin.base), headers, None)
    };
    let daily = || stats(&[("Authorization", &bearer)]);

    assert_eq!(stats(&[]).status, 401);
    let refused = stats(&[("Authorization", &ada.bearer)]);
    assert_eq!((refused.status, refused.code().as_str()), (403, "scope_missing"));
    for _ in 0..5 {
        assert_eq!(origin.get("/public/currencies").status, 200);
    }
    assert_eq!(origin.get("/nothing/of/the/kind").status, 404);
    assert_eq!(ada.send(&origin.base, &bob, 1_000, "USD", Some("once")).status, 201);
    wait_for("what was asked", || of_route(&daily().json(), "/public/currencies") == [5, 0, 4]);
    let shown = daily();
    assert_eq!(of_route(&shown.json(), "/api/v1/transfers")[0], 1);
    assert!(!shown.body.contains("none") && !shown.body.contains("/nothing"), "{}", shown.body);
    let money = |days: &Value, kind: &str| -> i64 {
        let rows = days["days"].as_array().unwrap().iter().flat_map(|day| day["money"].as_array().unwrap());
        rows.filter(|row| row["kind"] == kind).map(|row| row["amount"].as_i64().unwrap()).sum()
    };
    wait_for("what was paid", || money(&daily().json(), "transfer") == 1_001);
    wait_for("an answer out of the cache", || daily().cache().contains("hit"));

    // A change of the tables ends what was cached, by the triggers on them.
    assert_eq!(ada.send(&origin.base, &bob, 2_000, "USD", Some("twice")).status, 201);
    wait_for("the second one", || money(&daily().json(), "transfer") == 3_002);

    // The end does not wait for the interval.
    for _ in 0..3 {
        assert_eq!(origin.get("/public/currencies").status, 200);
    }
    origin.program.signal(Signal::TERM);
    assert!(origin.program.wait().success());
    let counted = "SELECT requests, errors, hits FROM ramp.daily_requests WHERE route = '/public/currencies'";
    let sums = format!("SELECT sum(requests), sum(errors), sum(hits) FROM ({counted}) days");
    assert_eq!(site.sql(&sums), "8|0|7");
    assert_eq!(site.sql("SELECT count(*) FROM ramp.uncounted_transactions"), "0");
}
