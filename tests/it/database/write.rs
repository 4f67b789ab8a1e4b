//! Writes, with a primary that fails in the ways primaries fail.

use std::cell::Cell;
use std::time::{Duration, Instant};

use diesel_async::{AsyncPgConnection, RunQueryDsl};
use mainstay::config::settings::Settings;
use mainstay::database::read::Database;
use mainstay::database::write::{Abort, Progress};
use mainstay::error::{Code, Error};
use mainstay::local::Proxy;
use mainstay::position::Timeline;

use crate::support::{Cluster, count, settings, soon, start, start_eligible, wait_for};

async fn execute(conn: &mut AsyncPgConnection, sql: &str) -> Result<usize, Abort> {
    Ok(diesel::sql_query(sql).execute(conn).await?)
}

/// Runs a transaction of which nobody keeps track.
async fn run<T>(
    database: &Database,
    work: impl AsyncFn(&mut AsyncPgConnection) -> Result<T, Abort>,
) -> Result<T, Error> {
    database.write(soon(), &Progress::default(), work).await
}

/// Writes one statement.
async fn write(database: &Database, sql: &str) -> Result<usize, Error> {
    run(database, async |conn| execute(conn, sql).await).await
}

fn rows(cluster: &Cluster, name: &str) -> i32 {
    cluster.primary.psql(name, "SELECT count(*) FROM t").unwrap().trim().parse().unwrap()
}

/// A database with a table, and its name.
fn table(cluster: &Cluster) -> String {
    let name = cluster.database();
    cluster.primary.psql(&name, "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)").unwrap();
    name
}

/// The database, and its settings, behind a proxy of the test's own.
fn proxied(cluster: &Cluster, name: &str, more: &[(&str, &str)]) -> (Proxy, Settings) {
    let proxy = Proxy::start(([127, 0, 0, 1], cluster.primary.server.port()).into()).unwrap();
    let url = format!("postgres://postgres@{}/{name}", proxy.address());
    let settings = settings(&url, "", more);
    (proxy, settings)
}

#[actix_rt::test]
async fn a_write_is_one_transaction_and_its_position_is_past_it() {
    let cluster = Cluster::shared();
    let name = table(cluster);
    let database = start_eligible(&cluster.settings(&name)).await;
    let progress = Progress::default();
    let committed = database.write(soon(), &progress, async |conn| {
        execute(conn, "INSERT INTO t VALUES (1)").await?;
        execute(conn, "INSERT INTO t VALUES (2)").await
    });
    committed.await.unwrap();
    let position = progress.committed().unwrap();
    let is_there = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", position.lsn);
    wait_for("the replica to be there", || cluster.replica.psql(&name, &is_there).unwrap().trim() == "t").await;
    assert_eq!(cluster.replica.psql(&name, "SELECT count(*) FROM t").unwrap().trim(), "2");
    assert!(!progress.is_in_doubt());
}

#[actix_rt::test]
async fn what_is_refused_or_fails_is_rolled_back_and_the_connection_is_used_again() {
    let cluster = Cluster::shared();
    let name = table(cluster);
    let mut settings = cluster.settings(&name);
    settings.database.write_pool_size = 1;
    let database = start_eligible(&settings).await;
    let pid = async || {
        let ask = async |conn: &mut AsyncPgConnection| Ok(count(conn, "SELECT pg_backend_pid() AS number").await?);
        run(&database, ask).await.unwrap()
    };
    let first = pid().await;
    let refused = run(&database, async |conn| -> Result<(), Abort> {
        execute(conn, "INSERT INTO t VALUES (1)").await?;
        Err(Error::new(Code::BodyInvalid, "no").into())
    });
    assert_eq!(refused.await.unwrap_err(), Error::new(Code::BodyInvalid, "no"));
    let failed = run(&database, async |conn| {
        execute(conn, "INSERT INTO t VALUES (1)").await?;
        execute(conn, "INSERT INTO t VALUES (1)").await
    });
    assert_eq!(failed.await.unwrap_err().code, Code::QueryFailed);
    // Postgres turns the COMMIT of a transaction that has failed into a ROLLBACK, without a word.
    let progress = Progress::default();
    let swallowed = database.write(soon(), &progress, async |conn| {
        execute(conn, "INSERT INTO t VALUES (1)").await?;
        let _nobody_looks = execute(conn, "SELECT 1 / 0").await;
        Ok(())
    });
    assert_eq!(swallowed.await.unwrap_err().code, Code::QueryFailed);
    assert_eq!(progress.committed(), None);
    assert_eq!((rows(cluster, &name), pid().await), (0, first));
}

