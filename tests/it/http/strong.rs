//! `X-Consistency: strong`: from the primary, past all caches, or not at all.

use crate::instance::client::{Reply, head};
use crate::instance::{Instance, Plan};
use crate::support::Cluster;

const ROUTES: &str = r#"
[[route]]
path = "/public/who"
result = "row"
sql = "SELECT pg_is_in_recovery() AS standby"

[[route]]
path = "/account/who"
result = "row"
sql = "SELECT pg_is_in_recovery() AS standby"

[[route]]
path = "/account/broken"
sql = "SELECT 1 / 0"

[[route]]
path = "/held"
consistency = "strong"
sql = "SELECT 1 AS one FROM pg_advisory_xact_lock_shared(1)"
"#;

fn start(change: impl FnOnce(Plan) -> Plan) -> (Instance, String) {
    let cluster = Cluster::shared();
    let name = cluster.database();
    let instance = change(Plan::new(ROUTES).database(cluster, &name)).start();
    instance.wait_healthy();
    (instance, name)
}

fn is_strong(reply: &Reply) -> bool {
    let standby = reply.json()["standby"].as_bool().unwrap();
    let says_strong = reply.header("x-route-primary") == Some("true");
    assert_eq!(says_strong, !standby, "{reply:?}");
    assert_eq!(says_strong, reply.cache() == "fwd=bypass; detail=primary", "{reply:?}");
    assert_eq!(says_strong, reply.header("cache-control") == Some("no-store"), "{reply:?}");
    says_strong
}

#[test]
fn strong_is_trimmed_and_in_any_case_and_nothing_else_is_strong() {
    let (instance, _) = start(|plan| plan);
    assert!(!is_strong(&instance.get("/public/who")), "what is kept from now on came from the replica");
    for value in ["strong", "STRONG", "Strong", "  strong \t"] {
        assert!(is_strong(&instance.get_with("/public/who", &[("X-Consistency", value)])), "{value:?}");
    }
    let lines = [("X-Consistency", "eventual"), ("x-consistency", "strong")];
    assert!(is_strong(&instance.get_with("/public/who", &lines)));
    for value in ["", "eventual", "strongest", "strong, eventual", "\"strong\"", "session", "true"] {
        let reply = instance.get_with("/public/who", &[("X-Consistency", value)]);
        assert!(!is_strong(&reply) && reply.is_hit(), "{value:?}");
    }
    let hit = instance.get("/public/who");
    assert!(hit.is_hit() && hit.header("x-route-primary").is_none(), "a strong read leaves nothing behind");
}

#[test]
fn no_value_weakens_a_strong_route_and_errors_say_it_too() {
    let (instance, _) = start(|plan| plan);
    for value in ["eventual", "session", "", "weak"] {
        let reply = instance.get_with("/account/who", &[("X-Consistency", value)]);
        assert_eq!((reply.json()["standby"].as_bool(), reply.header("x-route-primary")), (Some(false), Some("true")));
        assert_eq!(reply.header("cache-control"), Some("no-store, private"));
    }
    for (target, status) in [("/account/broken", 500), ("/account/who?x=1", 400)] {
        let reply = instance.get(target);
        assert_eq!((reply.status, reply.header("x-route-primary")), (status, Some("true")), "{target}");
    }
    let reply = instance.get_with("/public/who?x=1", &[("X-Consistency", "strong")]);
    assert_eq!((reply.status, reply.header("x-route-primary")), (400, Some("true")));
}

#[test]
fn the_header_can_be_turned_off() {
    for setting in ["off", "authenticated"] {
        let (instance, _) = start(|plan| plan.set("consistency.strong_header", setting));
        let reply = instance.get_with("/public/who", &[("X-Consistency", "strong")]);
        assert!(!is_strong(&reply), "{setting}: no route here has authentication");
        assert_eq!(instance.get("/account/who").header("x-route-primary"), Some("true"), "routes are strong still");
    }
}

#[test]
fn more_strong_reads_than_the_cap_are_refused_while_they_last() {
    let (instance, name) = start(|plan| plan.set("database.strong_concurrency_max", "2"));
    let cluster = Cluster::shared();
    let mut gate = postgres::Client::connect(&cluster.primary.url("postgres", &name), postgres::NoTls).unwrap();
    gate.batch_execute("SELECT pg_advisory_lock(1)").unwrap();
    let mut held: Vec<_> = (0..2).map(|_| instance.connect()).collect();
    held.iter_mut().for_each(|connection| connection.send(head("GET", "/held", &[])));
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    let both_wait = || gate.query_one(waiting, &[]).unwrap().get::<_, i64>(0) >= 2;
    assert!(mainstay::local::wait_until(crate::support::PATIENCE, both_wait));
    for target in ["/held", "/account/who"] {
        let reply = instance.get(target);
        assert_eq!((reply.status, reply.problem()), (503, "strong_unavailable".to_owned()), "{target}");
        assert_eq!(reply.header("x-route-primary"), Some("true"));
    }
    assert!(!is_strong(&instance.get("/public/who")), "eventual reads have nothing to do with it");
    gate.batch_execute("SELECT pg_advisory_unlock(1)").unwrap();
    for connection in &mut held {
        assert_eq!(connection.reply("GET").status, 200);
    }
    assert!(is_strong(&instance.get_with("/public/who", &[("X-Consistency", "strong")])));
}

/// Nothing that promises the primary may blame a database in general: clients tell the two apart by the code.
#[test]
fn without_any_database_a_strong_read_says_so() {
    let instance = Plan::new(ROUTES).start();
    for (path, headers) in [("/account/who", &[][..]), ("/public/who", &[("X-Consistency", "strong")])] {
        let reply = instance.get_with(path, headers);
        assert_eq!((reply.status, reply.problem()), (503, "strong_unavailable".to_owned()), "{path}");
        assert_eq!(reply.header("x-route-primary"), Some("true"), "{path}");
    }
    assert_eq!(instance.get("/public/who").problem(), "database_unavailable");
}
