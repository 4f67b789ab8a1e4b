//! Reads from a node that has read at least so far, on real servers that are behind, promoted or left over.

use mainstay::database::read::{Consistency, Database, Reached, Role, Served};
use mainstay::error::{Code, Error};
use mainstay::position::{Lsn, Position, SystemId, Timeline};

use crate::support::{Cluster, count, fence, settings, soon, start_eligible, wait_for};

async fn rows_at_least(database: &Database, at_least: Position) -> Result<(i32, Served), Error> {
    let read = database.read_at_least(Consistency::Eventual, Some(at_least), soon(), async |conn| {
        count(conn, "SELECT count(*)::int AS number FROM things").await
    });
    read.await
}

async fn role_at_least(database: &Database, consistency: Consistency, at_least: Position) -> Result<Role, Code> {
    let one = async |conn: &mut _| count(conn, "SELECT 1 AS number").await;
    let read = database.read_at_least(consistency, Some(at_least), soon(), one).await;
    read.map(|(_, served)| served.role).map_err(|error| error.code)
}

#[actix_rt::test]
async fn a_replica_that_has_not_replayed_a_position_is_passed_over() {
    let cluster = Cluster::private("behind");
    cluster.primary.psql("postgres", "CREATE TABLE things (id int)").unwrap();
    cluster.catch_up();
    let mut settings = cluster.settings("postgres");
    settings.replication.lag_max.0 = std::time::Duration::from_secs(3600);
    let database = start_eligible(&settings).await;
    cluster.replica.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    wait_for("the pause", || database.status().replicas().all(|node| !node.flowing)).await;
    cluster.primary.psql("postgres", "INSERT INTO things VALUES (1)").unwrap();
    let at_least = fence(&cluster.primary, "postgres");
    let (rows, served) = rows_at_least(&database, at_least).await.unwrap();
    assert_eq!((rows, served.role, served.reached), (1, Role::Primary, Reached::Now));
    let old = database.read(Consistency::Eventual, soon(), async |conn| {
        count(conn, "SELECT count(*)::int AS number FROM things").await
    });
    let (rows, served) = old.await.unwrap();
    assert_eq!((rows, served.role), (0, Role::Replica), "it is eligible for whoever asks for no position");
    assert!(!served.reached.covers(at_least));

    cluster.replica.psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    cluster.catch_up();
    let (rows, served) = rows_at_least(&database, at_least).await.unwrap();
    assert_eq!((rows, served.role), (1, Role::Replica), "it is asked itself, before the sampler comes by");
    assert!(served.reached.covers(at_least), "{served:?}");
}

#[actix_rt::test]
async fn a_replica_at_a_fence_has_what_was_visible_when_it_was_taken() {
    let cluster = Cluster::shared();
    let name = cluster.database();
    cluster.primary.psql(&name, "CREATE TABLE things (id int)").unwrap();
    cluster.catch_up();
    let database = start_eligible(&cluster.settings(&name)).await;
    let mut replicas = 0;
    for rows in 1..=30 {
        // The writer does not wait for its own flush: the fence does.
        cluster.primary.psql(&name, "SET synchronous_commit = off; INSERT INTO things VALUES (1)").unwrap();
        let at_least = fence(&cluster.primary, &name);
        if rows % 2 == 0 {
            cluster.catch_up();
        }
        let (seen, served) = rows_at_least(&database, at_least).await.unwrap();
        assert_eq!(seen, rows, "{served:?}");
        assert!(served.reached.covers(at_least));
        replicas += usize::from(served.role == Role::Replica);
    }
    assert!(replicas >= 15, "{replicas}");
}

#[actix_rt::test]
async fn a_role_without_pg_monitor_proves_the_branch_by_the_last_restart_point() {
    let cluster = Cluster::shared();
    let name = cluster.database();
    cluster.primary.psql(&name, &format!("CREATE ROLE {name}_plain LOGIN")).unwrap();
    let at_least = fence(&cluster.primary, &name);
    cluster.catch_up();
    let url = |server: &mainstay::local::Postgres| server.url(&format!("{name}_plain"), &name);
    let database = start_eligible(&settings(&url(&cluster.primary), &url(&cluster.replica), &[])).await;
    assert_eq!(role_at_least(&database, Consistency::Eventual, at_least).await, Ok(Role::Replica));
}