/// A constraint that is looked at when the transaction ends.
#[actix_rt::test]
async fn a_commit_that_the_server_refuses_is_no_doubt() {
    let cluster = Cluster::shared();
    let name = table(cluster);
    let deferred = "ALTER TABLE t ADD CONSTRAINT parent FOREIGN KEY (n) REFERENCES t DEFERRABLE INITIALLY DEFERRED";
    cluster.primary.psql(&name, deferred).unwrap();
    let database = start_eligible(&cluster.settings(&name)).await;
    assert_eq!(write(&database, "INSERT INTO t VALUES (1, 2)").await.unwrap_err().code, Code::QueryFailed);
    assert_eq!(rows(cluster, &name), 0);
    assert_eq!(write(&database, "INSERT INTO t VALUES (1, 1)").await, Ok(1));
}

#[actix_rt::test]
async fn who_loses_against_another_transaction_tries_again_a_few_times() {
    let cluster = Cluster::shared();
    let name = table(cluster);
    cluster.primary.psql(&name, "INSERT INTO t VALUES (1)").unwrap();
    let database = start_eligible(&cluster.settings(&name)).await;
    let race = async |losses: usize| {
        let runs = Cell::new(0);
        let outcome = run(&database, async |conn| {
            runs.set(runs.get() + 1);
            execute(conn, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
            execute(conn, "SELECT * FROM t").await?;
            if runs.get() <= losses {
                cluster.primary.psql(&name, "UPDATE t SET n = n + 1").unwrap();
            }
            execute(conn, "UPDATE t SET n = n + 100").await
        });
        (outcome.await.map_err(|error| error.code), runs.get())
    };
    assert_eq!(race(2).await, (Ok(1), 3));
    assert_eq!(race(99).await, (Err(Code::Overloaded), 4));
    assert_eq!(cluster.primary.psql(&name, "SELECT n FROM t").unwrap().trim(), "106");
}

/// A trigger that is run by COMMIT, and takes long.
const SLOW_COMMIT: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()";

async fn wait_committing(cluster: &Cluster, name: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE '%COMMIT' AND state = 'active'"
    );
    wait_for("a COMMIT under way", || cluster.primary.psql(name, &sql).unwrap().trim() != "0").await;
}

#[actix_rt::test]
async fn a_connection_that_is_lost_during_commit_leaves_the_outcome_open() {
    let cluster = Cluster::shared();
    let name = table(cluster);
    cluster.primary.psql(&name, SLOW_COMMIT).unwrap();
    let (proxy, settings) = proxied(cluster, &name, &[]);
    let database = start(&settings).await;
    let (runs, progress) = (Cell::new(0), Progress::default());
    let written = database.write(soon(), &progress, async |conn| {
        runs.set(runs.get() + 1);
        execute(conn, "INSERT INTO t VALUES (1)").await
    });
    let (outcome, ()) = futures_util::future::join(written, async {
        wait_committing(cluster, &name).await;
        proxy.cut();
    })
    .await;
    assert_eq!(outcome.unwrap_err().code, Code::OutcomeUnknown);
    assert_eq!(runs.get(), 1, "it was not tried again");
    assert!(progress.is_in_doubt() && progress.committed().is_some_and(|position| position.lsn.is_never()));
    // Here it was committed after all.
    wait_for("the commit", || rows(cluster, &name) == 1).await;
}

