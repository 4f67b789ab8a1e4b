//! A failover origin that reads databases, too.

use mainstay::local::{ProxyMode, wait_until};
use serde_json::json;

use crate::coherence::fleet::{Fleet, Member};
use crate::instance::{Instance, Plan};
use crate::support::{Cluster, PATIENCE};

const ONE: &str = "/public/items/1";
const TWO: &str = "/public/items/2";

fn reading(fleet: &Fleet, url: &str) -> Plan {
    let plan = fleet.plan().set("MODE", "failover").set("FAILOVER_SOURCE", "read-only");
    plan.set("DATABASE_URL", "").set("DATABASE_READ_REPLICA_URL", url)
}

fn is_up(instance: &Instance) -> bool {
    instance.admin("GET", "/admin/status", "")["nodes"].as_array().unwrap().iter().all(|node| node["up"] == true)
}

/// A replica alone, with nobody who could say how far behind it is, and nothing goes to Redis.
#[test]
fn what_nobody_has_stored_is_read_from_a_replica() {
    let fleet = Fleet::new("failover_replica");
    let failover = reading(&fleet, &fleet.replica.url("postgres", &fleet.database)).start();
    let first = failover.get(ONE);
    assert_eq!((first.status, first.json()["value"].as_i64(), first.header("age")), (200, Some(0), None), "{first:?}");
    assert_eq!(
        (first.cache(), first.header("cache-control")),
        ("fwd=miss; stored; detail=failover", Some("public, max-age=600"))
    );
    let second = failover.get(ONE);
    assert!(second.is_hit() && second.cache().ends_with("detail=failover"), "{second:?}");
    let absent = failover.get("/public/items/99");
    assert_eq!((absent.status, absent.header("cache-control")), (404, Some("no-store")));
    assert_eq!(failover.request("POST", ONE, &[]).status, 405);
    assert_eq!(failover.get_with(ONE, &[("X-Consistency", "strong")]).problem(), "strong_unavailable");
    assert_eq!(fleet.redis.command(&["EVAL", "return #redis.call('KEYS', '*')", "0"]).unwrap(), "0");
}

/// Another cluster altogether, which is written to by somebody else, and in no recovery.
#[test]
fn a_database_of_another_cluster_is_read_as_it_is() {
    let fleet = Fleet::new("failover_independent");
    let origin = fleet.start();
    origin.wait_for("a hit", ONE, |reply| reply.is_hit() && reply.ttl() > 0);
    assert!(wait_until(PATIENCE, || fleet.shared_entries() == 1));
    let other = Cluster::private("failover_other");
    other
        .primary
        .psql("postgres", "CREATE TABLE items (id integer, value bigint); INSERT INTO items VALUES (1, 70), (2, 71)")
        .unwrap();
    let failover = reading(&fleet, &other.primary.url("postgres", "postgres")).start();
    assert!(wait_until(PATIENCE, || is_up(&failover)));
    let stored = failover.get(ONE);
    assert!(stored.is_hit() && stored.json()["value"] == 0, "what the fleet has stored comes first: {stored:?}");
    assert_eq!(failover.get(TWO).json()["value"], 71);
    // A change makes what the fleet has stored stale; then it is read anew, behind the answer.
    let before = failover.changes("stream");
    fleet.set(1, 1);
    failover.wait_change("stream", before);
    drop(origin);
    failover.wait_for("what the other database says", ONE, |reply| reply.json()["value"] == 70);
    let node = failover.admin("GET", "/admin/status", "")["nodes"][0].clone();
    assert_eq!((&node["up"], &node["eligible"]), (&json!(true), &json!(true)), "{node}");
}

/// What is kept, however old, once the databases are gone.
#[test]
fn when_its_databases_fail_it_serves_what_is_kept() {
    let fleet = Fleet::new("failover_lost");
    let origin = fleet.start();
    origin.wait_for("a hit", ONE, |reply| reply.is_hit() && reply.ttl() > 0);
    assert!(wait_until(PATIENCE, || fleet.shared_entries() == 1));
    drop(origin);
    let proxy = mainstay::local::Proxy::start(([127, 0, 0, 1], fleet.replica.server.port()).into()).unwrap();
    proxy.set_mode(ProxyMode::Refuse);
    let url = format!("postgres://postgres@{}/{}?sslmode=disable", proxy.address(), fleet.database);
    let failover = reading(&fleet, &url).start();
    assert_eq!(failover.get(ONE).status, 200);
    let reply = failover.get(TWO);
    assert_eq!((reply.status, reply.problem()), (503, "not_cached".to_owned()));
    proxy.set_mode(ProxyMode::Pass);
    failover.wait_for("the database", TWO, |reply| reply.status == 200);
}

#[test]
fn it_does_not_start_without_a_database_to_read() {
    let refused = Plan::new("").set("MODE", "failover").set("FAILOVER_SOURCE", "read-only").try_start().err().unwrap();
    assert!(refused.contains("failover.source") && refused.contains("DATABASE_READ_REPLICA_URL"), "{refused}");
}
