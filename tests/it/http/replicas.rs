//! A replica that pauses, dies or is promoted while requests run: nobody who asks for an eventual read sees an error.

use mainstay::local::wait_until;

use crate::instance::asking::while_asking;
use crate::instance::client::Reply;
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE};

const ROUTES: &str = r#"
[[route]]
path = "/now"
result = "row"
sql = "SELECT pg_is_in_recovery() AS standby"

[[route]]
path = "/held"
result = "row"
sql = "SELECT 1 AS one"
  [route.cache]
  ttl = "10ms"
"#;

/// Which part answered, by `Cache-Status`; it must be the one that really did.
fn who(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    let who = reply.cache().rsplit("detail=").next().unwrap().to_owned();
    assert_eq!(reply.json()["standby"], who == "replica", "{reply:?}");
    who
}

fn start(cluster: &Cluster) -> Instance {
    let plan = Plan::new(ROUTES).database(cluster, "postgres").set("replication.lag_max", "1s");
    let plan = plan.set("health.lag_max", "1s").set("nodes.open_time", "200ms").set("nodes.open_time_max", "500ms");
    let instance = plan.start();
    instance.wait_healthy();
    instance
}

/// Runs `trouble` while clients read all the time. None of the reads may fail.
fn while_reading(instance: &Instance, trouble: impl FnOnce()) {
    let client = |_| {
        let (mut connection, mut targets) = (instance.connect(), ["/now", "/held"].into_iter().cycle());
        move || {
            let reply = connection.request("GET", targets.next().unwrap(), &[]);
            assert_eq!(reply.status, 200, "{reply:?}");
        }
    };
    while_asking(4, client, trouble);
}

fn wait_who(instance: &Instance, expected: &str) {
    instance.wait_for(expected, "/now", |reply| who(reply) == expected);
}

fn reasons(instance: &Instance, expected: &str) -> Reply {
    instance.wait_for(expected, "/health/edge", |reply| {
        reply.json()["reasons"].as_array().unwrap().iter().any(|reason| reason == expected)
    })
}

#[test]
fn a_replica_that_is_killed_is_missed_by_nobody_and_comes_back() {
    let cluster = Cluster::private("http-killed");
    let instance = start(&cluster);
    assert_eq!(who(&instance.get("/now")), "replica");
    while_reading(&instance, || {
        cluster.replica.server.kill9();
        wait_who(&instance, "primary");
        let edge = reasons(&instance, "replica_down");
        instance.wait_for("a 503", "/health/edge", |reply| reply.status == 503);
        assert_eq!(edge.json()["region"], "test-1");
        // What nobody but the clients asks for, while it is away.
        let reads = || instance.metric("mainstay_http_requests_total{route=\"/held\",status=\"200\"}");
        let before = reads();
        assert!(wait_until(PATIENCE, || reads() - before > 100.0), "nobody reads");
        cluster.replica.server.start().unwrap();
        wait_who(&instance, "replica");
        instance.wait_healthy();
    });
}

/// Replay that is paused makes data old, not wrong: the primary answers until it goes on.
#[test]
fn a_paused_replica_is_left_alone_until_it_has_caught_up() {
    let cluster = Cluster::private("http-paused");
    let instance = start(&cluster);
    while_reading(&instance, || {
        cluster.replica.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
        cluster.primary.psql("postgres", "CREATE TABLE more (id int)").unwrap();
        wait_who(&instance, "primary");
        let lagging = instance.wait_for("a 503", "/health/edge", |reply| reply.status == 503);
        assert!(lagging.json()["replication_lag_secs"].as_u64().is_some_and(|lag| lag >= 1), "{lagging:?}");
        assert_eq!(lagging.json()["status"], "unhealthy");
        assert!(lagging.header("retry-after").is_some());
        cluster.replica.psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
        wait_who(&instance, "replica");
        instance.wait_healthy();
    });
}

/// A promoted replica is another history: it must not answer any more, although it would.
#[test]
fn a_promoted_replica_answers_nobody() {
    let cluster = Cluster::private("http-promoted");
    let instance = start(&cluster);
    while_reading(&instance, || {
        cluster.replica.promote().unwrap();
        let diverged = reasons(&instance, "replica_diverged");
        assert_eq!(diverged.json()["replication_lag_secs"], serde_json::Value::Null);
        for _ in 0..20 {
            assert_eq!(who(&instance.get("/now")), "primary");
        }
    });
    instance.wait_for("a 503", "/health/edge", |reply| reply.status == 503);
}

/// With the primary dead a region says so, serves on from its replica, and refuses strong reads.
#[test]
fn without_its_primary_a_region_reads_on() {
    let cluster = Cluster::private("http-headless");
    let plan = Plan::new(ROUTES).database(&cluster, "postgres").set("replication.lag_max", "1h");
    let instance = plan.set("health.lag_max", "1h").start();
    instance.wait_healthy();
    while_reading(&instance, || {
        cluster.primary.server.kill9();
        let down = reasons(&instance, "primary_down");
        assert_eq!(down.json()["region"], "test-1");
        instance.wait_for("a 503", "/health/edge", |reply| reply.status == 503);
        assert_eq!(who(&instance.get("/now")), "replica");
        let strong = instance.get_with("/held", &[("X-Consistency", "strong")]);
        assert_eq!((strong.status, strong.problem()), (503, "strong_unavailable".to_owned()), "never what is kept");
        assert_eq!(strong.header("x-route-primary"), Some("true"));
        cluster.primary.server.start().unwrap();
        instance.wait_healthy();
    });
    assert_eq!(instance.get_with("/now", &[("X-Consistency", "strong")]).status, 200);
}
