//! The trial of a node that was let alone, where it ends without a word on the node.

use mainstay::database::read::{Consistency, Database, Role};
use mainstay::database::status::NodeStatus;
use mainstay::local::{Proxy, ProxyMode};
use mainstay::nodes::breaker::BreakerState;

use crate::support::{Cluster, number, settings, start_eligible, wait_for};

fn replica(database: &Database) -> NodeStatus {
    database.status().replicas().next().unwrap().clone()
}

/// What a trial finds that is not the node's doing, such as no free connection or a recovery conflict, proves nothing: the next
/// read is the trial, although a rest takes an hour here.
#[actix_rt::test]
async fn a_trial_that_proves_nothing_is_the_next_reads() {
    let cluster = Cluster::shared();
    let (primary, name) = (&cluster.primary, cluster.database());
    let conflict = "CREATE FUNCTION conflict() RETURNS int LANGUAGE plpgsql AS \
                    $$BEGIN IF pg_is_in_recovery() THEN RAISE SQLSTATE '40001'; END IF; RETURN 1; END$$";
    primary.psql(&name, conflict).unwrap();
    primary.psql(&name, "CREATE ROLE crowded LOGIN; GRANT pg_monitor TO crowded").unwrap();
    cluster.catch_up();
    let proxy = Proxy::start(([127, 0, 0, 1], cluster.replica.server.port()).into()).unwrap();
    let rests = [("MAINSTAY__NODES__OPEN_TIME", "1h"), ("MAINSTAY__NODES__OPEN_TIME_MAX", "1h")];
    let url = format!("postgres://crowded@127.0.0.1:{}/{name}", proxy.port());
    let database = start_eligible(&settings(&primary.url("postgres", &name), &url, &rests)).await;
    let read = async |sql: &str| number(&database, Consistency::Eventual, sql).await.unwrap().1.role;
    let eligible = async || wait_for("it to be eligible", || replica(&database).is_eligible()).await;

    // Its sampler has a connection, and no read gets one.
    proxy.set_mode(ProxyMode::Refuse);
    for _ in 0..5 {
        assert_eq!(read("SELECT 1 AS number").await, Role::Primary);
    }
    assert_eq!(replica(&database).breaker, BreakerState::Open);
    // Who is seen to be back may be tried at once.
    proxy.cut();
    wait_for("the replica to be gone", || !replica(&database).up).await;
    primary.psql(&name, "ALTER ROLE crowded CONNECTION LIMIT 1").unwrap();
    cluster.catch_up();
    proxy.set_mode(ProxyMode::Pass);
    wait_for("the replica to be back", || replica(&database).breaker == BreakerState::HalfOpen).await;

    eligible().await;
    let failed = replica(&database).counts.failed;
    assert_eq!(read("SELECT 1 AS number").await, Role::Primary, "its sampler has the only connection");
    primary.psql(&name, "ALTER ROLE crowded CONNECTION LIMIT -1").unwrap();
    cluster.catch_up();
    eligible().await;
    assert_eq!(read("SELECT conflict() AS number").await, Role::Primary);
    assert_eq!(replica(&database).counts.conflicts, 1, "it was asked");
    eligible().await;
    assert_eq!(read("SELECT 1 AS number").await, Role::Replica);
    let NodeStatus { breaker, counts, .. } = replica(&database);
    assert_eq!((breaker, counts.failed), (BreakerState::Closed, failed));
}