#[actix_rt::test]
async fn a_deadline_before_commit_takes_everything_back_and_one_during_it_leaves_it_open() {
    let cluster = Cluster::shared();
    let name = table(cluster);
    cluster.primary.psql(&name, SLOW_COMMIT).unwrap();
    let database = start(&settings(&cluster.primary.url("postgres", &name), "", &[])).await;
    let late = async |id: u32, sql: &str| {
        let (deadline, progress) = (Instant::now() + Duration::from_millis(1500), Progress::default());
        let outcome = database.write(deadline, &progress, async |conn| {
            execute(conn, &format!("INSERT INTO t VALUES ({id})")).await?;
            execute(conn, sql).await
        });
        outcome.await.unwrap_err().code
    };
    assert_eq!(late(1, "SELECT pg_sleep(3)").await, Code::SourceTimeout);
    assert_eq!(rows(cluster, &name), 0);
    assert_eq!(late(2, "SELECT 1").await, Code::OutcomeUnknown);
}

/// A connection that was there before a restart of the server does not cost the write.
#[actix_rt::test]
async fn a_killed_backend_costs_no_write() {
    let cluster = Cluster::shared();
    let name = table(cluster);
    let database = start_eligible(&cluster.settings(&name)).await;
    write(&database, "INSERT INTO t VALUES (1)").await.unwrap();
    let is_first = Cell::new(true);
    let written = run(&database, async |conn| {
        if is_first.take() {
            let pid = count(conn, "SELECT pg_backend_pid() AS number").await?;
            cluster.primary.psql(&name, &format!("SELECT pg_terminate_backend({pid})")).unwrap();
        }
        execute(conn, "INSERT INTO t VALUES (2)").await
    });
    assert_eq!(written.await, Ok(1));
    assert_eq!(rows(cluster, &name), 2);
}

/// Its name leads to a standby, and nobody has sampled that yet.
#[actix_rt::test]
async fn a_standby_takes_no_write_and_its_connections_are_not_used_again() {
    let cluster = Cluster::shared();
    let name = table(cluster);
    cluster.catch_up();
    let (proxy, settings) = proxied(cluster, &name, &[("MAINSTAY__REPLICATION__SAMPLE_INTERVAL", "10m")]);
    let database = start(&settings).await;
    proxy.set_target(([127, 0, 0, 1], cluster.replica.server.port()).into());
    let error = write(&database, "INSERT INTO t VALUES (1)").await.unwrap_err();
    assert_eq!(
        (error.code, &*error.detail),
        (Code::StrongUnavailable, "the primary was replaced, and nothing was written")
    );
    proxy.set_target(([127, 0, 0, 1], cluster.primary.server.port()).into());
    assert_eq!(write(&database, "INSERT INTO t VALUES (1)").await, Ok(1));
}

#[actix_rt::test]
async fn a_primary_that_was_replaced_takes_no_write_not_even_one_that_had_begun() {
    let cluster = Cluster::shared();
    let name = table(cluster);
    let database = start_eligible(&cluster.settings(&name)).await;
    let (system, timeline) = database.highest().unwrap();
    let written = run(&database, async |conn| {
        let rows = execute(conn, "INSERT INTO t VALUES (1)").await?;
        database.see(system, Timeline(timeline.0 + 1));
        Ok(rows)
    });
    assert_eq!(written.await.unwrap_err().code, Code::StrongUnavailable);
    assert_eq!(write(&database, "INSERT INTO t VALUES (1)").await.unwrap_err().code, Code::StrongUnavailable);
    assert_eq!(rows(cluster, &name), 0);
}

#[actix_rt::test]
async fn writes_have_a_cap() {
    let cluster = Cluster::shared();
    let name = table(cluster);
    let mut settings = cluster.settings(&name);
    settings.database.strong_concurrency_max = 1;
    let database = start_eligible(&settings).await;
    let outer = run(&database, async |conn| {
        let inner = write(&database, "INSERT INTO t VALUES (2)").await;
        assert_eq!(inner.unwrap_err().code, Code::StrongUnavailable);
        execute(conn, "INSERT INTO t VALUES (1)").await
    });
    assert_eq!(outer.await, Ok(1));
}
