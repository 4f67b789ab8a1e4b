//! The position of a write, against all that could make it one which proves nothing.

use diesel::sql_types::{BigInt, Integer};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use mainstay::database::read::Database;
use mainstay::database::write::{Abort, Progress};
use mainstay::position::Position;

use crate::support::{Cluster, settings, soon, start, wait_for};

const PAGE_BYTES: u64 = 8192;

/// Writes, and returns the position.
async fn write(database: &Database, work: impl AsyncFn(&mut AsyncPgConnection) -> Result<(), Abort>) -> Position {
    let progress = Progress::default();
    database.write(soon(), &progress, work).await.unwrap();
    progress.committed().unwrap()
}

async fn wait_replayed(cluster: &Cluster, position: Position) {
    let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{}'", position.lsn);
    wait_for("the replica", || cluster.replica.psql("postgres", &sql).unwrap().trim() == "t").await;
}

/// A server that is in no hurry to write, and everyone but the server itself says that a commit need not be on disk.
#[actix_rt::test]
async fn nobody_can_make_a_write_asynchronous() {
    let cluster = Cluster::with("session-asynchronous", |options| {
        options.setting("wal_writer_delay", "10s").setting("synchronous_commit", "off")
    });
    let name = cluster.database();
    let off = format!(
        "CREATE TABLE t (id int); ALTER DATABASE {name} SET synchronous_commit = off; \
         ALTER ROLE postgres SET synchronous_commit = off"
    );
    cluster.primary.psql(&name, &format!("SET synchronous_commit = on; {off}")).unwrap();
    let url = format!("{}?options=-c%20synchronous_commit%3Doff", cluster.primary.url("postgres", &name));
    let database = start(&settings(&url, "", &[])).await;
    for id in 1..=10 {
        let position = write(&database, async |conn| {
            diesel::sql_query("SET LOCAL synchronous_commit = off").execute(conn).await?;
            diesel::sql_query("SET SESSION synchronous_commit = off").execute(conn).await?;
            diesel::sql_query("INSERT INTO t VALUES ($1)").bind::<Integer, _>(id).execute(conn).await?;
            Ok(())
        });
        wait_replayed(&cluster, position.await).await;
        let seen = cluster.replica.psql(&name, "SELECT count(*) FROM t").unwrap();
        assert_eq!(seen.trim(), id.to_string());
    }
}

/// A commit that ends with its page. The insert position is past the header of a page then that nobody has written: a standby
/// comes there with the next record alone, whenever that is.
#[actix_rt::test]
async fn a_commit_at_the_end_of_a_page_has_a_position_that_a_standby_comes_to() {
    let cluster = Cluster::private("session-page");
    let name = cluster.database();
    let database = start(&settings(&cluster.primary.url("postgres", &name), "", &[])).await;
    let padded = async |bytes: u64| {
        write(&database, async |conn| {
            let sql = "SELECT pg_logical_emit_message(true, 'test', repeat('x', $1::int))";
            diesel::sql_query(sql).bind::<BigInt, _>(i64::try_from(bytes).unwrap()).execute(conn).await?;
            Ok(())
        })
        .await
    };
    // Long enough for the long form of a record's header, whose length depends on the padding's.
    const PADDING_MIN: u64 = 512;
    let mut ended = padded(PADDING_MIN).await;
    // What a transaction takes beside its padding, as the last one within a page has shown.
    let mut beside = None;
    for _ in 0..200 {
        let left = PAGE_BYTES - ended.lsn.0 % PAGE_BYTES;
        let fits = beside.and_then(|beside| left.checked_sub(beside)).filter(|padding| *padding >= PADDING_MIN);
        let (before, padding) = (ended, fits.unwrap_or(PADDING_MIN));
        ended = padded(padding).await;
        if ended.lsn.0 % PAGE_BYTES == 0 {
            break;
        }
        let is_within = before.lsn.0 / PAGE_BYTES == ended.lsn.0 / PAGE_BYTES;
        beside = is_within.then(|| ended.lsn.0 - before.lsn.0 - padding);
    }
    assert_eq!(ended.lsn.0 % PAGE_BYTES, 0, "no commit ended with its page, so the test proves nothing");
    let insert = cluster.primary.psql(&name, "SELECT pg_current_wal_insert_lsn()").unwrap();
    assert!(insert.trim().parse::<mainstay::position::Lsn>().unwrap() > ended.lsn, "{insert}");
    wait_replayed(&cluster, ended).await;
}
