//! The cases in which simpler measures of lag mislead, each on a real replica.

use std::time::{Duration, Instant};

use mainstay::database::health::{Reason, Status, Verdict};
use mainstay::database::lag::Ineligible;
use mainstay::database::read::{Consistency, Database, Role};
use mainstay::database::status::NodeStatus;
use mainstay::error::Code;
use mainstay::local::ProxyMode;

use crate::support::{Cluster, Doctor, number, settings, start, start_eligible, wait_for, who};

const LAG_MAX: Duration = Duration::from_millis(1500);

fn replica(database: &Database) -> NodeStatus {
    database.status().replicas().next().unwrap().clone()
}

fn receive_is_replay(cluster: &Cluster) -> bool {
    let sql = "SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()";
    cluster.replica.psql("postgres", sql).unwrap().trim() == "t"
}

#[actix_rt::test]
async fn an_idle_primary_makes_no_lag() {
    let cluster = Cluster::private("idle");
    cluster.primary.psql("postgres", "CREATE TABLE t (id int)").unwrap();
    cluster.catch_up();
    let settings = cluster.settings("postgres");
    let database = start_eligible(&settings).await;
    let begin = Instant::now();
    while begin.elapsed() < 2 * LAG_MAX {
        let replica = replica(&database);
        assert!(replica.is_eligible() && replica.lag < Some(LAG_MAX), "{replica:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sql = "SELECT now() - pg_last_xact_replay_timestamp() > interval '2 seconds'";
    assert_eq!(cluster.replica.psql("postgres", sql).unwrap().trim(), "t", "the common measure says there is lag");
    let verdict = Doctor::new(&settings).wait_for(&database, "health", |verdict| verdict.http_ok).await;
    assert_eq!(verdict.replication_lag_secs(), Some(0));
    assert_eq!(who(&database).await.unwrap(), Role::Replica);
}

#[actix_rt::test]
async fn a_dead_receiver_is_lag_although_all_that_came_is_replayed() {
    let cluster = Cluster::private("receiver");
    let settings = cluster.settings("postgres");
    let database = start_eligible(&settings).await;
    cluster.stream.set_mode(ProxyMode::Refuse);
    cluster.stream.cut();
    wait_for("the lag to show", || replica(&database).ineligible == Some(Ineligible::Lagging)).await;
    assert!(receive_is_replay(&cluster), "the common measure says there is none");
    assert_eq!(who(&database).await.unwrap(), Role::Primary);
    let mut doctor = Doctor::new(&settings);
    let verdict = doctor.wait_for(&database, "health to say so", |verdict| !verdict.http_ok).await;
    assert!(verdict.reasons.contains(&Reason::ReplicationBroken), "{verdict:?}");

    cluster.stream.set_mode(ProxyMode::Pass);
    wait_for("the replica to be back", || replica(&database).is_eligible()).await;
    assert_eq!(who(&database).await.unwrap(), Role::Replica);
    doctor.wait_for(&database, "health to be back", |verdict| verdict.status == Status::Healthy).await;
}

#[actix_rt::test]
async fn a_paused_replay_is_lag_and_ends_with_it() {
    let cluster = Cluster::private("paused");
    let settings = cluster.settings("postgres");
    let database = start_eligible(&settings).await;
    cluster.replica.psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    cluster.primary.psql("postgres", "CREATE TABLE t (id int)").unwrap();
    wait_for("the lag to show", || replica(&database).ineligible == Some(Ineligible::Lagging)).await;
    assert!(replica(&database).up);
    assert_eq!(who(&database).await.unwrap(), Role::Primary);
    cluster.replica.psql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    wait_for("the replica to be back", || replica(&database).is_eligible()).await;
}

#[actix_rt::test]
async fn replay_that_is_behind_is_measured() {
    let cluster = Cluster::private("behind");
    let settings = cluster.settings("postgres");
    let database = start_eligible(&settings).await;
    // The receiver streams, nothing is paused, and replay waits for a lock that a reader holds.
    cluster.primary.psql("postgres", "CREATE TABLE t (id int)").unwrap();
    cluster.catch_up();
    cluster.replica.psql("postgres", "ALTER SYSTEM SET max_standby_streaming_delay = -1").unwrap();
    cluster.replica.psql("postgres", "SELECT pg_reload_conf()").unwrap();
    let url = cluster.replica.url("postgres", "postgres");
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (held, holds) = std::sync::mpsc::channel::<()>();
    let holder = std::thread::spawn(move || {
        let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
        client.batch_execute("BEGIN; SELECT * FROM t").unwrap();
        held.send(()).unwrap();
        let _released = released.recv();
    });
    holds.recv().unwrap();
    cluster.primary.psql("postgres", "DROP TABLE t").unwrap();
    wait_for("the lag to show", || replica(&database).ineligible == Some(Ineligible::Lagging)).await;
    assert!(replica(&database).flowing);
    release.send(()).unwrap();
    holder.join().unwrap();
    wait_for("the replica to be back", || replica(&database).is_eligible()).await;
}

#[actix_rt::test]
async fn reads_carry_on_without_the_primary() {
    let cluster = Cluster::private("gone");
    let settings = cluster.settings("postgres");
    let database = start_eligible(&settings).await;
    cluster.primary.server.kill9();
    wait_for("the primary to count as down", || !database.status().primary().unwrap().up).await;
    wait_for("the lag to grow past the bound", || replica(&database).lag > Some(LAG_MAX)).await;
    assert!(replica(&database).up && replica(&database).is_eligible());
    assert_eq!(who(&database).await.unwrap(), Role::Replica);
    let strong = number(&database, Consistency::Strong, "SELECT 1 AS number").await;
    assert_eq!(strong.unwrap_err().code, Code::StrongUnavailable);
    let mut doctor = Doctor::new(&settings);
    let verdict = doctor.wait_for(&database, "health to say so", |verdict| !verdict.http_ok).await;
    assert!(verdict.reasons.contains(&Reason::PrimaryDown), "{verdict:?}");

    // An instance that starts now has never heard of the primary, and reads all the same.
    let newcomer = start(&settings).await;
    assert_eq!(who(&newcomer).await.unwrap(), Role::Replica);

    cluster.primary.server.start().unwrap();
    doctor.wait_for(&database, "health to be back", |verdict| verdict.status == Status::Healthy).await;
    number(&database, Consistency::Strong, "SELECT 1 AS number").await.unwrap();
    let is_well = |verdict: &Verdict| verdict.status == Status::Healthy;
    Doctor::new(&settings).wait_for(&newcomer, "the newcomer to be well", is_well).await;
}

#[actix_rt::test]
async fn a_promoted_replica_is_neither_replica_nor_primary() {
    let cluster = Cluster::private("promoted");
    let settings = cluster.settings("postgres");
    let database = start_eligible(&settings).await;
    cluster.replica.promote().unwrap();
    wait_for("the promotion to be seen", || replica(&database).ineligible == Some(Ineligible::Promoted)).await;
    let (_, served) = number(&database, Consistency::Eventual, "SELECT 1 AS number").await.unwrap();
    assert_eq!(&*served.node, "primary");
    // The configured primary may have been replaced by it, and what is written there lost.
    let strong = number(&database, Consistency::Strong, "SELECT 1 AS number").await;
    assert_eq!(strong.unwrap_err().code, Code::StrongUnavailable);
    cluster.primary.server.stop();
    wait_for("the primary to count as down", || !database.status().primary().unwrap().up).await;
    assert_eq!(who(&database).await.unwrap_err().code, Code::DatabaseUnavailable);
    let strong = number(&database, Consistency::Strong, "SELECT 1 AS number").await;
    assert_eq!(strong.unwrap_err().code, Code::StrongUnavailable);
}

#[actix_rt::test]
async fn a_role_without_pg_monitor_suffices() {
    let cluster = Cluster::private("monitor");
    cluster.primary.psql("postgres", "CREATE ROLE reader LOGIN").unwrap();
    cluster.catch_up();
    let settings =
        settings(&cluster.primary.url("reader", "postgres"), &cluster.replica.url("reader", "postgres"), &[]);
    let database = start_eligible(&settings).await;
    assert_eq!(replica(&database).timeline, None, "the role may not see it");
    Doctor::new(&settings).wait_for(&database, "health", |verdict| verdict.status == Status::Healthy).await;
    cluster.stream.set_mode(ProxyMode::Refuse);
    cluster.stream.cut();
    wait_for("the lag to show", || replica(&database).ineligible == Some(Ineligible::Lagging)).await;
}

#[actix_rt::test]
async fn a_standby_configured_as_the_primary_is_refused() {
    let cluster = Cluster::shared();
    let settings = settings(&cluster.replica.url("postgres", "postgres"), "", &[]);
    let database = start(&settings).await;
    let strong = number(&database, Consistency::Strong, "SELECT 1 AS number").await;
    assert_eq!(strong.unwrap_err().code, Code::StrongUnavailable);
    let verdict = Doctor::new(&settings).wait_for(&database, "health to say so", |verdict| !verdict.http_ok).await;
    assert_eq!(verdict.reasons, [Reason::PrimaryReadOnly]);
}