#[actix_rt::test]
async fn positions_of_other_timelines_and_clusters_are_served_by_nobody() {
    let cluster = Cluster::shared();
    let database = start_eligible(&cluster.settings("postgres")).await;
    let here = fence(&cluster.primary, "postgres");
    for elsewhere in [
        Position { timeline: Timeline(here.timeline.0 + 1), lsn: Lsn(0), ..here },
        Position { system: SystemId(here.system.0 ^ 1), lsn: Lsn(0), ..here },
    ] {
        for (consistency, code) in
            [(Consistency::Eventual, Code::DatabaseUnavailable), (Consistency::Strong, Code::StrongUnavailable)]
        {
            assert_eq!(role_at_least(&database, consistency, elsewhere).await, Err(code), "{elsewhere}");
        }
    }
    assert_eq!(role_at_least(&database, Consistency::Strong, here).await, Ok(Role::Primary));
}

#[actix_rt::test]
async fn a_primary_that_was_replaced_fills_nothing_while_it_lives() {
    let cluster = Cluster::private("zombie");
    let database = start_eligible(&cluster.settings("postgres")).await;
    let before = fence(&cluster.primary, "postgres");
    assert_eq!(database.highest(), Some((before.system, before.timeline)));
    // Nobody but another instance has heard of it, here: the sampler may be the last to know.
    cluster.replica.promote().unwrap();
    database.see(before.system, Timeline(2));
    database.see(SystemId(before.system.0 ^ 1), Timeline(9));
    assert_eq!(database.highest(), Some((before.system, Timeline(2))));
    let refused = role_at_least(&database, Consistency::Eventual, before).await;
    assert_eq!(refused, Err(Code::DatabaseUnavailable), "its own past is no proof either");
    assert_eq!(role_at_least(&database, Consistency::Strong, before).await, Err(Code::StrongUnavailable));
    let strong = database.read(Consistency::Strong, soon(), async |conn| count(conn, "SELECT 1 AS number").await);
    assert_eq!(strong.await.unwrap_err().code, Code::StrongUnavailable);
    assert!(database.status().primary().is_some_and(|primary| primary.up && !primary.writable));
}

#[actix_rt::test]
async fn the_sampler_of_a_promoted_replica_is_enough_to_unmask_the_old_primary() {
    let cluster = Cluster::private("zombie-seen");
    let database = start_eligible(&cluster.settings("postgres")).await;
    let before = fence(&cluster.primary, "postgres");
    cluster.replica.promote().unwrap();
    wait_for("the new timeline", || database.highest() == Some((before.system, Timeline(2)))).await;
    assert_eq!(role_at_least(&database, Consistency::Eventual, before).await, Err(Code::DatabaseUnavailable));
    // What asks for no position is served as ever, and knows nothing of what it saw.
    let one = async |conn: &mut _| count(conn, "SELECT 1 AS number").await;
    let (_, served) = database.read(Consistency::Eventual, soon(), one).await.unwrap();
    assert_eq!((served.role, served.reached), (Role::Primary, Reached::Unknown));
}

/// The name of the primary leads to the new one: the sampler finds it by itself, since it drops what leads to the old one.
#[actix_rt::test]
async fn where_the_name_of_the_primary_leads_to_the_new_one_it_serves() {
    let cluster = Cluster::private("switched");
    let proxy = mainstay::local::Proxy::start(([127, 0, 0, 1], cluster.primary.server.port()).into()).unwrap();
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    let database = start_eligible(&settings(&url, &cluster.replica.url("postgres", "postgres"), &[])).await;
    cluster.replica.promote().unwrap();
    let after = fence(&cluster.replica, "postgres");
    assert_eq!(after.timeline, Timeline(2));
    wait_for("the new timeline", || database.highest() == Some((after.system, Timeline(2)))).await;
    // Connections that are open stay with the old primary.
    proxy.set_target(([127, 0, 0, 1], cluster.replica.server.port()).into());
    wait_for("the new primary", || database.status().primary().is_some_and(|primary| primary.writable)).await;
    assert_eq!(role_at_least(&database, Consistency::Strong, after).await, Ok(Role::Primary));
}
