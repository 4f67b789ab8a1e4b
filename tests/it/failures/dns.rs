//! Names do not resolve: what is connected stays in use, and who needs a name is told in time that there is none.

use super::*;

/// No name below it exists (RFC 6761).
const NOWHERE: &str = "nowhere.invalid";

/// Names that never led anywhere stop neither the start nor anybody.
#[test]
fn names_that_never_resolve_are_a_failure_like_others() {
    let fleet = Fleet::new("dns-never");
    let replica = format!("postgres://postgres@{NOWHERE}/{}", fleet.database);
    let plan = fleet.plan_with(ROUTES).handler("order", order).set("DATABASE_READ_REPLICA_URL", &replica);
    let instance = plan.set("REDIS_URL", &format!("redis://{NOWHERE}")).set("redis.timeout", "500ms").start();
    assert!(wait_until(PATIENCE, || instance.heartbeats("feed") > 0.0), "it follows no feed");
    let first = in_time(|| instance.get(KEPT));
    assert_eq!(first.cache(), "fwd=miss; stored; detail=primary");
    instance.wait_for("a fresh hit", KEPT, |reply| reply.is_hit() && reply.claims_fresh());
    assert_eq!(at_once(|| instance.get(BRIEF)).status, 200);
    assert_eq!(instance.metric("mainstay_node_up{node=\"replica-1\"}"), 0.0);
}

/// The file with the URL names another host for each new connection: as if the name had stopped to resolve.
#[test]
fn names_that_stop_to_resolve_leave_connections_in_use() {
    let fleet = Fleet::new("dns-later");
    let dir = tempfile::tempdir().unwrap();
    let (primary, replica) = (dir.path().join("primary"), dir.path().join("replica"));
    let write = |host: Option<&str>| {
        for (file, server) in [(&primary, &fleet.primary), (&replica, &fleet.replica)] {
            let url = server.url("postgres", &fleet.database);
            std::fs::write(file, host.map_or(url.clone(), |host| url.replace("127.0.0.1", host))).unwrap();
        }
    };
    write(None);
    let plan = fleet.plan_with(ROUTES).handler("order", order).unset("DATABASE_URL").unset("DATABASE_READ_REPLICA_URL");
    let plan = plan.set("DATABASE_URL_FILE", primary.to_str().unwrap());
    let instance = plan.set("DATABASE_READ_REPLICA_URL_FILE", replica.to_str().unwrap()).start();
    instance.wait_hearing("stream");
    instance.wait_for("a fresh hit", KEPT, |reply| reply.is_hit() && reply.claims_fresh());
    let order = || instance.connect().request_with_body("POST", "/orders", &[], b"{}");
    assert_eq!(order().status, 200);
    instance.wait_for("the replica", BRIEF, |reply| reply.cache().ends_with("detail=replica"));
    write(Some(NOWHERE));
    for _ in 0..20 {
        // On a fast machine the one before may be fresh still.
        let is_asked = |reply: &Reply| !(reply.is_hit() && reply.claims_fresh());
        let read = in_time(|| instance.wait_for("a read", BRIEF, is_asked));
        assert_eq!(read.cache(), "fwd=stale; stored; detail=replica");
        assert_eq!(in_time(order).status, 200);
    }
    // What needs a connection of its own does not get one: then what is kept is served, and a writer is told.
    for server in [&fleet.primary, &fleet.replica] {
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        server.psql(&fleet.database, kill).unwrap();
    }
    let stale = instance.wait_for("a stale answer", BRIEF, |reply| reply.is_hit());
    assert!(stale.cache().ends_with("; fwd-status=503; detail=L1"), "{stale:?}");
    assert_eq!(in_time(order).problem(), "strong_unavailable");
    assert!(instance.get(KEPT).is_hit());
    write(None);
    instance.wait_for("the replica", BRIEF, |reply| reply.cache().ends_with("detail=replica"));
    assert!(wait_until(PATIENCE, || order().status == 200));
}

/// What asks a node how it is has nobody to ask for its address either.
#[test]
fn a_node_that_was_slow_for_a_moment_is_back_though_its_name_does_not_resolve() {
    let fleet = Fleet::private("dns-slow");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("replica");
    let url = fleet.replica.url("postgres", &fleet.database);
    std::fs::write(&file, &url).unwrap();
    let plan = fleet.plan_with(ROUTES).handler("order", order).unset("DATABASE_READ_REPLICA_URL");
    let instance = plan.set("DATABASE_READ_REPLICA_URL_FILE", file.to_str().unwrap()).start();
    instance.wait_hearing("stream");
    std::fs::write(&file, url.replace("127.0.0.1", NOWHERE)).unwrap();
    let is_up = || instance.metric("mainstay_node_up{node=\"replica-1\"}") == 1.0;
    fleet.replica.server.suspend().unwrap();
    assert!(wait_until(PATIENCE, || !is_up()), "nobody notices");
    fleet.replica.server.resume().unwrap();
    assert!(wait_until(PATIENCE, is_up), "it stays down");
}
